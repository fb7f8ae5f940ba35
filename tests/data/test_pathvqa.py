import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlmed.data.pathvqa import PathVqaSource
from vlmed.errors import InputError, MissingError

SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("question", pa.string()),
        ("answer", pa.string()),
    ]
)


def jpeg(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (20 * shade, 10, 10)).save(buffer, "JPEG")
    return buffer.getvalue()


def row(shade=0, question="what is shown?", answer="liver", content=None):
    return {"image": {"bytes": content or jpeg(shade), "path": None}, "question": question, "answer": answer}


def write(root, name, rows, schema=SCHEMA, group=2):
    (root / "data").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), root / "data" / name, row_group_size=group)


@pytest.fixture
def root(tmp_path):
    """Two train shards of three and two rows in groups of two; images 1 and 2 have several questions."""
    write(tmp_path, "train-00000-of-00002-0f1e2d3c4b5a6978.parquet", [row(1), row(1, answer="Yes "), row(2)])
    write(tmp_path, "train-00001-of-00002-8796a5b4c3d2e1f0.parquet", [row(2, answer="no"), row(3)])
    write(tmp_path, "validation-00000-of-00001-0123456789abcdef.parquet", [row(4)])
    write(tmp_path, "test-00000-of-00001-fedcba9876543210.parquet", [row(5, " is it?\r\n", "yes"), row(1)])
    return tmp_path


def test_records(root):
    records = PathVqaSource({}, root).records()
    assert [record.id for record in records] == [
        *(f"pathvqa-train-{number:05d}" for number in range(5)),
        "pathvqa-val-00000",
        "pathvqa-test-00000",
        "pathvqa-test-00001",
    ]
    assert Counter(record.split for record in records) == {"train": 5, "val": 1, "test": 2}
    assert records[6].fields == {"question": "is it?", "answer": "yes", "answer_type": "CLOSED"}


def test_equal_files_are_one_image_over_shards_and_splits(root):
    records = PathVqaSource({}, root).records()
    keys = [record.image for record in records]
    assert keys[0] == keys[1] == keys[7]
    assert keys[2] == keys[3]
    assert len(set(keys)) == 5
    assert all(record.group == record.image and len(record.image) == 32 for record in records)


@pytest.mark.parametrize(
    "answer, kind",
    [("yes", "CLOSED"), ("No", "CLOSED"), (" YES ", "CLOSED"), ("no.", "OPEN"), ("yes, in part", "OPEN"), ("", "OPEN")],
)
def test_answer_type_is_derived_from_yes_and_no(root, answer, kind):
    write(root, "validation-00000-of-00001-0123456789abcdef.parquet", [row(4, answer=answer)])
    assert PathVqaSource({}, root).records()[5].fields["answer_type"] == kind


def test_images_of_all_row_groups_by_several_threads(root):
    source = PathVqaSource({}, root)
    keys = [record.image for record in source.records()] * 5
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(source.image, keys))
    assert contents == [jpeg(shade) for shade in (1, 1, 2, 2, 3, 4, 5, 1)] * 5


def test_unknown_image_is_missing(root):
    with pytest.raises(MissingError, match="no row shows"):
        PathVqaSource({}, root).image("0" * 32)


def test_unreadable_image_names_shard_and_row(root):
    name = "validation-00000-of-00001-0123456789abcdef.parquet"
    write(root, name, [row(4), row(content=jpeg(6)[:200]), row(content=b"<html>")])
    source = PathVqaSource({}, root)
    for number, record in enumerate(source.records()[6:8], start=1):
        with pytest.raises(InputError, match=f"{name}: row {number}: the image can't be decoded"):
            source.image(record.image)


def test_extra_columns_flat_layout_and_names_without_hash(tmp_path):
    schema = SCHEMA.append(pa.field("origin", pa.string()))
    for name in ("train", "validation", "test"):
        write(tmp_path, f"{name}-00000-of-00001.parquet", [{**row(1), "origin": "book"}], schema)
    for path in (tmp_path / "data").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "data").rmdir()
    records = PathVqaSource({}, tmp_path).records()
    assert [record.split for record in records] == ["train", "val", "test"]
    assert set(records[0].fields) == {"question", "answer", "answer_type"}


def test_nothing_there_says_where_to_get_it(tmp_path):
    with pytest.raises(MissingError) as caught:
        PathVqaSource({}, tmp_path).records()
    assert [problem.what.split()[1] for problem in caught.value.problems] == ["train", "validation", "test"]
    assert all("download --repo-type dataset flaviagiammarino/path-vqa" in p.hint for p in caught.value.problems)


def test_a_missing_shard_is_noticed_since_row_numbers_would_shift(root):
    (root / "data" / "train-00000-of-00002-0f1e2d3c4b5a6978.parquet").unlink()
    with pytest.raises(MissingError, match="train shards are not whole"):
        PathVqaSource({}, root).records()


def test_two_revisions_in_one_folder_are_noticed(root):
    write(root, "test-00000-of-00001-ffffffffffffffff.parquet", [row(9)])
    with pytest.raises(MissingError, match="test shards are not whole"):
        PathVqaSource({}, root).records()


def test_all_damaged_rows_are_listed(root):
    name = "test-00000-of-00001-fedcba9876543210.parquet"
    rows = [{**row(1), "image": None}, row(1, question=None), row(2), row(3, answer=None), row(1, question="")]
    write(root, name, rows)
    with pytest.raises(InputError) as caught:
        PathVqaSource({}, root).records()
    assert [(problem.what, problem.path) for problem in caught.value.problems] == [
        ("the image is missing", "row 0"),
        ("the question is missing", "row 1"),
        ("the answer is missing", "row 3"),
        ("the question is missing", "row 4"),
    ]
    assert all(problem.file.endswith(name) for problem in caught.value.problems)


@pytest.mark.parametrize("keep", [0, 100, -20])
def test_a_cut_off_shard_is_refused(root, keep):
    path = root / "data" / "test-00000-of-00001-fedcba9876543210.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=path.name):
        PathVqaSource({}, root).records()


def test_a_damaged_page_is_refused(root):
    path = root / "data" / "test-00000-of-00001-fedcba9876543210.parquet"
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(content)
    with pytest.raises(InputError, match="the shard is damaged"):
        PathVqaSource({}, root).records()


def test_a_git_lfs_pointer_is_refused(root):
    path = root / "data" / "test-00000-of-00001-fedcba9876543210.parquet"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match="no parquet file"):
        PathVqaSource({}, root).records()


def test_a_missing_column_is_named(root):
    name = "test-00000-of-00001-fedcba9876543210.parquet"
    write(root, name, [{"image": row()["image"], "question": "q"}], pa.schema(list(SCHEMA)[:2]))
    with pytest.raises(InputError, match="column 'answer' is missing"):
        PathVqaSource({}, root).records()


def test_images_of_another_type_are_named(root):
    schema = pa.schema([("image", pa.binary()), *list(SCHEMA)[1:]])
    write(root, "test-00000-of-00001-fedcba9876543210.parquet", [{**row(), "image": b"x"}], schema)
    with pytest.raises(InputError, match="column 'image' has another type"):
        PathVqaSource({}, root).records()
