"""What whoever merges a change of the submissions should look at: no rule is broken, and much depends on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from vlmed.errors import Problem, VlmedError
from vlmed.files import read_json
from vlmed.results.description import RETRACTION, read_description
from vlmed.results.places import is_place
from vlmed.results.untrusted import shown

# What `vlmed submit` puts into a run, and what a judge adds.
_EVIDENCE = re.compile(
    r"(result|submission|judgement|retraction)\.json|fingerprint\.parquet|(predictions|judged|audits)/[^/]+"
)


def merging_problems(submissions: Path, added: Sequence[PurePosixPath], new: Sequence[str]) -> Iterator[Problem]:
    """Warnings of what a change adds.

    Args:
        added: The files that it adds, below `submissions`.
        new: `<org>__<model>/<run>` of the runs that it adds.
    """
    # A run that stands where none may is refused whole.
    misplaced = [place for place in new if not is_place(place)]
    for path in added:
        if not any(path.is_relative_to(place) for place in misplaced):
            yield from _file_problems(path, submissions, set(new))
    for place in new:
        yield from map(shown, _run_problems(submissions / place))


def _file_problems(path: PurePosixPath, submissions: Path, new: set[str]) -> Iterator[Problem]:
    run, rest, file = "/".join(path.parts[:2]), "/".join(path.parts[2:]), str(submissions / path)
    if not _EVIDENCE.fullmatch(rest):
        hint = "leave it out: `vlmed submit` copies what is evidence"
        yield Problem("this file is no part of a submission", file, hint=hint, severity="warning")
    elif run not in new and rest == RETRACTION:
        hint = "merge it only if who sent the run asks for it, or you know why"
        yield Problem("this takes a published run off the leaderboard", file, hint=hint, severity="warning")
    elif run not in new and rest.startswith("audits/"):
        hint = "merge it only if you trust who made it: the leaderboard shows its verdict"
        yield Problem("this is an audit of a published run", file, hint=hint, severity="warning")


def _run_problems(run: Path) -> Iterator[Problem]:
    try:
        described, result = read_description(run), read_json(run / "result.json")
        supersedes = described.supersedes if described else None
        ref, family = result["model"]["ref"], result["model"]["family"]
    except (VlmedError, LookupError, TypeError):
        return  # Validation tells what is wrong with it.
    if supersedes:
        hint = "merge it only if who sent that one asks for it"
        what = "this takes another run of the model off the leaderboard"
        yield Problem(what, str(run / "submission.json"), "$.supersedes", got=supersedes, hint=hint, severity="warning")
    if "control" in (result["model"].get("kind"), family) or str(ref).startswith("control:"):
        hint = "merge it only if you ran it, or trust who did"
        what = "models are measured against this control"
        yield Problem(what, str(run / "result.json"), "$.model.ref", got=str(ref), hint=hint, severity="warning")
