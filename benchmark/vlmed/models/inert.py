"""Stand-ins for harmless classes that training checkpoints name beside their weights, so that none is imported."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

# What omegaconf's lists are pickled as, which the trainers that hydra starts leave in their checkpoints.
_NAMES = (
    "builtins.bool",
    "builtins.dict",
    "builtins.float",
    "builtins.int",
    "builtins.list",
    "builtins.str",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "typing.Any",
)


class Inert:
    """Takes anything, does nothing, keeps nothing."""

    __slots__ = ()

    def __new__(cls, *_: object) -> Inert:
        """Whatever a pickle would make it from, it is the same."""
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Whatever a pickle would put into it is dropped."""


def _plain_dict(*_: object) -> dict[Any, Any]:
    return {}


def stand_ins() -> AbstractContextManager[None]:
    """While it lasts, `torch.load(weights_only=True)` reads configurations of omegaconf as objects without content."""
    import torch

    names: list[Any] = [(Inert, name) for name in _NAMES]
    context: AbstractContextManager[None] = torch.serialization.safe_globals(
        [*names, (_plain_dict, "collections.defaultdict")]
    )
    return context
