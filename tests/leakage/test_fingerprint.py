import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from leakage_pictures import cloud
from PIL import Image
from planted import CHANGES

from vlmed.errors import InputError, MissingError, UsageError
from vlmed.hashing import pixel_hash
from vlmed.leakage.fingerprint import (
    Match,
    check_fingerprint,
    fingerprint,
    read_fingerprint,
    read_task_hashes,
    task_hashes_path,
    write_fingerprint,
    write_task_hashes,
)
from vlmed.leakage.perceptual import FLAT, perceptual_hash
from vlmed.suite.frozen_rows import Row
from vlmed.suite.load import load_suite
from vlmed.suite.manifest import Manifest

TASK = load_suite().task("breastmnist")


def manifest_of(images, split="test"):
    rows = [Row(name, split, pixel_hash(image) if image else "", name, "0") for name, image in images.items()]
    return Manifest("breastmnist-v1.csv", tuple(rows))


def hashes_of(images):
    return {pixel_hash(image): int(perceptual_hash(image)) for image in images.values()}


def again(image, format_, **options):
    file = io.BytesIO()
    image.save(file, format_, **options)
    return Image.open(io.BytesIO(file.getvalue()))


@pytest.fixture(scope="module")
def tests():
    return {f"t{n}": cloud(n, 96) for n in range(12)}


@pytest.fixture(scope="module")
def strangers():
    return {f"s{n}": cloud(1000 + n, 96) for n in range(40)}


def check(images, tests, near=True, **options):
    perceptual = hashes_of(tests) if near else None
    return check_fingerprint(fingerprint(images.items()), TASK, manifest_of(tests), perceptual, **options)


def test_strangers_do_not_match(tests, strangers):
    found = check(strangers, tests)
    assert (found.task, found.samples, found.without_image, found.near) == (TASK.id, 12, 0, True)
    assert found.matches == ()


def test_equal_pixels_are_proof(tests, strangers):
    stolen = {**strangers, "mine": tests["t3"], "again": tests["t3"], "other": tests["t7"]}
    assert check(stolen, tests).matches == (
        Match("t3", "pixels", row=40, rows=2, distance=0),
        Match("t7", "pixels", row=42, rows=1, distance=0),
    )


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "BMP", "WEBP"])
def test_lossless_storage_changes_nothing(tests, format_):
    stored = again(tests["t0"], format_, **({"lossless": True} if format_ == "WEBP" else {}))
    assert [match.kind for match in check({"x": stored}, tests).matches] == ["pixels"]


def test_a_grey_twin_in_rgb_is_the_same_both_ways(tests):
    colour = {name: image.convert("RGB") for name, image in tests.items()}
    assert [match.kind for match in check(colour, tests, near=False).matches] == ["pixels"] * 12
    assert [match.kind for match in check(tests, colour, near=False).matches] == ["pixels"] * 12


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA"])
@pytest.mark.parametrize("of_tests", ["L", "RGB"])
def test_a_copy_with_a_palette_or_alpha_is_proof(tests, mode, of_tests):
    plain = {name: image.convert(of_tests) for name, image in tests.items()}
    stored = again(tests["t0"].convert("RGB" if mode == "RGBA" else "L").convert(mode), "PNG")
    assert stored.mode == mode
    matches = check({"x": stored}, plain, near=False).matches
    assert [(match.sample, match.kind, match.rows) for match in matches] == [("t0", "pixels", 1)]


def test_a_palette_is_more_than_its_indices(tests):
    coloured = tests["t0"].convert("P")
    coloured.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
    assert check({"x": coloured}, tests, near=False).matches == ()


def test_a_tinted_image_has_no_grey_twin(tests):
    grey = tests["t0"]
    tinted = Image.merge("RGB", (grey, grey, grey.point(lambda value: 255 - value)))
    assert check({"x": tinted}, tests, near=False).matches == ()


@pytest.mark.parametrize("change", ["jpeg 30", "jpeg 90", "size x 0.5", "size x 2", "contrast x 0.7"])
def test_changed_copies_are_near(tests, strangers, change):
    rng = np.random.default_rng(0)
    copies = {f"copy of {name}": CHANGES[change](image, rng) for name, image in tests.items()}
    matches = check({**strangers, **copies}, tests).matches
    assert {match.kind for match in matches} == {"near"}
    assert [(match.sample, match.row) for match in matches] == [(f"t{n}", 40 + n) for n in range(12)] or len(
        matches
    ) >= 11


