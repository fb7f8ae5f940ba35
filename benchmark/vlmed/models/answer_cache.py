"""Answers that were paid for, kept on disk by what was asked: a run that was killed asks nothing twice."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from vlmed.errors import VlmedError


class AnswerCache:
    """Key -> answer, in memory and in a file of JSON lines that only ever grows; safe between threads.

    Each answer is one unbuffered write of one line, so that a killed process loses at most a line that was being
    written; such a half line is passed over when the file is read again. Several processes may share the file.

    Args:
        file: Where the answers are kept; None keeps them in memory alone.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._answers = _read(file) if file and file.exists() else {}
        self._lock = threading.Lock()

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> str:
        return self._answers[key]

    def __setitem__(self, key: str, answer: str) -> None:
        """Keep an answer.

        Raises:
            VlmedError: The file can't be written.
        """
        with self._lock:
            self._answers[key] = answer
            if self.file:
                _append(self.file, json.dumps({"key": key, "answer": answer}))


def _read(file: Path) -> dict[str, str]:
    answers = {}
    for line in file.read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)
            answers[str(entry["key"])] = str(entry["answer"])
        except (ValueError, KeyError, TypeError):
            continue
    return answers


def _append(file: Path, line: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab", buffering=0) as stream:
            # The line break comes first: it ends a half line that a killed process may have left.
            stream.write(f"\n{line}".encode())
    except OSError as error:
        raise VlmedError(
            f"an answer can't be kept: {error.strerror or error}",
            file=file,
            hint="free some space or choose another folder with VLMED_CACHE, and run the same command again",
        ) from error
