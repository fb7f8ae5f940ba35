"""Preprocessed images kept on disk: the very tensors, whoever writes them and whatever happens to the files."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import factories
import families
import own_models
from vlmed.data.phantom import PhantomSource
from vlmed.data.prepare import PreparedDataset, prepare
from vlmed.errors import UsageError
from vlmed.evaluate.codes import Codes
from vlmed.evaluate.features import FeatureCache
from vlmed.evaluate.pixels import PixelStore, budget
from vlmed.models.load import load_model
from vlmed.models.protocols import ImageEncoder
from vlmed.progress import Silent
from vlmed.suite.load import load_suite

# An image of 3 x 32 x 32 bytes and its checksum fit one block of the disk.
BLOCK = 4096
ROOM_FOR_FIVE = 5 * BLOCK


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    source = PhantomSource({"patients": 12, "images_per_patient": 2, "size": 40}, Path())
    return prepare(load_suite().datasets["phantom"], source, tmp_path_factory.mktemp("data") / "phantom", Silent())


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoder:
    return loaded(factories.tiny_open_clip(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def names(dataset: PreparedDataset) -> list[str]:
    return sorted(dataset.places)


def loaded(folder: Path) -> ImageEncoder:
    predictor = load_model(f"dir:{folder}").predictor
    assert isinstance(predictor, ImageEncoder)
    return predictor


class Deaf(PreparedDataset):
    """The same data set, whose images nobody may decode."""

    def image(self, image: str) -> Image.Image:
        raise AssertionError(f"{image} was decoded again")


def straight(encoder: ImageEncoder, dataset: PreparedDataset, names: list[str]) -> torch.Tensor:
    return torch.stack([encoder.preprocess(dataset.image(name)) for name in names])


def pictures() -> Iterator[Image.Image]:
    """Colour, grey, palette and two-level images of awkward shapes, of noise and of flat colour."""
    random = np.random.default_rng(1)
    for height, width in ((1, 1), (7, 300), (61, 40), (224, 224)):
        noise = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        yield from (noise, noise.convert("L"), noise.convert("P"), noise.convert("1"))
    yield from (Image.new("RGB", (50, 50), colour) for colour in ("black", "white", (255, 0, 1)))


KINDS = ("open_clip", "clip", "siglip_gemma", "align", "blip2_retrieval", "medclip_swin", "timm", "resnet")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_preprocessing_comes_back_to_the_bit(name: str) -> None:
    encoder = loaded(families.checkpoint(name))
    codes = Codes.of(encoder)
    assert codes, f"{name} could be kept until now"
    for picture in pictures():
        pixels = encoder.preprocess(picture.convert("RGB")).numpy()
        kept, again = codes.encode(pixels), np.empty_like(pixels)
        assert kept is not None
        codes.decode(kept, again)
        assert again.tobytes() == pixels.tobytes()


def test_what_has_more_levels_than_a_byte_is_never_kept(
    encoder: ImageEncoder, dataset: PreparedDataset, names: list[str], tmp_path: Path
) -> None:
    class Smooth(own_models.OwnImages):
        def preprocess(self, image: Image.Image) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(super().preprocess(image), 3, 1, 1)

    smooth = Smooth()
    assert Codes.of(smooth) is None
    store = PixelStore(tmp_path, smooth)
    assert torch.equal(store.batch(dataset, names), straight(smooth, dataset, names))
    assert not list(tmp_path.iterdir())


def test_a_preprocessing_that_only_looks_like_bytes_on_some_images_is_kept_for_those(
    dataset: PreparedDataset, names: list[str], tmp_path: Path
) -> None:
    odd = dataset.image(names[0]).tobytes()

    class Capricious(own_models.OwnImages):
        def preprocess(self, image: Image.Image) -> torch.Tensor:
            pixels = super().preprocess(image)
            return pixels + 1e-4 if image.tobytes() == odd else pixels

    model = Capricious()
    for _ in range(2):
        assert torch.equal(PixelStore(tmp_path, model).batch(dataset, names), straight(model, dataset, names))
    assert torch.equal(
        PixelStore(tmp_path, model).batch(Deaf(dataset.folder), names[1:]), straight(model, dataset, names[1:])
    )


def test_another_model_with_the_same_preprocessing_decodes_nothing(
    encoder: ImageEncoder, dataset: PreparedDataset, names: list[str], tmp_path: Path
) -> None:
    first = PixelStore(tmp_path / "pixels", encoder).batch(dataset, names)
    other = loaded(factories.tiny_open_clip(tmp_path / "other", seed=1))
    second = PixelStore(tmp_path / "pixels", other).batch(Deaf(dataset.folder), names[::-1])
    assert torch.equal(first, straight(encoder, dataset, names))
    assert torch.equal(second, first.flip(0))


def test_another_preprocessing_does_not_read_the_first_ones_pixels(
    encoder: ImageEncoder, dataset: PreparedDataset, names: list[str], tmp_path: Path
) -> None:
    PixelStore(tmp_path, encoder).batch(dataset, names)
    other = own_models.OwnImages()
    assert torch.equal(PixelStore(tmp_path, other).batch(dataset, names), straight(other, dataset, names))
    assert len(list(tmp_path.iterdir())) == 2


def test_features_are_the_same_with_and_without(
    encoder: ImageEncoder, dataset: PreparedDataset, names: list[str], tmp_path: Path
) -> None:
    plain = FeatureCache(tmp_path / "plain", encoder, ["x"], 8).features(dataset, names)
    for place in ("cold", "warm"):
        store = PixelStore(tmp_path / "pixels", encoder)
        kept = FeatureCache(tmp_path / place, encoder, ["x"], 8, store=store).features(dataset, names)
        assert kept.tobytes() == plain.tobytes()


@pytest.mark.parametrize("harm", ["cut", "flip", "zeros", "foreign"])
def test_damaged_rows_are_made_again(
    harm: str, encoder: ImageEncoder, dataset: PreparedDataset, names: list[str], tmp_path: Path
) -> None:
    expected = PixelStore(tmp_path, encoder).batch(dataset, names)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    if harm == "cut":
        del content[middle:]
    elif harm == "flip":
        content[middle] ^= 1
    elif harm == "zeros":
        content[middle:] = bytes(len(content) - middle)
    else:
        content[:] = bytes(range(256)) * (len(content) // 256)
    file.write_bytes(content)
    assert torch.equal(PixelStore(tmp_path, encoder).batch(dataset, names), expected)
    assert torch.equal(PixelStore(tmp_path, encoder).batch(Deaf(dataset.folder), names), expected)


def test_many_threads_and_stores_at_once(
    encoder: ImageEncoder, dataset: PreparedDataset, names: list[str], tmp_path: Path
) -> None:
    expected, got = straight(encoder, dataset, names), []
    stores = [PixelStore(tmp_path, encoder) for _ in range(3)]
    threads = [
        threading.Thread(target=lambda store=store: got.append(store.batch(dataset, names)))
        for store in stores
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6
    assert all(torch.equal(batch, expected) for batch in got)


def test_the_budget_bounds_all_files_together(
    encoder: ImageEncoder, dataset: PreparedDataset, names: list[str], tmp_path: Path
) -> None:
    expected = straight(encoder, dataset, names)
    for _ in range(2):
        assert torch.equal(PixelStore(tmp_path, encoder, budget=ROOM_FOR_FIVE).batch(dataset, names), expected)
        taken = sum(file.stat().st_blocks * 512 for file in tmp_path.iterdir())
        assert 0 < taken <= ROOM_FOR_FIVE


def test_what_was_not_used_for_longest_goes_first(
    encoder: ImageEncoder, dataset: PreparedDataset, names: list[str], tmp_path: Path
) -> None:
    for age, name in ((200, "old.u8"), (100, "older-but-used.u8")):
        (tmp_path / name).write_bytes(bytes(8192))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    PixelStore(tmp_path, encoder, budget=len(names) * BLOCK + 8192).batch(dataset, names)
    left = {file.name for file in tmp_path.iterdir()}
    assert "old.u8" not in left
    assert "older-but-used.u8" in left


def test_no_budget_keeps_nothing(
    encoder: ImageEncoder, dataset: PreparedDataset, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLMED_PIXELS_GIB", "0")
    store = PixelStore(tmp_path / "pixels", encoder)
    assert torch.equal(store.batch(dataset, names), straight(encoder, dataset, names))
    assert not (tmp_path / "pixels").exists()


@pytest.mark.parametrize("text", ["", "much", "-1", "nan", "inf", "1e99"])
def test_a_budget_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMED_PIXELS_GIB", text)
    with pytest.raises(UsageError, match="VLMED_PIXELS_GIB"):
        budget()


def test_a_folder_that_cannot_be_written_costs_time_only(
    encoder: ImageEncoder, dataset: PreparedDataset, names: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    store = PixelStore(tmp_path / "file", encoder)
    assert torch.equal(store.batch(dataset, names), straight(encoder, dataset, names))


def test_an_unknown_image_is_told(encoder: ImageEncoder, dataset: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="nobody"):
        PixelStore(tmp_path, encoder).batch(dataset, ["nobody"])
