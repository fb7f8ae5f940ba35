"""Tiny models with images to tune them on, and comparisons of weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import factories
from vlmed.models.load import load_model
from vlmed.models.protocols import ImageEncoder, LoadedModel
from vlmed.tuning.anatomy import blank
from vlmed.tuning.batches import Labelled
from vlmed.tuning.recipe import Recipe, parse_recipe
from vlmed.tuning.tune import Tuned, tune

MAKERS: dict[str, Callable[[Path], Path]] = {
    "clip": factories.tiny_clip,
    "open_clip": factories.tiny_open_clip,
    "siglip": factories.tiny_siglip,
    "vit": factories.tiny_vit,
    "resnet": factories.tiny_resnet,
    "timm": factories.tiny_timm,
}
CLASSES = {"red": ["a red image"], "green": ["a green image", "green"], "blue": ["a blue image"]}


@dataclass
class Case:
    """A freshly loaded tiny model, where its files lie, and images whose class is their colour."""

    model: LoadedModel
    folder: Path
    images: torch.Tensor
    labels: np.ndarray

    @property
    def encoder(self) -> ImageEncoder:
        return self.model.predictor

    @property
    def data(self) -> Labelled:
        return Labelled(self.pixels, self.labels)

    def pixels(self, rows: np.ndarray) -> torch.Tensor:
        return self.images[rows]

    def recipe(self, scope: str, **options: Any) -> Recipe:
        dual = self.model.info.kind == "dual_encoder"
        default = {"head": "prompts" if dual else "linear", "epochs": 2, "batch_size": 8, "lr": 3e-3}
        return parse_recipe(scope, default | options)

    def tune(self, scope: str, *, seed: int = 0, folder: Path | None = None, **options: Any) -> Tuned:
        data = self.data
        return tune(self.encoder, self.recipe(scope, **options), data, data, CLASSES, seed=seed, folder=folder)

    def embeddings(self) -> torch.Tensor:
        with torch.no_grad():
            return self.encoder.encode_images(self.images)

    def tensors(self) -> dict[str, torch.Tensor]:
        """A copy of every parameter and buffer, by torch's own names."""
        model = getattr(self.encoder, "model", self.encoder.image_tower)
        return {name: tensor.detach().clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def weights(tuned: Tuned) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in tuned.learner.parameters().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not moved(one, other)


def load_case(folder: Path, count: int) -> Case:
    model = load_model(f"dir:{folder}")
    size = blank(model.predictor).shape[-1]
    labels = np.random.default_rng(3).permutation(np.arange(count) % 3)
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 0.3
    images[torch.arange(count), torch.from_numpy(labels)] += 2
    return Case(model, folder, images, labels)
