"""Where a task's test samples meet its train or val: same pixels, same group, near-duplicate image, same text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmed.data.table import Sample, TaskTable
from vlmed.hashing import pixel_hash
from vlmed.leakage.confirm import THRESHOLD, pyramid, similarity
from vlmed.leakage.near import pairs_within
from vlmed.leakage.perceptual import FLAT, RADIUS, perceptual_hash
from vlmed.leakage.text import normalise, question_answer
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


ImageOf = Callable[[str], Image.Image]


def find_leaks(table: TaskTable, image_of: ImageOf | None, progress: Progress) -> list[Finding]:
    """Every way in which each test sample meets train or val, sorted by sample and kind.

    Args:
        image_of: Gives the decoded image of a pixel hash; None where the images are absent, so that only groups and
            texts can be compared.
    """
    test = [sample for sample in table.samples if sample.split == "test"]
    seen = [sample for sample in table.samples if sample.split != "test"]
    findings = list(_meetings("group", test, seen, lambda sample: sample.group))
    if table.task.kind == "retrieval":
        findings += _meetings("text", test, seen, lambda sample: _caption(sample.target))
    if image_of:
        prints = _Prints.of({sample.image for sample in table.samples}, image_of, progress)
        findings += _meetings("pixels", test, seen, lambda sample: prints.exact[sample.image])
        findings += _near_meetings(test, seen, prints, image_of, progress)
        if table.task.kind == "vqa":
            findings += _same_questions(test, seen, findings)
    return sorted(findings)


def _meetings(
    kind: LeakKind, test: Sequence[Sample], seen: Sequence[Sample], identity: Callable[[Sample], str]
) -> Iterator[Finding]:
    """Test samples whose identity also occurs in train or val; an empty identity meets nothing."""
    homes = _by(seen, identity)
    for sample in test:
        name = identity(sample)
        if name and (others := homes.get(name)):
            yield Finding(sample.id, kind, others[0].id, others[0].split, len(others))


def _by(samples: Iterable[Sample], identity: Callable[[Sample], str]) -> Mapping[str, list[Sample]]:
    homes: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        homes[identity(sample)].append(sample)
    return homes


# Captions such as "chest x-ray" recur without any leak; six words and more that are equal come from one source.
_TELLING_WORDS = 6


def _caption(text: str) -> str:
    plain = normalise(text)
    return plain if len(plain.split()) >= _TELLING_WORDS else ""


@dataclass(frozen=True)
class _Prints:
    """What is compared of every distinct image.

    Attributes:
        exact: Pixel hash -> hash of the pixels as RGB, equal also after a change of mode.
        names: Pixel hashes of the images that are not flat, in the order of `hashes`.
        hashes: Their perceptual hashes, uint64.
    """

    exact: Mapping[str, str]
    names: Sequence[str]
    hashes: NDArray[np.uint64]

    @classmethod
    def of(cls, images: Iterable[str], image_of: ImageOf, progress: Progress) -> _Prints:
        ordered = sorted(images)
        exact, hashes = {}, []
        with progress.task("hashing images", len(ordered), "images") as advance:
            for name in ordered:
                image = image_of(name)
                exact[name] = pixel_hash(image.convert("RGB"))
                hashes.append(perceptual_hash(image))
                advance(1)
        telling = [index for index, value in enumerate(hashes) if value != FLAT]
        return cls(exact, [ordered[index] for index in telling], np.array(hashes, np.uint64)[telling])


def _near_meetings(
    test: Sequence[Sample], seen: Sequence[Sample], prints: _Prints, image_of: ImageOf, progress: Progress
) -> Iterator[Finding]:
    """Test samples whose image is a near-duplicate, not an equal, of one in train or val."""
    pairs = _confirmed(prints, {sample.image for sample in test}, {sample.image for sample in seen}, image_of, progress)
    homes = _by(seen, lambda sample: sample.image)
    for sample in test:
        near = [
            (distance, other.id, other.split)
            for image, distance in pairs.get(sample.image, ())
            for other in homes[image]
        ]
        if near:
            distance, other, split = min(near)
            yield Finding(sample.id, "near", other, split, len(near), distance)


def _confirmed(
    prints: _Prints, test: set[str], seen: set[str], image_of: ImageOf, progress: Progress
) -> Mapping[str, list[tuple[str, int]]]:
    """Test image -> near-duplicates in train or val with their hash distance; pairs of equal pixels are left out."""
    mine = [index for index, name in enumerate(prints.names) if name in test]
    theirs = [index for index, name in enumerate(prints.names) if name in seen]
    rows, columns, distances = pairs_within(prints.hashes[mine], prints.hashes[theirs], radius=RADIUS)
    levels = lru_cache(maxsize=4096)(lambda name: pyramid(image_of(name)))
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    with progress.task("confirming near-duplicates", len(rows), "pairs") as advance:
        for row, column, distance in zip(rows, columns, distances, strict=True):
            here, there = prints.names[mine[row]], prints.names[theirs[column]]
            advance(1)
            if prints.exact[here] != prints.exact[there] and similarity(levels(here), levels(there)) >= THRESHOLD:
                found[here].append((there, int(distance)))
    return found


def _same_questions(test: Sequence[Sample], seen: Sequence[Sample], findings: Sequence[Finding]) -> Iterator[Finding]:
    """Questions that stand with the same answer on a leaked image, where the model has seen the answer itself."""
    leaked = {finding.sample for finding in findings if finding.kind in ("pixels", "near")}
    asked = [sample for sample in test if sample.id in leaked]
    return _meetings("text", asked, seen, lambda sample: question_answer(sample.fields["question"], sample.target))
