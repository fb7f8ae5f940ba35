import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmed.data.gf3300 import GF3300Source
from vlmed.errors import InputError, MissingError

HEADER = "filename,age,gender,race,ethnicity,language,maritalstatus,glaucoma,use"
ROWS = [
    "data_0001.npz,43.31,male,asian,non-hispanic,english,single,no,training",
    "data_2101.npz,18.02,female,white,non-hispanic,english,married or partnered,yes,validation",
    "data_3300.npz,65.35,female,black,hispanic,spanish,unknown,yes,test",
]


def _lay_out(folder: Path, rows=ROWS, **arrays) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data_summary.csv").write_text("\n".join([HEADER, *rows, ""]))
    for name in ("Training", "Validation", "Test"):
        (folder / name).mkdir()
    arrays = {"rnflt": np.linspace(-2, 350, 200 * 200).reshape(200, 200)} | arrays
    np.savez(folder / "Test" / "data_3300.npz", glaucoma=1, md=-3.5, tds=np.zeros(52), age=65.35, **arrays)
    return folder


@pytest.mark.parametrize("inner", [".", "Harvard-GF3300"])
def test_the_published_summary(tmp_path, inner):
    _lay_out(tmp_path / inner)
    records = GF3300Source({}, tmp_path).records()
    assert [record.id for record in records] == ["gf3300-data_0001", "gf3300-data_2101", "gf3300-data_3300"]
    assert [record.image for record in records] == [
        "Training/data_0001",
        "Validation/data_2101",
        "Test/data_3300",
    ]
    assert [record.split for record in records] == ["train", "val", "test"]
    assert [record.group for record in records] == ["data_0001", "data_2101", "data_3300"]
    assert [record.fields["label"] for record in records] == ["no", "yes", "yes"]
    subgroups = {
        "sex": "male",
        "age_band": "40-49",
        "race": "asian",
        "ethnicity": "non-hispanic",
        "language": "english",
    }
    assert subgroups.items() <= records[0].fields.items()


def test_thickness_becomes_grey_levels_as_in_the_paper(tmp_path):
    thickness = np.array([[-2.0, -1.0, 174.0], [349.9, 350.0, 400.0]])
    source = GF3300Source({}, _lay_out(tmp_path, rnflt=thickness))
    image = Image.open(io.BytesIO(source.image("Test/data_3300")))
    assert (image.format, image.mode) == ("PNG", "L")
    # By hand: 1 / 352 * 255 = 0.7; 176 / 352 * 255 = 127.5; 351.9 / 352 * 255 = 254.9; all cut to integers.
    assert np.asarray(image).tolist() == [[0, 0, 127], [254, 255, 255]]


def test_whole_number_maps_do_not_overflow(tmp_path):
    source = GF3300Source({}, _lay_out(tmp_path, rnflt=np.array([[255, 0]], dtype=np.uint8)))
    assert np.asarray(Image.open(io.BytesIO(source.image("Test/data_3300")))).tolist() == [[186, 1]]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (np.full((200, 200), np.nan), "no numbers"),
        (np.zeros(200), "no grey image"),
        (np.zeros((0, 0)), "no grey image"),
        (np.array([["a"]]), "no grey image"),
        (np.array([[None]]), "can't be read"),
    ],
)
def test_maps_that_are_none_are_refused_by_file(tmp_path, value, what):
    source = GF3300Source({}, _lay_out(tmp_path, rnflt=value))
    with pytest.raises(InputError, match=what) as caught:
        source.image("Test/data_3300")
    assert caught.value.problems[0].file == str(tmp_path / "Test" / "data_3300.npz")


def test_damaged_and_missing_npz(tmp_path):
    folder = _lay_out(tmp_path)
    source = GF3300Source({}, folder)
    with pytest.raises(MissingError, match=r"Training/data_0001\.npz.*\n.*non-commercial"):
        source.image("Training/data_0001")
    path = folder / "Test" / "data_3300.npz"
    whole = path.read_bytes()
    np.savez(path, glaucoma=1)
    with pytest.raises(InputError, match=r"'rnflt' is missing(?s:.*)'glaucoma'"):
        source.image("Test/data_3300")
    for content in (b"", whole[:5000], whole[:-50], b"not a zip"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="can't be read"):
            source.image("Test/data_3300")
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 2)))
    with pytest.raises(InputError, match="no npz archive"):
        source.image("Test/data_3300")


def test_missing_summary_and_damaged_rows(tmp_path):
    with pytest.raises(MissingError, match=r"data_summary\.csv.*\n.*harvard-gf3300"):
        GF3300Source({}, tmp_path).records()
    rows = [ROWS[0], ROWS[0], ROWS[1].replace("validation", "valid"), ROWS[2].replace(",yes,", ",1,")]
    with pytest.raises(InputError) as caught:
        GF3300Source({}, _lay_out(tmp_path / "g", rows)).records()
    assert [problem.path for problem in caught.value.problems] == ["row 2", "row 3", "row 4"]
