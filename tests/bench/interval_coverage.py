"""How often 95 % intervals hold the truth, by simulation, for vlmed's method and for others.

Each source yields many data sets; the truth is the metric of a very large one. The methods see the same data sets and
the same bootstrap draws: `vlmed` is `intervals.interval`; `percentile`, `bias-corrected`, `normal`, `arcsine` and
`wilson` (of the effective sample size) are the peers over which it was chosen. The last table is of paired comparisons
of two equally good models: coverage of the true difference, 0, and the share of false alarms at p < 0.05.

    python tests/bench/interval_coverage.py [data sets per scenario, 1000] [draws, 1000]
"""

import math
import sys
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from vlmed.metrics.classification import Classified
from vlmed.metrics.compare import compare_metrics
from vlmed.metrics.intervals import Z, bootstrap, interval, standard_error
from vlmed.metrics.table import metrics_named, trials, values_of

NAMES = ["auc", "accuracy", "balanced_accuracy", "f1", "average_precision"]
METRICS = metrics_named(NAMES)


@dataclass(frozen=True)
class Source:
    """Groups of one class each, of `size` samples on average; `shared` is the part of the noise that a group shares."""

    title: str
    groups: int
    prior: tuple[float, ...]
    signal: float
    size: int = 1
    shared: float = 0.0
    mislabelled: float = 0.0

    def draw(self, rng, models=1):
        sizes = rng.integers(1, 2 * self.size, self.groups)
        members = np.repeat(np.arange(self.groups), sizes)
        classes, samples = len(self.prior), len(members)
        targets = rng.choice(classes, self.groups, p=self.prior)[members]
        wrong = rng.random(samples) < self.mislabelled
        labels = np.where(wrong, (targets + rng.integers(1, classes, samples)) % classes, targets)
        common = math.sqrt(self.shared) * rng.normal(size=(self.groups, classes))[members]
        alike = rng.normal(size=(samples, classes)) if models > 1 else 0.0
        found = []
        for _ in range(models):
            own = rng.normal(size=(samples, classes))
            noise = math.sqrt(0.5) * (own + alike) if models > 1 else own
            logits = max(self.signal, 0.3) * (
                common + math.sqrt(1 - self.shared) * noise + self.signal * np.eye(classes)[targets]
            )
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            found.append(Classified(odds / odds.sum(axis=1, keepdims=True), labels))
        return found, members


SKEWED, EVEN = (0.7, 0.3), (0.2,) * 5
SOURCES = [
    Source("2 classes, n 150", 150, SKEWED, 1.2),
    Source("2 classes, n 600", 600, SKEWED, 1.2),
    Source("2 classes, n 150, chance", 150, SKEWED, 0.0),
    Source("5 classes, n 150", 150, EVEN, 1.8),
    Source("5 classes, n 600", 600, EVEN, 1.8),
    Source("5 classes, n 300, uneven", 300, (0.5, 0.25, 0.12, 0.08, 0.05), 1.8),
    Source("11 classes, n 600", 600, (1 / 11,) * 11, 2.5),
    Source("2 classes, 150 groups of 3", 150, SKEWED, 1.2, 3, 0.6),
    Source("2 classes, 60 groups of 3", 60, SKEWED, 1.2, 3, 0.6),
    Source("5 classes, 100 groups of 3", 100, EVEN, 1.8, 3, 0.6),
    Source("2 classes, n 156, accuracy .97", 156, SKEWED, 2.7),
    Source("5 classes, n 300, accuracy .97", 300, EVEN, 3.4),
    Source("2 classes, n 150, perfect but 1 % of labels", 150, (0.5, 0.5), 6.0, mislabelled=0.01),
    Source("2 classes, n 150, perfect", 150, (0.5, 0.5), 12.0),
]


def _logit_free(value, error, scale):
    if scale == "normal":
        return value - Z * error, value + Z * error
    centre, reach = math.asin(math.sqrt(value)), Z * error / (2 * math.sqrt(value * (1 - value)))
    return tuple(math.sin(min(max(end, 0), math.pi / 2)) ** 2 for end in (centre - reach, centre + reach))


