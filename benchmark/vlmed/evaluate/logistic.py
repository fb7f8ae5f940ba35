"""Multinomial logistic regression over a path of L2 penalties, by L-BFGS."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vlmed.evaluate.zero_shot import softmax

Array: TypeAlias = NDArray[np.float64]

# Stop where the next step promises less. It underestimates what is lacking: measured up to 20 times, mostly 5.
PATH_GAP = 1e-8
FINAL_GAP = 1e-13
_ITERATIONS = 2000
_HISTORY = 10
_TRIALS = 30
# Sums over blocks of samples are float64. Smaller blocks stay in the processor's cache (a seventh less time), but make
# two threads of BLAS wait for each other so often that a busy machine takes many times as long.
_BLOCK = 16_384
# BLAS multiplies by a number of columns that is a multiple of its kernels' width up to 1.5 times as fast.
_WIDTH = 4
# So many samples estimate the curvature.
_SAMPLE = 4096
# Less of the mean variance than this may be chance of the sample, and as curvature would mislead the stopping rule.
_FLOOR = 0.01
# Less curvature than this would let one step throw a bias out of range.
_FLAT = 1e-6
# Relative error of the objective from float32 logits.
_NOISE = 1e-7


@dataclass(frozen=True)
class LogisticRegression:
    """Minimises mean cross-entropy + penalty / 2 x squared norm of the weights; the bias is free.

    Parameters are (D + 1, C), weights and bias, and float64, as are all sums over samples; logits and errors have the
    inputs' precision. float32 is twice as fast and errs in the objective by about 1e-8, float64 by 1e-15.

    Attributes:
        inputs: (N, D) float32 or float64.
        targets: (N,) class indices.
        classes: C.
        axes: (D, D), orthonormal columns: the principal axes of a sample of the inputs.
        variances: (D,) of the sample along them, at least a hundredth of their mean.
    """

    inputs: NDArray[np.floating]
    targets: NDArray[np.int64]
    classes: int
    axes: Array
    variances: Array

    @staticmethod
    def of(inputs: NDArray[np.floating], targets: NDArray[np.int64], classes: int) -> LogisticRegression:
        sample = _sample(inputs)
        variances, axes = np.linalg.eigh((sample.T @ sample / len(sample)).astype(np.float64))
        return LogisticRegression(inputs, targets, classes, axes, variances.clip(min=_FLOOR * variances.mean()))

    def path(self, penalties: Sequence[float]) -> Iterator[tuple[float, Array]]:
        """Penalties from strong to weak with their parameters (D + 1, C).

        Each fit starts where a parabola in log penalty through the last three puts it.
        """
        known: list[tuple[float, Array]] = []
        start = np.zeros((self.inputs.shape[1] + 1, self.classes))
        for penalty in sorted(set(penalties), reverse=True):
            if known:
                start = _extrapolate(known[-3:], penalty)
            known.append((penalty, self.fit(penalty, start)))
            yield known[-1]

    def fit(self, penalty: float, start: Array, gap: float = PATH_GAP) -> Array:
        """Parameters (D + 1, C) whose objective is within some 10 times `gap` nats of the minimum.

        The Hessian is a mean over samples of (diag(p) - p p^T) (x) x x^T, p being a sample's probabilities. The mean of
        the first factor (x) the mean of the second, + penalty, is near it and has known eigenvectors. Scaled by the
        square roots of its eigenvalues along them the problem is rounder, which takes L-BFGS a tenth of the steps.
        """
        spreads, mixes = np.linalg.eigh(self._spread(start))
        curvature = np.vstack([self.variances[:, None] * spreads + penalty, spreads])
        unit = 1 / np.sqrt(curvature.clip(min=_FLAT))

        def moved(point: Array) -> Array:
            along = point * unit
            return np.asarray(start + np.vstack([self.axes @ along[:-1], along[-1]]) @ mixes.T)

        def scaled(point: Array) -> tuple[float, Array]:
            loss, gradient = self.objective(moved(point), penalty)
            along = gradient @ mixes
            return loss, np.vstack([self.axes.T @ along[:-1], along[-1]]) * unit

        return moved(_minimise(scaled, np.zeros_like(start), gap))

    def objective(self, parameters: Array, penalty: float) -> tuple[float, Array]:
        """The objective in nats and its gradient (D + 1, C)."""
        weights = np.zeros((self.classes + -self.classes % _WIDTH, len(parameters) - 1), self.inputs.dtype)
        weights[: self.classes] = parameters[:-1].T
        bias = parameters[-1:].T.astype(self.inputs.dtype)
        loss, gradient = 0.0, np.zeros((len(parameters), len(weights)))
        for first in range(0, len(self.targets), _BLOCK):
            inputs, targets = self.inputs[first : first + _BLOCK], self.targets[first : first + _BLOCK]
            errors = weights @ inputs.T
            loss += _to_errors(errors[: self.classes], bias, targets)
            gradient[:-1] += (errors @ inputs).T
            gradient[-1] += errors.sum(axis=1, dtype=np.float64)
        gradient = gradient[:, : self.classes] / len(self.targets)
        gradient[:-1] += penalty * parameters[:-1]
        return loss / len(self.targets) + penalty / 2 * float(np.square(parameters[:-1]).sum()), gradient

    def _spread(self, parameters: Array) -> Array:
        """(C, C): the mean of diag(p) - p p^T over a sample."""
        found = softmax(_sample(self.inputs) @ parameters[:-1] + parameters[-1])
        return np.asarray(np.diag(found.mean(axis=0)) - found.T @ found / len(found))


def cross_entropy(true: Array) -> float:
    """Mean of minus the logarithm of the true classes' probabilities (N,), in nats."""
    return float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())


