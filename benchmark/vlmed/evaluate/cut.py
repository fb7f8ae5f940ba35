"""Preprocessed images without arithmetic: what a preprocessing cuts out of an image, before it scales byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmed.models.protocols import ImageEncoder

_TORCHVISION = "torchvision.transforms.transforms"
# Steps that treat each channel alike, so that a grey image may stay grey on its way through them.
_ALIKE = {f"{_TORCHVISION}.Resize", f"{_TORCHVISION}.CenterCrop", "open_clip.transform.MaybeConvertMode"}
# Steps of which a byte's number depends on the byte and its channel alone, so that it is enough to look at all 256.
_TO_TENSOR = {f"{_TORCHVISION}.ToTensor", "open_clip.transform.MaybeToTensor", "timm.data.transforms.MaybeToTensor"}
_SCALE = {f"{_TORCHVISION}.Normalize"}


@dataclass(frozen=True)
class Cut:
    """The part of a preprocessing that gives a picture: resizing and cutting.

    Attributes:
        steps: Picture -> picture, one after the other.
        rgb: Image -> 8-bit RGB, which comes first.
    """

    steps: Sequence[Callable[[Image.Image], Image.Image]]
    rgb: Callable[[Image.Image], Image.Image]

    def of(self, image: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
        """The bytes that the preprocessing of `image` would scale, uint8 (3, H, W); None if they have another shape.

        Raises:
            InputError: The image has more than 8 bits per channel.
        """
        picture = image if image.mode == "L" and self._keeps_grey else self.rgb(image)
        for step in self.steps:
            picture = step(picture)
        content: NDArray[np.uint8] = np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)
        fits = content.dtype == np.uint8 and content.shape[0] in (1, 3) and content.shape[1:] == shape[1:]
        return np.broadcast_to(content, shape) if fits else None

    @property
    def _keeps_grey(self) -> bool:
        return _kinds(self.steps) <= _ALIKE


def _kinds(steps: Sequence[object]) -> set[str]:
    return {f"{type(step).__module__}.{type(step).__qualname__}" for step in steps}


def cut_of(encoder: ImageEncoder, levels: NDArray[np.float32]) -> Cut | None:
    """What an encoder's preprocessing cuts; None where it isn't known to scale byte by byte afterwards.

    Args:
        levels: (3, 256) float32, what it has to make of each byte.
    """
    from vlmed.models.encoders import TowerEncoder, to_rgb

    inner = getattr(encoder, "encoder", encoder)
    steps: Any = getattr(getattr(inner, "transform", None), "transforms", ())
    cutting, scaling = steps[:-2], steps[-2:]
    known = len(scaling) == 2 and _kinds(scaling[:1]) <= _TO_TENSOR and _kinds(scaling[1:]) <= _SCALE
    if not known or getattr(type(inner), "preprocess", None) is not TowerEncoder.preprocess:
        return None
    to_tensor, scale = scaling
    every = Image.fromarray(np.arange(256, dtype=np.uint8)[None]).convert("RGB")
    scaled = scale(to_tensor(every)).numpy()[:, 0]
    return Cut(cutting, to_rgb) if np.array_equal(scaled, levels) else None
