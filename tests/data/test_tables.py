import io
from pathlib import Path

import pytest
from PIL import Image

from vlmed.data.records import Record
from vlmed.data.tables import age_band, collect, pick, read_csv, read_image
from vlmed.errors import InputError, MissingError


def _write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"id,name\n1,caf\xc3\xa9\n",
        b"\xef\xbb\xbfid,name\n1,caf\xc3\xa9\n",
        b"id,name\n1,caf\xe9\n",
        b"id,name\r\n1,caf\xc3\xa9\r\n",
        b"id,name\r1,caf\xc3\xa9\r",
        b' id , name \n\n 1 ,"caf\xc3\xa9 "\n,\n',
    ],
    ids=["utf-8", "byte order mark", "latin-1", "CRLF", "CR", "blanks"],
)
def test_encodings_and_line_ends_give_the_same_rows(tmp_path, content):
    assert read_csv(_write(tmp_path, content), ["id", "name"]) == [{"id": "1", "name": "café"}]


def test_extra_columns_and_line_breaks_in_cells_are_kept(tmp_path):
    path = _write(tmp_path, b'id,extra\n1,"two\nlines, one cell"\n')
    assert read_csv(path, ["id"]) == [{"id": "1", "extra": "two\nlines, one cell"}]


def test_missing_columns_are_all_named_with_the_nearest_present(tmp_path):
    path = _write(tmp_path, b"lesion,image_id,dx\n")
    with pytest.raises(InputError) as caught:
        read_csv(path, ["lesion_id", "image_id", "sex"], hint="get it there")
    first, second = caught.value.problems
    assert (first.expected, first.got) == ("'lesion_id'", "'lesion'")
    assert (second.expected, second.got) == ("'sex'", "'lesion', 'image_id', 'dx'")
    assert first.file == str(path)
    assert first.hint == "get it there"


def test_uneven_rows_are_all_named_by_line(tmp_path):
    path = _write(tmp_path, b'a,b\n1,2\n1\n"x\ny",2\n1,2,3\n')
    with pytest.raises(InputError) as caught:
        read_csv(path)
    assert [(p.path, p.expected, p.got) for p in caught.value.problems] == [("line 3", "2", "1"), ("line 6", "2", "3")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"a,a\n1,2\n", "'a' stands twice"),
        (b"a\0b\n", "NUL"),
        (b'a\n"never closed\n1\n2\n', "no comma-separated text"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, content, what):
    path = _write(tmp_path, content)
    with pytest.raises(InputError, match=what) as caught:
        read_csv(path)
    assert str(path) in str(caught.value)


def test_a_missing_table_says_how_to_get_it(tmp_path):
    with pytest.raises(MissingError, match="get it there") as caught:
        read_csv(tmp_path / "no.csv", hint="get it there")
    assert caught.value.problems[0].file == str(tmp_path / "no.csv")


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        read_csv(tmp_path)


def test_collect_gathers_the_faults_of_all_rows():
    def make(row):
        return Record(row["id"], "image", pick(row, "kind", ("x", "y")))

    rows = [{"id": "1", "kind": "x"}, {"id": "2", "kind": "z"}, {"id": "1", "kind": "y"}, {"id": "3", "kind": ""}]
    with pytest.raises(InputError) as caught:
        collect(rows, make, Path("t.csv"), "hint")
    assert [p.path for p in caught.value.problems] == ["row 2", "row 3", "row 4"]
    assert [p.got for p in caught.value.problems] == ["'z'", "1, as in row 1", "''"]
    assert {p.hint for p in caught.value.problems} == {"hint"}
    assert [record.group for record in collect(rows[:1], make, Path("t.csv"))] == ["x"]


@pytest.mark.parametrize(
    ("age", "band"),
    [("", ""), ("NaN", ""), ("unknown", ""), ("0.0", "0-9"), ("9.99", "0-9"), ("10", "10-19"), ("85.0", "80-89")],
)
def test_age_bands_are_decades(age, band):
    assert age_band(age) == band


@pytest.mark.parametrize("age", ["-1", "131", "old", "inf", "1e9"])
def test_ages_that_are_none_are_refused(age):
    with pytest.raises(InputError) as caught:
        age_band(age)
    assert caught.value.problems[0].got == repr(age)


def _image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_whole_images_come_back_byte_for_byte(tmp_path, kind):
    content = _image(kind)
    (tmp_path / "image").write_bytes(content)
    assert read_image(tmp_path / "image") == content


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>403</html>", _image("PNG")[:-2000], _image("JPEG")[:-500], _image("PNG")[:30], _image("TIFF")[:100]],
    ids=["empty", "html", "cut png", "cut jpeg", "png header", "cut tiff"],
)
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_damaged_images_are_refused_by_name(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match="can't be decoded") as caught:
        read_image(path, "get it there")
    problem = caught.value.problems[0]
    assert problem.file == str(path)
    assert problem.got.startswith(f"{len(content)} bytes")
    assert problem.hint == "get it there"


def test_a_missing_image_is_missing(tmp_path):
    with pytest.raises(MissingError, match="the image is not there"):
        read_image(tmp_path / "no.png")
    with pytest.raises(InputError, match="can't be read"):
        read_image(tmp_path)
