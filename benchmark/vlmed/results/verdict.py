"""Whether a unit reaches its thresholds, with a table that says by how much and where it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlmed.errors import MissingError, VlmedError
from vlmed.results.compare import Claim, Comparison, Run, compare_units, ranked_rows
from vlmed.results.shown import shown, shown_p
from vlmed.results.thresholds import Rule
from vlmed.results.worst import Mistake, worst_samples
from vlmed.suite.manifest import FOLDER
from vlmed.suite.types import Suite

State = Literal["passed", "failed", "unchecked"]


@dataclass(frozen=True)
class Check:
    """One threshold, checked.

    Attributes:
        demand: What was asked, such as `min 0.7` or `no worse than baseline`.
        value, low, high: The metric with its 95 % interval.
        peer: The metric of what it was compared with.
        difference, difference_low, difference_high, p: The paired test; None where there is none.
        why: Why it failed without a number, or could not be checked.
    """

    demand: str
    metric: str
    state: State
    value: float | None = None
    low: float | None = None
    high: float | None = None
    peer: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """A unit's checks.

    Attributes:
        samples: What the metrics are about: `clean` samples, or `all` while the manifest is pending.
        metrics: The unit's metrics on these, as in `result.json`.
        worst: The samples it gets most wrong; empty where every check passed.
    """

    unit: str
    samples: str
    n: int
    metrics: Mapping[str, Mapping[str, Any]]
    checks: Sequence[Check]
    worst: Sequence[Mistake] = field(default=())

    def failed(self, strict: bool = False) -> bool:
        """Whether a check failed or, if `strict`, could not be made."""
        return any(check.state == "failed" or (strict and check.state == "unchecked") for check in self.checks)

    def text(self) -> str:
        """The checks as a table, what could not be checked and why, and the worst samples."""
        heads = ("threshold", "metric", "value", "95 % interval", "compared", "difference", "95 % interval", "p", "")
        lines = [self._headline(), *_aligned([heads, *map(_cells, self.checks)])]
        lines += [f"{check.demand}: {check.why}" for check in self.checks if check.why]
        if self.worst:
            rows = [(each.sample_id, each.group, f"{each.loss:.3g}", each.what) for each in self.worst]
            lines += ["", f"the {len(rows)} worst samples", *_aligned([("sample", "group", "loss", "what"), *rows])]
        return "\n".join(lines)

    def _headline(self) -> str:
        missed = [check for check in self.checks if check.state != "passed"]
        reasons = "; ".join(f"{check.metric} {shown(check.value)} {check.state}: {check.demand}" for check in missed)
        return f"{reasons} ({self.unit}, {self.n} samples, {self.samples})"


def judge(
    run: Run,
    unit: Claim,
    suite: Suite,
    rules: Sequence[Rule],
    peers: Mapping[str, Run | None],
    manifests: Path = FOLDER,
) -> Verdict:
    """Check one unit of a run.

    Args:
        rules: Those that cover the unit.
        peers: `baseline` or `control:NAME` -> its run; None, or no entry, if it was not given.

    Raises:
        InputError: A file is damaged, or the runs predict other samples or targets; lists every sample.
    """
    task = run.task(unit, suite)
    predictions = run.predictions(unit, task)
    part, rows = ranked_rows(task, predictions.sample_ids, manifests)
    judged = _Unit(run, unit, suite, unit["scores"]["metrics"][part], task.main_metric, manifests)
    checks = [check for rule in rules for check in judged.checks(rule, peers)]
    fine = all(check.state == "passed" for check in checks)
    worst = [] if fine else worst_samples(task, predictions, rows)
    return Verdict(unit["unit"], part, len(rows), judged.metrics, checks, worst)


@dataclass(frozen=True)
class _Unit:
    run: Run
    claim: Claim
    suite: Suite
    metrics: Mapping[str, Mapping[str, Any]]
    main_metric: str
    manifests: Path

    def checks(self, rule: Rule, peers: Mapping[str, Run | None]) -> Iterator[Check]:
        name = rule.metric or self.main_metric
        if name not in self.metrics:
            listed = ", ".join(self.metrics)
            yield Check("metric", name, "failed", why=f"{self.claim['task']} has no {name}; it has {listed}")
            return
        if rule.minimum is not None:
            yield self._bound(f"min {rule.minimum:g}", name, rule.minimum, at_least=True)
        if rule.maximum is not None:
            yield self._bound(f"max {rule.maximum:g}", name, rule.maximum, at_least=False)
        for words, names, better in (
            ("no worse than", rule.no_worse_than, False),
            ("better than", rule.better_than, True),
        ):
            for peer in names:
                yield self._against(peers.get(peer), f"{words} {peer}", name, better, rule.alpha)

    def _bound(self, demand: str, name: str, bound: float, at_least: bool) -> Check:
        value = self.metrics[name]["value"]
        if value is None:
            return self._check(demand, name, "failed", why=self.metrics[name].get("undefined", "it is undefined"))
        held = value >= bound if at_least else value <= bound
        return self._check(demand, name, "passed" if held else "failed")

    def _against(self, peer: Run | None, demand: str, name: str, better: bool, alpha: float) -> Check:
        like = peer.unit_like(self.claim) if peer else None
        if peer is None or like is None:
            why = "its run has no such unit on the same definitions" if peer else "it was not given"
            return self._check(demand, name, "unchecked", why=why)
        try:
            found = compare_units(self.run, peer, (self.claim, like), self.suite, name, self.manifests)
        except MissingError as error:
            return self._check(demand, name, "unchecked", peer=_claimed(like, name), why=_told(error))
        state, why = _state(found, better, alpha)
        return self._check(
            demand,
            name,
            state,
            peer=found.second,
            difference=found.difference,
            difference_low=found.low,
            difference_high=found.high,
            p=found.p,
            why=why,
        )

    def _check(self, demand: str, name: str, state: State, **more: Any) -> Check:
        estimate = {key: self.metrics[name][key] for key in ("value", "low", "high")}
        return Check(demand, name, state, **estimate, **more)


def _state(found: Comparison, better: bool, alpha: float) -> tuple[State, str]:
    if found.undecided or (better and found.p is None):
        return "unchecked", f"no test is possible: {found.reason}"
    held = found.better(alpha) if better else not found.worse(alpha)
    return ("passed" if held else "failed"), ""


def _claimed(unit: Claim, name: str) -> float | None:
    """What a result says of a metric; no paired test can stand on it."""
    metrics = unit["scores"]["metrics"]
    value: float | None = ((metrics["clean"] or metrics["all"]).get(name) or {}).get("value")
    return value


def _told(error: VlmedError) -> str:
    return "; ".join(f"{problem.what} ({problem.file})" for problem in error.problems)


def _cells(check: Check) -> tuple[str, ...]:
    return (
        check.demand,
        check.metric,
        shown(check.value),
        _interval(check.low, check.high),
        shown(check.peer),
        shown(check.difference, "+.4f"),
        _interval(check.difference_low, check.difference_high),
        shown_p(check.p),
        "FAILED" if check.state == "failed" else check.state,
    )


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
