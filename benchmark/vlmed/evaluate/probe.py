"""Linear probe: multinomial logistic regression on frozen features, its penalty chosen on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vlmed.errors import InputError
from vlmed.evaluate.threads import one_thread
from vlmed.evaluate.zero_shot import softmax

_ITERATIONS = 1000
_GRADIENT = 1e-7
# Features with fewer numbers than this are fitted on one thread.
_SMALL = 2_000_000


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
    """Fit every penalty of the grid, from strong to weak, and keep the one with the least validation loss.

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
    inputs = torch.from_numpy((features - mean) / scale)
    parameters = torch.zeros(inputs.shape[1] + 1, classes, dtype=torch.float64)
    fits = []
    for penalty in sorted(penalties, reverse=True):
        with one_thread() if inputs.numel() < _SMALL else nullcontext():
            parameters = _minimise(inputs, torch.from_numpy(targets), penalty, parameters)
        weights, bias = parameters[:-1].numpy(), parameters[-1].numpy()
        probe = Probe(mean, scale, weights, bias, penalty, 0.0)
        fits.append(Probe(mean, scale, weights, bias, penalty, _log_loss(probe.probabilities(val[0]), val[1])))
    return min(fits, key=lambda fit: fit.val_loss)


def _minimise(inputs: torch.Tensor, targets: torch.Tensor, penalty: float, start: torch.Tensor) -> torch.Tensor:
    parameters = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [parameters],
        max_iter=_ITERATIONS,
        tolerance_grad=_GRADIENT,
        tolerance_change=0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logits = torch.addmm(parameters[-1], inputs, parameters[:-1])
        loss = torch.nn.functional.cross_entropy(logits, targets) + penalty / 2 * parameters[:-1].square().sum()
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return parameters.detach()


def _log_loss(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    true = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())
