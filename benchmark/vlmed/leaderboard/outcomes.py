"""A model's confusion matrices and calibration, as its page draws them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup, escape

from vlmed.leaderboard.board import Model
from vlmed.leaderboard.chart import Axis
from vlmed.leaderboard.confusion import Outcome, Whole
from vlmed.leaderboard.rank import Row, Table

WIDEST = 20  # classes of a matrix that is drawn whole; a larger one is told class by class
_SHADES = (0.05, 0.25, 0.5, 0.75)  # shares of a row from which a cell is shaded, and more
_MOST = 3  # classes for which a class is most often taken
_AXIS = Axis(0.0, 1.0, (0.0, 0.5, 1.0), 30, 210)  # of both directions; the template writes its ticks
_SUM = _AXIS.end + 8  # of a share's pixels from the left and from the top


class Cell(NamedTuple):
    """Samples of one class that were taken for another, or for itself.

    Attributes:
        share: Of the samples of the class; None where it has none.
        shade: A class of the style sheet: `plus` on the diagonal, `minus` off it, 1 to 4.
    """

    name: str
    samples: int
    share: float | None
    shade: str


class Line(NamedTuple):
    """A row of the matrix.

    Attributes:
        samples: Of the class.
        right: Share of them that were taken for it.
        precision: Share of the samples taken for the class that belong to it; None where none was.
        cells: One for each class, in the task's order.
    """

    name: str
    samples: int
    right: float | None
    precision: float | None
    cells: Sequence[Cell]

    @property
    def taken_for(self) -> list[Cell]:
        """The other classes that it is most often taken for, at most three."""
        wrong = [cell for cell in self.cells if cell.samples and cell.name != self.name]
        return sorted(wrong, key=lambda cell: -cell.samples)[:_MOST]


class Bin(NamedTuple):
    """Samples of like top probability.

    Attributes:
        confidence: Mean of these probabilities.
        accuracy: Share of right samples.
        radius: Of its dot, in pixels; its area grows with the share of all samples.
    """

    samples: int
    confidence: float
    accuracy: float
    radius: float


@dataclass(frozen=True)
class Picture:
    """One row of the model's results, drawn; the seeds' counts are added up."""

    table: Table
    row: Row
    lines: Sequence[Line]
    bins: Sequence[Bin]

    @property
    def matrix(self) -> Markup:
        """The lines as rows of a table: a template would take most of a page's time for them."""
        return Markup("".join(map(_counts_row if self.whole else _shares_row, self.lines)))

    @property
    def dots(self) -> Markup:
        """The bins as elements of the chart: dots, joined with the line on which they would be calibrated."""
        places = [(_AXIS.x(one.confidence), _AXIS.x(one.accuracy), one.radius) for one in self.bins]
        gaps = "".join([f"M{x} {_SUM - x:.1f}V{_SUM - y:.1f}" for x, y, _ in places])
        dots = [f'<circle class="dot" cx="{x}" cy="{_SUM - y:.1f}" r="{radius}"/>' for x, y, radius in places]
        return Markup(f'<path class="bar" d="{gaps}"/>{"".join(dots)}')

    @property
    def rows(self) -> Markup:
        """The bins as rows of a table."""
        cell = '<td class="number">'
        rows = [
            f"<tr>{cell}{one.confidence:.3f}</td>{cell}{one.accuracy:.3f}</td>{cell}{one.samples}</td></tr>"
            for one in self.bins
        ]
        return Markup("".join(rows))

    @property
    def whole(self) -> bool:
        """Whether the matrix is drawn whole."""
        return len(self.lines) <= WIDEST

    @property
    def calibration_error(self) -> float | None:
        """The mean over seeds; None where the task has no such metric."""
        return self.row.metric("ece", self.table.part) if "ece" in self.table.task.metrics else None


def pictures(model: Model) -> Iterator[Picture]:
    """A picture for each classification in the model's results, without the samples that leak."""
    for table, row in model.rows:
        if row.outcome:
            names = [spec.name for spec in table.task.classes]
            yield Picture(table, row, _lines(names, row.outcome.confusion), list(_bins(row.outcome)))


def _lines(names: Sequence[str], confusion: Whole) -> list[Line]:
    taken = confusion.sum(axis=0).tolist()
    return [_line(index, names, counts, taken[index]) for index, counts in enumerate(confusion.tolist())]


def _line(index: int, names: Sequence[str], counts: Sequence[int], taken: int) -> Line:
    total, hits = sum(counts), counts[index]
    shares = [_share(count, total) for count in counts]
    shades = [_shade(share, other == index) for other, share in enumerate(shares)]
    cells = [Cell(*each) for each in zip(names, counts, shares, shades, strict=True)]
    return Line(names[index], total, _share(hits, total), _share(hits, taken), cells)


def _counts_row(line: Line) -> str:
    cells = "".join(map(_element, line.cells))
    return f'<tr><th scope="row">{escape(line.name)}</th>{cells}<td class="number">{line.samples}</td></tr>\n'


def _shares_row(line: Line) -> str:
    taken = [
        f'<span class="seed">{escape(cell.name)} <small>{_percent(cell.share)}</small></span> '
        for cell in line.taken_for
    ]
    numbers = (line.samples, _percent(line.right), _percent(line.precision))
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return f'<tr><th scope="row">{escape(line.name)}</th>{cells}<td>{"".join(taken)}</td></tr>\n'


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}&nbsp;%"


def _element(cell: Cell) -> str:
    if not cell.samples or cell.share is None:
        return '<td class="none">0</td>'
    return f'<td class="{cell.shade}">{cell.samples}<small>{_percent(cell.share)}</small></td>'


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


def _shade(share: float | None, right: bool) -> str:
    level = bisect_right(_SHADES, share or 0.0)
    return f"{'plus' if right else 'minus'}{level}" if level else ""


def _bins(outcome: Outcome) -> Iterator[Bin]:
    bins = outcome.bins.tolist()
    total = sum(count for count, _, _ in bins)
    for count, confidence, right in bins:
        if count:
            yield Bin(int(count), confidence / count, right / count, round(2 + 5 * (count / total) ** 0.5, 1))
