"""A validated run -> a folder of `submissions/`, whole or not at all."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from vlmed.errors import CheckError, InputError, MissingError, Problem, UsageError, errors_in
from vlmed.files import new_file, read_json, write_json
from vlmed.hashing import file_hash
from vlmed.results.description import FILE, FINGERPRINT, RETRACTION, Description, read_description
from vlmed.results.document import read_document
from vlmed.results.places import NAME
from vlmed.results.validate import Report


def describe(run: Path, description: Description, fingerprint: Path | None = None) -> None:
    """Write what a submitter says into a run folder, where validation finds it; a fingerprint is copied beside it.

    Raises:
        MissingError: There is no such fingerprint.
        VlmedError: The disk is full.
    """
    if fingerprint and not fingerprint.is_file():
        raise MissingError("there is no such fingerprint", file=fingerprint, hint="make one: vlmed fingerprint make")
    if fingerprint:
        if fingerprint.resolve() != (run / FINGERPRINT).resolve():
            shutil.copyfile(fingerprint, run / FINGERPRINT)
        description = Description(**{**vars(description), "fingerprint": file_hash(fingerprint)})
    write_json(run / FILE, description.to_json())


@contextmanager
def kept_if_right(run: Path) -> Iterator[list[Problem]]:
    """What is described in this block stays in the run folder unless the problems put into the list lie in it.

    A description that was refused would otherwise be taken for the submitter's own in the next attempt.
    """
    names = (FILE, FINGERPRINT)
    before = {name: (run / name).read_bytes() if (run / name).is_file() else None for name in names}
    problems: list[Problem] = []
    yield problems
    faulty = {problem.file for problem in problems if problem.severity == "error"}
    if faulty.isdisjoint(str(run / name) for name in names):
        return
    for name, content in before.items():
        if content is None:
            (run / name).unlink(missing_ok=True)
        else:
            with new_file(run / name) as part:
                part.write_bytes(content)


def submit(report: Report, org: str, model: str, run: str, submissions: Path) -> Path:
    """Copy a run that validation accepted to `submissions/<org>__<model>/<run>`; gives that folder.

    Only `result.json`, the prediction files it names, `submission.json` and its fingerprint are copied.

    Raises:
        CheckError: Validation refused the run; has its problems.
        UsageError: A name is not of lower-case letters, digits, dots and hyphens, the folder exists already, since
            what is published never changes, or the run it supersedes does not.
        InputError: A file changed since it was validated; nothing is submitted.
    """
    if not report.accepted:
        raise CheckError(errors_in(report.problems))
    target = new_place(report.folder, org, model, run, submissions)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{run}.", dir=target.parent))
    try:
        (part / "predictions").mkdir()
        shutil.copyfile(report.folder / "result.json", part / "result.json")
        result = read_json(part / "result.json")
        expected = {"result.json": report.sha256, **_hashes(report.folder)}
        for unit in result["units"]:
            expected[unit["predictions"]["file"]] = unit["predictions"]["sha256"]
        for file, sha256 in expected.items():
            shutil.copyfile(report.folder / file, part / file)
            if file_hash(part / file) != sha256:
                hint = "wait until nothing writes to the run, and submit it again"
                raise InputError("this file changed while it was submitted", file=report.folder / file, hint=hint)
        part.chmod(0o755)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def new_place(folder: Path, org: str, model: str, run: str, submissions: Path) -> Path:
    """Where the run in `folder` goes.

    Raises:
        UsageError: As `submit`.
    """
    for kind, name in (("organisation", org), ("model", model), ("run", run)):
        if not re.fullmatch(NAME, name):
            raise UsageError(f"this {kind} name can't be a folder", expected="a-z, 0-9, '.', '-'", got=repr(name))
    target = submissions / f"{org}__{model}" / run
    if target.exists():
        hint = (
            "published results never change: submit a correction under another --run name; "
            "if nobody but you has it yet, delete the folder"
        )
        raise UsageError("this submission exists already", file=target, hint=hint)
    described = read_description(folder)
    if described and described.supersedes and not (target.parent / described.supersedes / "result.json").is_file():
        what = "the run that this one supersedes does not exist"
        raise UsageError(what, file=target.parent, expected="a run of this model", got=described.supersedes)
    return target


def retract(run: Path, reason: str, day: date | None = None) -> Path:
    """Take a published run back: its evidence stays, and the leaderboard leaves it out; gives the file written.

    Raises:
        UsageError: There is no such run, it is retracted already, or the reason is empty or above 1,000 characters.
    """
    if not (run / "result.json").is_file():
        raise UsageError("there is no such run", file=run, hint="list them with `vlmed submissions list`")
    if (run / RETRACTION).exists():
        raise UsageError("this run is retracted already", file=run / RETRACTION)
    if not 0 < len(reason.strip()) <= 1000:
        raise UsageError("a retraction needs a reason", expected="1 to 1,000 characters", got=repr(reason[:80]))
    file = run / RETRACTION
    write_json(file, {"schema_version": 1, "date": str(day or date.today()), "reason": reason.strip()})
    return file


def retraction_problems(run: Path) -> Iterator[Problem]:
    """The reason for which a run was retracted, as a problem; none if it stands.

    Raises:
        InputError: `retraction.json` is no such document.
    """
    if (run / RETRACTION).exists():
        reason = read_document(run / RETRACTION, "retraction.schema.json").value["reason"]
        yield Problem(f"this run was retracted: {reason}", str(run / RETRACTION))


def _hashes(run: Path) -> dict[str, str]:
    described = read_description(run)
    if described is None:
        return {}
    fingerprint = {FINGERPRINT: described.fingerprint} if described.fingerprint else {}
    return {FILE: file_hash(run / FILE), **fingerprint}
