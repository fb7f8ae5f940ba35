"""Known leaks from train to test, planted on request so that leak checks can be shown and measured."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmed.data.phantom_case import Dice
from vlmed.errors import Problem, UsageError

_NEAR = ("brighter", "darker", "resized", "cropped", "jpeg")
# Kind -> the disguises that its copies go through in turn.
DISGUISES: Mapping[str, Sequence[str]] = {
    "exact": ("copied",),
    "reencoded": ("tiff", "rgb"),
    "near": _NEAR,
    "text": _NEAR,
    "group": ("moved",),
}


class PlantedLeak(NamedTuple):
    """One pair of images that leaks.

    Attributes:
        train: Key of the image in train.
        test: Key of the image in test.
        kind: `exact` (the same file under another patient), `reencoded` (the same pixels in another file: TIFF, or
            PNG with three equal channels), `near` (the picture after a brightness change, resizing, a small crop or
            JPEG), `text` (such a picture with the same caption and questions, so the pair is listed as `near`
            too), `group` (both are images of one patient).
        how: The disguise, see `DISGUISES`.
    """

    train: str
    test: str
    kind: str
    how: str


class Copy(NamedTuple):
    """What a test image shows instead of its own patient."""

    original: str
    how: str
    same_text: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """All leaks of a data set.

    Attributes:
        copies: Test key -> the train image that it shows.
        moved: Keys of images of train patients that are published in test.
    """

    copies: dict[str, Copy] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)
    leaks: list[PlantedLeak] = field(default_factory=list)


def plan(seed: int, wanted: Mapping[str, int], images: Mapping[str, Sequence[str]], tests: Iterable[str]) -> Plan:
    """Chooses the leaks: no train patient and no test image takes part in two of them.

    Args:
        wanted: Kind of leak -> how many.
        images: Group -> keys of its images, for the groups in train.
        tests: Keys of the images in test.

    Raises:
        UsageError: There are fewer groups or test images than leaks.
    """
    _check_room(wanted, images, tests := list(tests))
    # Sorted by a hash, which is a shuffle that needs no random number generator.
    groups = iter(sorted(images, key=lambda group: Dice(seed, "leaks", group).noise(8)))
    slots = iter(sorted(tests, key=lambda key: Dice(seed, "leaks", key).noise(8)))
    made = Plan()
    for kind, count in sorted(wanted.items()):
        for index in range(count):
            how = DISGUISES[kind][index % len(DISGUISES[kind])]
            first, *others = images[next(groups)]
            if kind == "group":
                made.moved.add(first)
                made.leaks.extend(PlantedLeak(other, first, kind, how) for other in others)
            else:
                _copy(made, first, next(slots), kind, how)
    return made


def _copy(made: Plan, train: str, test: str, kind: str, how: str) -> None:
    made.copies[test] = Copy(train, how, same_text=kind == "text")
    made.leaks.append(PlantedLeak(train, test, kind, how))
    if kind == "text":
        made.leaks.append(PlantedLeak(train, test, "near", how))


def _check_room(wanted: Mapping[str, int], images: Mapping[str, Sequence[str]], tests: Sequence[str]) -> None:
    count, copies = sum(wanted.values()), sum(wanted.values()) - wanted.get("group", 0)
    rooms = [("patients in train", count, len(images)), ("images in test", copies, len(tests))]
    problems = [
        Problem(
            "the phantom is too small for its leaks",
            path="leaks",
            expected=f"at least {need} {what}",
            got=str(there),
            hint="ask for more patients or fewer leaks",
        )
        for what, need, there in rooms
        if need > there
    ]
    if wanted.get("group") and not all(len(keys) > 1 for keys in images.values()):
        hint = "set images_per_patient to 2 or more"
        problems.append(Problem("a group leak needs patients with several images", path="leaks.group", hint=hint))
    if problems:
        raise UsageError(problems)


def encode(pixels: NDArray[np.uint8], how: str = "copied") -> bytes:
    """An image file of the given grey values, disguised.

    Only `jpeg`, `resized` and `cropped` lean on PIL's codecs and filters, whose last bit may differ between
    versions; everything else decodes to the same pixels on every platform.
    """
    if how in ("brighter", "darker"):
        pixels = np.clip(pixels.astype(np.int64) + (18 if how == "brighter" else -18), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    if how == "rgb":
        picture = picture.convert("RGB")
    elif how == "resized":
        picture = picture.resize([side * 3 // 4 for side in picture.size]).resize(picture.size)
    elif how == "cropped":
        cut = max(1, picture.width // 32)
        picture = picture.crop((cut, cut, picture.width - cut, picture.height - cut)).resize(picture.size)
    file = io.BytesIO()
    if how == "jpeg":
        picture.save(file, "JPEG", quality=75)
    elif how == "tiff":
        picture.save(file, "TIFF")
    else:
        # Noise doesn't compress; not trying to makes encoding several times as fast.
        picture.save(file, "PNG", compress_level=0)
    return file.getvalue()
