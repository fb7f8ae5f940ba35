"""What a run will take, before it runs: units done, images to embed and to train on, and the time for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from vlmed.data.fractions import share_of
from vlmed.data.table import TaskTable
from vlmed.evaluate.run import Runner
from vlmed.evaluate.shards import image_sets
from vlmed.evaluate.units import RunFolder, Unit
from vlmed.models.protocols import Generator, ImageEncoder, Request, TokenEncoder

# A training step is a forward and a backward pass, and the backward one takes about twice as long.
_TRAINING_FACTOR = 3
_MEASURED = 8
_TOKENS = 16
_QUESTION = "What does the image show?"


@dataclass(frozen=True)
class Planned:
    """A unit and what it will take.

    Attributes:
        state: `finished`, `features cached` or `to do`.
        images: Images that the model will embed, classify or answer questions on; those of validation are not counted.
        training: Images that training will see if it never stops early, in all epochs of all learning rates.
        epochs, rates: How many these are at most; 0 without training.
        seconds: Estimated time, validation included.
    """

    unit: Unit
    state: str
    images: int = 0
    training: int = 0
    epochs: int = 0
    rates: int = 0
    seconds: float = 0.0


def estimate(runner: Runner, units: Sequence[Unit], folder: RunFolder) -> list[Planned]:
    """What each unit will take, in order. A few images are run through the model to measure its speed.

    Features that a unit before computes count as cached for those after it.

    Raises:
        MissingError, InputError: As `Runner.run`.
    """
    per_image = _seconds_per_image(runner)
    known: set[Path] = set()
    return [_planned(runner, unit, folder, per_image, known) for unit in units]


def _planned(runner: Runner, unit: Unit, folder: RunFolder, per_image: float, known: set[Path]) -> Planned:
    if folder.finished(unit):
        return Planned(unit, "finished")
    table = runner.data.table(unit.task)
    if runner.model.info.kind == "control":
        return Planned(unit, "to do")
    images, epochs, rates = _images_left(runner, unit, table, known), *_epochs_and_rates(unit.track.recipe)
    if not epochs:
        return Planned(unit, "to do" if images else "features cached", images, seconds=images * per_image)
    training = len(share_of(table.split("train"), unit.fraction, unit.task.id)) * epochs * rates
    # Before the first epoch too.
    validating = len(table.split("val")) * (epochs + 1) * rates
    per_step = _seconds_per_answer(runner, unit, table) if _is_frozen(unit) else per_image
    seconds = images * per_image + (training * _TRAINING_FACTOR + validating) * per_step
    return Planned(unit, "to do", images, training, epochs, rates, seconds)


def _epochs_and_rates(recipe: Mapping[str, Any]) -> tuple[int, int]:
    """Epochs at most, and learning rates that are tried; zeros for a recipe that trains no network."""
    if "epochs" not in recipe:
        return 0, 0
    listed = [recipe[name] for name in ("lr", "lora_lr", "projector_lr") if name in recipe]
    # Where a recipe has two lists, the n-th of each go together.
    return int(recipe["epochs"]), max(len(each) if isinstance(each, Sequence) else 1 for each in listed)


def _images_left(runner: Runner, unit: Unit, table: TaskTable, known: set[Path]) -> int:
    """Images that the model sees without training, but for those whose features are there or will be by then."""
    cache, test = runner.cache(), table.split("test")
    if cache is None:
        return len(test) * len(unit.track.recipe.get("orders", [0]))
    if _is_frozen(unit):
        # Its tokens are made once for each image, and of use to no other unit.
        used = (*share_of(table.split("train"), unit.fraction, unit.task.id), *table.split("val"), *test)
        return len({sample.image for sample in used})
    if "epochs" in unit.track.recipe:
        # A tuned encoder's features are of use to no other unit.
        return len(test)
    files = {cache.file(images): len(images) for images in image_sets(unit, table, runner.model).values()}
    left = {file: count for file, count in files.items() if file not in known and not file.exists()}
    known.update(left)
    return sum(left.values())


def _is_frozen(unit: Unit) -> bool:
    """Whether a head trains on tokens of an encoder that doesn't, so that no image is encoded twice."""
    return unit.track.recipe.get("encoders") == "frozen"


def _seconds_per_answer(runner: Runner, unit: Unit, table: TaskTable) -> float:
    """Seconds for one sample's pass forward through a fusion; 0 where the model gives no tokens."""
    # The libraries for tuning take seconds to load.
    from vlmed.evaluate.fused import recipe_of
    from vlmed.tuning.anatomy import blank
    from vlmed.tuning.fusion import make_fusion

    encoder, recipe = runner.model.predictor, recipe_of(unit.track)
    answers = len({sample.target for sample in table.split("train")})
    if not isinstance(encoder, TokenEncoder):
        return 0.0
    head = make_fusion(encoder, recipe.fusion, answers)
    with torch.inference_mode():
        image = head.encode(blank(encoder)).expand(recipe.batch_size, -1, -1)
        words, mask = encoder.encode_text_tokens([_QUESTION] * recipe.batch_size)
        head.module(image, words, mask)
        return _time(lambda: head.module(image, words, mask)) / recipe.batch_size


def _seconds_per_image(runner: Runner) -> float:
    predictor = runner.model.predictor
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
    if isinstance(predictor, Generator):
        request = Request(image, _QUESTION, _TOKENS)
        predictor.answer([request])
        return _time(lambda: predictor.answer([request]))
    if runner.model.info.kind not in ("dual_encoder", "image_encoder"):
        return 0.0
    encoder = cast(ImageEncoder, predictor)

    def embed() -> None:
        with torch.inference_mode():
            encoder.encode_images(torch.stack([encoder.preprocess(image)] * _MEASURED)).sum().item()

    embed()
    return _time(embed) / _MEASURED


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
