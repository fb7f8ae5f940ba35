"""What can go wrong, told so that the reader knows where to look and what to do next.

The whole tree::

    VlmedError            exit code 2
    ├── UsageError        2   what was asked for does not exist or does not fit
    ├── InputError        2   a file, model or adapter that was given is damaged or contradicts itself
    ├── MissingError      3   data or access that only the user can get
    └── CheckError        1   a check ran to its end and failed

Functions that check many things return `list[Problem]` and leave the verdict to their caller.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        what: The fault, as one sentence without a final full stop.
        file: The file it is in, as the user would name it; empty where there is none.
        path: The place in that file: a JSON path (`$.units[0].n`), a row, or a sample id.
        expected: What should stand there.
        got: What stands there.
        hint: What to run or do next.
        severity: `error` refuses; `warning` is shown and counted.
    """

    what: str
    file: str = ""
    path: str = ""
    expected: str = ""
    got: str = ""
    hint: str = ""
    severity: Severity = "error"

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.path) if part)
        lines = [f"{where}: {self.what}" if where else self.what]
        lines += [f"  {name}: {text}" for name, text in self._details() if text]
        return "\n".join(lines)

    def _details(self) -> Iterable[tuple[str, str]]:
        return ("expected", self.expected), ("got", self.got), ("next", self.hint)

    def to_json(self) -> dict[str, str]:
        """The problem as a JSON object; empty fields are left out."""
        return {name: text for name, text in asdict(self).items() if text}


class VlmedError(Exception):
    """Base of every error that vlmed raises on purpose.

    Args:
        what: The fault in one sentence, or the problems collected so far.
        file, path, expected, got, hint: As in `Problem`; only with a sentence.
    """

    exit_code = 2

    def __init__(
        self,
        what: str | Sequence[Problem],
        *,
        file: object = "",
        path: str = "",
        expected: str = "",
        got: str = "",
        hint: str = "",
    ) -> None:
        self.problems = [Problem(what, str(file), path, expected, got, hint)] if isinstance(what, str) else list(what)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UsageError(VlmedError):
    """What was asked for does not exist or does not fit."""


class InputError(VlmedError):
    """A file, model or adapter that was given is damaged or contradicts itself."""


class MissingError(VlmedError):
    """Data or access that only the user can get."""

    exit_code = 3


class CheckError(VlmedError):
    """A check ran to its end and failed."""

    exit_code = 1


def errors_in(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that refuse."""
    return [problem for problem in problems if problem.severity == "error"]


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """The error for a name that is not there, with the nearest names that are.

    >>> print(unknown("task", "brestmnist", ["breastmnist", "slake"]))
    unknown task 'brestmnist'
      expected: one of 'breastmnist'
      got: 'brestmnist'
    """
    names = sorted(known)
    # The second spelling is for names as papers write them: BreastMNIST, PMC-15M.
    spellings = (name, name.lower().replace("-", "_"))
    near = next(filter(None, (difflib.get_close_matches(text, names, n=3, cutoff=0.5) for text in spellings)), names)
    listed = ", ".join(repr(near_name) for near_name in near[:12])
    more = f" and {len(near) - 12} more" if len(near) > 12 else ""
    return UsageError(f"unknown {kind} {name!r}", expected=f"one of {listed}{more}", got=repr(name), hint=hint)
