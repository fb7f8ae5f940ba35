from pathlib import Path

import pytest
from PIL import Image

from vlmed.data.camelyon17 import Camelyon17Source
from vlmed.errors import InputError, MissingError

HEADER = ",patient,node,x_coord,y_coord,tumor,slide,center,split"
ROWS = [
    "0,004,4,3328,21792,1,0,0,0",
    "1,004,4,3200,22272,0,0,0,1",
    "2,010,1,1000,2000,0,5,1,0",
    "3,051,2,640,960,1,30,2,1",
    "4,099,4,512,512,0,49,4,0",
]


def _lay_out(root: Path, rows=ROWS, header=HEADER) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "metadata.csv").write_text("\n".join([header, *rows, ""]))
    folder = root / "patches" / "patient_004_node_4"
    folder.mkdir(parents=True)
    Image.new("RGBA", (96, 96)).save(folder / "patch_patient_004_node_4_x_3328_y_21792.png")
    return root


@pytest.mark.parametrize("inner", [".", "camelyon17_v1.0"])
def test_the_official_split_is_by_hospital(tmp_path, inner):
    _lay_out(tmp_path / inner)
    source = Camelyon17Source({}, tmp_path)
    records = source.records()
    assert [record.split for record in records] == ["train", "", "val", "test", "train"]
    assert [record.fields["wilds_split"] for record in records] == ["train", "id_val", "val", "test", "train"]
    assert [record.fields["label"] for record in records] == ["1", "0", "0", "1", "0"]
    first = records[0]
    assert (first.id, first.group) == (
        "camelyon17-patient_004_node_4_x_3328_y_21792",
        "center_0-patient_004",
    )
    assert {"center": "0", "patient": "004", "node": "4", "slide": "0"}.items() <= first.fields.items()
    assert source.image(first.image).startswith(b"\x89PNG")


def test_patients_that_lost_their_zeros_are_found(tmp_path):
    source = Camelyon17Source({}, _lay_out(tmp_path, [ROWS[0].replace("004", "4")]))
    assert source.image(source.records()[0].image)


def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(MissingError, match=r"metadata\.csv.*\n.*wilds\.stanford\.edu"):
        Camelyon17Source({}, tmp_path).records()
    with pytest.raises(MissingError, match=r"patient_010_node_1/patch_.*\n.*wilds\.stanford\.edu"):
        Camelyon17Source({}, _lay_out(tmp_path)).image("patient_010_node_1_x_1000_y_2000")


def test_all_damaged_rows_are_told(tmp_path):
    rows = [ROWS[0], ROWS[0], "2,010,1,1000,2000,0,5,7,0", "3,051,2,640,960,,30,2,1", "4,099,4,512,512,0,49,4,2"]
    with pytest.raises(InputError) as caught:
        Camelyon17Source({}, _lay_out(tmp_path, rows)).records()
    told = [(problem.path, problem.what.rsplit(" ", 1)[1]) for problem in caught.value.problems]
    assert told == [("row 2", "id"), ("row 3", "'center'"), ("row 4", "'tumor'"), ("row 5", "'split'")]


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(InputError, match="'center' is missing"):
        Camelyon17Source({}, _lay_out(tmp_path, [], HEADER.replace("center", "hospital"))).records()
