"""Linear probe over the whole regularisation path against scikit-learn's LogisticRegression, penalty by penalty.

Usage: python tests/bench/probe.py [samples] [dimensions] [classes] [noise] [warm] [float32]; 34,561 x 512, 11 classes,
the size of OrganAMNIST with ViT-B/32, by default. `noise` 0.6 makes classes that a weak penalty separates, 2.5 classes
that overlap. Ours is `fit_probe` as a run calls it, from raw features to the final fit; scikit-learn gets standardised
inputs, in float64 or with `float32` in that, and solves every penalty from zero, or from the last with `warm`.
OMP_NUM_THREADS holds for both.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression as Peer

from vlmed.evaluate import logistic
from vlmed.evaluate.probe import fit_probe
from vlmed.suite.load import load_suite

RANK, CLUSTERS, CLUSTER_SPREAD, DECAY, CONE = 64, 8, 0.7, 0.5, 3.0
# scikit-learn's limit on the gradient's largest entry: measured, 1e-5 leaves up to 1e-5 of the objective, too much.
TOLERANCE = 1e-6


class Clock:
    """Adds up wall and processor seconds of the calls it makes."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def __call__(self, call: Callable[[], Any]) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        result = call()
        self.wall += time.perf_counter() - wall
        self.processor += time.process_time() - processor
        return result


class Counted(logistic.LogisticRegression):
    """Counts how often the objective is evaluated."""

    evaluations = 0

    def objective(self, parameters: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        Counted.evaluations += 1
        return super().objective(parameters, penalty)


def main(samples: int, dimensions: int, classes: int, noise: float, *options: str) -> None:
    penalties = sorted(load_suite().track("linear_probe").recipe["penalties"], reverse=True)
    features, targets = drawn(samples + samples // 10, dimensions, classes, noise)
    train, val = (features[:samples], targets[:samples]), (features[samples:], targets[samples:])
    ours, theirs = Clock(), Clock()
    probe = ours(lambda: fit_probe(train, val, classes, penalties))
    inputs, targets = (train[0] - probe.mean) / probe.scale, train[1]
    single = inputs.astype(np.float32)
    path = Counted(**vars(logistic.LogisticRegression.of(single, targets, classes))).path(penalties)
    peer = Peer(tol=TOLERANCE, max_iter=10_000, warm_start="warm" in options)
    worst, disagree, steps = 0.0, 0, 0
    for penalty, parameters in path:
        peer.set_params(C=1 / (penalty * samples))
        theirs(lambda: peer.fit(single if "float32" in options else inputs, targets))
        steps += int(peer.n_iter_[0])
        found = np.vstack([peer.coef_.T, peer.intercept_]).astype(np.float64)
        gap = objective(inputs, targets, parameters, penalty) - objective(inputs, targets, found, penalty)
        worst = max(worst, gap)
        differ = disagreements(inputs, parameters, found)
        disagree += differ
        print(
            f"penalty {penalty:g}: objective differs by {gap:+.1e}, {differ} predictions differ; so far "
            f"{Counted.evaluations} evaluations and {steps} scikit-learn steps, {theirs.processor:.1f} s of processor "
            f"and {theirs.wall:.1f} s of wall time",
            flush=True,
        )
        if penalty == probe.penalty:
            fitted = np.vstack([probe.weights, probe.bias])
            print(f"the chosen penalty, as fitted last: {disagreements(inputs, fitted, found)} predictions differ")
    print(f"our whole fit: {ours.processor:.1f} s processor, {ours.wall:.1f} s wall")
    print(f"ratio {theirs.processor / ours.processor:.1f} processor, {theirs.wall / ours.wall:.1f} wall (aim: >= 10)")
    print(f"largest excess of our objective {worst:.1e} (limit 1e-6)")
    print(f"{disagree} of {samples * len(penalties)} predictions differ")


def disagreements(inputs: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> int:
    first, second = ((inputs @ found[:-1] + found[-1]).argmax(axis=1) for found in (ours, theirs))
    return int((first != second).sum())


def drawn(samples: int, dimensions: int, classes: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Features like a CLIP tower's: classes of clusters in a low rank, noise with a falling spectrum, a common cone."""
    draw = np.random.default_rng(0)
    targets = draw.integers(0, classes, samples)
    spectrum = np.arange(1, dimensions + 1) ** -DECAY
    spectrum /= np.sqrt(np.square(spectrum).mean())
    rank = min(RANK, dimensions)
    centres = draw.standard_normal((classes, 1, rank)) + CLUSTER_SPREAD * draw.standard_normal(
        (classes, CLUSTERS, rank)
    )
    latent = noise * draw.standard_normal((samples, dimensions)) * spectrum
    latent[:, :rank] += centres[targets, draw.integers(0, CLUSTERS, samples)] * spectrum[:rank]
    basis = np.linalg.qr(draw.standard_normal((dimensions, dimensions)))[0]
    features = latent @ basis + CONE * draw.standard_normal(dimensions)
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), targets


def objective(inputs: np.ndarray, targets: np.ndarray, parameters: np.ndarray, penalty: float) -> float:
    logits = inputs @ parameters[:-1] + parameters[-1]
    logits -= logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(targets)), targets]
    return float(loss.mean() + penalty / 2 * np.square(parameters[:-1]).sum())


if __name__ == "__main__":
    numbers = [float(value) if "." in value else int(value) for value in sys.argv[1:] if value[0].isdigit()]
    defaults = [34_561, 512, 11, 2.5]
    main(*numbers, *defaults[len(numbers) :], *(value for value in sys.argv[1:] if not value[0].isdigit()))
