"""Retrieval tuned on captions and questions answered by a fusion, from a model reference to a validated result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import own_models
import pmc_clip_factory
from vlmed.data.load import DataLoader
from vlmed.data.questions import questions
from vlmed.errors import UsageError, VlmedError
from vlmed.evaluate import fused
from vlmed.evaluate.fused import Vocabulary
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, plan
from vlmed.metrics.answers import parse_open
from vlmed.metrics.text import normalise
from vlmed.models.load import load_model
from vlmed.models.protocols import LoadedModel, ModelInfo
from vlmed.results.predictions import AnswerPredictions, RetrievalPredictions, read_predictions
from vlmed.results.validate import validate_run
from vlmed.suite import methods
from vlmed.suite.types import Suite, Task, Track
from vlmed.tuning.trial import Trial

CAPTIONS = {"head": "captions", "optimiser": "adam", "lr": [0.003], "epochs": 3, "patience": 3, "batch_size": 32}
FUSION = {
    "encoders": "frozen",
    "fusion": {"module": "bilinear", "glimpses": 2, "width": 32, "dropout": 0.1},
    "optimiser": "adamw",
    "lr": [0.003],
    "weight_decay": 0.1,
    "head_weight_decay": 0.1,
    "epochs": 12,
    "patience": 6,
    "batch_size": 32,
}
TRACKS = {
    "retrieval_lora": ("lora", CAPTIONS),
    "retrieval_partial": ("partial", CAPTIONS),
    "retrieval_full": ("full", CAPTIONS),
    "fusion": ("fusion", FUSION),
    "fusion_full": ("fusion", FUSION | {"encoders": "full", "epochs": 1}),
    "fusion_own": ("fusion", FUSION | {"fusion": {"module": "own"}, "epochs": 1}),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models so small lose most of their time to a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "fusion", methods.MethodFacts(("vqa",), ("fraction", "seed")))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(suite: Suite) -> Suite:
    """The small suite with these tracks, and with questions that the image alone decides."""
    tracks = {f"{name}@1": Track(name, 1, name, method, recipe) for name, (method, recipe) in TRACKS.items()}
    report = replace(suite.task("report"), tracks=tuple(name for name in TRACKS if name.startswith("retrieval")))
    asked = replace(suite.task("asked"), tracks=("fusion", "fusion_full", "fusion_own"))
    where = {"question_type": ("modality",), "answer_type": ("OPEN",)}
    modality = replace(asked, name="modality", where=where, definition={**asked.definition, "where": str(where)})
    tasks = {task.id: task for task in (report, asked, modality, replace(suite.task("lesion"), tracks=("lora",)))}
    return replace(suite, tasks=tasks, tracks={**suite.tracks, **tracks})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def evaluate(
    suite: Suite, model: LoadedModel, out: Path, cache: Path, task: str, track: str, **options: Any
) -> tuple[Any, Any]:
    """A validated unit of one task and track, and its predictions."""
    runner = Runner(suite, model, DataLoader(cache=cache), batch_size=16, keep_weights=options.pop("keep", False))
    runner.run(plan(suite, [task], [track], **options), RunFolder(out), lambda unit, state: None)
    report = validate_run(out, suite)
    assert report.accepted, report.problems
    (unit,) = json.loads((out / "result.json").read_text())["units"]
    return unit, read_predictions(out / unit["predictions"]["file"], suite.task(task))


def value(unit: Any, metric: str) -> float:
    return float(unit["scores"]["metrics"]["all"][metric]["value"])
