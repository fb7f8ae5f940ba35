"""`vlmed fingerprint`: hashes of training images, and test images found among them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import Vlmed
from PIL import Image

from vlmed.data.prepare import decode
from vlmed.data.sources import open_source
from vlmed.hashing import pixel_hash
from vlmed.leakage.fingerprint import read_fingerprint, read_task_hashes, task_hashes_path
from vlmed.suite.load import load_suite, suite_path
from vlmed.suite.manifest import manifest_path, read_manifest

WITH_HASHES = {"breastmnist", "vqa_rad", "vqa_rad_official", "slake", "slake_bilingual", "phantom_lesion"}
RANDOM = np.random.default_rng(5)


def picture(side: int = 24) -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 255, (side, side, 3), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images at two depths."""
    place = tmp_path / "images"
    (place / "deep" / "er").mkdir(parents=True)
    picture().save(place / "a.png")
    picture().save(place / "deep" / "b.jpg")
    picture().save(place / "deep" / "er" / "c.bmp")
    return place


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "training.parquet"


def pixels_in(path: Path) -> list[set[str]]:
    return [{value.hex() for value in row} for row in read_fingerprint(path).table["pixels"].to_pylist()]


def npz(path: Path, **counts: int) -> Path:
    arrays = {f"{split}_images": RANDOM.integers(0, 255, (n, 28, 28), np.uint8) for split, n in counts.items()}
    np.savez_compressed(path, **arrays, train_labels=np.zeros((3, 1)))
    return path


# Making


def test_a_folder_is_searched_recursively_in_order_of_the_names(vlmed: Vlmed, folder: Path, out: Path) -> None:
    said = vlmed("fingerprint", folder, "--out", out)
    assert (said.code, said.err) == (0, "")
    assert "3 images\n" in said.out
    files = [folder / "a.png", folder / "deep" / "b.jpg", folder / "deep" / "er" / "c.bmp"]
    assert all(pixel_hash(Image.open(file)) in row for file, row in zip(files, pixels_in(out), strict=True))


def test_the_command_make_may_be_named_or_follow_its_options(vlmed: Vlmed, folder: Path, tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("one", "two", "three")]
    assert vlmed("fingerprint", folder, "--out", outs[0]).code == 0
    assert vlmed("fingerprint", "make", folder, "--out", outs[1]).code == 0
    assert vlmed("fingerprint", "--out", outs[2], folder).code == 0
    assert len({path.read_bytes() for path in outs}) == 1


def test_what_is_no_image_is_refused_with_every_name(vlmed: Vlmed, folder: Path, out: Path) -> None:
    (folder / "labels.csv").write_text("a,1")
    (folder / "deep" / "cut.png").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "empty.jpg").write_bytes(b"")
    said = vlmed("fingerprint", folder, "--out", out)
    assert said.code == 2
    lines = [line for line in said.err.splitlines() if line.startswith("error")]
    assert [line.split(": ")[1] for line in lines] == ["deep/cut.png", "empty.jpg", "labels.csv"]
    assert "--skip-unreadable" in said.err
    assert not out.exists()


def test_what_is_no_image_can_be_left_out_and_is_named(vlmed: Vlmed, folder: Path, out: Path) -> None:
    (folder / "labels.csv").write_text("a,1")
    said = vlmed("fingerprint", folder, "--out", out, "--skip-unreadable")
    assert said.code == 0
    assert "warning: labels.csv: not a readable image" in said.err
    assert "3 images, left out: 1" in said.out
    assert len(pixels_in(out)) == 3