def bias_corrected(value, drawn):
    share = (drawn < value).mean() + (drawn == value).mean() / 2
    normal = NormalDist()
    shift = 2 * normal.inv_cdf(min(max(share, 1 / len(drawn)), 1 - 1 / len(drawn)))
    return tuple(np.quantile(drawn, [normal.cdf(shift - Z), normal.cdf(shift + Z)]))


def effective_wilson(value, error):
    size = value * (1 - value) / error**2
    shrink = 1 + Z**2 / size
    centre = (value + Z**2 / (2 * size)) / shrink
    reach = Z / shrink * math.sqrt(value * (1 - value) / size + Z**2 / (4 * size**2))
    return centre - reach, centre + reach


def intervals_of(value, drawn, groups, independent):
    """The interval of every method, vlmed's first. Where draws agree the peers have no width."""
    error = standard_error(drawn, groups)
    ours = {"vlmed": interval(value, drawn, groups, independent)}
    if error == 0 or not 0 < value < 1:
        return ours | dict.fromkeys(PEERS, (value, value))
    return ours | {
        "percentile": tuple(np.quantile(drawn, [0.025, 0.975])),
        "bias-corrected": bias_corrected(value, drawn),
        "normal": _logit_free(value, error, "normal"),
        "arcsine": _logit_free(value, error, "arcsine"),
        "wilson": effective_wilson(value, error),
    }


PEERS = ("percentile", "bias-corrected", "normal", "arcsine", "wilson")


def truth_of(source, rng, models=1):
    """Each metric of each model in 400,000 groups, (models, metrics)."""
    found, members = replace(source, groups=400_000).draw(rng, models)
    return np.array([values_of(METRICS, samples, np.ones((len(members), 1), np.int32))[:, 0] for samples in found])


def coverage(source, data_sets, draws):
    rng = np.random.default_rng(SOURCES.index(source))
    truth = truth_of(source, rng)[0]
    held = {name: dict.fromkeys(("vlmed", *PEERS), 0) for name in NAMES}
    for _ in range(data_sets):
        (samples,), members = source.draw(rng)
        values = values_of(METRICS, samples, np.ones((len(members), 1), np.int32))[:, 0]
        drawn = bootstrap(lambda counts, samples=samples: values_of(METRICS, samples, counts), members, draws)
        for metric, value, row, true in zip(METRICS, values, drawn, truth, strict=True):
            row = row[~np.isnan(row)]
            ends = intervals_of(float(value), row, source.groups, trials(metric, samples, members))
            for method, (low, high) in ends.items():
                held[metric.name][method] += low - 1e-12 <= true <= high + 1e-12
    return truth, held


def print_coverage(data_sets, draws):
    print(
        f"coverage in %, {data_sets} data sets, {draws} draws, standard error {100 * math.sqrt(0.0475 / data_sets):.1f}"
    )
    print(f"{'source':46}{'metric':19}{'truth':>7}{'vlmed':>9}" + "".join(f"{peer:>16}" for peer in PEERS))
    for source in SOURCES:
        truth, held = coverage(source, data_sets, draws)
        for name, true in zip(NAMES, truth, strict=True):
            shares = [100 * count / data_sets for count in held[name].values()]
            text = f"{shares[0]:9.1f}" + "".join(f"{share:16.1f}" for share in shares[1:])
            print(f"{source.title:46}{name:19}{true:7.4f}{text}", flush=True)


def print_comparison(data_sets, draws):
    print(f"\npaired difference of two equally good models, {data_sets} data sets")
    print(f"{'source':46}{'metric':19}{'coverage':>9}{'p < .05':>9}")
    for source in (SOURCES[0], SOURCES[3], SOURCES[7], SOURCES[10]):
        rng = np.random.default_rng(100)
        held, alarms = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0)
        for _ in range(data_sets):
            (first, second), members = source.draw(rng, models=2)
            for name, result in compare_metrics(NAMES, first, second, members, draws).items():
                held[name] += result.low <= 0 <= result.high
                alarms[name] += result.p < 0.05
        for name in NAMES:
            row = f"{100 * held[name] / data_sets:9.1f}{100 * alarms[name] / data_sets:9.1f}"
            print(f"{source.title:46}{name:19}{row}", flush=True)


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    size = [*given, *(1000, 1000)[len(given) :]]
    print_coverage(*size)
    print_comparison(*size)
