import numpy as np
import pytest
from leakage_pictures import cloud
from PIL import Image
from planted import CHANGES, cropped
from scipy.fft import dctn

from vlmed.errors import InputError
from vlmed.leakage.perceptual import FLAT, RADIUS, grey, perceptual_hash, perceptual_hashes


def distance(a, b):
    return int(np.bitwise_count(perceptual_hash(a) ^ perceptual_hash(b)))


def test_the_hash_is_the_sign_pattern_of_the_lowest_frequencies():
    image = cloud(1, 32)
    lowest = dctn(np.asarray(image, dtype=float))[:8, :8].ravel()
    bits = "".join("1" if value > np.median(lowest[1:]) else "0" for value in lowest)
    # A frequency next to the median may fall to either side by rounding.
    assert (int(bits, 2) ^ int(perceptual_hash(image))).bit_count() <= 2


@pytest.mark.parametrize("change", [name for name in CHANGES if not name.startswith("crop")])
def test_copies_are_within_the_radius(change):
    rng = np.random.default_rng(0)
    for seed in range(5):
        image = cloud(seed, 320)
        assert distance(image, CHANGES[change](image, rng)) <= RADIUS


def test_small_crops_are_mostly_within_the_radius():
    rng = np.random.default_rng(0)
    images = [cloud(seed, 320) for seed in range(20)]
    assert np.mean([distance(image, cropped(0.03)(image, rng)) <= RADIUS for image in images]) >= 0.9


def test_different_pictures_are_far_apart():
    hashes = perceptual_hashes(cloud(seed, 64) for seed in range(40))
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])[np.triu_indices(40, 1)]
    assert distances.min() > RADIUS
    assert abs(distances.mean() - 32) < 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK"])
def test_the_mode_hardly_matters(mode):
    image = cloud(3, 100)
    assert distance(image, image.convert(mode)) <= (4 if mode == "CMYK" else 0)


def test_grey_of_rgb_and_of_l_are_equal():
    image = cloud(3, 50)
    assert grey(image.convert("RGB")).tobytes() == image.tobytes() == grey(image).tobytes()


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_images_are_stretched_and_not_clipped(mode):
    image = cloud(4, 100)
    deep = np.asarray(image).astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]) * 257
    opened = Image.fromarray(deep)
    assert opened.mode == mode
    assert distance(image, opened) <= 2


@pytest.mark.parametrize("value", [0, 17, 255])
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (300, 20)])
def test_constant_images_are_flat(value, size):
    assert perceptual_hash(Image.new("L", size, value)) == FLAT


def test_noise_of_a_grey_level_is_flat_and_a_faint_picture_is_not():
    noise = np.random.default_rng(0).integers(100, 103, (200, 200), dtype=np.uint8)
    assert perceptual_hash(Image.fromarray(noise)) == FLAT
    assert perceptual_hash(cloud(5, 200).point(lambda value: 100 + value // 12)) != FLAT


def test_a_deep_constant_image_is_flat():
    assert perceptual_hash(Image.fromarray(np.full((9, 9), 4000, np.uint16))) == FLAT


def test_many_are_hashed_as_one_by_one():
    images = [cloud(seed, 40) for seed in range(300)]
    hashes = perceptual_hashes(iter(images))
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [int(perceptual_hash(image)) for image in images]


def test_no_image_has_no_hash():
    assert perceptual_hashes([]).shape == (0,)
    assert perceptual_hashes([]).dtype == np.uint64


def test_an_image_without_pixels_is_told_by_position():
    with pytest.raises(InputError, match=r"image 1: the image has no pixels(.|\n)*0 x 4"):
        perceptual_hashes([cloud(0, 20), Image.new("L", (0, 4))])


def test_pixels_that_are_not_numbers_are_refused():
    with pytest.raises(InputError, match="not numbers"):
        perceptual_hash(Image.fromarray(np.full((4, 4), np.nan, np.float32)))


def test_no_real_image_is_flat(real_images):
    assert not (perceptual_hashes(real_images.values()) == FLAT).any()
