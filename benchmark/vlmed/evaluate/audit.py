"""A published model, run again on a seeded draw of samples, against what its submission claims."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

from vlmed import __version__
from vlmed.data.load import DataLoader
from vlmed.data.table import TaskTable
from vlmed.errors import InputError, UsageError, VlmedError
from vlmed.evaluate.job import Job
from vlmed.evaluate.methods import method_for
from vlmed.evaluate.run import Runner, environment
from vlmed.evaluate.units import Unit
from vlmed.files import write_json
from vlmed.models.load import load_model
from vlmed.models.numerics import Numerics
from vlmed.models.protocols import LoadedModel
from vlmed.models.reference import parse_reference
from vlmed.results.audits import FOLDER, compare, draw, verdict
from vlmed.results.document import Document, read_document
from vlmed.results.predictions import Predictions, read_predictions
from vlmed.results.tolerance import TOLERANCES, Tolerance, precision_of
from vlmed.suite.types import Suite

Report = Callable[[str, str], None]
# Ranks depend on every item of the gallery, so that all of it is embedded whatever is drawn; so do a control's draws.
_WHOLE = ("retrieve",)
# Training has its own chance; only whoever trains again with the same hardware gets the same weights.
_SKIPPED = ("tune",)


def audit(
    run: Path,
    suite: Suite,
    data: DataLoader,
    samples: int,
    seed: int,
    auditor: str,
    report: Report,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Path:
    """Fetch a run's model at its revision, predict drawn samples of every unit again, and write the record.

    Args:
        run: A published run that validation accepts.
        samples: How many of each unit's test samples are drawn, at least 1.
        report: Told each unit's name and verdict.

    Raises:
        UsageError: The model can't be fetched by anyone but its submitter, its revision is gone, or the device can't
            compute in the precision that the result names.
        InputError: What was fetched is not the revision that the result names, or it names no precision that there is.
    """
    document = read_document(run / "result.json", "result.schema.json")
    result = document.value
    precision = precision_of(result)
    model = _fetched(result["model"], device, trust_remote_code, Numerics(precision))
    runner = Runner(suite, model, data)
    units = []
    for claim in result["units"]:
        units.append(_audited(run, claim, runner, samples, seed, TOLERANCES[precision]))
        report(claim["unit"], units[-1]["verdict"])
    record = {
        "schema_version": 1,
        "auditor": auditor,
        "date": str(date.today()),
        "vlmed_version": __version__,
        "result": document.sha256,
        "seed": seed,
        "samples": samples,
        "units": units,
        "environment": environment() | {"precision": precision},
        "verdict": verdict([unit["verdict"] for unit in units]),
    }
    return _write(run, record, document)


def _write(run: Path, record: Mapping[str, Any], document: Document) -> Path:
    path = run / FOLDER / f"{record['date']}-{record['seed']}.json"
    if path.exists():
        raise UsageError("this audit was made before", file=path, hint="draw others with another --seed")
    if read_document(run / "result.json", "result.schema.json").sha256 != document.sha256:
        raise InputError("the result changed during its audit", file=run / "result.json")
    write_json(path, record)
    return path


def _fetched(claim: Mapping[str, Any], device: str, trust_remote_code: bool, numerics: Numerics) -> LoadedModel:
    """The model that a result names, at the revisions and in the precision that it names."""
    reference = parse_reference(claim["ref"])
    if reference.scheme in ("dir", "endpoint"):
        what = f"a model behind {reference.scheme}: can be run by its submitter alone"
        raise UsageError(what, got=claim["ref"], hint="ask for published weights")
    pinned = reference if reference.scheme == "control" else replace(reference, revision=claim["revision"])
    adapter = claim["adapter"]
    pinned_adapter = str(replace(parse_reference(adapter["ref"]), revision=adapter["revision"])) if adapter else None
    model = load_model(str(pinned), pinned_adapter, device, trust_remote_code, numerics)
    if model.info.revision != claim["revision"]:
        what = "another revision was fetched than the result names"
        raise InputError(what, expected=claim["revision"], got=model.info.revision)
    return model


def _audited(
    run: Path, claim: Mapping[str, Any], runner: Runner, samples: int, seed: int, within: Tolerance
) -> dict[str, Any]:
    try:
        task, track = runner.suite.tasks[claim["task"]], runner.suite.tracks[claim["track"]]
        if track.method in _SKIPPED:
            return _skipped(claim, "training is not repeated")
        unit = Unit(task, track, claim["seed"], claim["fraction"])
        claimed = read_predictions(run / claim["predictions"]["file"], task)
        drawn = draw(claimed.sample_ids, samples, seed)
        table = runner.data.table(task)
        whole = track.method in _WHOLE or runner.model.info.family == "control"
        again = _predict(runner, unit, table if whole else _only(table, set(drawn)))
        found = compare(claimed, again, drawn, within)
    except (VlmedError, KeyError) as error:
        return _skipped(claim, str(error).splitlines()[0][:500] if str(error) else type(error).__name__)
    said = "confirmed" if found.confirmed else "contradicted"
    return {"unit": claim["unit"], **asdict(found), "verdict": said, "reason": ""}


def _skipped(claim: Mapping[str, Any], reason: str) -> dict[str, Any]:
    numbers = {"compared": 0, "differing": 0, "largest_difference": 0, "tolerance": 0, "allowed": 0}
    return {"unit": claim["unit"], **numbers, "verdict": "skipped", "reason": reason}


def _only(table: TaskTable, drawn: set[str]) -> TaskTable:
    """The table whose test split has the drawn samples alone."""
    return replace(table, samples=tuple(each for each in table.samples if each.split != "test" or each.id in drawn))


def _predict(runner: Runner, unit: Unit, table: TaskTable) -> Predictions:
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(
            unit=unit,
            table=table,
            model=runner.model,
            dataset=runner.data.dataset(unit.task.dataset),
            cache=runner.cache(),
            scratch=Path(scratch),
            log=Path(scratch) / "log",
            weights=None,
            progress=runner.data.progress,
            batch_size=runner.batch_size,
        )
        return method_for(unit, runner.model.info, runner.suite)(job).predictions
