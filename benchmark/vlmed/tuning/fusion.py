"""Tune a network that answers questions on top of a dual encoder: a classifier over the answers of the training set.

After Huang et al. 2026: closed and open questions alike choose among all training answers. The encoders stay frozen, or
train along by the recipe's scope.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from vlmed.errors import InputError, Problem
from vlmed.hashing import digest
from vlmed.models.protocols import TokenEncoder
from vlmed.progress import Progress, Silent
from vlmed.tuning.anatomy import Encode, Parameters, blank, shares_text
from vlmed.tuning.batches import Pixels, Rows, Stream, in_order, rgb
from vlmed.tuning.bilinear import BilinearAttention, OwnFusion
from vlmed.tuning.learner import Learner, device_of
from vlmed.tuning.recipe import FusionSettings, Recipe
from vlmed.tuning.tokens import Words, held_images, held_words
from vlmed.tuning.tune import Place, Tuned, fit

UNKNOWN = -1


@dataclass(frozen=True)
class QuestionSet:
    """Questions about images.

    Attributes:
        pixels: Positions (B,) in [0, N) -> preprocessed images, as in `vlmed.tuning.batches.Labelled`.
        images: N names of images; equal names show one image.
        questions: N texts.
        labels: Indices (N,) of the answers, `UNKNOWN` where the answer is none of them.
    """

    pixels: Pixels
    images: Sequence[str]
    questions: Sequence[str]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class FusionHead:
    """A network on the tokens of an encoder.

    Attributes:
        module: Image tokens (B, P, V), words (B, T, W) and their mask (B, T) -> logits (B, C).
        encode: Preprocessed pixels -> what the module reads of images.
        borrowed: What of the encoder's own network stands in the module, by its name in both.
    """

    module: nn.Module
    encode: Encode
    borrowed: Parameters

    def parameters(self) -> Parameters:
        """See `vlmed.tuning.head.Part.parameters`."""
        named = dict(self.module.named_parameters())
        return {f"vlmed_head.{name}": each for name, each in named.items() if name not in self.borrowed}


def make_fusion(encoder: TokenEncoder, settings: FusionSettings, answers: int) -> FusionHead:
    """The recipe's module for a number of answers, drawn from torch's generator; `own` is `encoder.model.fusion`."""
    with torch.no_grad():
        words = encoder.encode_text_tokens(["an image"])[0].shape[-1]
        places = encoder.encode_image_tokens(blank(encoder)).shape[-1]
    if settings.module == "bilinear":
        network = BilinearAttention(places, words, answers, settings).to(device_of(encoder))
        return FusionHead(network, encoder.encode_image_tokens, {})
    fusion = cast(nn.Module, encoder.model.fusion)
    borrowed = {f"fusion.{name}": each for name, each in fusion.named_parameters()}
    own = OwnFusion(fusion, words, answers).to(device_of(encoder))
    return FusionHead(own, lambda pixels: encoder.encode_images(pixels)[:, None], borrowed)


@dataclass(frozen=True)
class _Ready:
    """A question set as the network reads it: `load` gives image tokens where they are held, else pixels."""

    load: Pixels
    words: Words


@dataclass
class FusionObjective:
    """Cross-entropy over the training answers; validation samples with other answers have none and don't count.

    Attributes:
        answers: Their texts in order.
        folder: Where image tokens of a frozen encoder are kept; in memory without one.
    """

    learner: Learner
    encoder: TokenEncoder
    head: FusionHead
    train: QuestionSet
    val: QuestionSet
    answers: tuple[str, ...]
    folder: Path | None
    progress: Progress
    _words_stay: bool = field(init=False)

    def __post_init__(self) -> None:
        recipe = self.learner.recipe
        texts = functools.partial(_tokens_alone, self.encoder)
        self._words_stay = recipe.scope == "frozen" or (
            recipe.text == "frozen" and not shares_text(self.encoder, self.head.encode, texts)
        )

    def __len__(self) -> int:
        return len(self.train)

    def stream(self, batches: Sequence[Rows]) -> Stream:
        """See `Objective.stream`."""
        return Stream(self._train.load, batches, self.learner.device)

    def mass(self, rows: Rows) -> float:
        """See `Objective.mass`."""
        return float(len(rows))

    def backward(self, rows: Rows, inputs: torch.Tensor) -> torch.Tensor:
        """See `Objective.backward`."""
        self.head.module.train()
        return self.learner.fitting(lambda: self._backward(rows, inputs))

    def _backward(self, rows: Rows, inputs: torch.Tensor) -> torch.Tensor:
        self.learner.start_step()
        total = torch.zeros((), device=inputs.device)
        for start in range(0, len(rows), self.learner.at_once):
            part = slice(start, start + self.learner.at_once)
            with self.learner.autocast():
                logits = self._forward(self._train, rows[part], inputs[part])
            truth = torch.from_numpy(self.train.labels[rows[part]]).to(inputs.device)
            loss = functional.cross_entropy(logits.float(), truth, reduction="sum") / len(rows)
            torch.autograd.backward(loss)
            total += loss.detach()
        return total

    def _forward(self, ready: _Ready, rows: Rows, inputs: torch.Tensor) -> torch.Tensor:
        held = self.learner.recipe.scope == "frozen"
        image = inputs if held else self.head.encode(inputs)
        words, mask = ready.words(rows)
        logits: torch.Tensor = self.head.module(image, words.to(inputs.device), mask.to(inputs.device))
        return logits

    def val_loss(self) -> float:
        """See `Objective.val_loss`."""
        logits, labels = self._logits(self._val, len(self.val)), torch.from_numpy(self.val.labels)
        return float(functional.cross_entropy(logits, labels, ignore_index=UNKNOWN))

    def logits(self, data: QuestionSet) -> torch.Tensor:
        """Logits float64 (N, C) on the CPU, in eval mode and float32; the labels change nothing.

        Raises:
            InputError: The pixels are no RGB images.
            VlmedError: Not even one image fits into memory, or the disk is full.
        """
        return self._logits(self._ready(data), len(data))

    @torch.no_grad()
    def _logits(self, ready: _Ready, count: int) -> torch.Tensor:
        self.learner.set_training(False)
        self.head.module.eval()
        stream = Stream(ready.load, in_order(count, self.learner.recipe.batch_size), self.learner.device)
        parts = [
            self.learner.fitting(lambda rows=rows, inputs=inputs: self._in_parts(ready, rows, inputs))  # type: ignore[misc]
            for rows, inputs in stream
        ]
        return torch.cat(parts) if parts else torch.empty(0, len(self.answers), dtype=torch.float64)

    def _in_parts(self, ready: _Ready, rows: Rows, inputs: torch.Tensor) -> torch.Tensor:
        size = self.learner.at_once
        starts = range(0, len(rows), size)
        parts = [self._forward(ready, rows[at : at + size], inputs[at : at + size]).cpu().double() for at in starts]
        return torch.cat(parts)

    @functools.cached_property
    def _train(self) -> _Ready:
        return self._ready(self.train)

    @functools.cached_property
    def _val(self) -> _Ready:
        return self._ready(self.val)

    def _ready(self, data: QuestionSet) -> _Ready:
        recipe = self.learner.recipe
        if self._words_stay:
            words = held_words(self.encoder.encode_text_tokens, data.questions, recipe.batch_size)
        else:
            words = functools.partial(_words_anew, self.encoder, data.questions)
        if recipe.scope != "frozen":
            return _Ready(rgb(data.pixels), words)
        with self.progress.task("encoding", len(set(data.images)), "images") as advance:
            load = held_images(self.learner, self.head.encode, data.pixels, data.images, self.folder, advance)
        return _Ready(load, words)


def _words_anew(encoder: TokenEncoder, questions: Sequence[str], rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    return encoder.encode_text_tokens([questions[row] for row in rows])


class TunedFusion(Tuned[FusionObjective]):
    """An encoder with a fusion that answers questions."""

    def predict(self, data: QuestionSet) -> list[str]:
        """The likeliest training answer to each question; the labels change nothing.

        Raises:
            UsageError: The encoder has its old weights again.
            InputError, VlmedError: As `FusionObjective.logits`.
        """
        self.check()
        return [self.objective.answers[place] for place in self.objective.logits(data).argmax(dim=1).tolist()]


def tune_fusion(
    encoder: TokenEncoder,
    recipe: Recipe,
    train: QuestionSet,
    val: QuestionSet,
    answers: Sequence[str],
    *,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> TunedFusion:
    """Train a fusion, and by the recipe's scope the encoder in place, as `vlmed.tuning.tune.tune` does.

    Args:
        recipe: With the head `fusion`.
        train, val: Questions to learn from, and to stop and choose by.
        answers: The training answers, in the order that labels mean.
        seed, folder, progress: As in `tune`.

    Raises:
        InputError: Fewer than two training answers, a training label that is none, or no val answer among them.
        UsageError, CheckError, VlmedError: As `tune` and `held_images`.
    """
    notes = _check(train, val, len(answers))

    def objective() -> FusionObjective:
        head = make_fusion(encoder, recipe.fusion, len(answers))
        texts = functools.partial(_tokens_alone, encoder)
        # A head for masked words takes no part.
        borrowed = {name: each for name, each in head.borrowed.items() if "mlm_projection" not in name}
        learner = Learner.of(encoder, recipe, head, head.encode, texts, borrowed)
        return FusionObjective(learner, encoder, head, train, val, tuple(answers), folder, progress or Silent())

    data = [list(answers), *map(_identity, (train, val))]
    return fit(TunedFusion, encoder, recipe, objective, data, notes, Place(seed, folder, progress or Silent()))


def _tokens_alone(encoder: TokenEncoder, texts: list[str]) -> torch.Tensor:
    return encoder.encode_text_tokens(texts)[0]


def _identity(data: QuestionSet) -> list[str]:
    labels = hashlib.sha256(data.labels.tobytes()).hexdigest()
    return [digest(list(data.images)), digest(list(data.questions)), labels]


def _check(train: QuestionSet, val: QuestionSet, answers: int) -> list[str]:
    problems = [
        Problem("the training answer is none of the answers", path=f"train sample {row}", got=str(train.labels[row]))
        for row in np.flatnonzero((train.labels < 0) | (train.labels >= answers))
    ]
    if len(np.unique(train.labels)) < 2:
        problems.append(Problem("the training set has fewer than two answers, so there is nothing to learn"))
    unseen = int((val.labels == UNKNOWN).sum())
    if unseen == len(val):
        hint = "train on a larger share of the training set"
        problems.append(Problem("no val answer is a training answer, so nothing tells when to stop", hint=hint))
    if problems:
        raise InputError(problems)
    return [f"{unseen} of {len(val)} val answers are no training answers and don't count there"] if unseen else []
