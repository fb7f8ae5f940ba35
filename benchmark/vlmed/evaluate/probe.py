"""Linear probe: multinomial logistic regression on frozen features, its penalty chosen on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vlmed.errors import InputError
from vlmed.evaluate.logistic import FINAL_GAP, LogisticRegression, cross_entropy
from vlmed.evaluate.zero_shot import softmax


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier on standardised features.

    Attributes:
        mean, scale: (D,) float64, by which features are standardised, from the training set.
        weights: (D, C) float64.
        bias: (C,) float64.
        penalty: The chosen L2 penalty.
        val_loss: Its mean cross-entropy on the validation set, in nats.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    penalty: float
    val_loss: float

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities (N, C) of features (N, D)."""
        return softmax(((features - self.mean) / self.scale) @ self.weights + self.bias)


def fit_probe(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    val: tuple[NDArray[np.float32], NDArray[np.int64]],
    classes: int,
    penalties: Sequence[float],
) -> Probe:
    """Fit every penalty of the grid in float32, keep the one with the least validation loss, and fit that in float64.

    The objective is mean cross-entropy + penalty / 2 x squared norm of the weights; the bias is free. It is convex,
    so its minimum does not depend on a seed. With n samples, scikit-learn's C is 1 / (penalty x n).

    Args:
        train, val: Features (N, D) and class indices (N,).

    Raises:
        InputError: The training set has one class only.
    """
    features, targets = train
    if len(np.unique(targets)) < 2:
        raise InputError("the training set has one class only, so there is nothing to learn", expected="two or more")
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = features.std(axis=0, dtype=np.float64)
    scale = np.where(deviation == 0, 1.0, deviation)
    inputs = (features - mean) / scale
    regression = LogisticRegression.of(inputs.astype(np.float32), targets, classes)

    def probe(penalty: float, parameters: NDArray[np.float64]) -> Probe:
        fit = Probe(mean, scale, parameters[:-1], parameters[-1], penalty, 0.0)
        return replace(fit, val_loss=_log_loss(fit.probabilities(val[0]), val[1]))

    path = list(regression.path(penalties))
    chosen, parameters = min(path, key=lambda fit: probe(*fit).val_loss)
    return probe(chosen, replace(regression, inputs=inputs).fit(chosen, parameters, FINAL_GAP))


def _log_loss(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    return cross_entropy(probabilities[np.arange(len(targets)), targets])
