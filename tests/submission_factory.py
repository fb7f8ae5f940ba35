"""A small suite of its own with frozen manifests, and submissions to it, all made through the public writers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from vlmed.files import read_json, write_json
from vlmed.hashing import file_hash, target_digest
from vlmed.metrics.retrieval import retrieve
from vlmed.results.predictions import (
    AnswerPredictions,
    ClassificationPredictions,
    Found,
    Predictions,
    RetrievalPredictions,
    read_predictions,
    write_predictions,
)
from vlmed.results.score import score
from vlmed.suite.frozen_rows import Row
from vlmed.suite.load import load_suite
from vlmed.suite.manifest import read_manifest, write_manifest
from vlmed.suite.types import Suite, Task, Track

LEAKY = 10  # test samples of every frozen task that also stand in train
CONTROL = {"kind": "control", "family": "control", "architecture": "control", "parameters": 0}
LORA = {
    "ref": "lab/chest-lora",
    "revision": "b" * 40,
    "peft_type": "LORA",
    "parameters": 1_200_000,
    "base_ref": "lab/base",
    "changes_nothing": False,
}


def dataset(name: str, medical: bool = True) -> dict[str, Any]:
    return {
        "title": f"{name.title()} collection",
        "source": "phantom",
        "modality": "chest X-ray" if medical else "synthetic",
        "body_part": "chest",
        "licence": "CC BY 4.0",
        "access": "open",
        "homepage": "https://example.org/data",
        "layout": "one folder",
        "identity": "patient",
        "medical": medical,
    }


def task(title: str, data: str, classes: Sequence[str] = ("normal", "pneumonia"), **more: Any) -> dict[str, Any]:
    return {
        "title": title,
        "kind": "classification",
        "dataset": data,
        "field": "label",
        "classes": [{"name": name, "values": [name]} for name in classes],
        "split": {"rule": "official"},
        "prompts": {"default": {name: [f"an image of {name}"] for name in classes}},
        "metrics": ["auc", "accuracy", "balanced_accuracy", "ece"],
        "main_metric": "auc",
        "tracks": ["zero_shot", "linear_probe"],
        "manifest": "pending",
        **more,
    }


def retrieval_task(title: str, data: str, **more: Any) -> dict[str, Any]:
    metrics = ["recall_at_1", "recall_at_5", "recall_at_10", "mean_reciprocal_rank", "median_rank"]
    return _without_classes(title, data, "retrieval", "caption", metrics, "retrieve", **more)


def vqa_task(title: str, data: str, **more: Any) -> dict[str, Any]:
    metrics = ["accuracy", "closed_accuracy", "balanced_closed_accuracy", "open_exact_match", "open_token_f1"]
    return _without_classes(title, data, "vqa", "answer", metrics, "answer", **more)


def _without_classes(
    title: str, data: str, kind: str, target: str, metrics: list[str], track: str, **more: Any
) -> dict[str, Any]:
    return {
        "title": title,
        "kind": kind,
        "dataset": data,
        "field": target,
        "split": {"rule": "official"},
        "metrics": metrics,
        "main_metric": metrics[0],
        "tracks": [track],
        "manifest": "pending",
        **more,
    }


TASKS = {
    "chest@1": task("Pneumonia in chest radiographs", "radiographs"),
    "organ@1": task("Organ in abdominal CT", "radiographs", ("liver", "kidney", "spleen")),
    "waiting@1": task("Finding in restricted radiographs", "radiographs"),
    "minor@1": task("A task with too few patients to rank", "radiographs", ranked=False),
    "phantom_side@1": task("Side of a phantom lesion", "phantom", ("left", "right")),
}
OTHER_TASKS = {
    "figures@1": retrieval_task("Captions of figures", "radiographs"),
    "median@1": retrieval_task("Captions of figures by median rank", "radiographs", main_metric="median_rank"),
    "questions@1": vqa_task("Questions on radiographs", "radiographs"),
    "closed@1": vqa_task("Closed questions on radiographs", "radiographs", main_metric="closed_accuracy"),
    "restricted@1": vqa_task("Questions on restricted images", "agreed"),
}
PENDING = {"waiting@1"}
TRACKS = {
    "zero_shot@1": {"title": "Zero-shot", "method": "zero_shot", "recipe": {"prompts": "default"}},
    "linear_probe@1": {"title": "Linear probe", "method": "linear_probe", "recipe": {"penalties": [1.0]}},
}
OTHER_TRACKS = {
    "retrieve@1": {"title": "Retrieval", "method": "retrieve", "recipe": {"similarity": "cosine"}},
    "answer@1": {
        "title": "Answers",
        "method": "answer",
        "recipe": dict.fromkeys(("open", "yes_no", "choice", "pair"), "{question}") | {"max_tokens": 16},
    },
}
# What an open, a yes-no and any other closed question may be answered; no other text is an answer of the tasks.
OPEN = ("liver", "left lung", "pleural effusion", "free air")
CHOICES = ("both", "left", "right")
ORGANS = ("abdomen", "chest")


Indices = NDArray[np.intp]
Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Question:
    """A question's target, and what may be answered to it if it is closed."""

    target: str
    candidates: tuple[str, ...] = ()


