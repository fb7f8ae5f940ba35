"""Batches that the memory of a device can't hold at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vlmed.errors import VlmedError
from vlmed.evaluate.features import embed

MESSAGE = "CUDA out of memory. Tried to allocate 20.00 GiB."


def encoder(fits: int, seen: list[int]) -> Any:
    """Embeds an image as its mean and its largest number, `fits` images at a time."""

    def encode_images(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        if len(pixels) > fits:
            raise torch.OutOfMemoryError(MESSAGE)
        return torch.stack([pixels.flatten(1).mean(1), pixels.flatten(1).amax(1)], dim=1)

    return SimpleNamespace(encode_images=encode_images)


@pytest.mark.parametrize(("fits", "tried"), [(7, [7]), (4, [7, 4, 3]), (2, [7, 4, 2, 2, 3, 2, 1]), (1, None)])
def test_a_batch_too_large_for_the_memory_is_embedded_in_halves(fits: int, tried: list[int] | None) -> None:
    pixels, seen = torch.rand(7, 3, 4, 4), list[int]()
    features = embed(encoder(fits, seen), pixels)
    assert np.array_equal(features, embed(encoder(7, []), pixels))
    assert tried is None or seen == tried
    assert sum(count for count in seen if count <= fits) == 7


def test_one_image_too_large_for_the_memory_is_said() -> None:
    with pytest.raises(VlmedError, match="a single image does not fit into the device's memory") as caught:
        embed(encoder(0, []), torch.rand(3, 3, 4, 4))
    assert MESSAGE in str(caught.value)
    assert "smaller model" in str(caught.value)
