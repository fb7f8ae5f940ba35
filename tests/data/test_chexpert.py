from pathlib import Path

import pytest
from PIL import Image

from vlmed.data.chexpert import FINDINGS, CheXpertSource
from vlmed.errors import InputError, MissingError

HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(FINDINGS)
TRAIN = [
    "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
    "CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Male,87,Frontal,PA,,,-1.0,1.0,,-1.0,,,,,,,,",
    "CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,Male,87,Lateral,,,,-1.0,1.0,,-1.0,,,,,,,,",
]
VALID = [
    "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Unknown,0,Frontal,AP,"
    + ",".join(["0.0"] * 13 + ["1"])
]


def _lay_out(folder: Path, train=TRAIN, valid=VALID, end="\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train.csv", train), ("valid.csv", valid)):
        (folder / name).write_text(end.join([HEADER, *rows, ""]), newline="")
    image = folder / "valid" / "patient64541" / "study1" / "view1_frontal.jpg"
    image.parent.mkdir(parents=True)
    Image.new("L", (390, 320), 90).save(image)
    return folder


@pytest.mark.parametrize("inner", [".", "CheXpert-v1.0-small"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_published_tables(tmp_path, inner, end):
    _lay_out(tmp_path / inner, end=end)
    source = CheXpertSource({}, tmp_path)
    first, second, third, valid = source.records()
    assert first.id == "chexpert-patient00001-study1-view1_frontal"
    assert (first.image, first.group, first.split) == (
        "train/patient00001/study1/view1_frontal.jpg",
        "patient00001",
        "train",
    )
    assert second.group == third.group == "patient00002"
    assert {name: first.fields[name] for name in ("no finding", "pneumothorax", "edema", "support devices")} == {
        "no finding": "1",
        "pneumothorax": "0",
        "edema": "",
        "support devices": "1",
    }
    assert second.fields["cardiomegaly"] == "-1"
    people = [(r.fields["sex"], r.fields["age"], r.fields["age_band"], r.fields["view"]) for r in (first, third, valid)]
    assert people == [
        ("female", "68", "60-69", "frontal"),
        ("male", "87", "80-89", "lateral"),
        ("", "0", "0-9", "frontal"),
    ]
    assert (first.fields["projection"], third.fields["projection"]) == ("AP", "")
    assert valid.split == "val"
    assert len([name for name in valid.fields if name in {finding.lower() for finding in FINDINGS}]) == 14
    assert source.image(valid.image).startswith(b"\xff\xd8")


def test_valid_may_be_the_test_split_as_in_the_papers(tmp_path):
    records = CheXpertSource({"valid_split": "test"}, _lay_out(tmp_path / "c")).records()
    assert [record.split for record in records] == ["train", "train", "train", "test"]


@pytest.mark.parametrize("name", ["train.csv", "valid.csv"])
def test_a_missing_table_names_itself_and_the_agreement(tmp_path, name):
    _lay_out(tmp_path / "c")
    (tmp_path / "c" / name).unlink()
    with pytest.raises(MissingError, match="agreement") as caught:
        CheXpertSource({}, tmp_path / "c").records()
    assert caught.value.problems[0].file == str(tmp_path / "c" / name)


def test_a_missing_image_names_itself_and_the_agreement(tmp_path):
    source = CheXpertSource({}, _lay_out(tmp_path / "c"))
    with pytest.raises(MissingError, match=r"patient00001.*\n.*agreement"):
        source.image("train/patient00001/study1/view1_frontal.jpg")


def test_all_damaged_rows_are_told(tmp_path):
    rows = [
        TRAIN[0],
        TRAIN[0],
        TRAIN[1].replace("patient00002", "nobody"),
        TRAIN[1].replace(",87,", ",870,"),
        TRAIN[2].replace("-1.0", "2.0"),
    ]
    with pytest.raises(InputError) as caught:
        CheXpertSource({}, _lay_out(tmp_path / "c", train=rows)).records()
    told = [(problem.path, problem.what) for problem in caught.value.problems]
    assert [row for row, _ in told] == ["row 2", "row 3", "row 4", "row 5"]
    assert "Cardiomegaly" in told[3][1]


def test_a_missing_column_is_named(tmp_path):
    folder = _lay_out(tmp_path / "c")
    (folder / "train.csv").write_text(HEADER.replace("No Finding", "NoFinding") + "\n")
    with pytest.raises(InputError) as caught:
        CheXpertSource({}, folder).records()
    assert (caught.value.problems[0].expected, caught.value.problems[0].got) == ("'No Finding'", "'NoFinding'")
