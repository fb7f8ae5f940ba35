"""Leaks that were planted, leaks that are published facts, and pictures that only look like leaks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from leakage_pictures import cloud
from leaky_tables import RETRIEVAL, VQA, Pictures, make_task, prepared, saved
from PIL import Image
from planted import jpeg

from vlmed.data.load import DataLoader
from vlmed.data.phantom import PhantomSource
from vlmed.data.phantom_case import KINDS
from vlmed.data.records import Record
from vlmed.data.table import TaskTable
from vlmed.leakage.find import LEAK_KINDS, Finding, find_leaks
from vlmed.leakage.report import Report
from vlmed.progress import Silent
from vlmed.suite.load import load_suite

PLANTED = {"exact": 6, "reencoded": 6, "near": 15, "text": 5, "group": 4}
# Planted kind -> the kind of finding that it has to become, and the least share that has to be found.
EXPECTED = {
    "exact": ("pixels", 1.0),
    "reencoded": ("pixels", 1.0),
    "group": ("group", 1.0),
    "near": ("near", 0.85),
    "text": ("text", 0.8),
}


# Planted leaks


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[PhantomSource, list[Finding]]:
    """A phantom with leaks, asked questions about, and what is found in it."""
    source = PhantomSource(
        {"patients": 120, "images_per_patient": 2, "rows": "questions", "leaks": PLANTED}, Path("unused")
    )
    folder = tmp_path_factory.mktemp("planted")
    table, data = prepared(source, make_task(folder, **VQA), folder)
    return source, find_leaks(table, data.image, Silent())


def image_pairs(findings: Sequence[Finding]) -> Mapping[str, Mapping[str, set[str]]]:
    """Kind -> test image -> the images in train or val that its questions meet."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for finding in findings:
        test, other = (name.rpartition("-q")[0] for name in (finding.sample, finding.other))
        found[finding.kind][test].add(other)
    return found


def test_planted_leaks_are_found_with_the_image_they_were_made_from(
    planted: tuple[PhantomSource, list[Finding]],
) -> None:
    source, findings = planted
    found = image_pairs(findings)
    truth: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for leak in source.planted():
        truth[leak.kind][leak.test].add(leak.train)
    lines, missed = ["planted    found as   planted  found"], []
    for kind, (as_kind, least) in EXPECTED.items():
        right = sum(bool(found[as_kind][test] & train) for test, train in truth[kind].items())
        lines.append(f"{kind:<10} {as_kind:<10} {len(truth[kind]):>7} {right:>6}")
        missed += [kind] if right < least * len(truth[kind]) else []
    assert not missed, "\n".join(lines)


def test_nothing_is_found_that_was_not_planted(planted: tuple[PhantomSource, list[Finding]]) -> None:
    source, findings = planted
    truth = {(EXPECTED[leak.kind][0], leak.test, leak.train) for leak in source.planted()}
    found = {
        (kind, test, train)
        for kind, tests in image_pairs(findings).items()
        for test, trains in tests.items()
        for train in trains
    }
    assert found <= truth, f"{len(found - truth)} of {len(found)} are false: {sorted(found - truth)}"


def test_a_phantom_without_leaks_has_none(tmp_path: Path) -> None:
    source = PhantomSource({"patients": 60, "images_per_patient": 2}, Path("unused"))
    table, data = prepared(source, make_task(tmp_path, KINDS), tmp_path)
    assert find_leaks(table, data.image, Silent()) == []


# Hand-made leaks


