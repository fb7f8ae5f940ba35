"""Reading and writing files so that nothing half-written, ambiguous or lost ever stands under its final name."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from vlmed.errors import InputError, MissingError, VlmedError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well and vanishes when it does not.

    Raises:
        VlmedError: The disk is full or the folder can't be written; `path` is as it was.
    """
    part = path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
        os.close(handle)
        part.chmod(0o666 & ~_umask())
        yield part
        part.replace(path)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        if part != path:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with `\\n` line ends in one step, as `new_file` does."""
    with new_file(path) as part:
        part.write_bytes(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, so that two runs differ only where their values do.

    Raises:
        ValueError: `value` holds NaN or an infinity.
    """
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file, read strictly.

    Raises:
        MissingError: There is no such file.
        InputError: It is not UTF-8, not JSON, nests too deeply, holds NaN or an infinity, or names a key twice.
    """
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise MissingError("there is no such file", file=path) from None
    except UnicodeDecodeError as error:
        raise InputError("this is not UTF-8 text", file=path, path=f"byte {error.start}") from None
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise InputError(f"this is not JSON: {error.msg}", file=path, path=place) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"this JSON is refused: {error}", file=path, expected="finite numbers, unique keys") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is not a number in JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the key {twice[0]!r} stands twice in one object")
    return value


def _write_error(path: Path, error: OSError) -> VlmedError:
    if error.errno in _NO_SPACE:
        hint = "free some space and run the same command again: finished work is kept"
        return VlmedError("the disk is full", file=path, hint=hint)
    return VlmedError(f"this can't be written: {error.strerror or error}", file=path, hint="choose another folder")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
