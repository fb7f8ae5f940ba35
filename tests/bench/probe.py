"""Linear probe over the whole regularisation path against scikit-learn's LogisticRegression on the same features.

Usage: python tests/bench/probe.py [samples] [dimensions] [classes]; 34,561 x 512 and 11 classes by default, the size of
OrganAMNIST with ViT-B/32. scikit-learn solves every penalty from zero, to the same gradient.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from sklearn.linear_model import LogisticRegression

from vlmed.evaluate.probe import fit_probe
from vlmed.suite.load import load_suite


def main(samples: int = 34_561, dimensions: int = 512, classes: int = 11) -> None:
    penalties = load_suite().track("linear_probe").recipe["penalties"]
    draw = np.random.default_rng(0)
    targets = draw.integers(0, classes, samples)
    # Features of real encoders are correlated; a falling spectrum and overlapping classes stand for that.
    spectrum = np.arange(1, dimensions + 1) ** -0.5
    basis = np.linalg.qr(draw.standard_normal((dimensions, dimensions)))[0]
    centres = draw.standard_normal((classes, dimensions)) * 0.35
    features = (((draw.standard_normal((samples, dimensions)) + centres[targets]) * spectrum) @ basis).astype(
        np.float32
    )
    val = features[:2000], targets[:2000]
    start = time.perf_counter()
    best = fit_probe((features, targets), val, classes, penalties)
    ours = time.perf_counter() - start
    print(f"ours: {ours:.1f} s for {len(penalties)} penalties", flush=True)
    inputs = (features - best.mean) / best.scale
    theirs = worst = 0.0
    disagree = 0
    for penalty in sorted(penalties, reverse=True):
        mine = fit_probe((features, targets), val, classes, [penalty])
        peer = LogisticRegression(C=1 / (penalty * samples), tol=1e-7, max_iter=10_000)
        start = time.perf_counter()
        peer.fit(inputs, targets)
        theirs += time.perf_counter() - start
        gap = objective(inputs, targets, mine.weights, mine.bias, penalty) - objective(
            inputs, targets, peer.coef_.T, peer.intercept_, penalty
        )
        worst = max(worst, gap)
        disagree += int((mine.probabilities(features).argmax(1) != peer.predict(inputs)).sum())
        print(f"penalty {penalty:g}: objective differs by {gap:+.1e}, scikit-learn so far {theirs:.1f} s", flush=True)
    print(f"scikit-learn: {theirs:.1f} s; ratio {theirs / ours:.1f} (aim: 10 or more)")
    print(f"largest excess of our objective {worst:.1e} (limit 1e-6)")
    print(f"{disagree} of {samples * len(penalties)} predictions differ")


def objective(inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray, bias: np.ndarray, penalty: float) -> float:
    logits = inputs @ weights + bias
    logits -= logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(targets)), targets]
    return float(loss.mean() + penalty / 2 * np.square(weights).sum())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