def test_nothing_but_unreadable_files_is_no_fingerprint(vlmed: Vlmed, tmp_path: Path, out: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    assert vlmed("fingerprint", tmp_path / "texts", "--out", out, "--skip-unreadable").code == 2
    assert not out.exists()


def test_an_image_without_numbers_is_named_beside_the_others(vlmed: Vlmed, folder: Path, out: Path) -> None:
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(folder / "nan.tiff")
    (folder / "labels.csv").write_text("a,1")
    said = vlmed("fingerprint", folder, "--out", out)
    assert said.code == 2
    assert "labels.csv" in said.err
    assert "nan.tiff" in said.err


def test_hidden_files_are_passed_over(vlmed: Vlmed, folder: Path, out: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / ".git").mkdir()
    (folder / ".git" / "index").write_bytes(b"\0")
    assert vlmed("fingerprint", folder, "--out", out).code == 0
    assert len(pixels_in(out)) == 3


def test_links_are_followed_once(vlmed: Vlmed, folder: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    picture().save(tmp_path / "elsewhere" / "d.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "deep" / "back").symlink_to(folder)
    assert vlmed("fingerprint", folder, "--out", out).code == 0
    assert len(pixels_in(out)) == 4


def test_every_frame_of_a_file_is_an_image(vlmed: Vlmed, tmp_path: Path, out: Path) -> None:
    (tmp_path / "stack").mkdir()
    frames = [picture().convert("L") for _ in range(4)]
    frames[0].save(tmp_path / "stack" / "slices.tiff", save_all=True, append_images=frames[1:])
    assert vlmed("fingerprint", tmp_path / "stack", "--out", out).code == 0
    assert all(pixel_hash(frame) in row for frame, row in zip(frames, pixels_in(out), strict=True))


def test_a_damaged_frame_is_refused(vlmed: Vlmed, tmp_path: Path, out: Path) -> None:
    (tmp_path / "stack").mkdir()
    frames = [picture(64) for _ in range(3)]
    frames[0].save(tmp_path / "whole.gif", save_all=True, append_images=frames[1:])
    whole = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "stack" / "cut.gif").write_bytes(whole[: len(whole) - 1500])
    said = vlmed("fingerprint", tmp_path / "stack", "--out", out)
    assert said.code == 2
    assert "cut.gif" in said.err


@pytest.mark.parametrize(
    ("options", "images", "left_out"),
    [
        ((), 5, ["test_images"]),
        (("--splits", "train"), 3, ["val_images", "test_images"]),
        (("--splits", "train,val,test"), 9, []),
    ],
)
def test_an_npz_gives_the_splits_that_the_model_saw(
    vlmed: Vlmed, tmp_path: Path, out: Path, options: tuple[str, ...], images: int, left_out: list[str]
) -> None:
    file = npz(tmp_path / "set.npz", train=3, val=2, test=4)
    said = vlmed("fingerprint", file, "--out", out, *options)
    assert said.code == 0
    assert len(pixels_in(out)) == images
    assert [line.split(": ")[1].split(";")[0] for line in said.err.splitlines()] == left_out
    first = Image.fromarray(np.load(file)["train_images"][0])
    assert pixel_hash(first) in pixels_in(out)[0]


def test_an_npz_that_ends_early_is_refused_with_its_array(vlmed: Vlmed, tmp_path: Path, out: Path) -> None:
    with np.load(npz(tmp_path / "whole.npz", train=30)) as whole:
        images = whole["train_images"]
    broken = tmp_path / "broken.npz"
    np.savez(broken, train_images=images)
    data = bytearray(broken.read_bytes())
    data[5000] ^= 1
    broken.write_bytes(data)
    said = vlmed("fingerprint", broken, "--out", out)
    assert said.code == 2
    assert "train_images" in said.err
    assert not out.exists()


@pytest.mark.parametrize("images", [np.zeros((3, 8, 8), np.float32), np.zeros((8, 8), np.uint8), np.array([None])])
def test_arrays_that_hold_no_images_are_refused(vlmed: Vlmed, tmp_path: Path, out: Path, images: np.ndarray) -> None:
    np.savez(tmp_path / "set.npz", train_images=images)
    said = vlmed("fingerprint", tmp_path / "set.npz", "--out", out)
    assert said.code == 2
    assert "expected uint8 of shape" in said.err


def test_an_npz_without_the_splits_is_refused(vlmed: Vlmed, tmp_path: Path, out: Path) -> None:
    said = vlmed("fingerprint", npz(tmp_path / "set.npz", training=2), "--out", out)
    assert said.code == 2
    assert "got: training_images" in said.err


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None, lambda path: path.write_text("no zip")])
def test_a_place_without_images_is_refused(vlmed: Vlmed, tmp_path: Path, out: Path, make) -> None:
    make(tmp_path / "place")
    said = vlmed("fingerprint", tmp_path / "place", "--out", out)
    assert said.code in (2, 3)
    assert str(tmp_path / "place") in said.err
    assert not out.exists()


