"""The two classifiers on top of an image encoder: the classes' prompts, or a linear layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from vlmed.errors import UsageError
from vlmed.models.protocols import DualEncoder, ImageEncoder
from vlmed.tuning.anatomy import Parameters, shares_text
from vlmed.tuning.recipe import Recipe

Prompts = Mapping[str, Sequence[str]]


class Part(Protocol):
    """What a recipe puts on an encoder."""

    def parameters(self) -> Parameters:
        """What trains in the part itself, by name."""
        ...


class Head(Part, Protocol):
    """A classifier whose logits are a function of features (B, D) and one vector per class (C, D)."""

    def vectors(self) -> torch.Tensor:
        """The classes' vectors (C, D), with a graph where they train."""
        ...

    def logits(self, features: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Features (B, D), not normalised -> logits (B, C), in the features' precision."""
        ...


def similarity(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Cosines (B, N) of image embeddings (B, K * D) and texts (N, D); of an image's K vectors the most similar counts.

    K is 1 for all but BLIP-2, whose loss and retrieval take the largest of K (Li et al. 2023, section 3.1).
    """
    several = images.reshape(len(images), images.shape[1] // texts.shape[1], texts.shape[1])
    return (functional.normalize(several, dim=-1) @ functional.normalize(texts, dim=-1).T).amax(dim=1)


class PromptHead:
    """Logits are cosine similarities to the classes' prompts times the model's own scale, as in zero-shot.

    A class is the mean of its normalised prompt embeddings, normalised again (Radford et al. 2021, section 3.1.4). The
    scale stays as published, also where the text tower trains: it is no part of either tower.

    Args:
        trained: Whether training moves the prompts' embeddings, so that they have to be made anew in every step.
    """

    def __init__(self, encoder: DualEncoder, prompts: Prompts, trained: bool) -> None:
        self._encoder = encoder
        self._texts = [text for class_prompts in prompts.values() for text in class_prompts]
        self._owners = [number for number, texts in enumerate(prompts.values()) for _ in texts]
        self._classes = len(prompts)
        self._trained = trained
        with torch.no_grad():
            self._frozen = self._embed()

    def vectors(self) -> torch.Tensor:
        """See `Head.vectors`."""
        return self._embed() if self._trained else self._frozen

    def _embed(self) -> torch.Tensor:
        embedded = functional.normalize(self._encoder.encode_texts(self._texts).float(), dim=-1)
        # The mean and the sum have one direction.
        sums = embedded.new_zeros(self._classes, embedded.shape[1])
        owners = torch.tensor(self._owners, device=embedded.device)
        return functional.normalize(sums.index_add(0, owners, embedded), dim=-1)

    def logits(self, features: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """See `Head.logits`."""
        return self._encoder.logit_scale * similarity(features, vectors.to(features))

    def parameters(self) -> Parameters:
        """See `Part.parameters`."""
        return {}


class LinearHead:
    """A linear layer on the projected features as they are, not normalised."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    @classmethod
    def new(cls, dim: int, classes: int, init: str, device: torch.device) -> LinearHead:
        """A fresh one; `uniform` draws weights within 1 / sqrt(D) from torch's generator, the bias is zero."""
        weight = torch.zeros(classes, dim)
        if init == "uniform":
            weight.uniform_(-1 / math.sqrt(dim), 1 / math.sqrt(dim))
        return cls(weight.to(device), torch.zeros(classes, device=device))

    def vectors(self) -> torch.Tensor:
        """See `Head.vectors`."""
        return self.weight

    def logits(self, features: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """See `Head.logits`."""
        return features @ vectors.to(features).T + self.bias.to(features)

    def parameters(self) -> Parameters:
        """See `Part.parameters`."""
        return {"vlmed_head.weight": self.weight, "vlmed_head.bias": self.bias}


def make_head(encoder: ImageEncoder, recipe: Recipe, prompts: Prompts, device: torch.device) -> PromptHead | LinearHead:
    """The recipe's head for classes in the order of `prompts`.

    Raises:
        UsageError: The prompts are the classifier, and the model has no text encoder or a class has no prompts.
    """
    if recipe.head == "linear":
        return LinearHead.new(encoder.dim, len(prompts), recipe.head_init, device)
    if not isinstance(encoder, DualEncoder):
        hint = "choose a track with a linear head"
        raise UsageError("the model has no text encoder, so prompts can't be its classifier", hint=hint)
    empty = [name for name, texts in prompts.items() if not texts]
    if empty:
        raise UsageError("a class has no prompts", got=", ".join(map(repr, empty)))
    return PromptHead(encoder, prompts, recipe.text == "trained" or shares_text(encoder))
