"""Slow predictions in blocks, each kept on disk as soon as it is made, so that a killed unit goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlmed.data.table import Sample
from vlmed.errors import VlmedError
from vlmed.evaluate.job import Job

# Some seconds of work for a large generator, and enough for it to sort by length.
BLOCK = 256


def in_blocks(
    job: Job, what: str, samples: Sequence[Sample], ask: Callable[[Sequence[Sample]], list[Any]]
) -> list[Any]:
    """One JSON value per sample from `ask`, which gets some samples at a time; those on disk are not asked again.

    Args:
        what: Names the file in the unit's scratch folder, and the progress bar.

    Raises:
        VlmedError: The disk is full; finished blocks are kept.
    """
    path = job.scratch / f"{what}.jsonl"
    known = _read(path)
    left = [sample for sample in samples if sample.id not in known]
    with job.progress.task(what, len(samples), "samples") as advance:
        advance(len(samples) - len(left))
        for start in range(0, len(left), BLOCK):
            block = left[start : start + BLOCK]
            rows = dict(zip((sample.id for sample in block), ask(block), strict=True))
            _append(path, rows)
            known |= rows
            advance(len(block))
    return [known[sample.id] for sample in samples]


def _read(path: Path) -> dict[str, Any]:
    """What is on disk; a last line that a killed run left half written is not."""
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")[:-1]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return {row[0]: row[1] for row in map(json.loads, lines)}


def _append(path: Path, rows: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.items())
    except OSError as error:
        hint = "make room and run again: what was predicted before is kept"
        raise VlmedError("the predictions can't be written", file=path, got=str(error), hint=hint) from error
