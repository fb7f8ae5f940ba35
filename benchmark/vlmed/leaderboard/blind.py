"""What a score owes to looking at the image: its gain over the best control that could not look."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vlmed.leaderboard.read import Entry
from vlmed.metrics.table import METRICS

# Every model shares the first; the other two are the model itself, shown grey or another sample's image.
BLIND = ("majority", "blank", "swapped")
_SHARED = ("majority", "random")  # random is no control that must be run, but where it stands it counts


class Scored(Protocol):
    """A row of a table; `vlmed.leaderboard.rank.Row` is one."""

    @property
    def entry(self) -> Entry:
        """Its run."""
        ...

    @property
    def value(self) -> float | None:
        """Its score."""
        ...


@dataclass(frozen=True)
class Gain:
    """How far a model stands above the best of its blind controls.

    Attributes:
        value: Score minus the control's, positive where the model is better; None without any control.
        share: The same as a share of the way from the control to a perfect score, at most 1; None where there is none.
        control: The best control's name; empty without any.
        score: Its score.
        missing: Which of `BLIND` have not been run on this task and track, so that the gain may be too large.
    """

    value: float | None
    share: float | None
    control: str
    score: float | None
    missing: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether all controls were run."""
        return self.value is not None and not self.missing


@dataclass(frozen=True)
class Controls:
    """The scored controls of a task and track, by the weights that they share with a model; those of all under None."""

    of_weights: Mapping[Sequence[Any] | None, Sequence[Scored]]

    @classmethod
    def of(cls, rows: Iterable[Scored]) -> Controls:
        """Sorts the rows of controls."""
        found: dict[Sequence[Any] | None, list[Scored]] = defaultdict(list)
        for row in rows:
            kind = control_kind(row.entry)
            if row.value is not None and kind in (*_SHARED, *BLIND):
                found[None if kind in _SHARED else _weights(row.entry, kind)].append(row)
        return cls(found)

    def gain(self, metric: str, row: Scored) -> Gain:
        """The gain of a model's score in `metric` over the controls that are its own."""
        own = [*self.of_weights.get(None, ()), *self.of_weights.get(_weights(row.entry, ""), ())]
        missing = tuple(name for name in BLIND if name not in {control_kind(control.entry) for control in own})
        if not own or row.value is None:
            return Gain(None, None, "", None, missing)
        sign = direction(metric)
        best = max(own, key=lambda control: (sign * (control.value or 0.0), control.entry.path))
        assert best.value is not None
        return Gain(
            value=round(sign * (row.value - best.value), 6),
            share=share_of_way(metric, row.value, best.value),
            control=control_kind(best.entry),
            score=best.value,
            missing=missing,
        )


def share_of_way(metric: str, value: float, control: float) -> float | None:
    """Where a score stands on the way from the control's (0) to a perfect one (1); None if that is no way.

    >>> share_of_way("auc", 0.9, 0.6)
    0.75
    """
    perfect = METRICS[metric].high if METRICS[metric].higher_is_better else METRICS[metric].low
    return None if control == perfect else round((value - control) / (perfect - control), 6)


def direction(metric: str) -> int:
    """1 where higher is better, else -1."""
    return 1 if METRICS[metric].higher_is_better else -1


def control_kind(entry: Entry) -> str:
    """`majority`, `random`, `oracle`, `blank` or `swapped`; empty for a model.

    A control is known by its reference; older ones of a named model carry the kind before a slash.
    """
    ref = str(entry.result["model"]["ref"])
    return ref.removeprefix("control:").split("/")[0] if entry.control and ref.startswith("control:") else ""


def _weights(entry: Entry, kind: str) -> Sequence[Any]:
    """What must be equal for two runs to be of the same weights: place, revision, and those of the adapter."""
    model: Mapping[str, Any] = entry.result["model"]
    revision = str(model["revision"])
    place = str(model["ref"]).removeprefix(f"control:{kind}/" if kind else "").removeprefix("hf:").split("@")[0]
    adapter = model["adapter"] or {"revision": ""}
    # The hash of a folder's content names the weights wherever the folder lay.
    return ("" if revision.startswith("sha256:") else place, revision, adapter["revision"])
