"""Charts as numbers: where things stand, in pixels. Templates draw them as SVG, each beside a table of the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_WIDTH, _MARGIN = 180, 14  # of a whisker's chart, in pixels
_STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1, *(n * 10**power for power in range(7) for n in (2, 5, 10)))


@dataclass(frozen=True)
class Axis:
    """The scale of a chart, from `low` at pixel `start` to `high` at pixel `end`, with ticks at round numbers."""

    low: float
    high: float
    ticks: Sequence[float]
    start: float = _MARGIN
    end: float = _WIDTH - _MARGIN

    @classmethod
    def over(cls, values: Iterable[float], start: float = _MARGIN, end: float = _WIDTH - _MARGIN) -> Axis:
        """The narrowest scale between ticks that holds all `values`.

        >>> Axis.over([0.62, 0.91]).ticks
        (0.6, 0.7, 0.8, 0.9, 1.0)
        """
        known = list(values) or [0.0, 1.0]
        span = max(max(known) - min(known), 0.01)
        step = next(step for step in _STEPS if span / step <= 4)
        first, last = math.floor(min(known) / step + 1e-9), math.ceil(max(known) / step - 1e-9)
        ticks = tuple(round(step * index, 6) for index in range(first, max(last, first + 1) + 1))
        return cls(ticks[0], ticks[-1], ticks, start, end)

    def x(self, value: float) -> float:
        """Where a value stands, in pixels."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class LogAxis:
    """As `Axis`, on a logarithmic scale whose ticks are powers of ten; nothing below 1 stands on it."""

    low: float
    high: float
    ticks: Sequence[float]
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float) -> LogAxis:
        """The powers of ten around all `values`, of which at most six are ticks.

        >>> LogAxis.over([30, 4000], 0, 100).ticks
        (10, 100, 1000, 10000)
        """
        known = [max(1.0, value) for value in values] or [1.0]
        first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
        last = max(last, first + 1)
        step = math.ceil((last - first) / 5)
        ticks = tuple(10**power for power in range(first, last + 1, step))
        return cls(10.0**first, 10.0**last, ticks, start, end)

    def x(self, value: float) -> float:
        """Where a value stands, in pixels."""
        share = math.log10(max(1.0, value) / self.low) / math.log10(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)
