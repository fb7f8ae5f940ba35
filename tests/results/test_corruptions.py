"""A table of corrupted submissions, made of the schema and the columns: all are refused, each with its place named.

A case is `(name, corrupt, place)`: what is done to a fresh copy of an honest run, and where a problem must point.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forgery import check, sign
from submission_factory import LORA, World, add_audit
from vlmed.files import write_json

KINDS = {"chest": "zero_shot", "figures": "retrieve", "questions": "answer"}
Case = tuple[str, Callable[[Any], Any], str]
WRONG: dict[type, Any] = {str: 1, int: "x", float: "x", bool: "x", type(None): "x", list: {}, dict: []}
OTHER_TYPES = {pa.string(): pa.large_string(), pa.int32(): pa.int64(), pa.bool_(): pa.int8()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("corrupted"), samples=60, all_kinds=True)


@pytest.fixture(scope="module", params=KINDS)
def honest(world: World, request: pytest.FixtureRequest) -> Path:
    task: str = request.param
    run = world.add(f"honest-{task}", 1.0, tasks=(task,), tracks=(KINDS[task],), adapter=LORA)
    assert check(world, run, intervals=False).problems == []
    return run


# result.json


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from nodes(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from nodes(item, (*path, index))


def json_path(path: tuple[Any, ...]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def replaced(path: tuple[Any, ...], value: Any) -> Callable[[Any], Any]:
    def corrupt(result: Any) -> Any:
        if not path:
            return value
        node = result
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
        return result

    return corrupt


def removed(path: tuple[Any, ...]) -> Callable[[Any], Any]:
    def corrupt(result: Any) -> Any:
        node = result
        for part in path[:-1]:
            node = node[part]
        del node[path[-1]]
        return result

    return corrupt


# What nobody can prove, and may be left out or hold anything of its type; `undefined` is proved with the intervals.
FREE = (".environment.", ".recipe_outcome.", ".companions", ".adapters_below", ".undefined")


def document_cases(result: Any, units: bool = True) -> Iterator[Case]:
    for path, value in nodes(result):
        place = json_path(path)
        yield f"{place} of another type", replaced(path, WRONG[type(value)]), place
        if path and isinstance(path[-1], str) and not any(free in place for free in FREE):
            yield f"{place} removed", removed(path), place
        if isinstance(value, dict) and not place.endswith(("environment", "recipe_outcome")):
            yield f"{place} with another key", replaced((*path, "zz"), 1), f"{place}.zz"
    for path, value in nodes(result["units"][0]["scores"] if units else {}, ("units", 0, "scores")):
        place = json_path(path)
        if isinstance(value, int | float) and not isinstance(value, bool) and not place.endswith((".low", ".high")):
            yield f"{place} moved", replaced(path, value + 1e-5 if isinstance(value, float) else value + 1), place


def points_at(problem_path: str, place: str) -> bool:
    """At the place, inside it, or at the object that holds it; at a choice of the schema where it stands in one."""
    parent = place.rpartition(".")[0]
    choices = ("$.units[0].scores.metrics.clean", "$.units[0].scores.subgroups", "$.model.adapter")
    chosen = any(place.startswith(choice) and problem_path == choice for choice in choices)
    return problem_path.startswith(place) or problem_path == parent or chosen


def test_every_corruption_of_the_document_is_refused_with_its_place(world: World, honest: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(honest, run)
    result = json.loads((honest / "result.json").read_text())
    cases = list(document_cases(result))
    missed = []
    for name, corrupt, place in cases:
        write_json(run / "result.json", corrupt(copy.deepcopy(result)))
        report = check(world, run, intervals=False)
        errors = [problem.path for problem in report.problems if problem.severity == "error"]
        if report.accepted or not any(points_at(path, place) for path in errors):
            missed.append((name, errors))
    assert missed == []
    assert len(cases) > 180  # and more than 200 for each of the other kinds


# Documents beside it


DESCRIBED = {
    "schema_version": 1,
    "date": "2026-11-22",
    "licence": "mit",
    "training": {"corpora": [], "other": "own reports"},
    "contact": "a@example.org",
    "paper": "https://example.org/p",
    "code": "https://example.org/c",
    "fingerprint": None,
    "supersedes": None,
}


@pytest.mark.parametrize("name", ["submission.json", "audits/2026-11-22-1.json"])
def test_every_corruption_of_a_document_beside_it_is_refused(world: World, name: str) -> None:
    run = add_audit(world.add("beside", run=str(len(name))))
    write_json(run / "submission.json", DESCRIBED)
    assert check(world, run, intervals=False).accepted
    document = json.loads((run / name).read_text())
    cases = list(document_cases(document, units=False))
    missed = []
    for case, corrupt, place in cases:
        write_json(run / name, corrupt(copy.deepcopy(document)))
        problems = check(world, run, intervals=False).problems
        errors = [each.path for each in problems if each.severity == "error" and each.file == str(run / name)]
        if not any(points_at(path, place) for path in errors):
            missed.append((case, errors))
    assert missed == []
    assert len(cases) >= 25


# Prediction files


def other_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(pa.float64() if pa.types.is_floating(kind.value_type) else pa.large_string())
    return OTHER_TYPES[kind]


def column_cases(table: pa.Table) -> Iterator[tuple[str, Callable[[pa.Table], pa.Table]]]:
    for index, field in enumerate(table.schema):
        yield f"{field.name} dropped", partial(pa.Table.remove_column, i=index)
        yield f"{field.name} renamed", partial(put, index=index, field=field.with_name(f"{field.name}_"))
        yield f"{field.name} retyped", partial(put, index=index, field=field.with_type(other_type(field.type)))
        yield (
            f"{field.name} of other nullness",
            partial(put, index=index, field=field.with_nullable(not field.nullable)),
        )
        yield f"{field.name} twice", partial(twice, index=index)
    yield "columns in another order", lambda made: made.select(made.column_names[::-1])


def put(made: pa.Table, index: int, field: pa.Field) -> pa.Table:
    column = made[index].cast(field.type)
    if not field.nullable and column.null_count:
        column = column.fill_null("")
    return made.set_column(index, field, column)


def twice(made: pa.Table, index: int) -> pa.Table:
    return made.append_column(made.schema.field(index), made[index])


def test_every_corruption_of_the_columns_is_refused(world: World, honest: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(honest, run)
    (file,) = (run / "predictions").iterdir()
    table = pq.read_table(file)
    cases = list(column_cases(table))
    missed = []
    for name, corrupt in cases:
        pq.write_table(corrupt(table), file)
        sign(run)
        errors = [(problem.what, problem.file) for problem in check(world, run, intervals=False).problems]
        if ("wrong columns", str(file)) not in errors:
            missed.append((name, errors))
    assert missed == []
    assert len(cases) > 20


def changed(row: int, **values: Any) -> Callable[[list[Any]], list[Any]]:
    def corrupt(rows: list[Any]) -> list[Any]:
        rows[row] |= values
        return rows

    return corrupt


ROWS: list[Case] = [
    ("the first row gone", lambda rows: rows[1:], "s00000"),
    ("the last row gone", lambda rows: rows[:-1], "s00059"),
    ("no row", lambda rows: [], "s00000"),
    ("a row twice", lambda rows: [*rows, rows[3]], "row 60"),
    ("a foreign row", changed(4, sample_id="zzz"), "row 4"),
    ("an id with a blank", changed(4, sample_id="s00004 "), "row 4"),
    ("an id of nothing", changed(4, sample_id=""), "row 4"),
    ("an id that looks like another", changed(4, sample_id="s\u043e0004"), "row 4"),
    ("another group", changed(5, group="p"), "row 5"),
]
OF_KIND: dict[str, list[Case]] = {
    "chest": [
        ("another target", lambda rows: changed(2, target=1 - rows[2]["target"])(rows), "row 2"),
        ("no such class", changed(2, target=9), "row 2"),
        ("a negative class", changed(2, target=-1), "row 2"),
        *[(f"{values}", changed(2, probabilities=values), "row 2") for values in (
            [0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0], [float("inf"), 0.0], [0.0, 0.0], [1.0], [], [0.2, 0.3, 0.5],
        )],
        ("a template of one class", changed(2, by_template=[0.5]), "row 2"),
    ],
    "figures": [
        ("another caption", changed(2, target="0" * 16), "row 2"),
        *[(f"{prefix}{name} {value}", changed(2, **{prefix + name: value}), "row 2") for prefix in ("i2t_", "t2i_")
          for name, value in (("rank", 0), ("rank", -1), ("rank", 61), ("strict_rank", 0), ("strict_rank", 99),
                              ("top", []), ("top", ["s00001"] * 10), ("top", ["zzz"] * 10))],
    ],
    "questions": [
        ("another answer", changed(2, target="spleen"), "row 2"),
        ("an open question closed", changed(0, closed=True), "row 0"),
        ("an open question with candidates", changed(0, candidates=["liver", "left lung"]), "row 0"),
        ("a yes-no question open", changed(1, closed=False), "row 1"),
        ("a yes-no question with one candidate", changed(1, candidates=["yes"]), "row 1"),
        ("candidates out of order", changed(5, candidates=["right", "left", "both"]), "row 5"),
        ("a candidate twice", changed(5, candidates=["both", "both", "left", "right"]), "row 5"),
        ("a made-up candidate", changed(5, candidates=["both", "left", "nowhere", "right"]), "row 5"),
        ("the target no candidate", changed(5, candidates=["left", "right"]), "row 5"),
        ("another parsed answer", changed(1, parsed="maybe"), "row 1"),
        ("letters for an open question", changed(0, lettered=True), "row 0"),
    ],
}  # fmt: skip


def test_every_corruption_of_the_rows_is_refused_with_its_row(world: World, honest: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(honest, run)
    (file,) = (run / "predictions").iterdir()
    table = pq.read_table(file)
    missed = []
    for name, corrupt, place in [*ROWS, *OF_KIND[honest.parent.name.rpartition("-")[2]]]:
        pq.write_table(pa.Table.from_pylist(corrupt(table.to_pylist()), schema=table.schema), file)
        sign(run)
        report = check(world, run, intervals=False)
        places = [problem.path for problem in report.problems]
        if report.accepted or place not in places:
            missed.append((name, places))
    assert missed == []