@dataclass
class World:
    """A suite, its manifests and a folder of submissions below `root`.

    Attributes:
        samples: Test samples of every task.
        per_group: Samples of every patient.
        all_kinds: Whether there are retrieval and VQA tasks, too.
    """

    root: Path
    samples: int = 120
    per_group: int = 1
    all_kinds: bool = False
    suite: Suite = field(init=False)

    def __post_init__(self) -> None:
        self.submissions.mkdir(parents=True)
        tree = {
            "suite": "2026.1",
            "datasets": {
                "radiographs": dataset("radiographs"),
                "phantom": dataset("phantom", medical=False),
                "agreed": dataset("agreed") | {"access": "agreement"},
            },
            "tasks": {
                key: entry if key in PENDING else entry | {"manifest": self._freeze(key, entry)}
                for key, entry in (TASKS | (OTHER_TASKS if self.all_kinds else {})).items()
            },
            "tracks": TRACKS | (OTHER_TRACKS if self.all_kinds else {}),
        }
        self.tasks_file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        self.suite = load_suite(self.tasks_file)

    @property
    def submissions(self) -> Path:
        return self.root / "submissions"

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def tasks_file(self) -> Path:
        return self.root / "tasks.yaml"

    def add(
        self,
        name: str,
        skill: float = 1.0,
        /,
        *,
        org: str = "lab",
        run: str = "1",
        tasks: Sequence[str] = ("chest",),
        tracks: Sequence[str] = ("zero_shot",),
        seeds: Sequence[int] = (0,),
        fraction: float = 1,
        samples: slice = slice(None),
        **model: Any,
    ) -> Path:
        """A submission; gives its folder.

        Logits for the true class are `skill` above standard normal noise; images show their captions `skill` times as
        strongly as noise; answers are right where standard normal noise stays below `skill`.
        """
        folder = self.submissions / f"{org}__{name}" / run
        units = [
            self._unit(folder, self.suite.task(task), self.suite.track(track), seed, fraction, skill, samples)
            for task in tasks
            for track in tracks
            for seed in seeds
        ]
        write_json(folder / "result.json", {
            "schema_version": 1,
            "vlmed_version": "0.1.0",
            "suite": self.suite.version,
            "model": {
                "ref": f"hf:{org}/{name}",
                "name": name,
                "revision": "a" * 40,
                "family": "clip",
                "architecture": "ViT-B-16",
                "kind": "dual_encoder",
                "parameters": 149_620_737,
                "adapter": None,
                "remote_code": False,
                "warnings": [],
                **model,
            },
            "units": units,
            "environment": {"python": "3.11"},
        })  # fmt: skip
        return folder

    def control(self, name: str, skill: float = 0.0, **more: Any) -> Path:
        """A control, submitted like a model."""
        return self.add(name, skill, org="vlmed", ref=f"control:{name}", revision="builtin", **CONTROL, **more)

    def blind(self, kind: str, name: str, skill: float = 0.0, *, org: str = "lab", **more: Any) -> Path:
        """The control `blank` or `swapped` of the model `name` of `org`, whose weights it shares."""
        model = {"ref": f"control:{kind}/{org}/{name}", "family": "control"}
        return self.add(f"{kind}-{name}", skill, org=org, **model, **more)

    def _unit(
        self, folder: Path, task: Task, track: Track, seed: int, fraction: float, skill: float, samples: slice
    ) -> dict[str, Any]:
        name = f"{task.name}-{task.version}.{track.name}-{track.version}.{seed}.{fraction:g}"
        path = folder / "predictions" / f"{name}.parquet"
        write_predictions(path, self._predict(f"{folder.parent.name}/{name}", task, skill, samples))
        stored = read_predictions(path, task)
        frozen = None if task.pending else read_manifest(task, self.manifests).by_id()
        return {
            "unit": name,
            "task": task.id,
            "task_digest": task.digest,
            "track": track.id,
            "track_digest": track.digest,
            "seed": seed,
            "fraction": fraction,
            "predictions": {
                "file": f"predictions/{path.name}",
                "sha256": file_hash(path),
                "rows": len(stored.sample_ids),
            },
            "scores": score(task, stored, frozen),
            "recipe_outcome": {},
            "cost": {
                "wall_seconds": 1.5,
                "images": len(stored.sample_ids),
                "training": 0 if track.method != "linear_probe" else 5e6 * fraction,
            },
        }

    def _predict(self, key: str, task: Task, skill: float, samples: slice) -> Predictions:
        indices = np.arange(self.samples)[samples]
        random = np.random.default_rng(zlib.crc32(key.encode()))
        if task.kind == "retrieval":
            return self._found(task, indices, random.normal(size=(self.samples, 16))[samples], skill)
        if task.kind == "vqa":
            return self._answered(indices, random.normal(size=self.samples)[samples] < skill)
        classes = len(task.classes)
        noise = random.normal(size=(self.samples, classes))[samples]
        logits = noise + skill * np.eye(classes)[indices % classes]
        odds = np.exp(logits)
        return ClassificationPredictions(
            sample_ids=[sample_id(index) for index in indices],
            groups=[group(index, self.per_group) for index in indices],
            targets=(indices % classes).astype(np.int64),
            probabilities=odds / odds.sum(axis=1, keepdims=True),
            by_template=np.empty((len(indices), 0, classes)),
        )

    def _found(self, task: Task, indices: Indices, noise: Vectors, skill: float) -> RetrievalPredictions:
        ids = [sample_id(index) for index in indices]
        texts = np.random.default_rng(0).normal(size=(self.samples, 16))[caption_of(indices, self.samples)]
        images = noise + skill * texts
        keys = [target_digest(task.name, caption(index, self.samples)) for index in indices]
        return RetrievalPredictions(
            sample_ids=ids,
            groups=[group(index, self.per_group) for index in indices],
            targets=keys,
            image_to_text=Found.of(retrieve(images, texts, keys, keys), ids),
            text_to_image=Found.of(retrieve(texts, images, keys, keys), ids),
        )

    def _answered(self, indices: Indices, right: NDArray[np.bool_]) -> AnswerPredictions:
        questions = [question(index) for index in indices]
        return AnswerPredictions(
            sample_ids=[sample_id(index) for index in indices],
            groups=[group(index, self.per_group) for index in indices],
            targets=[asked.target for asked in questions],
            closed=np.array([bool(asked.candidates) for asked in questions]),
            candidates=[asked.candidates for asked in questions],
            answers=[
                f"The answer is {asked.target}." if known else wrong(index)
                for index, asked, known in zip(indices, questions, right, strict=True)
            ],
            question_types=["finding" if asked.candidates else "place" for asked in questions],
            lettered=np.zeros(len(questions), bool),
        )

    def _freeze(self, key: str, entry: dict[str, Any]) -> str:
        name, version = key.split("@")
        classes = [spec["name"] for spec in entry.get("classes", ())]

        def target(index: int) -> str:
            if entry["kind"] == "retrieval":
                return caption(index, self.samples)
            return classes[index % len(classes)] if classes else question(index).target

        rows = [
            Row(
                sample_id=sample_id(index),
                split="test",
                image=f"{index:032x}",
                group=group(index, self.per_group),
                target=target_digest(name, target(index)),
                subgroups=f"organ={ORGANS[index % 2]}" if entry["kind"] == "vqa" else "",
                leaks="image" if index < LEAKY else "",
            )
            for index in range(self.samples)
        ]
        return write_manifest(self.manifests / f"{name}-v{version}.csv", rows)


