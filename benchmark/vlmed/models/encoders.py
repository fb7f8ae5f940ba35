"""The encoders that every family of models ends in: an image tower, its preprocessing, and perhaps a text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from PIL import Image
from torch import nn

from vlmed.errors import InputError
from vlmed.hashing import digest
from vlmed.models.numerics import EXACT, Numerics

# Enough to fill the hardware with prompts, little enough for thousands of captions to fit into memory.
_TEXT_BATCH = 256

_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as 8-bit RGB; grey values are repeated.

    Raises:
        InputError: More than 8 bits per channel, which Pillow would clip without a word.
    """
    if image.mode in _DEEP_MODES:
        raise InputError(
            "the image has more than 8 bits per channel",
            expected="8 bits, mode L or RGB",
            got=f"mode {image.mode}",
            hint="window it to 8 bits where the data set is prepared",
        )
    return image.convert("RGB")


def preprocessing_key(kind: str, settings: Any) -> str:
    """A short name for a preprocessing; `settings` is all of its configuration as JSON values."""
    return f"{kind}:{digest(settings)[:32]}"


def check_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Refuse a tokenizer without its vocabulary: transformers makes an empty one up, and every text becomes the same.

    Raises:
        InputError: None of the files from which this kind of tokenizer is read is there.
    """
    files = set(tokenizer.vocab_files_names.values()) | ({"tokenizer.json"} if tokenizer.is_fast else set())
    if not any((folder / name).is_file() for name in files):
        raise InputError("the model lacks its tokenizer", file=folder, expected=f"one of {', '.join(sorted(files))}")


def with_forward(module: nn.Module, forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> nn.Module:
    """Let calls of `module` run `forward(module, pixels)`; its layers keep their names, which adapters rely on."""
    module.forward = MethodType(forward, module)
    return module


@dataclass
class TowerEncoder:
    """An `ImageEncoder` around an image tower.

    Args:
        image_tower: Pixels (B, 3, H, W) -> embeddings (B, D).
        transform: RGB image -> float32 (3, H, W).
        preprocessing: See `ImageEncoder`.
        device: Where the tower lies.
        numerics: How exactly it computes.

    Raises:
        InputError: The preprocessing doesn't fit the tower (found by encoding one blank image).
    """

    image_tower: nn.Module
    transform: Callable[[Image.Image], torch.Tensor]
    preprocessing: str
    device: str
    dim: int = field(init=False)
    numerics: Numerics = field(default=EXACT, kw_only=True)

    def __post_init__(self) -> None:
        pixels = self.preprocess(Image.new("RGB", (32, 32)))
        if pixels.ndim != 3 or pixels.shape[0] != 3:
            shape = tuple(pixels.shape)
            raise InputError("the preprocessing makes no RGB image", expected="shape (3, H, W)", got=f"shape {shape}")
        with torch.inference_mode():
            embedding = self.encode_images(pixels[None])
        if embedding.ndim != 2:
            shape = tuple(embedding.shape)
            raise InputError("the image tower gives no vector", expected="shape (B, D)", got=f"shape {shape}")
        self.dim = embedding.shape[1]

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """See `ImageEncoder.preprocess`."""
        return self.transform(to_rgb(image))

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `ImageEncoder.encode_images`."""
        pixels = self.numerics.laid_out(pixels.to(self.device, non_blocking=True))
        with self.numerics.inferring(self.device):
            embeddings: torch.Tensor = self.image_tower(pixels)
        return embeddings.float()


@dataclass
class TwoTowerEncoder(TowerEncoder):
    """A `DualEncoder`: the same with a text encoder.

    Args:
        model: The whole network as its checkpoint holds it.
        embed_texts: N texts -> embeddings (N, D); tokenizes as the model's own tokenizer demands.
        logit_scale: Already exponentiated.
        logit_bias: See `DualEncoder`.
        image_tokens: See `TokenEncoder.encode_image_tokens`.
        text_tokens: See `TokenEncoder.encode_text_tokens`; gets at most as many texts as fit one batch.
        n_vectors: See `ManyVectorEncoder`.
    """

    model: nn.Module
    embed_texts: Callable[[list[str]], torch.Tensor]
    image_tokens: Callable[[torch.Tensor], torch.Tensor]
    text_tokens: Callable[[list[str]], tuple[torch.Tensor, torch.Tensor]]
    logit_scale: float
    logit_bias: float = 0.0
    n_vectors: int = 1

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """See `DualEncoder.encode_texts`."""
        if not texts:
            return torch.empty(0, self.dim // self.n_vectors, device=self.device)
        # Of many texts those of like length go together, so that few are padded; a single batch stays as it is.
        many = len(texts) > _TEXT_BATCH
        order = sorted(range(len(texts)), key=lambda place: len(texts[place])) if many else list(range(len(texts)))
        batches = [order[start : start + _TEXT_BATCH] for start in range(0, len(order), _TEXT_BATCH)]
        with self.numerics.inferring(self.device):
            embedded = torch.cat([self.embed_texts([texts[place] for place in batch]).float() for batch in batches])
        return embedded[torch.tensor(order, device=embedded.device).argsort()] if many else embedded

    def encode_image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `TokenEncoder.encode_image_tokens`."""
        return self.image_tokens(pixels.to(self.device)).float()

    def encode_text_tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TokenEncoder.encode_text_tokens`."""
        tokens, mask = self.text_tokens(list(texts))
        return tokens.float(), mask
