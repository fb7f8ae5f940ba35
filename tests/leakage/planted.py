"""Copies as they occur in the wild: an image stored again, resized, cropped, toned, or all of it."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def jpeg(quality: int) -> Change:
    def change(image: Image.Image, _: np.random.Generator) -> Image.Image:
        file = io.BytesIO()
        image.convert("RGB").save(file, "JPEG", quality=quality)
        return Image.open(io.BytesIO(file.getvalue()))

    return change


def resized(factor: float) -> Change:
    def change(image: Image.Image, _: np.random.Generator) -> Image.Image:
        size = round(image.width * factor), round(image.height * factor)
        return image.resize(size, Image.Resampling.BICUBIC)

    return change


def cropped(share: float) -> Change:
    """`share` of width and of height cut away, divided between the two edges at random."""

    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        width, height = image.size
        x, y = width * share * rng.random(), height * share * rng.random()
        return image.crop((round(x), round(y), round(x + width * (1 - share)), round(y + height * (1 - share))))

    return change


def toned(brightness: float = 0.0, contrast: float = 1.0, gamma: float = 1.0) -> Change:
    def change(image: Image.Image, _: np.random.Generator) -> Image.Image:
        values = np.asarray(image.convert("L"), dtype=np.float64) / 255
        values = np.clip((values**gamma - 0.5) * contrast + 0.5 + brightness, 0, 1)
        return Image.fromarray((values * 255).round().astype(np.uint8))

    return change


def all_at_once(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for change in (toned(0.05, 0.9), cropped(0.04), resized(0.5), jpeg(50)):
        image = change(image, rng)
    return image


CHANGES: dict[str, Change] = {
    "jpeg 30": jpeg(30),
    "jpeg 60": jpeg(60),
    "jpeg 90": jpeg(90),
    "size x 0.5": resized(0.5),
    "size x 2": resized(2),
    "crop 2 %": cropped(0.02),
    "crop 4 %": cropped(0.04),
    "crop 5 %": cropped(0.05),
    "crop 6 %": cropped(0.06),
    "brightness +0.15": toned(0.15),
    "brightness -0.10": toned(-0.10),
    "contrast x 0.7": toned(contrast=0.7),
    "contrast x 1.3": toned(contrast=1.3),
    "gamma 0.7": toned(gamma=0.7),
    "gamma 1.4": toned(gamma=1.4),
    "mode RGB": lambda image, _: image.convert("RGB"),
    "all at once": all_at_once,
}
