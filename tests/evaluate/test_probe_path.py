"""Every fit of the regularisation path against scikit-learn on data of many shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as Peer

from vlmed.evaluate import logistic
from vlmed.evaluate.logistic import FINAL_GAP, LogisticRegression
from vlmed.evaluate.probe import fit_probe

PENALTIES = [1e-5, 1e-3, 1e-1, 10.0]
Data = tuple[np.ndarray, np.ndarray]


def blobs(samples: int = 300, dimensions: int = 20, classes: int = 4, distance: float = 1.0) -> Data:
    draw = np.random.default_rng(0)
    targets = np.arange(samples) % classes
    centres = distance * draw.standard_normal((classes, dimensions))
    return centres[targets] + draw.standard_normal((samples, dimensions)) * np.arange(1, dimensions + 1), targets


def constant_feature() -> Data:
    inputs, targets = blobs()
    inputs[:, 5] = 0
    return inputs, targets


def duplicated_features() -> Data:
    inputs, targets = blobs(dimensions=8)
    return np.hstack([inputs, inputs]), targets


def lone_sample() -> Data:
    """The fourth class has one sample."""
    inputs, targets = blobs(classes=3)
    targets[7] = 3
    return inputs, targets


SHAPES: dict[str, Callable[[], Data]] = {
    "binary": lambda: blobs(classes=2),
    "multi-class": blobs,
    "near separable": lambda: blobs(distance=6),
    "fewer samples than features": lambda: blobs(samples=30, dimensions=60),
    "constant feature": constant_feature,
    "duplicated features": duplicated_features,
    "one sample of a class": lone_sample,
}


def peer(inputs: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """scikit-learn's optimum as parameters (D + 1, C); of two classes it has one vector for the difference."""
    binary = len(np.unique(targets)) == 2
    solver = Peer(C=(2 if binary else 1) / (penalty * len(targets)), tol=1e-8, max_iter=50_000).fit(inputs, targets)
    found = np.vstack([solver.coef_.T, solver.intercept_])
    return np.hstack([-found, found]) / 2 if binary else found


def objective(inputs: np.ndarray, targets: np.ndarray, parameters: np.ndarray, penalty: float) -> float:
    logits = inputs @ parameters[:-1] + parameters[-1]
    loss = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(targets)), targets]
    return float(loss.mean() + penalty / 2 * np.square(parameters[:-1]).sum())


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_fit_of_the_path_reaches_the_objective_of_scikit_learn(shape: str, precision: type[np.floating]) -> None:
    inputs, targets = SHAPES[shape]()
    inputs = (inputs - inputs.mean(axis=0)) / np.where(inputs.std(axis=0) == 0, 1, inputs.std(axis=0))
    regression = LogisticRegression.of(inputs.astype(precision), targets, int(targets.max()) + 1)
    exact = replace(regression, inputs=inputs)
    path = list(regression.path(PENALTIES))
    assert [penalty for penalty, _ in path] == sorted(PENALTIES, reverse=True)
    for penalty, parameters in path:
        theirs = peer(inputs, targets, penalty)
        assert objective(inputs, targets, parameters, penalty) <= objective(inputs, targets, theirs, penalty) + 1e-6
        final = exact.fit(penalty, parameters, FINAL_GAP)
        logits, reference = (inputs @ found[:-1] + found[-1] for found in (final, theirs))
        np.testing.assert_array_equal(logits.argmax(axis=1), reference.argmax(axis=1))


def test_the_gradient_is_that_of_finite_differences() -> None:
    inputs, targets = blobs(samples=40, dimensions=3, classes=3)
    regression = LogisticRegression.of(inputs, targets, 3)
    parameters = np.random.default_rng(1).standard_normal((4, 3)) / 10
    _, gradient = regression.objective(parameters, 0.1)
    for entry in np.ndindex(parameters.shape):
        step = np.zeros_like(parameters)
        step[entry] = 1e-6
        slope = regression.objective(parameters + step, 0.1)[0] - regression.objective(parameters - step, 0.1)[0]
        assert slope / 2e-6 == pytest.approx(gradient[entry], abs=1e-7)


@pytest.mark.parametrize("block", [1, 7, 40])
def test_blocks_do_not_change_the_objective(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, targets = blobs(samples=40, classes=5)
    regression = LogisticRegression.of(inputs, targets, 5)
    parameters = np.random.default_rng(1).standard_normal((21, 5)) / 10
    loss, gradient = regression.objective(parameters, 0.1)
    monkeypatch.setattr(logistic, "_BLOCK", block)
    found, slopes = regression.objective(parameters, 0.1)
    assert found == pytest.approx(loss, rel=1e-12)
    assert found == pytest.approx(objective(inputs, targets, parameters, 0.1), rel=1e-12)
    np.testing.assert_allclose(slopes, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sample", [20, 60])
def test_the_sample_that_estimates_curvature_does_not_move_the_optimum(
    sample: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of 20 has too few for its 20 variances."""
    inputs, targets = blobs(classes=8)
    order = np.argsort(targets, kind="stable")
    inputs, targets = (inputs / inputs.std(axis=0))[order], targets[order]
    monkeypatch.setattr(logistic, "_SAMPLE", sample)
    for penalty, parameters in LogisticRegression.of(inputs.astype(np.float32), targets, 8).path(PENALTIES):
        theirs = peer(inputs, targets, penalty)
        assert objective(inputs, targets, parameters, penalty) <= objective(inputs, targets, theirs, penalty) + 1e-6


def test_where_a_fit_starts_does_not_move_where_it_ends() -> None:
    inputs, targets = blobs()
    regression = LogisticRegression.of(inputs, targets, 4)
    far = np.random.default_rng(1).standard_normal((21, 4)) * 3
    from_zero, from_far = (regression.fit(1e-2, start, FINAL_GAP) for start in (0 * far, far))
    # What all classes share does not change a probability.
    alone = [found - found.mean(axis=1, keepdims=True) for found in (from_zero, from_far)]
    np.testing.assert_allclose(*alone, atol=1e-5)


def test_a_repeated_fit_is_identical() -> None:
    inputs, targets = blobs()
    data = inputs.astype(np.float32), targets
    first, second = (fit_probe(data, data, 4, PENALTIES) for _ in range(2))
    np.testing.assert_array_equal(first.weights, second.weights)
    np.testing.assert_array_equal(first.bias, second.bias)
    assert (first.penalty, first.val_loss) == (second.penalty, second.val_loss)


def test_a_penalty_named_twice_is_fitted_once() -> None:
    inputs, targets = blobs()
    path = list(LogisticRegression.of(inputs, targets, 4).path([0.1, 1.0, 0.1]))
    assert [penalty for penalty, _ in path] == [1.0, 0.1]


def test_a_class_absent_from_train_gets_no_probability() -> None:
    inputs, targets = blobs(classes=3)
    data = inputs.astype(np.float32), targets
    assert fit_probe(data, data, 5, PENALTIES).probabilities(data[0])[:, 3:].max() < 1e-3
