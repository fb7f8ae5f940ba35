"""Reading and writing files so that nothing half-written, ambiguous or lost ever stands under its final name."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from vlmed.errors import InputError, MissingError, VlmedError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LARGEST_JSON = 64 * 2**20
_DEEPEST = 64
# Beyond it, readers that keep all numbers as doubles read another integer than was written.
_LARGEST_INTEGER = 2**53 - 1


def cache_root() -> Path:
    """The folder of everything that vlmed downloads: `VLMED_CACHE`, or vlmed's own in the user's cache folder."""
    if own := os.environ.get("VLMED_CACHE"):
        return Path(own).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "vlmed"


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
    """Write `value` as `json_text` in one step.

    Raises:
        ValueError: `value` holds NaN or an infinity.
    """
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """`value` as indented JSON with sorted keys, so that two runs differ only where their values do.

    Raises:
        ValueError: `value` holds NaN or an infinity.
    """
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def read_bytes(path: Path, limit: int, links: bool = True) -> bytes:
    """The whole of a regular file, which is opened once, so that what is hashed is what is parsed.

    Args:
        limit: Largest length in bytes; more is never read.
        links: Whether `path` may be a symbolic link.

    Raises:
        MissingError: There is no such file.
        InputError: It is a folder, a pipe, a device or a link, is too long, or can't be read.
    """
    try:
        # Opening a device or a pipe can already do something, so what it is is asked first, and of the open file again.
        _check_regular(path, path.stat() if links else path.lstat())
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW))
        with os.fdopen(handle, "rb") as file:
            _check_regular(path, os.fstat(handle))
            content = b"" if os.fstat(handle).st_size > limit else file.read(limit + 1)
            size = max(len(content), os.fstat(handle).st_size)
    except FileNotFoundError:
        raise MissingError("there is no such file", file=path) from None
    except OSError as error:
        raise InputError(f"this can't be read: {error.strerror or error}", file=path) from None
    if size > limit:
        raise InputError("this file is too long", file=path, expected=f"at most {limit} bytes", got=f"{size} bytes")
    return content


def _check_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise InputError("a link is no evidence", file=path, hint="copy the file itself")
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise InputError("this is no file", file=path, expected="a regular file", got=kind)


def read_json(path: Path, limit: int = _LARGEST_JSON) -> Any:
    """A JSON file, read strictly.

    Args:
        limit: Largest length in bytes.

    Raises:
        MissingError: There is no such file.
        InputError: As `read_bytes` and `parse_json`.
    """
    return parse_json(read_bytes(path, limit), path)


def parse_json(content: bytes, path: Path) -> Any:
    """The value of JSON text that was read from `path`, which errors name.

    Raises:
        InputError: It is not UTF-8, not JSON, nests more than 64 levels, holds NaN, an infinity, a number beyond a
            double's range or an integer beyond 2**53 - 1, or names a key twice.
    """
    try:
        value = json.loads(
            content.decode(),
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_exact,
            object_pairs_hook=_no_duplicates,
        )
        _check_depth(value)
    except UnicodeDecodeError as error:
        raise InputError("this is not UTF-8 text", file=path, path=f"byte {error.start}") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise InputError(f"this is not JSON: {error.msg}", file=path, path=place) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"this JSON is refused: {error}", file=path, expected="finite numbers, unique keys") from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is not a number in JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _exact(text: str) -> int:
    if len(text) > 17 or abs(number := int(text)) > _LARGEST_INTEGER:
        raise ValueError(f"the integer {text[:40]} is too large, above {_LARGEST_INTEGER}")
    return number


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = min(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST + 1):
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict | list):
                inner += node.values() if isinstance(node, dict) else node
        if not inner:
            return
        level = inner
    raise ValueError(f"it nests more than {_DEEPEST} levels deep")


def _write_error(path: Path, error: OSError) -> VlmedError:
    if error.errno in _NO_SPACE:
        hint = "free some space and run the same command again: finished work is kept"
        return VlmedError("the disk is full", file=path, hint=hint)
    return VlmedError(f"this can't be written: {error.strerror or error}", file=path, hint="choose another folder")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
