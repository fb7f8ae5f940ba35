from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from vlmed.data.ham10000 import Ham10000Source
from vlmed.errors import InputError, MissingError

HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization"
ROWS = [
    "HAM_0000118,ISIC_0027419,bkl,histo,80.0,male,scalp",
    "HAM_0000118,ISIC_0025030,bkl,histo,80.0,male,scalp",
    "HAM_0002730,ISIC_0026769,mel,histo,,unknown,unknown",
]


def _lay_out(folder: Path, rows=ROWS, header=HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "HAM10000_metadata.csv").write_text("\n".join([header, *rows, ""]))
    return folder


def test_the_real_table(shared_data):
    records = Ham10000Source({}, shared_data / "ham10000").records()
    assert len(records) == 10015
    assert len({record.group for record in records}) == 7470
    assert Counter(record.fields["label"] for record in records) == {
        "nv": 6705,
        "mel": 1113,
        "bkl": 1099,
        "bcc": 514,
        "akiec": 327,
        "vasc": 142,
        "df": 115,
    }
    assert Counter(record.fields["sex"] for record in records) == {"male": 5406, "female": 4552, "": 57}
    assert sum(record.fields["age_band"] == "" for record in records) == 57
    assert {record.split for record in records} == {""}


def test_rows_become_records(tmp_path):
    first, second, third = Ham10000Source({}, _lay_out(tmp_path)).records()
    assert (first.id, first.image, first.group) == ("ham10000-ISIC_0027419", "ISIC_0027419", "HAM_0000118")
    assert first.group == second.group != third.group
    assert first.fields["label"] == first.fields["dx"] == "bkl"
    assert (first.fields["age_band"], first.fields["localization"]) == ("80-89", "scalp")
    assert (third.fields["age_band"], third.fields["sex"]) == ("", "")


@pytest.mark.parametrize("folder", ["HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_images", "."])
def test_images_lie_in_parts_or_together(tmp_path, folder):
    place = _lay_out(tmp_path) / folder
    place.mkdir(exist_ok=True)
    Image.new("RGB", (600, 450)).save(place / "ISIC_0027419.jpg")
    assert Ham10000Source({}, tmp_path).image("ISIC_0027419") == (place / "ISIC_0027419.jpg").read_bytes()


def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(MissingError, match=r"HAM10000_metadata\.csv.*\n.*10\.7910/DVN/DBW86T"):
        Ham10000Source({}, tmp_path).records()
    with pytest.raises(MissingError, match=r"ISIC_0027419\.jpg.*\n.*10\.7910/DVN/DBW86T"):
        Ham10000Source({}, _lay_out(tmp_path)).image("ISIC_0027419")


def test_all_damaged_rows_are_told(tmp_path):
    rows = [ROWS[0], ROWS[0], ROWS[1].replace("bkl", "BKL"), ROWS[2].replace(",,unknown", ",old,unknown")]
    with pytest.raises(InputError) as caught:
        Ham10000Source({}, _lay_out(tmp_path, rows)).records()
    assert [problem.path for problem in caught.value.problems] == ["row 2", "row 3", "row 4"]
    assert "'nv'" in caught.value.problems[1].expected


def test_the_isic_archive_s_own_columns_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="'lesion_id' is missing"):
        Ham10000Source({}, _lay_out(tmp_path, [], HEADER.replace("lesion_id", "isic_id"))).records()
