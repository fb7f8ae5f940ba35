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
    """One JSON value per sample from `ask`, which gets a block of samples at a time; those on disk are not asked again.

    Where a block begins never depends on what is on disk, so that batches are those of a run that nothing befell. Other
    workers may have answered blocks before (`vlmed.evaluate.shards`), in folders within the unit's scratch folder.

    Args:
        what: Names the file in the unit's scratch folder, and the progress bar.

    Raises:
        VlmedError: The disk is full; finished blocks are kept.
    """
    path = job.scratch / f"{what}.jsonl"
    known: dict[str, Any] = {}
    for file in (*job.scratch.glob(f"*/{what}.jsonl"), path):
        known |= _read(file)
    blocks = [samples[start : start + BLOCK] for start in range(0, len(samples), BLOCK)]
    left = [block for block in blocks if any(sample.id not in known for sample in block)]
    with job.progress.task(what, len(samples), "samples") as advance:
        advance(len(samples) - sum(map(len, left)))
        for block in left:
            rows = dict(zip((sample.id for sample in block), ask(block), strict=True))
            _append(path, rows)
            known |= rows
            advance(len(block))
    return [known[sample.id] for sample in samples]


def _read(path: Path) -> dict[str, Any]:
    """What is on disk; a last line that a killed run left half written is not."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    return {row[0]: row[1] for row in map(json.loads, whole.splitlines())}


def _append(path: Path, rows: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.items())
    except OSError as error:
        hint = "make room and run again: what was predicted before is kept"
        raise VlmedError("the predictions can't be written", file=path, got=str(error), hint=hint) from error
