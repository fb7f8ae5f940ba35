"""Encoders that are known before their weights are loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from vlmed.models.numerics import Numerics
from vlmed.models.protocols import DualEncoder, ImageEncoder

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass
class LaterImageEncoder:
    """An `ImageEncoder` whose weights are loaded by the first use that needs them.

    Args:
        load: Gives the encoder itself; called once.
        device: Where it is to lie.
        numerics: How exactly it is to compute.
        dim, preprocessing: See `ImageEncoder`.
    """

    load: Callable[[], ImageEncoder]
    device: str
    numerics: Numerics
    dim: int
    preprocessing: str
    _encoder: ImageEncoder | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def encoder(self) -> Any:
        """The encoder itself; loads it."""
        with self._lock:
            if self._encoder is None:
                self._encoder = self.load()
            return self._encoder

    @property
    def image_tower(self) -> torch.nn.Module:
        """See `ImageEncoder`; loads."""
        tower: torch.nn.Module = self.encoder.image_tower
        return tower

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """See `ImageEncoder.preprocess`; loads."""
        pixels: torch.Tensor = self.encoder.preprocess(image)
        return pixels

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `ImageEncoder.encode_images`; loads."""
        embeddings: torch.Tensor = self.encoder.encode_images(pixels)
        return embeddings


@dataclass
class LaterDualEncoder(LaterImageEncoder):
    """A `DualEncoder` whose weights are loaded by the first use that needs them.

    Args:
        logit_scale, logit_bias: See `DualEncoder`.
        n_vectors: See `ManyVectorEncoder`.
    """

    logit_scale: float = field(kw_only=True)
    logit_bias: float = field(kw_only=True)
    n_vectors: int = field(kw_only=True)

    @property
    def model(self) -> torch.nn.Module:
        """See `DualEncoder`; loads."""
        model: torch.nn.Module = self.encoder.model
        return model

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """See `DualEncoder.encode_texts`; loads."""
        return cast(DualEncoder, self.encoder).encode_texts(texts)

    def encode_image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `TokenEncoder.encode_image_tokens`; loads."""
        tokens: torch.Tensor = self.encoder.encode_image_tokens(pixels)
        return tokens

    def encode_text_tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TokenEncoder.encode_text_tokens`; loads."""
        tokens: tuple[torch.Tensor, torch.Tensor] = self.encoder.encode_text_tokens(texts)
        return tokens
