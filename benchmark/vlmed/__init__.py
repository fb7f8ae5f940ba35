"""vlmed: the standardized benchmark for medical vision-language models.

    import vlmed

    result = vlmed.evaluate("openai/clip-vit-base-patch32", tasks="breastmnist", tracks="zero_shot")

Importing the package imports nothing else; each public name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    import inspect

    from vlmed.api import (
        Comparison,
        Result,
        Row,
        assert_no_regression,
        compare,
        evaluate,
        load_result,
        load_suite,
        load_task,
    )
    from vlmed.errors import CheckError, InputError, MissingError, UsageError, VlmedError

__all__ = [
    "CheckError",
    "Comparison",
    "InputError",
    "MissingError",
    "Result",
    "Row",
    "UsageError",
    "VlmedError",
    "__version__",
    "assert_no_regression",
    "compare",
    "evaluate",
    "load_result",
    "load_suite",
    "load_task",
]

_ERRORS = {name for name in __all__ if name.endswith("Error")}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vlmed' has no attribute {name!r}")
    if name == "evaluate":
        return importlib.import_module("vlmed.evaluate")
    return getattr(importlib.import_module("vlmed.errors" if name in _ERRORS else "vlmed.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Evaluate(ModuleType):
    """The package `vlmed.evaluate`, which is also the function `vlmed.evaluate(...)`: both have that name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """See `vlmed.api.evaluate`."""
        return importlib.import_module("vlmed.api").evaluate(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        import inspect

        return inspect.signature(importlib.import_module("vlmed.api").evaluate)


class _Package(ModuleType):
    """This package; whoever imports the subpackage `evaluate` first, it is callable from then on."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "evaluate" and isinstance(value, ModuleType):
            value.__class__ = _Evaluate
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
