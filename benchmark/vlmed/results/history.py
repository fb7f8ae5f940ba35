"""What is published never changes: runs are added, corrected by a later run, or retracted, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from vlmed.errors import Problem, UsageError

# What may be added to a run that is published already.
_LATER = ("audits/", "retraction.json")
_WORDS = {"A": "added", "M": "changed", "D": "removed", "T": "turned into something else"}
_HINT = "put it back as it was; a correction is another run whose submission.json names this one in `supersedes`"


def history_problems(submissions: Path, revision: str) -> list[Problem]:
    """What the working tree below `submissions` changes of what is published at a git revision.

    The tree is held against the commit where the two histories part, so that runs merged meanwhile are not missed.

    Raises:
        UsageError: This is no git repository, or it has no such revision.
    """
    if revision.startswith("-"):
        raise UsageError("this is no git revision", got=revision)
    root = Path(_git(submissions, "rev-parse", "--show-toplevel").rstrip("\n"))
    base = _git(submissions, "merge-base", revision, "HEAD").strip()
    place = submissions.resolve().relative_to(root.resolve()).as_posix()
    listed = _git(root, "diff", "--name-status", "--no-renames", "--no-ext-diff", "-z", base, "--", place).split("\0")
    published = _published(root, base, place)
    changes = zip(listed[::2], listed[1::2], strict=False)
    return list(_problems(changes, published, submissions, place))


def _problems(
    changes: Iterator[tuple[str, str]], published: set[str], submissions: Path, place: str
) -> Iterator[Problem]:
    for status, name in changes:
        path = PurePosixPath(name).relative_to(place)
        run = "/".join(path.parts[:2])
        rest = "/".join(path.parts[2:])
        if run not in published:
            if rest.startswith(_LATER):
                hint = "leave it out; it comes after the run, from whoever keeps the submissions"
                yield Problem("a new run can't bring its own audit or retraction", str(submissions / path), hint=hint)
        elif status != "A" or not rest.startswith(_LATER):
            what = f"a file of a published run was {_WORDS.get(status, status)}"
            yield Problem(what, str(submissions / path), hint=_HINT)


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
