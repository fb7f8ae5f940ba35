"""A run's open answers -> `judged/` and `judgement.json`, unit by unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmed import __version__
from vlmed.data.load import DataLoader
from vlmed.data.questions import questions
from vlmed.errors import InputError, Problem, UsageError
from vlmed.evaluate.judge import MAX_TOKENS, Item, Judge
from vlmed.files import write_json
from vlmed.hashing import file_hash
from vlmed.metrics.text import spoken
from vlmed.results.compare import Run
from vlmed.results.judged import Judged, open_answers, read_judged, score_judged, write_judged
from vlmed.suite.types import Suite, Task


@dataclass(frozen=True)
class OpenUnit:
    """The open questions of a VQA unit.

    Attributes:
        unit: As it stands in `result.json`.
        sample_ids, groups, items: N of each, in the order of its prediction file. An answer is what was said without
            the model's thinking, as `text.spoken` has it.
    """

    unit: Mapping[str, Any]
    sample_ids: Sequence[str]
    groups: Sequence[str]
    items: Sequence[Item]


def open_units(run: Run, suite: Suite, data: DataLoader) -> list[OpenUnit]:
    """The units of a run that have open questions, with the text of these, which only the data hold.

    Raises:
        UsageError: There is none.
        MissingError: The data or a prediction file are not there.
        InputError: They are damaged, or not of the same samples; lists every sample.
    """
    asked: dict[str, dict[str, tuple[str, str]]] = {}
    found = []
    for unit in run.units:
        task = run.task(unit, suite)
        if task.kind == "vqa":
            asked.setdefault(task.id, _asked(task, data) if task.id not in asked else {})
            found.append(_open_unit(run, unit, suite, asked[task.id]))
    units = [each for each in found if each.items]
    if not units:
        hint = "run a generator with --tracks zero_shot_vqa"
        raise UsageError("this run has no open questions to judge", file=run.file, hint=hint)
    return units


def _asked(task: Task, data: DataLoader) -> dict[str, tuple[str, str]]:
    """Sample id -> question and target."""
    table = data.table(task, images=False)
    test = table.split("test")
    texts = questions(table, test)
    return {sample.id: (texts[sample.id].text, sample.target) for sample in test}


def _open_unit(run: Run, unit: Mapping[str, Any], suite: Suite, asked: Mapping[str, tuple[str, str]]) -> OpenUnit:
    rows = open_answers(run, unit, suite)
    problems = [
        Problem("the data have another target for this sample", unit["predictions"]["file"], name, *_known(asked, name),
                hint="vlmed validate")
        for name, _, target, _ in rows if asked.get(name, ("", None))[1] != target
    ]  # fmt: skip
    if problems:
        raise InputError(problems)
    items = [Item(asked[name][0], target, spoken(answer)) for name, _, target, answer in rows]
    return OpenUnit(unit, [row[0] for row in rows], [row[1] for row in rows], items)


def _known(asked: Mapping[str, tuple[str, str]], name: str) -> tuple[str]:
    return (asked[name][1] if name in asked else "no such sample",)


def judge_run(
    run: Run, units: Sequence[OpenUnit], judge: Judge, ref: str, passes: int, report: Callable[[str], None]
) -> Path:
    """Judge every unit and write `judgement.json`, which replaces an older one; gives its path.

    Raises:
        VlmedError: As `Judge.scores`; or the disk is full.
    """
    folder = run.file.parent
    claims = []
    for each in units:
        claims.append(_judge_unit(folder, each, judge, passes))
        report(each.unit["unit"])
    spent = judge.client.budget.spent
    path = folder / "judgement.json"
    write_json(path, {
        "schema_version": 1,
        "vlmed_version": __version__,
        "prompt": {"id": judge.prompt.id, "sha256": judge.prompt.sha256},
        "judge": {"ref": ref, "revision": judge.revision, "temperature": 0, "max_tokens": MAX_TOKENS},
        "passes": passes,
        "units": claims,
        "cost": {"requests": spent["requests"], "tokens": spent["tokens"], "kept_replies": judge.kept},
    })  # fmt: skip
    return path


def _judge_unit(folder: Path, each: OpenUnit, judge: Judge, passes: int) -> dict[str, Any]:
    name = f"judged/{Path(each.unit['predictions']['file']).name}"
    write_judged(folder / name, Judged(each.sample_ids, each.groups, judge.scores(each.items, passes)))
    # Scored as read back, so that what is claimed is exactly what the file gives.
    judged = read_judged(folder / name)
    return {
        "unit": each.unit["unit"],
        "predictions_sha256": each.unit["predictions"]["sha256"],
        "judged": {"file": name, "sha256": file_hash(folder / name), "rows": len(judged.sample_ids)},
        "scores": score_judged(judged, passes),
    }