def test_the_nearest_row_is_named(tests):
    near = CHANGES["jpeg 90"](tests["t1"], np.random.default_rng(0))
    far = CHANGES["jpeg 30"](tests["t1"], np.random.default_rng(0)).resize((60, 60))
    made = {"far": far, "near": near}
    (match,) = check(made, tests, radius=12).matches
    distances = [
        int(np.bitwise_count(perceptual_hash(image) ^ perceptual_hash(tests["t1"]))) for image in made.values()
    ]
    assert (match.rows, match.distance) == (2, min(distances))
    assert match.row == distances.index(min(distances))


def test_a_proven_sample_is_not_also_suspected(tests):
    copies = {"same": tests["t2"], "near": CHANGES["jpeg 60"](tests["t2"], np.random.default_rng(0))}
    assert [match.kind for match in check(copies, tests).matches] == ["pixels"]


def test_without_perceptual_hashes_only_pixels_are_compared(tests):
    near = {"x": CHANGES["jpeg 90"](tests["t1"], np.random.default_rng(0))}
    found = check(near, tests, near=False)
    assert (found.near, found.matches) == (False, ())


def test_flat_images_are_near_to_nothing():
    flat, other = Image.new("L", (64, 64), 10), Image.new("L", (64, 64), 200)
    assert perceptual_hash(flat) == FLAT == perceptual_hash(other)
    assert check({"x": flat}, {"t": other}).matches == ()


def test_samples_without_a_frozen_image_are_counted(tests):
    manifest = manifest_of({**tests, "u0": None, "u1": None})
    found = check_fingerprint(fingerprint([("x", tests["t0"])]), TASK, manifest, None)
    assert (found.samples, found.without_image, len(found.matches)) == (14, 2, 1)


def test_train_images_are_nobodys_business(tests):
    assert check_fingerprint(fingerprint(tests.items()), TASK, manifest_of(tests, "train"), None).matches == ()


def test_real_training_images_are_found(shared_data):
    with np.load(shared_data / "breastmnist" / "breastmnist.npz") as arrays:
        train, test = ([Image.fromarray(pixels) for pixels in arrays[f"{part}_images"]] for part in ("train", "test"))
    tests = {f"{n:03d}": image for n, image in enumerate(test)}
    honest = {f"train/{n}": image for n, image in enumerate(train)}
    # The official split itself shares one image, under the other label in train than in test.
    shared = [match for match in check(honest, tests).matches if match.kind == "pixels"]
    assert shared == [Match("076", "pixels", row=115, rows=1, distance=0)]
    cheat = {**honest, **{f"copy/{name}": image.convert("RGB") for name, image in tests.items()}}
    assert sum(match.kind == "pixels" for match in check(cheat, tests).matches) == 156


def test_nothing_matches_nothing():
    empty = fingerprint([])
    assert len(empty) == 0
    assert check_fingerprint(empty, TASK, manifest_of({}), {}).matches == ()
    assert check_fingerprint(empty, TASK, manifest_of({"t": cloud(0, 64)}), None).samples == 1


# Bad images


def test_every_unreadable_image_is_named(tests):
    file = io.BytesIO()
    cloud(0, 256).save(file, "PNG")
    cut = Image.open(io.BytesIO(file.getvalue()[:2000]))
    nan = Image.fromarray(np.full((8, 8), np.nan, np.float32))
    with pytest.raises(InputError) as caught:
        fingerprint([("good.png", tests["t0"]), ("cut.png", cut), ("also_good.png", tests["t1"]), ("nan.tiff", nan)])
    assert [problem.file for problem in caught.value.problems] == ["cut.png", "nan.tiff"]


def test_an_image_without_pixels_is_named():
    with pytest.raises(InputError, match=r"empty\.png.*no pixels"):
        fingerprint([("empty.png", Image.new("L", (0, 5)))])


# The file


@pytest.fixture
def written(tmp_path, tests):
    path = tmp_path / "fingerprint.parquet"
    write_fingerprint(path, fingerprint((f"ward-7/anna-{name}.png", image) for name, image in tests.items()))
    return path


def test_what_is_read_is_what_was_written(written, tests):
    made, read = fingerprint(tests.items()), read_fingerprint(written)
    assert (made.names, read.names) == (tuple(tests), ())
    assert read.table.equals(made.table)
    assert (read.perceptual == [perceptual_hash(image) for image in tests.values()]).all()


def test_the_header_says_version_and_number(written):
    metadata = pq.ParquetFile(written).schema_arrow.metadata
    assert (metadata[b"vlmed.fingerprint"], metadata[b"n"]) == (b"1", b"12")


