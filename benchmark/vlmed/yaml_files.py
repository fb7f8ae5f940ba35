"""Reading YAML strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vlmed.errors import InputError, MissingError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_Loader):  # type: ignore[misc]  # one of two classes, by what PyYAML was built with
    """YAML without code, and without the silent 'last one wins' of duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path, what: str) -> Any:
    """The value of a YAML file.

    Args:
        what: What the file is, for an error: `task file`.

    Raises:
        MissingError: There is no such file.
        InputError: It is not UTF-8 or not YAML, or names a key twice; names the line.
    """
    try:
        return yaml.load(path.read_text("utf-8"), _StrictLoader)
    except FileNotFoundError:
        raise MissingError(f"there is no such {what}", file=path) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise InputError(f"this is not YAML: {error.problem}", file=path, path=place) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"this is not YAML: {error}", file=path) from None
