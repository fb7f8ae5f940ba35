"""Networks that answer a question about an image from the tokens of both: a new one, and PMC-CLIP's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vlmed.tuning.recipe import FusionSettings


class BilinearAttention(nn.Module):
    """A bilinear attention network (Kim et al. 2018, "Bilinear Attention Networks", equations 6 to 13).

    Each of G glimpses weighs all pairs of a word and a place by one softmax, sums the products of their projections by
    these weights, and adds the projected sum to every word. The mean over the words goes into the classifier. Other
    than there: tokens are normalised first, so that one recipe fits encoders whose last hidden states differ in scale;
    words come from the encoder and not from a GRU; the words' mean is taken and not their sum, so that a question's
    length does not scale it; there is no weight normalisation and no input from an object counter.

    Args:
        image_width, word_width: V and W, widths of the tokens.
        classes: C.
    """

    def __init__(self, image_width: int, word_width: int, classes: int, settings: FusionSettings) -> None:
        super().__init__()
        width, glimpses = settings.width, settings.glimpses
        self.words = nn.Linear(word_width, width)
        self.image_key, self.word_key = nn.Linear(image_width, width), nn.Linear(width, width)
        self.glimpse = nn.Parameter(torch.randn(glimpses, width) / width**0.5)
        self.image_value = nn.ModuleList(nn.Linear(image_width, width) for _ in range(glimpses))
        self.word_value = nn.ModuleList(nn.Linear(width, width) for _ in range(glimpses))
        self.joint = nn.ModuleList(nn.Linear(width, width) for _ in range(glimpses))
        self.dropout = nn.Dropout(settings.dropout)
        self.hidden = nn.Linear(width, 2 * width)
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, image: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits (B, C).

        Args:
            image: Tokens of places (B, P, V).
            words: Tokens of words (B, T, W).
            mask: Bool (B, T), true where a word stands; at least one of each question.
        """
        image, words = _normalised(image), self.words(_normalised(words))
        weights = self.attention(image, words, mask)
        for glimpse in range(len(self.glimpse)):
            places = functional.relu(self.image_value[glimpse](image))
            named = functional.relu(self.word_value[glimpse](words))
            product = (weights[:, glimpse] @ places * named).sum(dim=1)
            words = words + self.joint[glimpse](self.dropout(product))[:, None]
        share = mask / mask.sum(dim=1, keepdim=True)
        mean = (share[:, None].to(words) @ words)[:, 0]
        logits: torch.Tensor = self.classifier(self.dropout(functional.relu(self.hidden(mean))))
        return logits

    def attention(self, image: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Weights (B, G, T, P) of projected words and places: their sum over both is 1, and 0 where no word stands."""
        keys = functional.relu(self.word_key(words))[:, None] * self.glimpse[:, None]
        scores = keys @ functional.relu(self.image_key(image))[:, None].transpose(-1, -2)
        scores = scores.masked_fill(~mask[:, None, :, None], -torch.inf)
        return scores.flatten(2).softmax(dim=-1).view_as(scores)


def _normalised(tokens: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(tokens.float(), tokens.shape[-1:])


class OwnFusion(nn.Module):
    """PMC-CLIP's fusion module with a classifier on its first output, that of [CLS].

    Args:
        fusion: `vlmed.models.pmc_clip.Fusion`, trained in place.
        width: W, of text tokens and image embeddings.
        classes: C.
    """

    def __init__(self, fusion: Any, width: int, classes: int) -> None:
        super().__init__()
        self.fusion = fusion
        self.classifier = nn.Linear(width, classes)

    def forward(self, image: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Logits (B, C) from image embeddings (B, 1, W) and text tokens (B, T, W), padded as in pretraining."""
        logits: torch.Tensor = self.classifier(self.fusion(words, image[:, 0])[:, 0])
        return logits
