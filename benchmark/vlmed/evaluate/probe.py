"""Linear probe: multinomial logistic regression on frozen features, its penalty chosen on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from vlmed.errors import InputError
from vlmed.evaluate.threads import one_thread
from vlmed.evaluate.zero_shot import softmax

_ITERATIONS = 1000
# Of the scaled parameters: half its square, summed, is about what the objective still lacks.
_GRADIENT = 1e-6
# Less curvature than this would let one step throw a parameter out of range.
_FLAT = 1e-9
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
    with one_thread() if features.size < _SMALL else nullcontext():
        path = _Path.of(torch.from_numpy((features - mean) / scale), torch.from_numpy(targets), classes)
        fits = []
        for penalty in sorted(penalties, reverse=True):
            weights, bias = path.fit(penalty)
            probe = Probe(mean, scale, weights, bias, penalty, 0.0)
            fits.append(replace(probe, val_loss=_log_loss(probe.probabilities(val[0]), val[1])))
    return min(fits, key=lambda fit: fit.val_loss)


@dataclass
class _Path:
    """Fits from strong to weak penalties, each from where the one before ended.

    In the basis of the inputs' principal axes the objective's curvature along axis k and class c is about
    mean of p_c (1 - p_c) x variance_k + penalty, p being the current probabilities. Scaling by its square root gives
    L-BFGS a problem as round as a quadratic with the same curvature, which takes it a tenth of the steps.

    Attributes:
        inputs: (N, D) float64, standardised, in the basis of `axes`.
        axes: (D, D), orthonormal columns.
        variances: (D,) of the inputs along them.
        parameters: (D + 1, C), weights in that basis and the bias; where the last fit ended.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    axes: torch.Tensor
    variances: torch.Tensor
    parameters: torch.Tensor

    @staticmethod
    def of(inputs: torch.Tensor, targets: torch.Tensor, classes: int) -> _Path:
        variances, axes = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
        start = torch.zeros(inputs.shape[1] + 1, classes, dtype=torch.float64)
        return _Path(inputs @ axes, targets, axes, variances.clamp(min=0), start)

    def fit(self, penalty: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (D, C) of the standardised inputs and bias (C,)."""
        unit = self._unit(penalty)
        free = (self.parameters / unit).requires_grad_()
        optimiser = torch.optim.LBFGS(
            [free],
            max_iter=_ITERATIONS,
            tolerance_grad=_GRADIENT,
            tolerance_change=0,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            loss = self._objective(free * unit, penalty)
            torch.autograd.backward(loss)
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        self.parameters = (free * unit).detach()
        return (self.axes @ self.parameters[:-1]).numpy(), self.parameters[-1].numpy()

    def _objective(self, parameters: torch.Tensor, penalty: float) -> torch.Tensor:
        logits = torch.addmm(parameters[-1], self.inputs, parameters[:-1])
        loss = torch.nn.functional.cross_entropy(logits, self.targets)
        return loss + penalty / 2 * parameters[:-1].square().sum()

    def _unit(self, penalty: float) -> torch.Tensor:
        """(D + 1, C): one over the square root of the curvature, by which the parameters are scaled."""
        logits = torch.addmm(self.parameters[-1], self.inputs, self.parameters[:-1])
        probabilities = logits.softmax(dim=1)
        spread = (probabilities * (1 - probabilities)).mean(dim=0)
        curvature = torch.cat([self.variances[:, None] * spread + penalty, spread[None]])
        return curvature.clamp(min=_FLAT).rsqrt()


def _log_loss(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    true = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())
