"""What ranks and pages need of a unit's predictions: bootstrap draws of the main metric, and outcomes by class.

All of it follows from the prediction file, the task and this code, so that it can be kept under the digest of the
three. What is kept damaged, or not at all, is worked out again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import vlmed
from vlmed.files import new_file
from vlmed.hashing import digest, file_hash
from vlmed.leaderboard.confusion import Outcome
from vlmed.leaderboard.separate import Basis
from vlmed.metrics.classification import ECE_BINS
from vlmed.metrics.inputs import number_groups
from vlmed.metrics.intervals import bootstrap
from vlmed.metrics.table import METRICS, Samples
from vlmed.results.classified import ClassificationPredictions
from vlmed.results.predictions import Predictions, read_predictions
from vlmed.suite.manifest import read_manifest
from vlmed.suite.types import Task

DRAWS = 1000
_BATCH = 64  # units that are held, and drawn for, at a time
# Rooms and files whose code decides what is kept.
_CODE = (
    *("metrics", "results", "suite", "files.py", "hashing.py"),
    *("leaderboard/draws.py", "leaderboard/confusion.py", "leaderboard/separate.py"),
)
_HASH = 32  # bytes of SHA-256


@dataclass(frozen=True)
class File:
    """A prediction file and its SHA-256."""

    path: Path
    sha256: str


@dataclass(frozen=True, eq=False)
class Drawn:
    """A unit on the samples that decide: the clean ones, or all while the manifest is pending.

    Attributes:
        key: Digest of the samples, with their groups and claimed targets; units of one key can be paired.
        basis: What a difference to another unit of this key stands on; None where the main metric is undefined.
        draws: float64 (1000,), the main metric in every draw, NaN where undefined; (0,) without a basis.
        outcome: Of a classification.
    """

    key: str
    basis: Basis | None
    draws: NDArray[np.float64]
    outcome: Outcome | None = None


def drawn_units(task: Task, files: Sequence[File], manifests: Path, kept: Path | None = None) -> list[Drawn]:
    """What prediction files of a task show, in their order.

    Args:
        kept: Folder in which it is looked up and kept.

    Raises:
        MissingError: A file is not there.
        InputError: A file is no prediction file of the task.
        VlmedError: `kept` can't be written.
    """
    different = {file.sha256: file for file in files}
    found = {sha256: known for sha256, file in different.items() if kept and (known := _read(_place(kept, task, file)))}
    missing = {sha256: file for sha256, file in different.items() if sha256 not in found}
    leaking = _leaking(task, manifests) if missing else frozenset()
    for batch in _batches(list(missing.values())):
        for file, drawn in zip(batch, _draw(task, batch, leaking), strict=True):
            found[file.sha256] = drawn
            if kept:
                _write(_place(kept, task, file), drawn)
    return [found[file.sha256] for file in files]


@dataclass(frozen=True)
class _Read:
    """The samples of a file that decide, in id order."""

    key: str
    groups: Sequence[str]
    samples: Samples
    outcome: Outcome | None


def _draw(task: Task, files: Sequence[File], leaking: frozenset[str]) -> list[Drawn]:
    """Files of equal samples meet their draws together."""
    units = [_scored(read_predictions(file.path, task), leaking) for file in files]
    drawn: dict[int, Drawn] = {}
    for key in dict.fromkeys(unit.key for unit in units):
        places = [place for place, unit in enumerate(units) if unit.key == key]
        drawn |= zip(places, _draw_alike(task, [units[place] for place in places]), strict=True)
    return [drawn[place] for place in range(len(units))]


def _draw_alike(task: Task, units: Sequence[_Read]) -> list[Drawn]:
    metric, count = METRICS[task.main_metric], len(units[0].samples)
    once = np.ones((count, 1), np.int32)
    known = [unit for unit in units if count and not np.isnan(metric.function(unit.samples, once)).any()]
    if not known:
        return [Drawn(unit.key, None, np.empty(0), unit.outcome) for unit in units]
    members = number_groups(known[0].groups, count)
    basis = Basis.of(metric, known[0].samples, members)
    draws = bootstrap(lambda counts: np.stack([metric.function(one.samples, counts) for one in known]), members, DRAWS)
    of_unit = dict(zip(map(id, known), draws, strict=True))
    return [
        Drawn(unit.key, basis if id(unit) in of_unit else None, of_unit.get(id(unit), np.empty(0)), unit.outcome)
        for unit in units
    ]


def _scored(predictions: Predictions, leaking: frozenset[str]) -> _Read:
    # Lists, since a column makes each text anew whenever it is asked for.
    ids, all_groups = list(predictions.sample_ids), list(predictions.groups)
    order = [index for index in sorted(range(len(ids)), key=ids.__getitem__) if ids[index] not in leaking]
    groups = [all_groups[index] for index in order]
    # Only equality counts here, and canonical JSON would take longer than the draws.
    what = json.dumps([[ids[index] for index in order], groups, predictions.claims(order)])
    outcome = Outcome.of(predictions, leaking) if isinstance(predictions, ClassificationPredictions) else None
    return _Read(sha256(what.encode()).hexdigest(), groups, predictions.samples(order)[""], outcome)


def _leaking(task: Task, manifests: Path) -> frozenset[str]:
    if task.pending:
        return frozenset()
    return frozenset(row.sample_id for row in read_manifest(task, manifests).split("test") if row.leaks)


def _place(kept: Path, task: Task, file: File) -> Path:
    """The task's digest holds that of its manifest, and so of the samples that leak."""
    name = sha256(f"{_code()} {task.digest} {file.sha256}".encode()).hexdigest()
    return kept / name[:2] / f"{name}.draws"


@cache
def _code() -> str:
    """Digest of what decides a draw beside its data; NumPy may round sums otherwise in another version."""
    package = Path(vlmed.__file__).parent
    places = [package / name for name in _CODE]
    files = sorted(path for place in places for path in ([place] if place.is_file() else place.rglob("*.py")))
    return digest([np.__version__, DRAWS, [file_hash(path) for path in files]])


def _write(path: Path, drawn: Drawn) -> None:
    """SHA-256 of the rest, a line of JSON, numbers as little-endian doubles."""
    basis, outcome = drawn.basis, drawn.outcome
    head = [drawn.key, [basis.groups, basis.trials] if basis else None, len(outcome.confusion) if outcome else 0]
    numbers = [drawn.draws, *((outcome.confusion, outcome.bins) if outcome else ())]
    body = json.dumps(head).encode() + b"\n" + b"".join(one.astype("<f8").tobytes() for one in numbers)
    with new_file(path) as part:
        part.write_bytes(sha256(body).digest() + body)


def _read(path: Path) -> Drawn | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body = content[_HASH:]
    if sha256(body).digest() != content[:_HASH]:
        return None
    head, _, rest = body.partition(b"\n")
    key, basis, classes = json.loads(head)
    numbers = np.frombuffer(rest, "<f8")
    length = DRAWS if basis else 0
    outcome = _outcome(numbers[length:], classes) if classes else None
    return Drawn(key, Basis(*basis) if basis else None, numbers[:length], outcome)


def _outcome(numbers: NDArray[np.float64], classes: int) -> Outcome:
    confusion, bins = np.split(numbers, [classes**2])
    return Outcome(confusion.astype(np.int64).reshape(classes, classes), bins.reshape(ECE_BINS, 3))


def _batches(files: Sequence[File]) -> list[Sequence[File]]:
    return [files[start : start + _BATCH] for start in range(0, len(files), _BATCH)]
