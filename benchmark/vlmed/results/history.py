"""What is published never changes: runs are added, corrected by a later run, or retracted, and nothing else."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vlmed.errors import Problem, UsageError
from vlmed.results.merging import merging_problems
from vlmed.results.places import EXPECTED, is_place, look_alike

# What may be added to a run that is published already.
_LATER = re.compile(r"audits/[^/]+|retraction\.json")
_WORDS = {"A": "added", "M": "changed", "D": "removed", "T": "turned into something else"}
_HINT = "put it back as it was; a correction is another run whose submission.json names this one in `supersedes`"


@dataclass(frozen=True)
class _Changes:
    """What the working tree changes of what is published.

    Attributes:
        files: Git's letter for what happened, and the path below the submissions.
        published: `<org>__<model>/<run>` of every run that has a result.
    """

    files: Sequence[tuple[str, PurePosixPath]]
    published: set[str]

    @property
    def new(self) -> list[str]:
        """Where runs were added, sorted."""
        added = {path.parent.as_posix() for status, path in self.files if status == "A" and path.name == "result.json"}
        return sorted(added - self.published)


def history_problems(submissions: Path, revision: str) -> list[Problem]:
    """What the working tree below `submissions` changes of what is published at a git revision.

    The tree is held against the commit where the two histories part, so that runs merged meanwhile are not missed.

    Raises:
        UsageError: This is no git repository, it has no such revision, or the folder is a link.
    """
    changes = _changes(submissions, revision)
    added = [path for status, path in changes.files if status == "A"]
    return [
        *_problems(changes, submissions),
        *_name_problems(changes, submissions),
        *merging_problems(submissions, added, changes.new),
    ]


def new_runs(submissions: Path, revision: str) -> list[Path]:
    """The runs below `submissions` that a git revision does not have.

    Raises:
        UsageError: As `history_problems`.
    """
    return [submissions / place for place in _changes(submissions, revision).new]


def _changes(submissions: Path, revision: str) -> _Changes:
    if revision.startswith("-"):
        raise UsageError("this is no git revision", got=revision)
    root = Path(_git(submissions, "rev-parse", "--show-toplevel").rstrip("\n"))
    if link := next((place for place in _inside(submissions, root) if place.is_symlink()), None):
        # What is published would be looked for where the link leads to, and its loss go unseen.
        raise UsageError("the folder of submissions is a link", file=link, hint="put back the folder itself")
    base = _git(submissions, "merge-base", revision, "HEAD").strip()
    place = submissions.resolve().relative_to(root.resolve()).as_posix()
    listed = _git(root, "diff", "--name-status", "--no-renames", "--no-ext-diff", "-z", base, "--", place).split("\0")
    files = [(status, PurePosixPath(name).relative_to(place))
             for status, name in zip(listed[::2], listed[1::2], strict=False)]  # fmt: skip
    return _Changes(files, _published(root, base, place))


def _inside(submissions: Path, root: Path) -> Iterator[Path]:
    """The folder and all above it that lie in the repository, as they are named."""
    place = submissions.absolute()
    while place.resolve() != root.resolve() and place != place.parent:
        yield place
        place = place.parent


def _problems(changes: _Changes, submissions: Path) -> Iterator[Problem]:
    for status, path in changes.files:
        run = "/".join(path.parts[:2])
        rest = "/".join(path.parts[2:])
        if run not in changes.published:
            if _LATER.fullmatch(rest):
                hint = "leave it out; it comes after the run, from whoever keeps the submissions"
                yield Problem("a new run can't bring its own audit or retraction", str(submissions / path), hint=hint)
        elif status != "A" or not _LATER.fullmatch(rest):
            what = f"a file of a published run was {_WORDS.get(status, status)}"
            yield Problem(what, str(submissions / path), hint=_HINT)


def _name_problems(changes: _Changes, submissions: Path) -> Iterator[Problem]:
    """New runs that stand where none may, and new organisations that could be taken for another."""
    known = {place.partition("__")[0] for place in changes.published}
    for place in changes.new:
        org = place.partition("__")[0]
        if not is_place(place):
            hint = "use `vlmed submit`"
            yield Problem("this is no folder of a submission", str(submissions / place), "", EXPECTED, place, hint)
        elif org not in known and (other := look_alike(org, known)):
            what = "this organisation's name looks like another's"
            hint = "ask who sends it; merge it only if both agree"
            yield Problem(what, str(submissions / place), "", f"not to be taken for {other}", org, hint, "warning")


def _published(root: Path, base: str, place: str) -> set[str]:
    """`<org>__<model>/<run>` of every run that has a result."""
    names = _git(root, "ls-tree", "-r", "-z", "--name-only", base, "--", place).split("\0")
    paths = [PurePosixPath(name).relative_to(place).parts for name in names if name]
    return {"/".join(parts[:2]) for parts in paths if len(parts) == 3 and parts[2] == "result.json"}


def _git(folder: Path, *arguments: str) -> str:
    command: Sequence[str | Path] = ("git", "-C", folder, *arguments)
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise UsageError(f"git can't be run: {error.strerror}", hint="install git, or leave --against out") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise UsageError(f"git says: {said}", file=folder, got=" ".join(arguments), hint="name a branch or commit")
    return done.stdout.decode(errors="surrogateescape")