# Checking


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six test images of the phantom, as lossless files in RGB."""
    place = tmp_path_factory.mktemp("phantoms")
    dataset = load_suite().task("phantom_lesion").dataset
    source = open_source(dataset, Path())
    tests = list(dict.fromkeys(record.image for record in source.records() if record.split == "test"))
    for key in tests[:6]:
        decode(source.image(key)).convert("RGB").save(place / f"{key}.png")
    return place


def counted(vlmed: Vlmed, *arguments: object) -> tuple[int, dict[str, list[dict]]]:
    said = vlmed("fingerprint", "check", *arguments, "--json")
    return said.code, {found["task"]: found["matches"] for found in json.loads(said.out)}


def test_test_images_are_found_in_another_mode(vlmed: Vlmed, phantoms: Path, out: Path) -> None:
    vlmed("fingerprint", phantoms, "--out", out)
    code, matches = counted(vlmed, out)
    assert code == 1
    exact = [match["sample"] for match in matches["phantom_lesion@1"] if match["kind"] == "pixels"]
    assert exact == sorted(path.stem for path in phantoms.iterdir())
    rows = {match["row"] for match in matches["phantom_lesion@1"]}
    assert rows == set(range(6))


def test_the_table_names_the_tasks_that_are_hit(vlmed: Vlmed, phantoms: Path, out: Path) -> None:
    vlmed("fingerprint", phantoms, "--out", out)
    said = vlmed("fingerprint", "check", out)
    assert said.code == 1
    assert "found: phantom" in said.out.replace("\n", "")
    cells = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in said.out.splitlines() if "│" in line}
    assert [cell.strip() for cell in cells["roco_radiology@1"]] == ["8179", "8179", "–", "not looked for"]


def test_strangers_are_not_found(vlmed: Vlmed, folder: Path, out: Path) -> None:
    vlmed("fingerprint", folder, "--out", out)
    said = vlmed("fingerprint", "check", out)
    assert said.code == 0
    assert "no test image of these tasks was found" in said.out
    frozen = [task.id for task in load_suite().tasks.values() if not task.pending]
    assert all(task in said.out for task in frozen)


def test_a_copy_that_was_stored_as_jpeg_is_near(vlmed: Vlmed, shared_data: Path, tmp_path: Path, out: Path) -> None:
    images = np.load(shared_data / "breastmnist" / "breastmnist.npz")["test_images"][:8]
    (tmp_path / "copies").mkdir()
    for n, pixels in enumerate(images):
        Image.fromarray(pixels).resize((56, 56), Image.Resampling.LANCZOS).save(tmp_path / "copies" / f"{n}.jpg")
    vlmed("fingerprint", tmp_path / "copies", "--out", out)
    code, matches = counted(vlmed, out)
    near = {match["sample"]: match["row"] for match in matches["breastmnist@1"] if match["kind"] == "near"}
    assert code == 1
    assert {f"breastmnist-test-{n:05}" for n in range(8)} <= near.keys()
    assert not matches["slake@1"]
    assert counted(vlmed, out, "--exact")[0] == 0


def test_train_of_breastmnist_holds_one_of_its_test_images(vlmed: Vlmed, shared_data: Path, out: Path) -> None:
    vlmed("fingerprint", shared_data / "breastmnist" / "breastmnist.npz", "--out", out)
    code, matches = counted(vlmed, out, "--exact")
    rows = read_manifest(load_suite().task("breastmnist"))
    seen = {row.image for row in rows.rows if row.split != "test"}
    expected = [row.sample_id for row in rows.split("test") if row.image in seen]
    assert (code, [match["sample"] for match in matches["breastmnist@1"]]) == (1, expected)
    assert len(expected) == 1


@pytest.mark.parametrize("content", [None, b"", b"PAR1 no more"])
def test_what_is_no_fingerprint_is_refused(vlmed: Vlmed, out: Path, content: bytes | None) -> None:
    if content is not None:
        out.write_bytes(content)
    said = vlmed("fingerprint", "check", out)
    assert said.code == (2 if content is not None else 3)
    assert str(out) in said.err


# Freezing


def test_freezing_gives_the_hashes_that_are_published(vlmed: Vlmed, shared_data: Path, tmp_path: Path) -> None:
    task, own = load_suite().task("breastmnist"), tmp_path / "own" / "manifests"
    own.mkdir(parents=True)
    shutil.copy(manifest_path(task), own)
    suite = shutil.copy(suite_path(), own.parent / "tasks.yaml")
    said = vlmed("fingerprint", "freeze", "breastmnist", "--data-root", shared_data, "--suite", suite)
    assert (said.code, said.err) == (0, "")
    assert "156 test images" in said.out
    assert task_hashes_path(task, own).read_bytes() == task_hashes_path(task).read_bytes()


@pytest.mark.parametrize(("task", "said_of"), [("papila", "pending"), ("roco_radiology", "without images")])
def test_a_task_without_frozen_images_has_no_hashes(vlmed: Vlmed, task: str, said_of: str) -> None:
    said = vlmed("fingerprint", "freeze", task)
    assert said.code in (2, 3)
    assert said_of in said.err
    assert not task_hashes_path(load_suite().task(task)).exists()


def test_every_published_file_of_hashes_fits_its_manifest() -> None:
    there = [task for task in load_suite().tasks.values() if task_hashes_path(task).exists()]
    assert {task.name for task in there} >= WITH_HASHES
    for task in there:
        assert read_task_hashes(task, read_manifest(task))
