"""The header of a safetensors file: which tensors it holds, read and checked without touching them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from vlmed.errors import InputError

# The format's own limit is 100 MB. Whole models have headers of some hundred kilobytes.
_LONGEST = 32 << 20
# Bits per number; the names are the format's.
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True)
class Entry:
    """One tensor.

    Attributes:
        dtype: As the format writes it, such as `F32` or `BF16`.
        shape: Its lengths.
        begin, end: Where its bytes lie, counted from behind the header.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors by name.

    Raises:
        InputError: This is no safetensors file, or its header contradicts itself or the file's size.
    """
    tree, size = _read(file)
    tree.pop("__metadata__", None)
    entries = {name: _entry(name, value, file) for name, value in tree.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise _lies(file, name, f"bytes from {end:,} on, where the tensor before it ends", f"{entry.begin:,}")
        end = entry.end
    if end != size:
        raise _lies(file, "the last tensor", f"an end at {size:,}, where the file ends", f"{end:,}")
    return entries


def _read(file: Path) -> tuple[dict[str, Any], int]:
    """The header as JSON, and how many bytes follow it."""
    whole = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(_LONGEST, whole - 8):
            raise _no_safetensors(file, start)
        text = stream.read(length)
    try:
        tree = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise _lies(file, "header", "JSON", str(error)) from error
    if not isinstance(tree, dict):
        raise _lies(file, "header", "an object", type(tree).__name__)
    return tree, whole - 8 - length


def _no_safetensors(file: Path, start: bytes) -> InputError:
    pickled = start.startswith((b"PK\x03\x04", b"\x80"))
    return InputError(
        "the weights can't be loaded: "
        + ("a pickle under the name of safetensors" if pickled else "no safetensors file"),
        file=file,
        expected=f"a header of at most {_LONGEST:,} bytes that fits into the file",
        got=f"first bytes {start.hex(' ') or 'none'}",
        hint="don't load it; get the original file" if pickled else "check that its download was complete",
    )


def _entry(name: str, value: Any, file: Path) -> Entry:
    if not isinstance(value, Mapping):
        raise _lies(file, name, "dtype, shape and data_offsets", type(value).__name__)
    dtype, shape, offsets = (value.get(key) for key in ("dtype", "shape", "data_offsets"))
    if dtype not in _BITS:
        raise _lies(file, name, f"a dtype of {', '.join(_BITS)}", repr(dtype))
    if not (_whole_numbers(shape) and _whole_numbers(offsets) and len(offsets) == 2):
        raise _lies(file, name, "a shape and two offsets of whole numbers", f"{shape!r} and {offsets!r}"[:200])
    entry = Entry(dtype, tuple(shape), *offsets)
    if (entry.end - entry.begin) * 8 != entry.numel * _BITS[dtype]:
        raise _lies(file, name, f"{entry.numel * _BITS[dtype] // 8:,} bytes", f"{entry.end - entry.begin:,}")
    return entry


def _whole_numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _lies(file: Path, where: str, expected: str, got: str) -> InputError:
    return InputError(
        "the weights can't be loaded: the header of the safetensors file is wrong",
        file=file,
        path=where,
        expected=expected,
        got=got,
        hint="check that its download was complete",
    )
