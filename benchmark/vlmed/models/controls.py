"""Models that cannot know, or that know everything: what any real model must be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlmed.errors import InputError
from vlmed.models.protocols import Asked, Control
from vlmed.models.question_form import QuestionForms

_DIMENSION = 64
_GREY = (128, 128, 128)


def mid_grey(image: Image.Image) -> Image.Image:
    """A constant mid-grey RGB image as large as `image`."""
    return Image.new("RGB", image.size, _GREY)


@dataclass(frozen=True)
class Majority:
    """Probability 1 for the most frequent class in training, the lowest one in a tie."""

    def probabilities(
        self, train_targets: np.ndarray, test_targets: np.ndarray, n_classes: int, seed: int
    ) -> np.ndarray:
        """See `Control.probabilities`; the seed changes nothing."""
        del seed
        _check_targets(train_targets, n_classes, "training")
        if not len(train_targets):
            raise InputError("the majority control needs training targets", expected="at least one", got="none")
        winner = np.bincount(train_targets, minlength=n_classes).argmax()
        return np.tile(np.eye(n_classes)[winner], (len(test_targets), 1))

    def answers(self, train: Sequence[Asked], test: Sequence[Asked], seed: int) -> list[str]:
        """The most frequent training answer to questions of the same form; the seed changes nothing."""
        del seed
        forms = QuestionForms.learnt(train)
        return [forms.answer(asked) for asked in test]

    def vectors(self, captions: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Everything looks alike; ties count against it."""
        del seed
        same = np.ones((len(captions), 1))
        return same, same


@dataclass(frozen=True)
class Random:
    """Uniform draws, one row per sample, divided by their sum."""

    def probabilities(
        self, train_targets: np.ndarray, test_targets: np.ndarray, n_classes: int, seed: int
    ) -> np.ndarray:
        """See `Control.probabilities`; the same seed gives the same bytes."""
        del train_targets
        # Drawing from (0, 1] keeps every row's sum above zero.
        draws = 1.0 - np.random.Generator(np.random.PCG64(seed)).random((len(test_targets), n_classes))
        return np.asarray(draws / draws.sum(axis=1, keepdims=True))

    def answers(self, train: Sequence[Asked], test: Sequence[Asked], seed: int) -> list[str]:
        """A candidate, or where there are none any training answer; all equally likely."""
        known = sorted({asked.target for asked in train})
        if not known:
            raise InputError("the random control needs training answers", expected="at least one", got="none")
        draw = np.random.Generator(np.random.PCG64(seed))
        return [str(draw.choice(asked.candidates or known)) for asked in test]

    def vectors(self, captions: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Independent normal draws."""
        draw = np.random.Generator(np.random.PCG64(seed))
        images, texts = draw.standard_normal((2, len(captions), _DIMENSION))
        return images, texts


@dataclass(frozen=True)
class Oracle:
    """Probability 1 for the true class: every metric must reach its best value."""

    def probabilities(
        self, train_targets: np.ndarray, test_targets: np.ndarray, n_classes: int, seed: int
    ) -> np.ndarray:
        """See `Control.probabilities`; training targets and seed change nothing."""
        del train_targets, seed
        _check_targets(test_targets, n_classes, "test")
        return np.asarray(np.eye(n_classes)[test_targets])

    def answers(self, train: Sequence[Asked], test: Sequence[Asked], seed: int) -> list[str]:
        """The targets."""
        del train, seed
        return [asked.target for asked in test]

    def vectors(self, captions: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """One vector per distinct caption, given to the caption and to its images."""
        draw = np.random.Generator(np.random.PCG64(seed))
        distinct, places = np.unique(np.asarray(captions), return_inverse=True)
        same = draw.standard_normal((len(distinct), _DIMENSION))[places]
        return same, same


CONTROL_CLASSES: dict[str, type[Control]] = {"majority": Majority, "oracle": Oracle, "random": Random}


def _check_targets(targets: np.ndarray, n_classes: int, which: str) -> None:
    outside = np.flatnonzero((targets < 0) | (targets >= n_classes))
    if outside.size:
        row = int(outside[0])
        raise InputError(
            f"a {which} target is no class index",
            path=f"row {row}",
            expected=f"0 to {n_classes - 1}",
            got=str(targets[row]),
        )
