"""Shares of a training split: nested, stratified by class, whole groups, and the same for everyone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from vlmed.data.table import Sample
from vlmed.errors import UsageError
from vlmed.suite.splits import bucket


def share_of(samples: Sequence[Sample], fraction: float, task: str) -> tuple[Sample, ...]:
    """The samples of a share of a training split, in their given order.

    Groups stay whole. Each belongs to the stratum of its most frequent label and stands there at a place that
    SHA-256(task, group) fixes; a share takes places from the first on until it holds `fraction` of the stratum's
    samples, one group at least. So a smaller share lies within every larger one, and no stratum goes missing; a class
    that is the most frequent of no group is no stratum, and may.

    Args:
        fraction: In (0, 1].
        task: `name@version`; other tasks on the same images draw other groups.

    Raises:
        UsageError: The fraction is outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UsageError("this is no share of the training data", expected="a number in (0, 1]", got=f"{fraction:g}")
    members: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        members[sample.group].append(sample)
    strata: dict[int, list[str]] = defaultdict(list)
    for group, mine in members.items():
        strata[_stratum(mine)].append(group)
    taken = {group for groups in strata.values() for group in _first(groups, members, fraction, task)}
    return tuple(sample for sample in samples if sample.group in taken)


def _stratum(samples: Sequence[Sample]) -> int:
    """The most frequent label; of equally frequent ones the least. Always -1 where samples have no labels."""
    counts = Counter(sample.label for sample in samples)
    return min(counts, key=lambda label: (-counts[label], label))


def _first(groups: list[str], members: dict[str, list[Sample]], fraction: float, task: str) -> list[str]:
    ordered = sorted(groups, key=lambda group: (bucket(f"fraction:{task}", group), group))
    wanted = fraction * sum(len(members[group]) for group in groups)
    taken: list[str] = []
    held = 0
    for group in ordered:
        if taken and held + 1e-9 >= wanted:
            break
        taken.append(group)
        held += len(members[group])
    return taken
