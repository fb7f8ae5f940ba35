"""Linear probe: multinomial logistic regression on frozen features, its penalty chosen on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from vlmed.errors import InputError
from vlmed.evaluate.zero_shot import softmax

_ITERATIONS = 1000
# Of the scaled parameters: half its square, summed, is about what the objective still lacks.
_GRADIENT = 1e-6
# Less curvature than this would let one step throw a parameter out of range.
_FLAT = 1e-9


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
    path = _Path.of((features - mean) / scale, targets, classes)
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

    inputs: NDArray[np.float64]
    targets: NDArray[np.int64]
    axes: NDArray[np.float64]
    variances: NDArray[np.float64]
    parameters: NDArray[np.float64]

    @staticmethod
    def of(inputs: NDArray[np.float64], targets: NDArray[np.int64], classes: int) -> _Path:
        variances, axes = np.linalg.eigh(inputs.T @ inputs / len(inputs))
        start = np.zeros((inputs.shape[1] + 1, classes))
        return _Path(inputs @ axes, targets, axes, variances.clip(min=0), start)

    def fit(self, penalty: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (D, C) of the standardised inputs and bias (C,)."""
        unit = self._unit(penalty)
        free = torch.from_numpy(self.parameters / unit).requires_grad_()
        optimiser = torch.optim.LBFGS(
            [free],
            max_iter=_ITERATIONS,
            tolerance_grad=_GRADIENT,
            tolerance_change=0,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        def closure() -> torch.Tensor:
            loss, gradient = self._objective(free.detach().numpy() * unit, penalty)
            free.grad = torch.from_numpy(gradient * unit)
            return torch.tensor(loss, dtype=torch.float64)

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        self.parameters = free.detach().numpy() * unit
        return self.axes @ self.parameters[:-1], self.parameters[-1]

    def _objective(self, parameters: NDArray[np.float64], penalty: float) -> tuple[float, NDArray[np.float64]]:
        """Loss and gradient (D + 1, C). By hand: numpy multiplies such narrow matrices four times as fast as torch."""
        weights = parameters[:-1]
        errors = self._probabilities(parameters)
        rows = np.arange(len(self.targets))
        loss = _cross_entropy(errors[rows, self.targets]) + penalty / 2 * float(np.square(weights).sum())
        errors[rows, self.targets] -= 1
        errors /= len(rows)
        return loss, np.vstack([self.inputs.T @ errors + penalty * weights, errors.sum(axis=0)])

    def _probabilities(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        return softmax(self.inputs @ parameters[:-1] + parameters[-1])

    def _unit(self, penalty: float) -> NDArray[np.float64]:
        """(D + 1, C): one over the square root of the curvature, by which the parameters are scaled."""
        probabilities = self._probabilities(self.parameters)
        spread = (probabilities * (1 - probabilities)).mean(axis=0)
        curvature = np.vstack([self.variances[:, None] * spread + penalty, spread])
        scale: NDArray[np.float64] = 1 / np.sqrt(curvature.clip(min=_FLAT))
        return scale


def _log_loss(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    return _cross_entropy(probabilities[np.arange(len(targets)), targets])


def _cross_entropy(true: NDArray[np.float64]) -> float:
    """Mean of minus the logarithm of the true classes' probabilities (N,)."""
    return float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())
