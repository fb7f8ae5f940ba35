from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from vlmed.errors import InputError
from vlmed.evaluate.probe import fit_probe

RANDOM = np.random.RandomState(0)
PENALTIES = [1e-3, 1e-2, 1e-1, 1.0]


def blobs(count: int, classes: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    targets = np.arange(count) % classes
    centres = np.random.RandomState(1).normal(size=(classes, 12))
    return (centres[targets] + spread * RANDOM.normal(size=(count, 12)) * 3).astype(np.float32), targets


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_optimum_is_that_of_scikit_learn(classes: int, penalty: float) -> None:
    (x, y), (xv, yv) = blobs(400, classes), blobs(200, classes)
    probe = fit_probe((x, y), (xv, yv), classes, [penalty])
    scaled = (x - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)
    # Two classes as a multinomial have two weight vectors w and -w, so the norm counts twice.
    c = 1 / (penalty * len(x)) * (2 if classes == 2 else 1)
    reference = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(scaled, y)
    scaled_v = (xv - probe.mean) / probe.scale
    np.testing.assert_allclose(probe.probabilities(xv), reference.predict_proba(scaled_v), atol=1e-5)
    assert probe.val_loss == pytest.approx(log_loss(yv, reference.predict_proba(scaled_v)), abs=1e-5)


def test_the_penalty_is_chosen_on_val() -> None:
    train, val = blobs(60, 3, spread=2), blobs(600, 3, spread=2)
    losses = {penalty: fit_probe(train, val, 3, [penalty]).val_loss for penalty in PENALTIES}
    chosen = fit_probe(train, val, 3, PENALTIES)
    assert chosen.penalty == min(losses, key=lambda penalty: losses[penalty])
    assert chosen.val_loss == pytest.approx(min(losses.values()), abs=1e-6)


def test_a_constant_feature_does_no_harm() -> None:
    x, y = blobs(100, 2)
    x[:, 3] = 7
    assert np.isfinite(fit_probe((x, y), (x, y), 2, [0.1]).probabilities(x)).all()


def test_one_class_is_refused() -> None:
    x, y = blobs(20, 2)
    with pytest.raises(InputError, match="one class only"):
        fit_probe((x, y * 0), (x, y), 2, [1.0])


def test_a_class_absent_from_train_is_never_predicted() -> None:
    x, y = blobs(90, 3)
    keep = y != 2
    probabilities = fit_probe((x[keep], y[keep]), (x[keep], y[keep]), 3, [0.01]).probabilities(x)
    assert probabilities.shape == (90, 3)
    assert (probabilities.argmax(1) != 2).all()
