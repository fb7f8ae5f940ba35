"""Models that a user might write: objects that follow the protocols and come from no reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from vlmed.models.protocols import Request

DIMENSION = 8


class OwnImages(nn.Module):
    """An image encoder that averages patches and projects them."""

    dim = DIMENSION
    preprocessing = "rgb 16 px"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.image_tower = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, DIMENSION))
        self.eval()

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        pixels = np.asarray(image.convert("RGB").resize((16, 16)), np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.image_tower(pixels)


class OwnDual(OwnImages):
    """The same with texts, which it tells apart by their letters."""

    logit_scale = 10.0
    logit_bias = 0.0

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.letters = nn.Embedding(256, DIMENSION)
        self.eval()

    @property
    def model(self) -> nn.Module:
        return self

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.stack([self.letters(torch.tensor(list(text.encode()))).mean(0) for text in texts])


class OwnGenerator:
    """Says yes to everything."""

    def answer(self, requests: Sequence[Request]) -> list[str]:
        return ["yes" for _ in requests]