def _sample(inputs: NDArray[np.floating]) -> NDArray[np.floating]:
    return inputs[:: -(-len(inputs) // _SAMPLE)]


def _to_errors(logits: NDArray[np.floating], bias: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """Turn logits without bias (C, N), in place, into probabilities less 1 at the target; the sum of cross-entropies.

    Classes come first, so that each of numpy's steps runs along memory.
    """
    columns = np.arange(len(targets))
    logits += bias
    logits -= logits.max(axis=0)
    true = logits[targets, columns]
    np.exp(logits, out=logits)
    total = logits.sum(axis=0)
    logits /= total
    logits[targets, columns] -= 1
    return float((np.log(total) - true).sum(dtype=np.float64))


def _extrapolate(known: Sequence[tuple[float, Array]], penalty: float) -> Array:
    """Lagrange's polynomial in log penalty through the known parameters, at `penalty`."""
    at = np.log([known_penalty for known_penalty, _ in known])
    shares = [
        np.prod([(np.log(penalty) - other) / (here - other) for other in np.delete(at, index)])
        for index, here in enumerate(at)
    ]
    return np.asarray(sum(share * parameters for share, (_, parameters) in zip(shares, known, strict=True)))


def _minimise(objective: Callable[[Array], tuple[float, Array]], point: Array, gap: float) -> Array:
    """L-BFGS (Nocedal and Wright 2006, algorithm 7.5) of a convex function, until a step promises less than `gap`."""
    history: deque[tuple[Array, Array]] = deque(maxlen=_HISTORY)
    value, gradient = objective(point)
    for _ in range(_ITERATIONS):
        step = -_two_loops(history, gradient)
        if -np.vdot(gradient, step) / 2 < gap:
            break
        length, value, next_gradient = _line_search(objective, point, step, value, gradient)
        moved, turned = length * step, next_gradient - gradient
        if np.vdot(moved, turned) > 0:
            history.append((moved, turned))
        point, gradient = point + moved, next_gradient
    return point


def _line_search(
    objective: Callable[[Array], tuple[float, Array]], point: Array, step: Array, value: float, gradient: Array
) -> tuple[float, float, Array]:
    """Length of the step, objective and gradient there.

    The length is 1, or shortened towards where the slope along the step vanishes until it is not steeper uphill than
    0.8 of what it was downhill: the approximate Wolfe condition (Hager and Zhang 2005, equation 23), which holds where
    rounding hides the gain itself. A convex function needs no lower bound of the length.
    """
    downhill = -float(np.vdot(gradient, step))
    length = 1.0
    for _ in range(_TRIALS):
        next_value, next_gradient = objective(point + length * step)
        uphill = float(np.vdot(next_gradient, step))
        if uphill <= 0.8 * downhill and next_value <= value + _NOISE * abs(value):
            break
        length *= float(np.clip(downhill / (downhill + max(uphill, 0)), 0.1, 0.5))
    return length, next_value, next_gradient


def _two_loops(history: Sequence[tuple[Array, Array]], gradient: Array) -> Array:
    """The inverse Hessian as the history knows it, times the gradient (ibid., algorithm 7.4)."""
    direction, shares = gradient.copy(), []
    for moved, turned in reversed(history):
        shares.append(np.vdot(moved, direction) / np.vdot(moved, turned))
        direction -= shares[-1] * turned
    if history:
        moved, turned = history[-1]
        direction *= np.vdot(moved, turned) / np.vdot(turned, turned)
    for (moved, turned), share in zip(history, reversed(shares), strict=True):
        direction += (share - np.vdot(turned, direction) / np.vdot(moved, turned)) * moved
    return direction