def full_world(root: Path) -> World:
    """Models and controls on every kind of task, and one refused run."""
    world = World(root)
    tasks = ("chest", "organ", "waiting", "minor", "phantom_side")
    world.add("strong", 2.5, tasks=tasks)
    world.add("middle", 1.0, tasks=tasks, adapter=LORA)
    world.add("weak", 0.9, tasks=("chest", "organ"), seeds=(0, 1))
    world.control("oracle", 30.0, tasks=tasks)
    world.control("random", tasks=("chest",))
    refused = world.add("liar", 1.0) / "result.json"
    refused.write_text(refused.read_text().replace('"rows": 120', '"rows": 119'))
    return world


def sample_id(index: int) -> str:
    return f"s{index:05d}"


def group(index: int, per_group: int) -> str:
    return f"p{index // per_group:05d}"


def caption_of(indices: Indices, samples: int) -> Indices:
    """The captions' numbers: the last six samples repeat the captions of others, one of them twice."""
    return np.where(indices < samples - 6, indices, indices % 5)


def caption(index: int, samples: int) -> str:
    return f"Figure {caption_of(np.asarray(index), samples)}"


def question(index: int) -> Question:
    """Of any six questions two are open, three ask for yes or no and one for a side."""
    if index % 3 == 0:
        return Question(OPEN[index // 3 % len(OPEN)])
    if index % 6 == 5:
        return Question(CHOICES[index // 6 % len(CHOICES)], CHOICES)
    return Question("yes" if index % 2 else "no", ("yes", "no"))


def wrong(index: int) -> str:
    """A wrong answer to a question, or none."""
    refusal = "I am sorry, but I cannot answer that."
    return refusal if index % 4 == 0 else "a foreign body" if index % 3 == 0 else f"not {question(index).target}"


def add_audit(run: Path, *, name: str = "2026-11-22-1", differing: int = 0, **more: Any) -> Path:
    """An audit of every unit of a run, which confirms it where no sample differs."""
    units = [unit["unit"] for unit in read_json(run / "result.json")["units"]]
    verdict = "contradicted" if differing else "confirmed"
    numbers = {"compared": 64, "differing": differing, "largest_difference": 0.001, "tolerance": 0.02, "allowed": 0}
    write_json(run / "audits" / f"{name}.json", {
        "schema_version": 1, "auditor": "Ada, vlmed", "date": "2026-11-22", "vlmed_version": "0.1.0",
        "result": file_hash(run / "result.json"), "seed": 1, "samples": 64,
        "units": [{"unit": unit, **numbers, "verdict": verdict, "reason": ""} for unit in units],
        "environment": {"python": "3.11"}, "verdict": verdict, **more,
    })  # fmt: skip
    return run
