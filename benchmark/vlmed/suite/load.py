"""`tasks.yaml` -> Suite, strictly: an unknown key, a duplicate key or a broken reference is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from vlmed.errors import InputError, MissingError, Problem
from vlmed.suite.types import ClassSpec, Dataset, SplitRule, Suite, Task, Track
from vlmed.yaml_files import read_yaml


def suite_path() -> Path:
    """The frozen `tasks.yaml`: inside an installed wheel, or at the top of a clone."""
    package = Path(str(resources.files("vlmed")))
    for candidate in (package / "tasks.yaml", package.parents[1] / "tasks.yaml"):
        if candidate.is_file():
            return candidate
    raise MissingError("vlmed's tasks.yaml is not installed", file=package / "tasks.yaml", hint="reinstall vlmed")


@cache
def load_suite(path: Path | None = None) -> Suite:
    """The suite in `path`, or the frozen one that vlmed ships.

    Raises:
        MissingError: There is no such file.
        InputError: It is not YAML, or does not follow the schema; lists every place.
    """
    path = path or suite_path()
    tree = read_yaml(path, "task file")
    problems = schema_problems(tree, "tasks.schema.json", str(path))
    if not problems:
        problems = _broken_references(tree, str(path))
    if problems:
        raise InputError(problems)
    return _suite(tree)


def schema_problems(tree: Any, schema: str, file: str) -> list[Problem]:
    """Where `tree` does not follow one of the JSON Schemas in `vlmed/schemas`."""
    validator = jsonschema.Draft202012Validator(_schema(schema))
    errors = sorted(validator.iter_errors(tree), key=lambda error: error.json_path)
    return [_schema_problem(error, file) for error in errors]


@cache
def _schema(name: str) -> Any:
    return json.loads((resources.files("vlmed") / "schemas" / name).read_text("utf-8"))


def _schema_problem(error: jsonschema.ValidationError, file: str) -> Problem:
    got = json.dumps(error.instance, default=str)
    shown = got if len(got) <= 80 else got[:77] + "..."
    schema = error.schema if isinstance(error.schema, dict) else {}
    if error.validator in ("pattern", "type") and "examples" in schema:
        # Nobody should have to read a pattern.
        meant = f"{schema['description']} Such as: {json.dumps(schema['examples'][0])}"
        return Problem(
            f"{error.instance!r} does not match what is asked for"[:300], file, error.json_path, meant, shown
        )
    return Problem(error.message[:300], file, error.json_path, got=shown)


def _broken_references(tree: Mapping[str, Any], file: str) -> list[Problem]:
    tracks = {key.split("@")[0] for key in tree["tracks"]}
    problems = []
    for key, task in tree["tasks"].items():
        place = f"$.tasks.{key}"
        if task["dataset"] not in tree["datasets"]:
            expected = "one of " + ", ".join(tree["datasets"])
            problems.append(Problem("unknown data set", file, f"{place}.dataset", expected, task["dataset"]))
        for index, track in enumerate(task["tracks"]):
            if track not in tracks:
                expected = "one of " + ", ".join(sorted(tracks))
                problems.append(Problem("unknown track", file, f"{place}.tracks[{index}]", expected, track))
    return problems


def _suite(tree: Mapping[str, Any]) -> Suite:
    datasets = {name: _dataset(name, entry) for name, entry in tree["datasets"].items()}
    return Suite(
        version=tree["suite"],
        datasets=datasets,
        tasks={key: _task(key, entry, datasets, tree["datasets"]) for key, entry in tree["tasks"].items()},
        tracks={key: _track(key, entry) for key, entry in tree["tracks"].items()},
    )


def _dataset(name: str, entry: Mapping[str, Any]) -> Dataset:
    return Dataset(
        name=name,
        title=entry["title"],
        source=entry["source"],
        modality=entry["modality"],
        body_part=entry.get("body_part", ""),
        licence=entry["licence"],
        access=entry["access"],
        homepage=entry["homepage"],
        layout=entry["layout"],
        identity=entry["identity"],
        options=entry.get("options", {}),
        subgroups=tuple(entry.get("subgroups", ())),
        medical=entry.get("medical", True),
    )


def _task(
    key: str, entry: Mapping[str, Any], datasets: Mapping[str, Dataset], dataset_entries: Mapping[str, Any]
) -> Task:
    name, version = key.split("@")
    prompts = entry.get("prompts", {})
    return Task(
        name=name,
        version=int(version),
        title=entry["title"],
        kind=entry["kind"],
        dataset=datasets[entry["dataset"]],
        field=entry["field"],
        classes=tuple(ClassSpec(spec["name"], tuple(spec["values"])) for spec in entry.get("classes", ())),
        exclude=tuple(entry.get("exclude", ())),
        where={field: tuple(values) for field, values in entry.get("where", {}).items()},
        split=SplitRule(**entry["split"]),
        prompts={
            group: {label: tuple(texts) for label, texts in classes.items()} for group, classes in prompts.items()
        },
        metrics=tuple(entry["metrics"]),
        main_metric=entry["main_metric"],
        tracks=tuple(entry["tracks"]),
        ranked=entry.get("ranked", True),
        manifest=entry["manifest"],
        notes=entry.get("notes", ""),
        definition=_definition(key, entry, dataset_entries[entry["dataset"]]),
    )


# What a reader is told about a data set or task may be reworded; what decides a score may not.
_PROSE = {"title", "homepage", "layout", "licence", "access", "notes", "ranked", "manifest", "tracks"}


def _definition(key: str, task: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    frozen_task = {name: value for name, value in task.items() if name not in _PROSE}
    frozen_dataset = {name: value for name, value in dataset.items() if name not in _PROSE}
    return {"id": key, "task": frozen_task, "dataset": frozen_dataset}


def _track(key: str, entry: Mapping[str, Any]) -> Track:
    name, version = key.split("@")
    return Track(name, int(version), entry["title"], entry["method"], entry["recipe"])