def test_no_name_and_no_image_leaves(written, tests):
    content = written.read_bytes()
    assert b"anna" not in content
    assert pq.read_schema(written).names == ["pixels", "perceptual"]
    assert len(content) < 12 * 200 + 2000


def test_equal_fingerprints_give_equal_bytes(written, tmp_path, tests):
    write_fingerprint(tmp_path / "b.parquet", fingerprint(tests.items()))
    assert (tmp_path / "b.parquet").read_bytes() == written.read_bytes()


def rewrite(path, change):
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def keep_header(table, columns):
    return pa.table(columns).replace_schema_metadata(table.schema.metadata)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.slice(1), "n: wrong header"),
        (lambda table: table.replace_schema_metadata({}), r"vlmed\.fingerprint: wrong header"),
        (
            lambda table: table.replace_schema_metadata({**table.schema.metadata, b"vlmed.fingerprint": b"2"}),
            r"expected: 1\n.*got: 2",
        ),
        (lambda table: keep_header(table, {"perceptual": table["perceptual"]}), "wrong columns"),
        (
            lambda table: keep_header(table, {"pixels": ["ab"] * 12, "perceptual": table["perceptual"]}),
            "wrong columns",
        ),
        (
            lambda table: keep_header(table, {"pixels": table["pixels"], "perceptual": [1.0] * 12}),
            "wrong columns",
        ),
        (
            lambda table: table.set_column(
                0, table.schema.field("pixels"), pa.array([[]] * 12, pa.list_(pa.binary(16)))
            ),
            "without a pixel hash",
        ),
        (
            lambda table: table.set_column(
                0, table.schema.field("pixels"), pa.array([[None]] * 12, pa.list_(pa.binary(16)))
            ),
            "without a pixel hash",
        ),
        (
            lambda table: keep_header(
                table, {"pixels": pa.array([None] * 12, pa.list_(pa.binary(16))), "perceptual": table["perceptual"]}
            ),
            "nulls",
        ),
    ],
)
def test_a_changed_fingerprint_is_refused(written, change, said):
    rewrite(written, change)
    with pytest.raises(InputError, match=said):
        read_fingerprint(written)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all" * 100])
def test_what_is_no_parquet_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_fingerprint(tmp_path / "x")


def test_a_cut_off_fingerprint_is_refused(written):
    written.write_bytes(written.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_fingerprint(written)


def test_a_missing_fingerprint_is_named(tmp_path):
    with pytest.raises(MissingError, match=r"none\.parquet"):
        read_fingerprint(tmp_path / "none.parquet")


# The perceptual hashes of a task's test images


def test_task_hashes_lie_beside_the_manifest(tmp_path, tests):
    manifest = manifest_of(tests)
    assert read_task_hashes(TASK, manifest, tmp_path) is None
    path = write_task_hashes(TASK, hashes_of(tests), tmp_path)
    assert path == task_hashes_path(TASK, tmp_path) == tmp_path / "breastmnist-v1.phash.parquet"
    assert read_task_hashes(TASK, manifest, tmp_path) == hashes_of(tests)


def test_task_hashes_of_other_images_are_refused(tmp_path, tests):
    few = {name: image for name, image in tests.items() if name != "t5"}
    write_task_hashes(TASK, hashes_of(few), tmp_path)
    with pytest.raises(InputError, match=r"11 images, 11 of them frozen"):
        read_task_hashes(TASK, manifest_of(tests), tmp_path)
    write_task_hashes(TASK, hashes_of({**few, "x": cloud(99, 96)}), tmp_path)
    with pytest.raises(InputError, match=r"12 images, 11 of them frozen"):
        read_task_hashes(TASK, manifest_of(tests), tmp_path)


def test_task_hashes_of_another_task_are_refused(tmp_path, tests):
    other = load_suite().task("pneumoniamnist")
    write_task_hashes(other, hashes_of(tests), tmp_path).rename(task_hashes_path(TASK, tmp_path))
    with pytest.raises(InputError, match="pneumoniamnist@1"):
        read_task_hashes(TASK, manifest_of(tests), tmp_path)


def test_a_lacking_perceptual_hash_is_named(tests):
    hashes = hashes_of(tests)
    del hashes[pixel_hash(tests["t4"])]
    with pytest.raises(UsageError, match=pixel_hash(tests["t4"])):
        check_fingerprint(fingerprint([]), TASK, manifest_of(tests), hashes)


def test_a_radius_beyond_the_bits_is_refused(tests):
    with pytest.raises(UsageError, match="Hamming distance"):
        check(tests, {"u": cloud(77, 96)}, radius=65)