Find = Callable[..., list[Finding]]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Leaks between one test image and one or more train images; fields and groups on request."""

    def found(
        test: bytes, *train: bytes, fields: Mapping[str, Mapping[str, str]] | None = None, **more: object
    ) -> list[Finding]:
        fields = fields or {}
        files = {"test": test} | {f"train{n}": file for n, file in enumerate(train)}
        rows = [
            Record(key, key, f"patient {key}", key.rstrip("0123456789"), fields.get(key, {"label": "normal"}))
            for key in files
        ]
        table, data = prepared(Pictures(rows, files), make_task(tmp_path, **more), tmp_path)
        return find_leaks(table, data.image, Silent())

    return found


PICTURE = cloud(1, 96)
PALETTE = PICTURE.convert("RGB").quantize(256)


@pytest.mark.parametrize(
    "copy",
    [
        saved(PICTURE, compress_level=0),
        saved(PICTURE, "TIFF", compression="tiff_lzw"),
        saved(PICTURE, "BMP"),
        saved(PICTURE, "WEBP", lossless=True),
        saved(PICTURE.convert("RGB")),
        saved(PICTURE.convert("RGBA")),
        saved(PICTURE.convert("LA")),
    ],
    ids=["compression", "tiff", "bmp", "webp", "rgb", "rgba", "grey with alpha"],
)
def test_equal_pixels_in_another_file_or_mode_are_one_picture(find: Find, copy: bytes) -> None:
    assert find(saved(PICTURE), copy) == [Finding("test", "pixels", "train0", "train", 1)]


def test_a_palette_is_only_a_way_to_store_colours(find: Find) -> None:
    assert [f.kind for f in find(saved(PALETTE), saved(PALETTE.convert("RGB")))] == ["pixels"]


def test_one_changed_pixel_is_no_equal_but_a_near_duplicate(find: Find) -> None:
    changed = PICTURE.copy()
    changed.putpixel((40, 40), 255 - changed.getpixel((40, 40)))
    (finding,) = find(saved(PICTURE), saved(changed))
    assert (finding.kind, finding.other) == ("near", "train0")


def test_deep_grey_values_are_not_clipped_together(find: Find) -> None:
    # As RGB, Pillow would make both of them white all over.
    deep = [Image.fromarray(np.asarray(cloud(seed, 64)).astype(np.uint16) * 200 + 1000) for seed in (1, 2)]
    assert deep[0].mode == "I;16"
    assert find(saved(deep[0]), saved(deep[1])) == []


def test_deep_grey_in_another_file_is_one_picture(find: Find) -> None:
    deep = Image.fromarray(np.asarray(cloud(1, 64)).astype(np.uint16) * 200 + 1000)
    assert [f.kind for f in find(saved(deep), saved(deep, "TIFF"))] == ["pixels"]


def test_pictures_of_two_patients_are_no_leak(find: Find) -> None:
    assert find(saved(PICTURE), *(saved(cloud(seed, 96)) for seed in range(2, 8))) == []


def test_flat_images_are_near_to_nothing(find: Find) -> None:
    assert find(saved(Image.new("L", (64, 64), 10)), saved(Image.new("L", (64, 64), 11))) == []


def test_the_nearest_stands_in_the_finding_and_all_are_counted(find: Find) -> None:
    rng = np.random.default_rng(0)
    worse, better = (saved(jpeg(quality)(PICTURE, rng)) for quality in (20, 90))
    near = find(saved(PICTURE), worse, better, saved(PICTURE.convert("RGB")))
    assert [(f.kind, f.others) for f in near] == [("pixels", 1), ("near", 2)]
    assert near[0].other == "train2"
    assert near[1].distance in (0, 2)


def test_the_same_answer_counts_only_where_the_image_was_seen_with_it(find: Find) -> None:
    asked = {"question": "Is there a mass?", "answer": "no"}
    fields = {
        "test": asked,
        "train0": asked | {"question": "Which organ?", "answer": "lung"},
        "train1": asked,
    }
    copy, other = saved(PICTURE.convert("RGB")), saved(cloud(9, 96))
    assert [f.kind for f in find(saved(PICTURE), copy, other, fields=fields, **VQA)] == ["pixels"]


def test_the_same_question_with_the_same_answer_on_the_same_image_is_found(find: Find) -> None:
    fields = {
        "test": {"question": "Is there a mass?", "answer": "no"},
        "train0": {"question": "is there a mass", "answer": "No."},
    }
    leaks = find(saved(PICTURE), saved(PICTURE.convert("RGB")), fields=fields, **VQA)
    assert [f.kind for f in leaks] == ["pixels", "text"]


@pytest.mark.parametrize(
    ("caption", "kinds"), [("Axial CT shows a mass in the left kidney.", ["text"]), ("Chest X-ray.", [])]
)
def test_long_captions_leak_and_common_short_ones_do_not(find: Find, caption: str, kinds: list[str]) -> None:
    fields = {"test": {"caption": caption.upper()}, "train0": {"caption": caption}}
    leaks = find(saved(PICTURE), saved(cloud(2, 96)), fields=fields, **RETRIEVAL)
    assert [f.kind for f in leaks] == kinds


def table_of(folder: Path, *groups_and_splits: tuple[str, str]) -> TaskTable:
    rows = [
        Record(f"s{n}", f"i{n}", group, split, {"label": "normal"})
        for n, (group, split) in enumerate(groups_and_splits)
    ]
    files = {f"i{n}": saved(cloud(n, 64)) for n in range(len(rows))}
    return prepared(Pictures(rows, files), make_task(folder), folder)[0]


def test_without_images_groups_are_compared(tmp_path: Path) -> None:
    table = table_of(tmp_path, ("a", "train"), ("a", "val"), ("a", "test"), ("b", "test"))
    assert find_leaks(table, None, Silent()) == [Finding("s2", "group", "s0", "train", 2)]


def test_an_unknown_group_meets_nobody(tmp_path: Path) -> None:
    assert find_leaks(table_of(tmp_path, ("", "train"), ("", "test")), None, Silent()) == []


@pytest.mark.parametrize("splits", [("train", "val"), ("test", "test"), ()])
def test_a_table_of_one_side_has_no_leaks(tmp_path: Path, splits: tuple[str, ...]) -> None:
    table = table_of(tmp_path, *(("a", split) for split in splits))
    assert find_leaks(table, lambda name: cloud(1, 64), Silent()) == []


def test_an_image_that_is_gone_is_an_error_and_no_clean_sample(tmp_path: Path) -> None:
    def gone(name: str) -> Image.Image:
        raise KeyError(name)

    with pytest.raises(KeyError):
        find_leaks(table_of(tmp_path, ("a", "train"), ("b", "test")), gone, Silent())


# Published data sets


@pytest.fixture(scope="module")
def loader(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> DataLoader:
    return DataLoader(root=shared_data, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def real(loader: DataLoader) -> Callable[[str], Report]:
    """The report of a shipped task on real data, whatever its manifest says."""

    def report(name: str) -> Report:
        task = replace(load_suite().task(name), manifest="pending")
        table = loader.table(task)
        return Report(table, find_leaks(table, loader.dataset(task.dataset).image, Silent()))

    return report


def images(table: TaskTable, split: str) -> set[str]:
    return {sample.image for sample in table.samples if sample.split == split}


def test_vqa_rad_shares_202_of_its_203_test_images_with_train(real: Callable[[str], Report]) -> None:
    report = real("vqa_rad_official")
    table, pixels = report.table, report.of_kind("pixels")
    image = {sample.id: sample.image for sample in table.samples}
    assert (len(images(table, "test")), len({image[finding.sample] for finding in pixels})) == (203, 202)
    summary = report.summary()
    assert (summary["test"], summary["pixels"], summary["leaked"]) == (451, 446, 446)


def test_vqa_rad_split_by_case_is_free_of_leaks(real: Callable[[str], Report]) -> None:
    summary = real("vqa_rad").summary()
    assert summary["clean"] == summary["test"] > 400


def test_breastmnist_has_copies_of_64_of_156_test_images_in_train_or_val(real: Callable[[str], Report]) -> None:
    report = real("breastmnist")
    summary = report.summary()
    assert (summary["test"], summary["leaked"], summary["near"], summary["pixels"]) == (156, 64, 63, 1)
    (equal,) = report.of_kind("pixels")
    assert (equal.sample, equal.other) == ("breastmnist-test-00076", "breastmnist-train-00115")
    labels = {sample.id: sample.target for sample in report.table.samples}
    assert labels[equal.sample] != labels[equal.other]


def slake(loader: DataLoader, name: str) -> TaskTable:
    return loader.table(replace(load_suite().task(name), manifest="pending"))


def test_slake_shares_images_between_all_splits_once_chinese_is_counted(loader: DataLoader) -> None:
    table = slake(loader, "slake_bilingual")
    train, val, test = (images(table, split) for split in ("train", "val", "test"))
    assert (len(train & test), len(train & val), len(val & test)) == (142, 130, 26)
    leaked = {finding.sample for finding in find_leaks(table, None, Silent())}
    assert leaked == {sample.id for sample in table.split("test") if sample.image in train | val}


def test_slake_in_english_shares_none(loader: DataLoader) -> None:
    table = slake(loader, "slake")
    train, val, test = (images(table, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (450, 96, 96)
    assert not (train & test or train & val or val & test)
    assert find_leaks(table, None, Silent()) == []


@pytest.mark.slow
def test_slake_in_english_has_no_near_duplicates_in_test(real: Callable[[str], Report]) -> None:
    assert real("slake").findings == []


def test_the_kinds_are_ordered_from_certain_to_likely(planted: tuple[PhantomSource, list[Finding]]) -> None:
    _, findings = planted
    assert findings == sorted(findings, key=lambda f: (f.sample, LEAK_KINDS.index(f.kind)))
    assert len({(finding.sample, finding.kind) for finding in findings}) == len(findings)
