"""Models that cannot know, or that know everything: what any real model must be compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlmed.errors import InputError
from vlmed.models.protocols import Control

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
