"""Where a task's test samples meet its train or val: same pixels, same group, near-duplicate image, same text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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

ImageOf = Callable[[str], Image.Image]


@dataclass(frozen=True)
class Finding:
    """One test sample that meets train or val in one way.

    Attributes:
        sample: Id of the test sample.
        kind: How they meet; `LEAK_KINDS` has them from certain to likely.
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


def find_leaks(table: TaskTable, image_of: ImageOf | None, progress: Progress) -> list[Finding]:
    """Every way in which each test sample meets train or val, at most one finding per sample and kind.

    Args:
        image_of: Gives the decoded image of a pixel hash, and is called from several threads; None where the images are
            absent, so that only groups and captions can be compared.

    Returns:
        The findings by sample id, and of one sample in the order of `LEAK_KINDS`.
    """
    test = [sample for sample in table.samples if sample.split == "test"]
    seen = [sample for sample in table.samples if sample.split != "test"]
    findings = list(_meetings("group", test, seen, lambda sample: sample.group))
    if table.task.kind == "retrieval":
        findings += _meetings("text", test, seen, lambda sample: _caption(sample.target))
    if image_of:
        links = _links({sample.image for sample in test}, {sample.image for sample in seen}, image_of, progress)
        findings += _on_linked_images(test, seen, links, questions=table.task.kind == "vqa")
    return sorted(findings, key=lambda finding: (finding.sample, LEAK_KINDS.index(finding.kind)))


def _meetings(
    kind: LeakKind, test: Iterable[Sample], seen: Iterable[Sample], identity: Callable[[Sample], str]
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
class _Link:
    """An image of train or val that is, by its pixels, a test image."""

    image: str
    kind: LeakKind
    distance: int = 0


def _on_linked_images(
    test: Iterable[Sample], seen: Iterable[Sample], links: Mapping[str, Sequence[_Link]], questions: bool
) -> Iterator[Finding]:
    """The leaks of test samples whose image has links; with `questions`, also those whose answer was seen with it."""
    homes = _by(seen, lambda sample: sample.image)
    for sample in test:
        met = [(link, other) for link in links.get(sample.image, ()) for other in homes[link.image]]
        for kind in ("pixels", "near"):
            if found := [(link.distance, other.id, other.split) for link, other in met if link.kind == kind]:
                distance, nearest, split = min(found)
                yield Finding(sample.id, kind, nearest, split, len(found), distance)
        if questions:
            yield from _meetings("text", [sample], sorted((other for _, other in met), key=lambda s: s.id), _question)


def _question(sample: Sample) -> str:
    return question_answer(sample.fields["question"], sample.target)


def _links(
    test: Collection[str], seen: Collection[str], image_of: ImageOf, progress: Progress
) -> Mapping[str, Sequence[_Link]]:
    """Image in test -> its equals and near-duplicates in train or val."""
    prints = _Prints.of(sorted({*test, *seen}), image_of, progress)
    links: dict[str, list[_Link]] = defaultdict(list)
    equals: dict[str, list[str]] = defaultdict(list)
    for image in sorted(seen):
        equals[prints.exact[image]].append(image)
    for image in test:
        links[image] += [_Link(other, "pixels") for other in equals.get(prints.exact[image], ())]
    for image, link in _near_links(prints, test, seen, image_of, progress):
        links[image].append(link)
    return links


@dataclass(frozen=True)
class _Prints:
    """What is compared of every distinct image.

    Attributes:
        exact: Pixel hash -> hash of the canonical pixels, equal also after a change of mode.
        names: Pixel hashes of the images that are not flat, in the order of `hashes`.
        hashes: Their perceptual hashes, shape (N,), uint64.
    """

    exact: Mapping[str, str]
    names: Sequence[str]
    hashes: NDArray[np.uint64]

    @classmethod
    def of(cls, images: Sequence[str], image_of: ImageOf, progress: Progress) -> _Prints:
        exact, names, hashes = {}, [], []

        def prints(name: str) -> tuple[str, str, np.uint64]:
            image = image_of(name)
            return name, pixel_hash(_canonical(image)), perceptual_hash(image)

        # Threads pay, since Pillow decodes and resizes without the interpreter's lock.
        with progress.task("hashing images", len(images), "images") as advance, ThreadPoolExecutor() as pool:
            for name, pixels, value in pool.map(prints, images):
                exact[name] = pixels
                if value != FLAT:
                    names.append(name)
                    hashes.append(value)
                advance(1)
        return cls(exact, names, np.array(hashes, np.uint64))


def _canonical(image: Image.Image) -> Image.Image:
    """The picture in a mode that loses nothing, so that one stored as L, P or RGB becomes equal; alpha is dropped."""
    # Pillow clips modes deeper than 8 bits when it converts them to RGB, which would make different images equal.
    if image.mode.startswith("I"):
        return image.convert("I")
    return image if image.mode == "F" else image.convert("RGB")


def _near_links(
    prints: _Prints, test: Collection[str], seen: Collection[str], image_of: ImageOf, progress: Progress
) -> Iterator[tuple[str, _Link]]:
    """Pairs whose hashes are near and whose pixels confirm it; pairs of equal pixels are left out."""
    mine = [index for index, name in enumerate(prints.names) if name in test]
    theirs = [index for index, name in enumerate(prints.names) if name in seen]
    rows, columns, distances = pairs_within(prints.hashes[mine], prints.hashes[theirs], radius=RADIUS)
    # The pairs come test image by test image, so that one of each pair is always at hand.
    levels = lru_cache(maxsize=4096)(lambda name: pyramid(image_of(name)))
    with progress.task("confirming near-duplicates", len(rows), "pairs") as advance:
        for row, column, distance in zip(rows, columns, distances, strict=True):
            here, there = prints.names[mine[row]], prints.names[theirs[column]]
            if prints.exact[here] != prints.exact[there] and similarity(levels(here), levels(there)) >= THRESHOLD:
                yield here, _Link(there, "near", int(distance))
            advance(1)
