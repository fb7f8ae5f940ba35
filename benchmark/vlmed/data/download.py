"""Downloads that resume, are checked, and never leave a bad file in place."""

from __future__ import annotations

import errno
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmed import __version__
from vlmed.errors import InputError, MissingError, VlmedError
from vlmed.hashing import file_hash

_CHUNK = 1 << 20
_RETRIED = (408, 425, 429, 500, 502, 503, 504)


class _TransientError(Exception):
    """A failure that another attempt may get over."""


def fetch(url: str, path: Path, checksum: str, *, attempts: int = 5, timeout: float = 30.0, pause: float = 1.0) -> Path:
    """Downloads `url` to `path` and returns `path`.

    The bytes go to `<path>.part` and only move into place once their hash is right. A part that an earlier, cut-off
    run left is continued where the server allows it. Server errors and broken connections are tried again.

    Args:
        checksum: `md5:` or `sha256:` and the hex digits.
        attempts: How often to try in all.
        timeout: Seconds without a byte after which a connection counts as broken.
        pause: Seconds before the second attempt; doubled before each further one.

    Raises:
        InputError: What came is not the published file; nothing is kept.
        MissingError: The server refuses or can't be reached; says where to put the file by hand.
        VlmedError: The disk is full, or the folder can't be written; the part is kept.
    """
    part = path.with_name(path.name + ".part")
    with _disk_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    by_hand = f"Download {url} by any means and put it at {path}."
    old = part.exists()
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            _attempt(url, part, timeout)
            break
        except _TransientError as error:
            reason = str(error)
        except urllib.error.HTTPError as error:
            got = f"HTTP {error.code} {error.reason}"
            raise MissingError(f"the server does not give out {url}", file=path, got=got, hint=by_hand) from error
    else:
        raise MissingError(f"can't download {url}", file=path, got=reason, hint=f"Run again to resume. {by_hand}")
    if old and _hash(part, checksum) != checksum:
        # The part of the earlier run may stem from another file at the same address: a whole download decides.
        part.unlink()
        return fetch(url, path, checksum, attempts=attempts, timeout=timeout, pause=pause)
    _move_checked(part, path, checksum, url)
    return path


def _move_checked(part: Path, path: Path, checksum: str, url: str) -> None:
    got = _hash(part, checksum)
    if got != checksum:
        part.unlink()
        hint = "Run again; if the hash stays wrong, the publisher changed the file: report it, and do not use it."
        raise InputError(f"{url} is not the published file", file=path, expected=checksum, got=got, hint=hint)
    with _disk_errors(part):
        part.replace(path)


def _hash(path: Path, checksum: str) -> str:
    algorithm = checksum.partition(":")[0]
    return f"{algorithm}:{file_hash(path, algorithm)}"


def _attempt(url: str, part: Path, timeout: float) -> None:
    """One request, to the last byte.

    Raises:
        _TransientError: The connection or the server failed on the way.
        HTTPError: The server refused for good.
    """
    offset = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"vlmed/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            if response.status != 206 or _range_start(response) != offset:
                offset = 0
            _store(response, part, offset)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:
            return  # nothing is left to send: the hash tells whether the part is whole
        if error.code in _RETRIED:
            raise _TransientError(f"HTTP {error.code} {error.reason}") from error
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(str(getattr(error, "reason", "") or error) or type(error).__name__) from error


def _range_start(response: http.client.HTTPResponse) -> int:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _store(response: http.client.HTTPResponse, part: Path, offset: int) -> None:
    length = response.headers.get("Content-Length")
    total = offset + int(length) if length else None
    done = offset
    with _disk_errors(part), part.open("ab" if offset else "wb") as file, _progress(part, offset, total) as advance:
        while chunk := _read(response):
            file.write(chunk)
            done += len(chunk)
            advance(len(chunk))
    if total is not None and done < total:
        raise _TransientError(f"the connection ended after {done} of {total} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    # Network errors become _TransientError here, so that any OSError outside is the disk's.
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(str(error) or type(error).__name__) from error


@contextmanager
def _disk_errors(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "Free some space, or set VLMED_CACHE to a folder on another disk, and run again: it resumes."
        what = "the disk is full" if full else "the download can't be written"
        raise VlmedError(what, file=part, got=error.strerror or str(error), hint=hint) from error


@contextmanager
def _progress(part: Path, offset: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with rate and time left."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(part.stem, total=total, completed=offset)
        yield lambda count: progress.advance(task, count)
