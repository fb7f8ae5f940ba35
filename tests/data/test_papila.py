from collections import Counter
from pathlib import Path

import pytest
from openpyxl import Workbook
from PIL import Image

from vlmed.data.papila import PapilaSource
from vlmed.errors import InputError, MissingError

# The published tables have three header rows with merged cells, and patients from the fourth row on.
TOP = [None, "Age", "Gender", "Diagnosis", "Refractive_Defect", None, None, "Phakic/Pseudophakic", "IOP", None]
TOP += ["Pachymetry", "Axial_Length", "VF_MD"]
MIDDLE = [
    None,
    None,
    None,
    None,
    "dioptre_1",
    "dioptre_2",
    "astigmatism",
    None,
    "Pneumatic",
    "Perkins",
    None,
    None,
    None,
]
PATIENTS = [
    ["#002", 47.0, 0.0, 2, 0.75, -1.75, 90.0, 0, 21, None, 586, 23.64, -0.07],
    ["#004", 58, 1, 1, 1.5, -1.75, 85, 0, None, 19, 501, 23.06, -3.26],
    ["#289", 64, 0, 0, None, None, None, None, None, None, None, None, None],
]


def _lay_out(root: Path, od=PATIENTS, os=PATIENTS, heads=(TOP, MIDDLE, ["ID"])) -> Path:
    folder = root / "ClinicalData"
    folder.mkdir(parents=True)
    for name, rows in (("od", od), ("os", os)):
        book = Workbook()
        for row in [*heads, *rows]:
            book.active.append(row)
        book.active.merge_cells("E1:G1")
        book.active.merge_cells("I1:J1")
        book.save(folder / f"patient_data_{name}.xlsx")
    (root / "FundusImages").mkdir()
    Image.new("RGB", (2576, 1934)).save(root / "FundusImages" / "RET002OD.jpg")
    return root


@pytest.mark.parametrize("inner", [".", "PapilaDB-PAPILA-17f8fa7746adb20275b5b6a0d99dc9dfe3007e9f"])
def test_the_published_tables(tmp_path, inner):
    _lay_out(tmp_path / inner)
    source = PapilaSource({}, tmp_path)
    records = source.records()
    assert [record.id for record in records] == [
        f"papila-RET{n}{eye}" for eye in ("OD", "OS") for n in ("002", "004", "289")
    ]
    assert Counter(record.group for record in records) == {"patient-002": 2, "patient-004": 2, "patient-289": 2}
    first, second, healthy = records[:3]
    assert [record.fields["label"] for record in records[:3]] == ["2", "1", "0"]
    expected = {"age": "47", "age_band": "40-49", "sex": "male", "eye": "OD", "laterality": "right", "gender": "0"}
    assert expected.items() <= first.fields.items()
    clinical = {"dioptre_1": "0.75", "astigmatism": "90", "pneumatic": "21", "perkins": "", "vf_md": "-0.07"}
    assert clinical.items() <= first.fields.items()
    assert (second.fields["sex"], second.fields["perkins"]) == ("female", "19")
    assert (healthy.fields["axial_length"], records[3].fields["laterality"]) == ("", "left")
    assert source.image(first.image).startswith(b"\xff\xd8")


def test_a_single_header_row_is_read_too(tmp_path):
    flat = ["ID", *(low or top for low, top in zip(MIDDLE[1:], TOP[1:], strict=True))]
    assert PapilaSource({}, _lay_out(tmp_path, heads=[flat])).records()[0].fields["pachymetry"] == "586"


def test_blank_rows_are_passed_over(tmp_path):
    records = PapilaSource({}, _lay_out(tmp_path, od=[PATIENTS[0], [None] * 13, PATIENTS[1]])).records()
    assert len(records) == 5


def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(MissingError, match=r"patient_data_od\.xlsx.*\n.*figshare"):
        PapilaSource({}, tmp_path).records()
    with pytest.raises(MissingError, match=r"RET004OS\.jpg.*\n.*figshare"):
        PapilaSource({}, _lay_out(tmp_path)).image("RET004OS")


def test_all_damaged_rows_are_told(tmp_path):
    bad = [row.copy() for row in PATIENTS] + [PATIENTS[2]]
    bad[0][3], bad[1][2] = 3, "F"
    with pytest.raises(InputError) as caught:
        PapilaSource({}, _lay_out(tmp_path, od=bad)).records()
    assert [problem.path for problem in caught.value.problems] == ["row 1", "row 2", "row 4"]
    assert [problem.got for problem in caught.value.problems][:2] == ["'3'", "'F'"]


def test_missing_columns_and_patients_are_told(tmp_path):
    top = ["Sex" if cell == "Gender" else cell for cell in TOP]
    with pytest.raises(InputError, match="'Gender' is missing"):
        PapilaSource({}, _lay_out(tmp_path / "a", heads=(top, MIDDLE, ["ID"]))).records()
    with pytest.raises(InputError, match="no patients"):
        PapilaSource({}, _lay_out(tmp_path / "b", od=[])).records()
    with pytest.raises(InputError, match="'Age' is missing"):
        PapilaSource({}, _lay_out(tmp_path / "c", heads=())).records()


@pytest.mark.parametrize("content", [b"", b"ID,Age\n", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_workbook_is_refused(tmp_path, content):
    _lay_out(tmp_path)
    (tmp_path / "ClinicalData" / "patient_data_od.xlsx").write_bytes(content)
    with pytest.raises(InputError, match=r"patient_data_od\.xlsx: the file is no Excel workbook"):
        PapilaSource({}, tmp_path).records()
