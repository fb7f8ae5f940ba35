"""Whether JSON follows one of the package's schemas, asked of a document at once.

`schema_problems` says of each place what is wrong with it, and takes most of the time of reading a result. Nearly all
documents are right. So a yes here stands for no problem there; whatever is not plainly right is a no, which costs time
and decides nothing. That holds because every test below is a yes only where the keyword's own rule is met, and no
keyword is known here that turns a no into a yes (`not`, `oneOf`, `if`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any

Test = Callable[[Any], bool]
Schema = Mapping[str, Any]
_TYPES: Mapping[str, tuple[type, ...]] = {
    "null": (type(None),), "boolean": (bool,), "integer": (int,), "number": (int, float), "string": (str,),
    "array": (list,), "object": (dict,),
}  # fmt: skip
_SAYS_NOTHING = {"$schema", "$id", "$defs", "title", "description"}


@cache
def follows(name: str) -> Test:
    """The test for a schema in `vlmed/schemas`: whether JSON plainly follows it."""
    schema = json.loads((resources.files("vlmed") / "schemas" / name).read_text("utf-8"))
    return _Tests(schema).of(schema)


class _Tests:
    """Tests for the parts of one schema, made once for each definition."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._defined: dict[str, Test] = {}

    def of(self, schema: Schema | bool) -> Test:
        """The test for a part; one that it can't make says no to everything."""
        if isinstance(schema, bool):
            return _always if schema else _never
        tests = [self._object(schema)] if not _OBJECT.isdisjoint(schema) else []
        for keyword in schema.keys() - _SAYS_NOTHING - _OBJECT:
            make = _SIMPLE.get(keyword)
            tests.append(make(schema[keyword]) if make else self._nested(keyword, schema[keyword]))
        if len(tests) == 1:
            return tests[0]
        return lambda value: all(test(value) for test in tests)

    def _nested(self, keyword: str, given: Any) -> Test:
        if keyword == "$ref":
            return self._reference(given)
        if keyword == "items":
            item = self.of(given)
            return lambda value: type(value) is not list or all(map(item, value))
        if keyword == "anyOf":
            choices = [self.of(one) for one in given]
            return lambda value: any(choice(value) for choice in choices)
        return _never

    def _reference(self, place: str) -> Test:
        defined, name = self._root.get("$defs", {}), place.removeprefix("#/$defs/")
        if place != f"#/$defs/{name}" or name not in defined:
            return _never
        if name not in self._defined:
            self._defined[name] = _never  # A definition that holds itself is none of ours.
            self._defined[name] = self.of(defined[name])
        return self._defined[name]

    def _object(self, schema: Schema) -> Test:
        required = schema.get("required", ())
        known = {name: self.of(part) for name, part in schema.get("properties", {}).items()}
        other = self.of(schema.get("additionalProperties", True))

        def test(value: Any) -> bool:
            if type(value) is not dict:
                return True
            return all(name in value for name in required) and all(
                known.get(name, other)(item) for name, item in value.items()
            )

        return test


_OBJECT = {"required", "properties", "additionalProperties"}


def _always(_: Any) -> bool:
    return True


def _never(_: Any) -> bool:
    return False


def _type(given: str | list[str]) -> Test:
    allowed = {kind for name in ([given] if isinstance(given, str) else given) for kind in _TYPES[name]}
    return lambda value: type(value) in allowed


def _pattern(given: str) -> Test:
    search = re.compile(given).search
    return lambda value: type(value) is not str or search(value) is not None


def _one_of(given: list[Any]) -> Test:
    return lambda value: any(type(value) is type(one) and value == one for one in given)


def _number(rule: Callable[[float], bool]) -> Test:
    return lambda value: type(value) not in (int, float) or rule(value)


def _length(kind: type[str] | type[list[Any]], rule: Callable[[int], bool]) -> Test:
    return lambda value: not isinstance(value, kind) or rule(len(value))


# Keywords that look into no other part.
_SIMPLE: Mapping[str, Callable[[Any], Test]] = {
    "type": _type,
    "pattern": _pattern,
    "const": lambda given: _one_of([given]),
    "enum": _one_of,
    "minimum": lambda given: _number(lambda value: value >= given),
    "maximum": lambda given: _number(lambda value: value <= given),
    "exclusiveMinimum": lambda given: _number(lambda value: value > given),
    "minLength": lambda given: _length(str, lambda size: size >= given),
    "maxLength": lambda given: _length(str, lambda size: size <= given),
    "minItems": lambda given: _length(list, lambda size: size >= given),
    "maxItems": lambda given: _length(list, lambda size: size <= given),
}
