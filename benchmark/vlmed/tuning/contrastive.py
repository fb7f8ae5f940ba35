"""Tune a dual encoder on images with captions: in a batch, images shall find their captions and captions their images.

The loss is the symmetric cross-entropy of Radford et al. 2021 (CLIP, figure 3), at the model's published logit scale,
which stays as it is, as in classification by prompts. A batch may hold a caption twice. Another pair with the same
caption is then left out of a pair's rivals, in both directions: it is no mistake, and as a second positive it would put
a floor under the loss, since two equal captions share their probability. Rivals come from one batch, so losses of other
batch sizes do not compare.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vlmed.errors import InputError, Problem
from vlmed.hashing import digest
from vlmed.models.protocols import DualEncoder
from vlmed.progress import Progress, Silent
from vlmed.tuning.anatomy import Parameters, shares_text
from vlmed.tuning.batches import Pixels, Rows, Stream, rgb, shuffled
from vlmed.tuning.head import similarity
from vlmed.tuning.learner import Learner
from vlmed.tuning.recipe import Recipe
from vlmed.tuning.tune import Place, Tuned, fit


@dataclass(frozen=True)
class Captioned:
    """Images with their captions.

    Attributes:
        pixels: As in `vlmed.tuning.batches.Labelled`.
        captions: N texts.
    """

    pixels: Pixels
    captions: Sequence[str]

    def __len__(self) -> int:
        return len(self.captions)


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, captions: torch.Tensor, logit_scale: float
) -> torch.Tensor:
    """Mean of both directions' cross-entropy over B pairs, in the embeddings' precision.

    Args:
        images, texts: Embeddings (B, K * D) and (B, D) of pairs, not normalised; K as in `similarity`.
        captions: (B,) integers, equal where captions are; such pairs are no rivals of each other.
        logit_scale: What cosine similarities are multiplied with.
    """
    logits = logit_scale * similarity(images, texts)
    twins = (captions[:, None] == captions).fill_diagonal_(False)
    logits = logits.masked_fill(twins, -torch.inf)
    own = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


class NoHead:
    """Nothing stands on the encoder: its embeddings themselves are compared."""

    def parameters(self) -> Parameters:
        """See `vlmed.tuning.head.Part.parameters`."""
        return {}


@dataclass
class CaptionObjective:
    """`contrastive_loss` within batches; validation has fixed ones, the same for every seed and model."""

    learner: Learner
    encoder: DualEncoder
    train: Captioned
    val: Captioned
    _texts_move: bool = field(init=False)

    def __post_init__(self) -> None:
        self._texts_move = self.learner.recipe.text == "trained" or shares_text(self.encoder)

    def __len__(self) -> int:
        return len(self.train)

    def stream(self, batches: Sequence[Rows]) -> Stream:
        """See `Objective.stream`."""
        return Stream(rgb(self.train.pixels), batches, self.learner.device)

    def mass(self, rows: Rows) -> float:
        """See `Objective.mass`."""
        return float(len(rows))

    def backward(self, rows: Rows, inputs: torch.Tensor) -> torch.Tensor:
        """See `Objective.backward`.

        Every pair is a rival of every other, so parts of a batch can't be trained one by one. Where a batch doesn't fit
        into memory, its parts are embedded without keeping what lies between, and once more for the gradients (Gao et
        al. 2021, gradient cache): rivals and effective batch stay the recipe's.
        """
        return self.learner.fitting(lambda: self._backward(rows, inputs))

    def _backward(self, rows: Rows, inputs: torch.Tensor) -> torch.Tensor:
        self.learner.start_step()
        size = self.learner.at_once
        parts = [(inputs[start : start + size], rows[start : start + size]) for start in range(0, len(rows), size)]
        whole = len(parts) == 1
        embed = self._embed if whole else functools.partial(checkpoint, self._embed, use_reentrant=False)
        with self.learner.autocast():
            images, texts = zip(*(embed(*part) for part in parts), strict=True)
        captions = self._numbers[rows].to(inputs.device)
        loss = contrastive_loss(torch.cat(images), torch.cat(texts), captions, self.encoder.logit_scale)
        torch.autograd.backward(loss)
        return loss.detach()

    def _embed(self, pixels: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        if self._texts_move:
            texts = self.encoder.encode_texts([self.train.captions[row] for row in rows])
        else:
            texts = self._frozen_texts[self._numbers[rows]].to(pixels.device)
        return self.encoder.encode_images(pixels), texts

    def val_loss(self) -> float:
        """See `Objective.val_loss`."""
        images = self.learner.features(self.val.pixels, len(self.val))
        captions, numbers = _numbered(self.val.captions)
        texts = self._texts(captions).double()[numbers]
        # Neighbours by id may be of one patient, so the order is drawn once for all.
        batches = shuffled(len(self.val), self.learner.recipe.batch_size, 0, 0)
        scale = self.encoder.logit_scale
        losses = [contrastive_loss(images[rows], texts[rows], numbers[rows], scale) * len(rows) for rows in batches]
        return float(torch.stack(losses).sum() / len(self.val))

    @functools.cached_property
    def _numbers(self) -> torch.Tensor:
        return _numbered(self.train.captions)[1]

    @functools.cached_property
    def _frozen_texts(self) -> torch.Tensor:
        return self._texts(_numbered(self.train.captions)[0])

    @torch.no_grad()
    def _texts(self, captions: Sequence[str]) -> torch.Tensor:
        """Embeddings float32 (N, D) on the CPU; the text tower has to be in eval mode."""
        return self.encoder.encode_texts(captions).cpu()


def _numbered(captions: Sequence[str]) -> tuple[list[str], torch.Tensor]:
    """The distinct captions, sorted, and for each of the given ones its place among them (N,)."""
    distinct = sorted(set(captions))
    place = {caption: number for number, caption in enumerate(distinct)}
    return distinct, torch.tensor([place[caption] for caption in captions])


def tune_on_captions(
    encoder: DualEncoder,
    recipe: Recipe,
    train: Captioned,
    val: Captioned,
    *,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Tuned[CaptionObjective]:
    """Train the encoder in place, as `vlmed.tuning.tune.tune` does: with scope `full` both towers, else the image's.

    Args:
        recipe: With the head `captions`.
        train, val: Pairs to learn from, and to stop and choose by.
        seed, folder, progress: As in `tune`.

    Raises:
        InputError: A set has fewer than two distinct captions.
        UsageError, CheckError, VlmedError: As `tune`.
    """
    notes = _check(train, val)

    def objective() -> CaptionObjective:
        return CaptionObjective(Learner.of(encoder, recipe, NoHead()), encoder, train, val)

    data = [digest(list(each.captions)) for each in (train, val)]
    return fit(
        Tuned[CaptionObjective], encoder, recipe, objective, data, notes, Place(seed, folder, progress or Silent())
    )


def _check(train: Captioned, val: Captioned) -> list[str]:
    problems = [
        Problem(f"the {name} set has fewer than two distinct captions, so there is nothing to tell apart")
        for name, data in (("train", train), ("val", val))
        if len(set(data.captions)) < 2
    ]
    if problems:
        raise InputError(problems)
    shared = len(train) - len(set(train.captions))
    return [f"{shared} of {len(train)} train captions stand there before; twins are no rivals"] if shared else []


def embeddings(
    tuned: Tuned[CaptionObjective], pixels: Pixels, captions: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings float32 (N, K * D) of images and (N, D) of their captions, not normalised.

    Raises:
        UsageError: The encoder has its old weights again.
    """
    tuned.check()
    images = tuned.learner.features(pixels, len(captions)).float()
    distinct, numbers = _numbered(captions)
    with torch.no_grad():
        texts = tuned.objective.encoder.encode_texts(distinct).float().cpu()
    return images.numpy(), texts[numbers].numpy()
