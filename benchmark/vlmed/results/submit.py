"""A validated run -> a folder of `submissions/`, whole or not at all."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from vlmed.errors import CheckError, UsageError, errors_in
from vlmed.files import read_json
from vlmed.results.validate import Report

# What an organisation, a model and a run may be called: the names become parts of paths and addresses.
NAME = r"[a-z0-9](?:[a-z0-9.-]{0,58}[a-z0-9])?"


def submit(report: Report, org: str, model: str, run: str, submissions: Path) -> Path:
    """Copy a run that validation accepted to `submissions/<org>__<model>/<run>`; gives that folder.

    Only `result.json` and the prediction files it names are copied.

    Raises:
        CheckError: Validation refused the run; has its problems.
        UsageError: A name is not of lower-case letters, digits, dots and hyphens, or the folder exists already:
            what is published never changes.
    """
    if not report.accepted:
        raise CheckError(errors_in(report.problems))
    for kind, name in (("organisation", org), ("model", model), ("run", run)):
        if not re.fullmatch(NAME, name):
            raise UsageError(f"this {kind} name can't be a folder", expected="a-z, 0-9, '.', '-'", got=repr(name))
    target = submissions / f"{org}__{model}" / run
    if target.exists():
        hint = "published results never change: submit a correction under another --run name"
        raise UsageError("this submission exists already", file=target, hint=hint)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{run}.", dir=target.parent))
    try:
        (part / "predictions").mkdir()
        result = read_json(report.folder / "result.json")
        for file in ("result.json", *(unit["predictions"]["file"] for unit in result["units"])):
            shutil.copyfile(report.folder / file, part / file)
        part.chmod(0o755)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target
