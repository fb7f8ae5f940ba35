"""Small fixed work of every kind that users pay for, for `guard.py`; beside it, where native code does most of it, the
bare equivalent: what nobody could do without."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from near_duplicates import clustered

import submission_factory
from vlmed.leaderboard.board import Board, board
from vlmed.leaderboard.models import model_pages
from vlmed.leaderboard.read import read_submissions
from vlmed.leakage.near import pairs_within
from vlmed.leakage.perceptual import RADIUS, perceptual_hashes
from vlmed.metrics.classification import Classified, auc
from vlmed.metrics.intervals import bootstrap
from vlmed.metrics.retrieval import retrieve
from vlmed.metrics.vqa import score_answers
from vlmed.results.validate import validate_run
from vlmed.suite.load import load_suite, suite_path

Call = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """What is done, and what is compared with it."""

    ours: Call
    bare: Call | None = None


def zero_shot(folder: Path) -> Work:
    """A unit of zero-shot with a tiny CLIP, without anything kept, against ten forward passes over its images."""
    import torch

    from factories import tiny_open_clip
    from vlmed.data.load import DataLoader
    from vlmed.evaluate.run import Runner
    from vlmed.evaluate.units import RunFolder, plan
    from vlmed.models.load import load_model

    made = load_suite(_phantoms(folder))
    model, data = load_model(f"dir:{tiny_open_clip(folder / 'model')}"), DataLoader(cache=folder / "cache")
    units, encoder = plan(made, ["phantom_lesion"], ["zero_shot"]), cast(Any, model.predictor)
    table, images = data.table(units[0].task), data.dataset(units[0].task.dataset)
    batch = torch.stack([encoder.preprocess(images.image(sample.image)) for sample in table.split("test")])

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(10):
                encoder.encode_images(batch)

    def ours() -> None:
        for kept in ("features", "pixels"):
            shutil.rmtree(folder / "cache" / kept, ignore_errors=True)
        shutil.rmtree(folder / "run", ignore_errors=True)
        Runner(made, model, DataLoader(cache=folder / "cache")).run(units, RunFolder(folder / "run"), lambda *_: None)

    return Work(ours, bare)


def _phantoms(folder: Path) -> Path:
    """The shipped suite with 200 small phantoms."""
    tree = yaml.safe_load(suite_path().read_text(encoding="utf-8"))
    tree["datasets"] = {"phantom": tree["datasets"]["phantom"]}
    tree["datasets"]["phantom"]["options"] |= {"patients": 200, "images_per_patient": 1, "size": 32}
    tree["tasks"] = {"phantom_lesion@1": tree["tasks"]["phantom_lesion@1"] | {"manifest": "pending"}}
    (folder / "tasks.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder / "tasks.yaml"


def probe(folder: Path) -> Work:
    """A linear probe over its path of penalties, against the products of 300 evaluations of its objective."""
    from vlmed.evaluate.probe import fit_probe

    rng = np.random.default_rng(0)
    targets = rng.integers(0, 5, 1200)
    features = (rng.standard_normal((1200, 64)) + 0.5 * np.eye(5, 64)[targets]).astype(np.float32)
    train, val = (features[:1000], targets[:1000]), (features[1000:], targets[1000:])
    penalties = load_suite().track("linear_probe").recipe["penalties"]
    weights = rng.standard_normal((64, 5)).astype(np.float32)
    return Work(
        lambda: fit_probe(train, val, 5, penalties),
        lambda: [features.T @ (features @ weights) for _ in range(300)],
    )


def bootstrap_auc(folder: Path) -> Work:
    """200 draws of the macro AUC of 1,000 samples and four classes, against sorting the scores for 20 of them."""
    rng = np.random.default_rng(0)
    targets, members = rng.integers(0, 4, 1000), np.arange(1000)
    odds = np.exp(rng.normal(size=(1000, 4)) + np.eye(4)[targets])
    scores = odds / odds.sum(axis=1, keepdims=True)

    def ours() -> object:
        samples = Classified(scores, targets)
        return bootstrap(lambda counts: auc.of(samples, counts)[None], members, 200)

    return Work(ours, lambda: [np.argsort(scores, axis=0) for _ in range(20)])


def retrieval(folder: Path) -> Work:
    """Ranks of 500 queries among 4,000 items, against their similarities alone."""
    rng = np.random.default_rng(0)
    gallery, keys = rng.standard_normal((4000, 64), np.float32), np.arange(4000)
    queries = gallery[:500] + rng.standard_normal((500, 64), np.float32)
    return Work(lambda: retrieve(queries, gallery, keys[:500], keys), lambda: [queries @ gallery.T for _ in range(5)])


def answers(folder: Path) -> Work:
    """Parsing and scoring of 300 answers, open and closed."""
    said = [f"The answer is {'yes' if row % 3 else 'no'}, since finding {row} is seen." for row in range(300)]
    closed = np.arange(300) % 2 == 0
    targets = ["yes" if shut else f"finding {row % 7}" for row, shut in enumerate(closed)]
    return Work(lambda: score_answers(said, targets, closed, [("yes", "no")] * 300))


@cache
def world(folder: Path) -> submission_factory.World:
    """Six models on two tasks."""
    made = submission_factory.World(folder / "world")
    for number in range(6):
        made.add(f"model-{number}", number / 4, tasks=("chest", "organ"))
    return made


def validation(folder: Path) -> Work:
    """One submission of two units, every metric recomputed, without intervals."""
    made = world(folder)
    run = made.submissions / "lab__model-0" / "1"
    return Work(lambda: validate_run(run, made.suite, made.manifests, False))


def _board(folder: Path) -> Board:
    made = world(folder)
    read = read_submissions(made.submissions, made.suite, made.manifests, False)
    return board(made.suite, read, made.manifests)


def leaderboard(folder: Path) -> Work:
    """Reading and ranking of twelve units of six models."""
    return Work(partial(_board, folder))


def page(folder: Path) -> Work:
    """The page of one model."""
    ranked = _board(folder)
    name = next(iter(ranked.models))
    one = replace(ranked, models={name: ranked.models[name]})
    return Work(lambda: dict(model_pages(one)))


def hashing(folder: Path) -> Work:
    """Decoding and perceptual hashing of eight JPEGs, against decoding alone."""
    rng, files = np.random.default_rng(0), []
    for _ in range(8):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).resize((512, 512))
        coarse.save(file := io.BytesIO(), "JPEG", quality=90)
        files.append(file.getvalue())

    def decoded() -> list[Image.Image]:
        images = [Image.open(io.BytesIO(content)) for content in files]
        for image in images:
            image.load()
        return images

    return Work(lambda: perceptual_hashes(decoded()), decoded)


def near(folder: Path) -> Work:
    """All pairs within the radius among 5,000 hashes, against sorting them 100 times."""
    hashes = clustered(5000)
    return Work(lambda: pairs_within(hashes, radius=RADIUS), lambda: [np.sort(hashes) for _ in range(100)])


def suite(folder: Path) -> Work:
    """Reading and checking the whole suite."""

    def ours() -> object:
        load_suite.cache_clear()
        return load_suite()

    return Work(ours)


def plan(folder: Path) -> Work:
    """Every task on every track with five shares and three seeds."""
    from vlmed.evaluate.units import plan

    loaded = load_suite()
    return Work(lambda: plan(loaded, ["*"], ["*"], (0.05, 0.1, 0.25, 0.5, 1.0), (0, 1, 2)))


WORKLOADS: dict[str, Callable[[Path], Work]] = {
    each.__name__: each
    for each in (
        zero_shot, probe, bootstrap_auc, retrieval, answers, validation, leaderboard, page, hashing, near, suite, plan,
    )
}  # fmt: skip
# Commands whose imported modules are counted.
COMMANDS = {"start-up": ["--help"], "start-up, tasks": ["tasks"]}
