"""What a method gets and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmed.data.fractions import share_of
from vlmed.data.prepare import PreparedDataset
from vlmed.data.table import Sample, TaskTable
from vlmed.errors import InputError
from vlmed.evaluate.features import FeatureCache
from vlmed.evaluate.units import Unit
from vlmed.models.protocols import LoadedModel
from vlmed.progress import Progress
from vlmed.results.predictions import Predictions
from vlmed.suite.splits import bucket

if TYPE_CHECKING:
    import torch


@dataclass
class Outcome:
    """What a method predicts for the test split, and what that took.

    Attributes:
        chosen: What the recipe chose on validation data, and what else a reader should know.
        training: Training samples x epochs x trained parameters.
    """

    predictions: Predictions
    chosen: Mapping[str, float | str | bool] = field(default_factory=dict)
    training: float = 0.0


@dataclass(frozen=True)
class Job:
    """One unit of one model.

    Attributes:
        cache: Features of images; None where the model embeds none.
        scratch: A folder of the unit's own, where it keeps what a killed run goes on from.
        log: Where a training's log goes.
        weights: Where what was tuned goes; None where it shall not be kept.
    """

    unit: Unit
    table: TaskTable
    model: LoadedModel
    dataset: PreparedDataset
    cache: FeatureCache | None
    scratch: Path
    log: Path
    weights: Path | None
    progress: Progress
    batch_size: int

    @cached_property
    def train(self) -> tuple[Sample, ...]:
        """The unit's share of the training split."""
        return share_of(self.table.split("train"), self.unit.fraction, self.unit.task.id)

    @property
    def val(self) -> tuple[Sample, ...]:
        """The validation split; never a share of it, so that all shares are judged alike."""
        return self.table.split("val")

    @property
    def test(self) -> tuple[Sample, ...]:
        """The test split."""
        return self.table.split("test")

    def image(self, sample: Sample) -> Image.Image:
        """What the model is shown for a sample."""
        return self.dataset.image(self._shown.get(sample.id, sample.image))

    def features(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Image features (len(samples), D) of what the model is shown."""
        return self._cache.features(self.dataset, self._images(samples))

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Text features (len(texts), D)."""
        return self._cache.text_features(texts)

    def pixels(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Preprocessed images float32 (len(samples), 3, H, W) of what the model is shown."""
        return self._cache.pixels(self.dataset, self._images(samples))

    @property
    def _cache(self) -> FeatureCache:
        if self.cache is None:
            raise InputError(f"{self.model.info.name} embeds no images", expected="an image encoder")
        return self.cache

    def _images(self, samples: Sequence[Sample]) -> list[str]:
        return [self._shown.get(sample.id, sample.image) for sample in samples]

    @cached_property
    def _shown(self) -> Mapping[str, str]:
        """Test sample -> the image it is shown with in place of its own, for the control that swaps them."""
        return swapped(self.test) if self.model.swaps_images else {}


def swapped(samples: Sequence[Sample]) -> dict[str, str]:
    """Sample id -> another sample's image, the same for everyone.

    Distinct images go round a circle in the order of SHA-256: every image is shown in another's place. The next image
    of another group is taken where there is one.

    Raises:
        InputError: All samples show one image.
    """
    owners = {sample.image: sample.group for sample in samples}
    circle = sorted(owners, key=lambda image: (bucket("swapped images", image), image))
    if len(circle) < 2:
        raise InputError("there is no other image to show", expected="two images or more", got=str(len(circle)))
    place = {image: number for number, image in enumerate(circle)}

    def other(image: str) -> str:
        after = (circle[(place[image] + step) % len(circle)] for step in range(1, len(circle)))
        nearest = circle[(place[image] + 1) % len(circle)]
        return next((each for each in after if owners[each] != owners[image]), nearest)

    instead = {image: other(image) for image in circle}
    return {sample.id: instead[sample.image] for sample in samples}
