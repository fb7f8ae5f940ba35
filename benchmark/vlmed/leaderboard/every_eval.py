"""Results in the schema of Every Eval Ever, version 0.3.0: one record per run, one result per unit and metric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from math import isinf
from typing import Any
from uuid import UUID

from vlmed.files import json_text
from vlmed.hashing import digest
from vlmed.leaderboard.published_results import Score, Shown, scores
from vlmed.suite.types import Suite

_VERSION = "0.3.0"
_METRIC_IDS = {"auc": "auroc"}  # where the name that others join on is not ours
_OPEN = 40  # digits of a commit, which only a repository of weights has


def record_files(runs: Iterable[Shown], suite: Suite, retrieved: int) -> Iterator[tuple[str, str]]:
    """Path in the datastore -> record, for every run; `retrieved` as in `record`."""
    for run in runs:
        yield record_path(run), json_text(record(run, suite, retrieved))


def record_path(run: Shown) -> str:
    """Where a record belongs in the datastore: `data/vlmed/<developer>/<model>/<uuid>.json`, the same for a run always.

    >>> record_path(Shown("lab", "m", "1", {}, "", []))
    'data/vlmed/lab/m/b31d26c8-d5ae-49e3-97b2-6aac10836528.json'
    """
    name = UUID(digest(["every_eval_ever", run.org, run.model, run.run])[:32], version=4)
    return f"data/vlmed/{run.org}/{run.model}/{name}.json"


def record(run: Shown, suite: Suite, retrieved: int) -> dict[str, Any]:
    """The record of a run.

    Args:
        retrieved: When it is made, in seconds since 1970.
    """
    result = run.result
    tested = {"evaluation_timestamp": str(_seconds(run.date))} if run.date else {}
    return {
        "schema_version": _VERSION,
        "evaluation_id": f"vlmed/{run.name}/{run.run}",
        "retrieved_timestamp": str(retrieved),
        **tested,
        "source_metadata": {
            "source_name": "vlmed leaderboard",
            "source_type": "evaluation_run",
            "source_organization_name": "vlmed",
            "source_organization_url": "https://github.com/vlmed/vlmed",
            "evaluator_relationship": "other",
            "additional_details": {"suite": result["suite"], "evidence": run.url},
        },
        "eval_library": {
            "name": "vlmed",
            "version": result["vlmed_version"],
            "additional_details": {name: str(value) for name, value in sorted(result["environment"].items())},
        },
        "model_info": _model(run),
        "evaluation_results": [
            _result(unit, table, one, suite) for unit, table in run.units for one in scores(unit, table)
        ],
    }


def _seconds(day: str) -> int:
    return int(datetime.combine(date.fromisoformat(day), time(), UTC).timestamp())


def _model(run: Shown) -> dict[str, Any]:
    model = run.result["model"]
    known = {name: str(model[name]) for name in ("ref", "revision", "family", "architecture", "kind", "parameters")}
    adapters = [*model.get("adapters_below", ()), *([model["adapter"]] if model["adapter"] else [])]
    return {
        "name": model["name"],
        "id": run.repository,
        "developer": run.repository.split("/")[0],
        "additional_details": {
            "deployment_type": "unknown" if model["ref"].startswith("endpoint:") else "self_deployed",
            "model_availability": "open_weights" if len(model["revision"]) == _OPEN else "unknown",
            **known,
            **({"adapters": " ".join(f"{one['ref']}@{one['revision']}" for one in adapters)} if adapters else {}),
        },
    }


def _result(unit: Mapping[str, Any], table: Mapping[str, Any], score: Score, suite: Suite) -> dict[str, Any]:
    task, track = suite.tasks[table["task"]["id"]], str(table["track"]["id"])
    data = task.dataset
    source = {"source_type": "url", "url": [data.homepage]} if data.homepage else {"source_type": "other"}
    return {
        "evaluation_result_id": f"{unit['unit']}/{score.name}",
        "evaluation_name": f"vlmed.{task.name}.{track.partition('@')[0]}",
        "source_data": {
            "dataset_name": data.title,
            **source,
            "additional_details": {"task": task.id, "task_digest": task.digest, "licence": data.licence},
        },
        "metric_config": _metric(score),
        "score_details": {
            "score": score.value,
            "uncertainty": {**_interval(score), "num_samples": score.n},
            "details": {"predictions_sha256": unit["predictions"]["sha256"]},
        },
        "generation_config": {
            "additional_details": {"track": track, "seed": str(unit["seed"]), "samples": table["ranked_on"]}
        },
    }


def _metric(score: Score) -> dict[str, Any]:
    metric = score.metric
    return {
        "metric_id": _METRIC_IDS.get(score.name, score.name),
        "metric_name": metric.title,
        "metric_kind": _METRIC_IDS.get(metric.name, metric.name),
        "metric_unit": "rank" if metric.is_median else "proportion",
        "lower_is_better": not metric.higher_is_better,
        "score_type": "continuous",
        "min_score": metric.low,
        "max_score": "Infinity" if isinf(metric.high) else metric.high,
    }


def _interval(score: Score) -> dict[str, Any]:
    if score.low is None or score.high is None:
        return {}
    ends = {"lower": score.low, "upper": score.high}
    return {"confidence_interval": {**ends, "confidence_level": 0.95, "method": "bootstrap over groups"}}
