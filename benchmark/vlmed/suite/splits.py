"""Which split a sample belongs to."""

from __future__ import annotations

import hashlib

from vlmed.suite.types import SPLITS, SplitName, SplitRule

_NAMES: dict[str, SplitName] = {name: name for name in SPLITS}


def assign_split(rule: SplitRule, listed: str, group: str) -> SplitName | None:
    """The split of a sample, or None where the rule gives it none.

    `listed` is the split that the publisher (rule `official`) or the manifest (rule `manifest`) lists it under.

    Where a publisher has no val, the rule's `val` takes that share of train's groups by hash.
    A hash rule looks at the group alone, so it is fixed before anyone sees the data and can't part a group.

    >>> assign_split(SplitRule("hash", salt="demo", test=0.25, val=0.15), "", "patient-7")
    'train'
    """
    if rule.rule != "hash":
        split = _NAMES.get(listed)
        return "val" if split == "train" and bucket(rule.salt, group) < rule.val else split
    position = bucket(rule.salt, group)
    return "test" if position < rule.test else "val" if position < rule.test + rule.val else "train"


def bucket(salt: str, group: str) -> float:
    """A fixed position in [0, 1) for a group: the first 53 bits of SHA-256(salt, NUL, group)."""
    head = hashlib.sha256(f"{salt}\0{group}".encode()).digest()[:8]
    return (int.from_bytes(head, "big") >> 11) / 2**53
