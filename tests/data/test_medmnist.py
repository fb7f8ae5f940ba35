import hashlib
import io
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmed.data import medmnist
from vlmed.data.medmnist import MedMNISTSource
from vlmed.errors import InputError, MissingError

BREAST = {
    "file": "breastmnist.npz",
    "md5": "750601b1f35ba3300ea97c75c52ff8f6",
    "url": "https://zenodo.org/records/10519652/files/breastmnist.npz?download=1",
}


def _arrays(shape=(28, 28), sizes=(5, 3, 4)):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in zip(("train", "val", "test"), sizes, strict=True):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 3, (n, 1), dtype=np.uint8)
    return arrays


def _source(folder: Path, arrays=None, content=None, file="toymnist_224.npz") -> MedMNISTSource:
    path = folder / file
    if content is None:
        np.savez_compressed(path, **(arrays if arrays is not None else _arrays()))
    else:
        path.write_bytes(content)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    return MedMNISTSource({"file": file, "md5": md5, "url": "https://example.org/a.npz"}, folder)


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_real_breastmnist(shared_data):
    source = MedMNISTSource(BREAST, shared_data / "breastmnist")
    records = source.records()
    assert Counter(record.split for record in records) == {"train": 546, "val": 78, "test": 156}
    assert Counter(record.fields["label"] for record in records) == {"0": 210, "1": 570}
    assert records[12].id == "breastmnist-train-00012"
    assert records[12].image == records[12].group == "train/00012"
    with np.load(shared_data / "breastmnist" / "breastmnist.npz") as file:
        for record in records[::97]:
            split, index = record.image.split("/")
            assert (_pixels(source.image(record.image)) == file[f"{split}_images"][int(index)]).all()
            assert int(record.fields["label"]) == file[f"{split}_labels"][int(index), 0]


@pytest.mark.parametrize("shape", [(28, 28), (64, 64), (28, 28, 3)])
def test_records_and_pixels_are_those_of_the_arrays(tmp_path, shape):
    arrays = _arrays(shape)
    source = _source(tmp_path, arrays)
    records = source.records()
    assert [r.id for r in records][:6] == [f"toymnist-train-{i:05}" for i in range(5)] + ["toymnist-val-00000"]
    assert [r.fields["label"] for r in records[8:]] == [str(label) for label in arrays["test_labels"][:, 0]]
    for record in reversed(records):
        split, index = record.image.split("/")
        assert (_pixels(source.image(record.image)) == arrays[f"{split}_images"][int(index)]).all()


def test_threads_and_small_blocks_give_the_same_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(medmnist, "_BLOCK", 3 * 28 * 28)
    arrays = _arrays(sizes=(200, 3, 4))
    source = _source(tmp_path, arrays)
    keys = [record.image for record in source.records() if record.split == "train"]
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda key: _pixels(source.image(key)), keys))
    assert (np.stack(images) == arrays["train_images"]).all()
    backwards = [_pixels(source.image(key)) for key in keys[::-17]]
    assert (np.stack(backwards) == arrays["train_images"][::-17]).all()


def test_a_missing_file_says_where_to_get_it(tmp_path):
    with pytest.raises(MissingError, match=r"zenodo.*CC BY 4.0") as caught:
        MedMNISTSource(BREAST, tmp_path).records()
    assert caught.value.problems[0].file == str(tmp_path / "breastmnist.npz")


def test_another_file_than_the_published_one_is_refused(tmp_path):
    np.savez(tmp_path / "breastmnist.npz", **_arrays())
    got = hashlib.md5((tmp_path / "breastmnist.npz").read_bytes()).hexdigest()
    source = MedMNISTSource(BREAST, tmp_path)
    for read in (source.records, lambda: source.image("train/00000")):
        with pytest.raises(InputError, match="MD5") as caught:
            read()
        problem = caught.value.problems[0]
        assert (problem.file, problem.expected, problem.got) == (
            str(tmp_path / "breastmnist.npz"),
            BREAST["md5"],
            got,
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("val_images", None),
        ("test_labels", None),
        ("train_images", np.zeros((5, 28, 28), np.float32)),
        ("train_images", np.zeros((5, 28), np.uint8)),
        ("train_images", np.zeros((5, 28, 28, 28), np.uint8)),
        ("train_images", np.asfortranarray(np.zeros((5, 28, 28), np.uint8))),
        ("train_images", np.zeros((6, 28, 28), np.uint8)),
        ("train_labels", np.zeros((5, 14), np.uint8)),
        ("train_labels", np.zeros(5, np.uint8)),
        ("train_labels", np.zeros((5, 1), np.float64)),
        ("train_labels", np.array([[{}]] * 5, dtype=object)),
        ("train_images", np.array([[{}]] * 5, dtype=object)),
    ],
)
def test_arrays_that_are_no_data_set_are_refused_by_name(tmp_path, name, value):
    arrays = {key: array for key, array in _arrays().items() if key != name}
    if value is not None:
        arrays[name] = value
    source = _source(tmp_path, arrays)
    with pytest.raises(InputError, match=name.split("_")[0]) as caught:
        source.records()
    assert "toymnist_224.npz" in caught.value.problems[0].file


def _bytes(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _cut_images() -> bytes:
    """A sound zip whose image array announces more images than it holds."""
    arrays = _arrays()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array)
            content = stream.getvalue()
            file.writestr(f"{name}.npy", content[:-100] if name == "train_images" else content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"no zip at all", _bytes(**_arrays())[:-300], _bytes(**_arrays())[:3000]],
    ids=["empty", "text", "cut directory", "cut data"],
)
def test_damaged_archives_are_refused(tmp_path, content):
    with pytest.raises(InputError, match=r"toymnist_224\.npz"):
        _source(tmp_path, content=content).records()


def test_cut_off_and_corrupted_images_are_refused(tmp_path):
    source = _source(tmp_path, content=_cut_images())
    assert len(source.records()) == 12
    with pytest.raises(InputError, match="train_images"):
        source.image("train/00004")
    content = bytearray(_bytes(**_arrays()))
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        start = file.getinfo("train_images.npy").header_offset
    content[start + 2000] ^= 255
    with pytest.raises(InputError, match=r"(?s)train_images.*CRC"):
        _source(tmp_path, content=bytes(content)).image("train/00004")


@pytest.mark.parametrize("key", ["train/00005", "train/-1", "train", "all/00000", "", "test/x"])
def test_keys_that_do_not_exist_are_refused(tmp_path, key):
    with pytest.raises(InputError, match="no such image"):
        _source(tmp_path).image(key)
