"""Pixels looked up instead of computed: only where they are the same to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import families
from vlmed.errors import InputError
from vlmed.evaluate.codes import Codes
from vlmed.models.encoders import TowerEncoder
from vlmed.models.later import LaterImageEncoder
from vlmed.models.load import load_model
from vlmed.models.numerics import Numerics

CUTS = ("open_clip", "biomedclip", "cxr_clip_swin", "pmc_clip", "timm")
COMPUTES = ("clip", "medclip_swin", "vit")
SHAPE = (16, 16)
SCALE = transforms.Normalize([0.48, 0.46, 0.41], [0.27, 0.26, 0.28])
TO_TENSOR = transforms.ToTensor()
RESIZE = transforms.Resize(SHAPE)


class Standardise(transforms.Normalize):
    """Looks at the whole image, as no step that scales byte by byte does."""

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return (tensor - tensor.mean()) / 0.25


class Inverted(transforms.ToTensor):
    """Bytes in falling order."""

    def __call__(self, pic: Any) -> torch.Tensor:
        return 1 - super().__call__(pic)


def loaded(name: str) -> TowerEncoder:
    predictor = load_model(f"dir:{families.checkpoint(name)}").predictor
    assert isinstance(predictor, TowerEncoder)
    return predictor


def made(*steps: Callable[[Any], Any]) -> TowerEncoder:
    """An encoder that does these steps and then takes the mean of each channel."""
    tower = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return TowerEncoder(tower, transforms.Compose(steps), "steps", "cpu")


def pictures() -> Iterator[Image.Image]:
    random = np.random.default_rng(1)
    for height, width in ((1, 1), (7, 300), (61, 40), (224, 224), (500, 333)):
        noise = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        yield from (noise, *(noise.convert(mode) for mode in ("L", "P", "1", "LA", "RGBA", "CMYK")))


def check(encoder: TowerEncoder, images: Sequence[Image.Image]) -> None:
    """What is looked up is what the model's own preprocessing computes."""
    codes = Codes.of(encoder)
    assert codes is not None
    for image in images:
        expected, out = encoder.preprocess(image).numpy(), np.empty(codes.shape, np.float32)
        found = codes.read(image)
        assert found is not None
        codes.decode(found, out)
        assert out.tobytes() == expected.tobytes(), f"mode {image.mode}, size {image.size}"
        again = codes.encode(expected)
        assert again is not None
        assert again.tobytes() == found.tobytes(), "rows would depend on who wrote them"


@pytest.mark.parametrize("name", CUTS)
def test_looked_up_pixels_are_the_computed_ones(name: str) -> None:
    check(loaded(name), list(pictures()))


@pytest.mark.parametrize("name", COMPUTES)
def test_what_is_no_chain_of_known_steps_is_computed(name: str) -> None:
    codes = Codes.of(loaded(name))
    assert codes is not None
    assert codes.cut is None
    assert codes.read(Image.new("RGB", (50, 50))) is None


def test_an_encoder_that_is_loaded_later_cuts_like_itself() -> None:
    encoder = loaded("open_clip")
    later = LaterImageEncoder(lambda: encoder, "cpu", Numerics(), encoder.dim, encoder.preprocessing)
    codes = Codes.of(later)
    assert codes is not None
    assert codes.cut is not None


@pytest.mark.parametrize(
    "steps",
    [
        (transforms.Pad(3, fill=(255, 0, 10)), RESIZE),
        (RESIZE, transforms.Lambda(lambda image: Image.merge("RGB", [*image.split()][::-1]))),
        (RESIZE, transforms.Lambda(lambda image: image.point([*range(256), *reversed(range(256)), *range(256)]))),
    ],
    ids=["pad in colour", "swap channels", "invert one channel"],
)
def test_grey_images_become_colour_where_steps_tell_channels_apart(steps: tuple[Any, ...]) -> None:
    check(made(*steps, TO_TENSOR, SCALE), list(pictures()))


@pytest.mark.parametrize(
    "steps",
    [
        (RESIZE, TO_TENSOR, Standardise([0.5], [0.5])),
        (RESIZE, Inverted(), SCALE),
        (RESIZE, TO_TENSOR, transforms.Normalize([0.5] * 3, [-0.5] * 3)),
        (TO_TENSOR, RESIZE, SCALE),
        (RESIZE, TO_TENSOR, SCALE, transforms.GaussianBlur(3)),
        (RESIZE, TO_TENSOR),
    ],
    ids=["standardises", "inverts", "falls", "resizes numbers", "blurs numbers", "does not scale"],
)
def test_other_ends_are_not_taken_for_known(steps: tuple[Any, ...]) -> None:
    codes = Codes.of(made(*steps))
    assert codes is None or codes.cut is None


def test_an_object_with_a_chain_it_does_not_use_is_computed() -> None:
    class Liar(TowerEncoder):
        def preprocess(self, image: Image.Image) -> torch.Tensor:
            return 1 - super().preprocess(image)

    honest = made(RESIZE, TO_TENSOR, SCALE)
    codes = Codes.of(Liar(honest.image_tower, honest.transform, "liar", "cpu"))
    assert codes is not None
    assert codes.cut is None


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_images_are_refused_as_ever(mode: str) -> None:
    codes = Codes.of(made(RESIZE, TO_TENSOR, SCALE))
    assert codes is not None
    with pytest.raises(InputError, match="more than 8 bits"):
        codes.read(Image.new(mode, (20, 20)))


def test_a_cut_of_another_shape_tells_nothing() -> None:
    codes = Codes.of(made(RESIZE, TO_TENSOR, SCALE))
    assert codes is not None
    assert replace(codes, shape=(3, 8, 8)).read(Image.new("RGB", (20, 20))) is None


def test_no_pixels_are_computed_for_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmed.data.phantom import PhantomSource
    from vlmed.data.prepare import prepare
    from vlmed.evaluate.pixels import PixelStore
    from vlmed.progress import Silent
    from vlmed.suite.load import load_suite

    source = PhantomSource({"patients": 3, "images_per_patient": 1, "size": 40}, tmp_path)
    data = prepare(load_suite().datasets["phantom"], source, tmp_path / "data", Silent())
    encoder, names = loaded("open_clip"), sorted(data.places)
    expected = torch.stack([encoder.preprocess(data.image(name)) for name in names])
    store = PixelStore(tmp_path / "pixels", encoder)
    store.batch(data, names[:1])
    monkeypatch.setattr(encoder, "preprocess", None)
    assert torch.equal(store.batch(data, names), expected)
