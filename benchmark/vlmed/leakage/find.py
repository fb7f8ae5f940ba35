"""Where a task's test samples meet its train or val: same pixels, same group, near-duplicate image, same text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from vlmed.data.table import Sample, TaskTable
from vlmed.progress import Progress

LeakKind = Literal["pixels", "group", "near", "text"]
LEAK_KINDS: tuple[LeakKind, ...] = ("pixels", "group", "near", "text")


@dataclass(frozen=True, order=True)
class Finding:
    """One test sample that meets train or val in one way.

    Attributes:
        sample: Id of the test sample.
        kind: How they meet; the kinds are ordered from certain to likely.
        other: Id of the sample in train or val that is nearest.
        split: That sample's split.
        others: How many samples of train and val it meets in this way.
        distance: Hamming distance of the perceptual hashes for `near`, 0 for the rest.
    """

    sample: str
    kind: LeakKind
    other: str
    split: str
    others: int
    distance: int = 0

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return asdict(self)
