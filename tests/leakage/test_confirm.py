import numpy as np
import pytest
from leakage_pictures import cloud
from PIL import Image
from planted import CHANGES, cropped

from vlmed.errors import InputError
from vlmed.leakage.confirm import THRESHOLD, pyramid, similarity
from vlmed.leakage.near import pairs_within
from vlmed.leakage.perceptual import RADIUS, perceptual_hashes


def compared(a, b):
    return similarity(pyramid(a), pyramid(b))


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_confirmed_from_either_side(change):
    rng = np.random.default_rng(1)
    image = cloud(2, 400)
    copy = CHANGES[change](image, rng)
    assert compared(image, copy) >= THRESHOLD
    assert compared(copy, image) >= THRESHOLD


def test_an_image_is_equal_to_itself_and_to_its_rgb():
    image = cloud(0, 300)
    assert compared(image, image) == pytest.approx(1)
    assert compared(image, image.convert("RGB")) == pytest.approx(1)


def test_the_same_coarse_structure_with_other_details_is_not_a_copy():
    a, b = cloud(7, 256), cloud(7, 256, detail=1)
    coarse = [np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=float).ravel() for image in (a, b)]
    assert np.corrcoef(*coarse)[0, 1] > 0.9
    assert compared(a, b) < 0.8


def test_a_negative_is_not_a_copy():
    image = cloud(3, 200)
    assert compared(image, image.point(lambda value: 255 - value)) < 0


def test_a_mirrored_or_turned_picture_is_not_a_copy():
    image = cloud(3, 200)
    for turned in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90):
        assert compared(image, image.transpose(turned)) < 0.7


def test_a_crop_of_a_quarter_is_not_undone():
    image = cloud(3, 400)
    assert compared(image, image.crop((100, 100, 400, 400))) < THRESHOLD


def test_two_sizes_are_compared_at_the_smaller():
    image = cloud(4, 256)
    small = image.resize((28, 28), Image.Resampling.BICUBIC)
    assert [len(level) for level in pyramid(small)] == [16, 32]
    assert [len(level) for level in pyramid(image)] == [16, 32, 64, 128]
    assert compared(image, small) >= THRESHOLD


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_images_agree_with_nothing_not_even_themselves(value):
    flat = Image.new("L", (64, 64), value)
    assert compared(flat, flat) == compared(flat, cloud(0, 64)) == compared(cloud(0, 64), flat) == 0


@pytest.mark.parametrize("side", [1, 2, 28, 31, 33])
def test_tiny_images_are_compared(side):
    image = cloud(5, side) if side > 2 else Image.new("L", (side, side), 9)
    assert compared(image, image) == pytest.approx(1 if side > 2 else 0)


def test_stripes_have_no_unique_alignment_and_still_a_score():
    stripes = Image.fromarray(np.tile(np.uint8([0, 0, 0, 0, 255, 255, 255, 255]), (128, 16)))
    assert compared(stripes, stripes) == pytest.approx(1)


def test_long_strips_are_compared():
    strip = cloud(6, 300).crop((0, 0, 300, 12))
    assert compared(strip, strip) == pytest.approx(1)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(InputError, match="no pixels"):
        pyramid(Image.new("L", (0, 0)))


@pytest.mark.parametrize("change", ["jpeg 60", "size x 2", "brightness +0.15", "mode RGB", "crop 5 %"])
def test_copies_of_real_images_are_confirmed(real_images, change):
    rng = np.random.default_rng(0)
    large = [image for image in list(real_images.values())[::5] if min(image.size) >= 128]
    assert np.mean([compared(image, CHANGES[change](image, rng)) >= THRESHOLD for image in large]) >= 0.95


def test_vqa_rad_has_no_near_duplicates(shared_data):
    """All 315 images: the candidates are radiographs and scans of different patients."""
    images = [Image.open(path).convert("L") for path in sorted(shared_data.rglob("synpic*.jpg"))]
    i, j, _ = pairs_within(perceptual_hashes(images), radius=RADIUS)
    assert len(images) == 315
    assert 30 <= len(i) <= 100
    assert max(compared(images[p], images[q]) for p, q in zip(i, j, strict=True)) < 0.75


def test_breastmnist_repeats_its_training_images_in_test(shared_data):
    with np.load(shared_data / "breastmnist" / "breastmnist.npz") as arrays:
        splits = {split: list(map(Image.fromarray, arrays[f"{split}_images"])) for split in ("train", "val", "test")}
    known, test = splits["train"] + splits["val"], splits["test"]
    i, j, _ = pairs_within(perceptual_hashes(test), perceptual_hashes(known), radius=RADIUS)
    near = {(int(p), int(q)) for p, q in zip(i, j, strict=True) if compared(known[q], test[p]) >= THRESHOLD}
    assert (76, 115) in near  # equal pixels
    assert {(84, 546 + 24), (7, 481), (149, 317)} <= near
    assert 62 <= len({p for p, _ in near}) <= 66


def test_crops_beyond_the_radius_are_still_confirmed():
    """Recall is bounded by the hash and not by the comparison."""
    rng = np.random.default_rng(3)
    images = [cloud(seed, 300) for seed in range(8)]
    assert all(compared(image, cropped(0.08)(image, rng)) >= 0.9 for image in images)
