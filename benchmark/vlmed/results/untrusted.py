"""A submission is a stranger's folder: what may lie in it, and how its words are shown."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from vlmed.errors import Problem

# Folders whose content is read; others, such as a run's own notes, are never opened.
FOLDERS = ("predictions", "audits", "judged")
_FILES = ("result.json", "submission.json", "fingerprint.parquet", "retraction.json", "judgement.json")
_MOST_FILES = 10_000
_LONGEST = 300


def folder_problems(run: Path) -> Iterator[Problem]:
    """What in a run folder is no evidence: links, pipes, devices, folders in place of files, and too many files.

    A hard link is taken for the file that it is: content is hashed and copied, never linked on.
    """
    places = [run, *(run / name for name in (*FOLDERS, *_FILES))]
    for place in places:
        yield from _kind_problems(place, wants_folder=place == run or place.name in FOLDERS)
    for folder in (run / name for name in FOLDERS):
        if folder.is_dir() and not folder.is_symlink():
            yield from _content_problems(folder)


def _content_problems(folder: Path) -> Iterator[Problem]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in islice(entries, _MOST_FILES + 1))
    if len(names) > _MOST_FILES:
        yield Problem("this folder holds too many files", str(folder), expected=f"at most {_MOST_FILES}")
        return
    for name in names:
        yield from _kind_problems(folder / name, wants_folder=False)


def _kind_problems(place: Path, wants_folder: bool) -> Iterator[Problem]:
    try:
        mode = place.lstat().st_mode
    except OSError:
        return  # What has to be there is told by whoever reads it.
    wanted = stat.S_ISDIR(mode) if wants_folder else stat.S_ISREG(mode)
    if stat.S_ISLNK(mode):
        yield Problem("a link is no evidence", str(place), hint="copy the file itself")
    elif not wanted:
        expected = "a folder" if wants_folder else "a file"
        got = "a folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "a pipe, socket or device"
        yield Problem("this is no evidence", str(place), expected=expected, got=got)


def printable(value: Any) -> Any:
    """JSON whose texts can be written as UTF-8 and shown: control characters and lone surrogates become U+FFFD.

    >>> printable({"name": "a\\x1b[31mb"})
    {'name': 'a�[31mb'}
    """
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join("\ufffd" if unicodedata.category(mark) in ("Cc", "Cs") else mark for mark in value)
    if isinstance(value, dict):
        return {printable(name): printable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [printable(item) for item in value]
    return value


def shown(problem: Problem) -> Problem:
    """A problem whose words can go to a terminal, a log or a page: printable, and of modest length.

    Line breaks go too, so that a submitted text can't write a line of its own, such as a command to a build server.

    >>> shown(Problem("x", got="a\\n::error::b")).got
    'a�::error::b'
    """
    texts: dict[str, Any] = {name: _clipped(printable(text)) for name, text in vars(problem).items()}
    return replace(problem, **texts)


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
