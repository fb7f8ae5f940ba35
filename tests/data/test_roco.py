from collections import Counter

import pytest
from PIL import Image

from vlmed.data.roco import RocoSource
from vlmed.errors import InputError, MissingError, UsageError

SPLITS = ("train", "validation", "test")
PARTS = ("radiology", "non-radiology")


def write(root, split, part, rows, captions=None):
    """`rows` are (ROCO id, figure, licence), `captions` the bytes of captions.txt or a list of lines."""
    folder = root / split / part
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["ROCO_ID,PMC_ID,CC", *(",".join(row) for row in rows)]
    (folder / "licences.txt").write_text("\n".join(lines) + "\n")
    links = [
        f"{i}\twget -r ftp://ftp/8d/34/{f.split('_')[0]}.tar.gz -P /path/to/Dir\t{f.split('_')[-1]}" for i, f, _ in rows
    ]
    (folder / "dlinks.txt").write_text("\n".join(links) + "\n")
    if captions is None:
        captions = [f"{row[0]}\t A caption of {row[1]}." for row in rows]
    if isinstance(captions, list):
        captions = "".join(line + "\n" for line in captions).encode()
    (folder / "captions.txt").write_bytes(captions)
    return folder


@pytest.fixture
def root(tmp_path):
    """Two parts and three splits, one figure each, two of them from one article."""
    for number, (split, part) in enumerate((split, part) for split in SPLITS for part in PARTS):
        write(tmp_path, split, part, [(f"ROCO_0000{number}", f"PMC{number // 2}_fig-{number}.jpg", "CC BY")])
    return tmp_path


@pytest.fixture(scope="module")
def real(shared_data):
    return RocoSource({}, shared_data / "roco").records()


@pytest.mark.parametrize(
    "parts, counts, articles",
    [
        (PARTS[:1], {"train": 65448, "val": 8180, "test": 8179}, 42471),
        (PARTS[1:], {"train": 4895, "val": 611, "test": 612}, 5175),
        (PARTS, {"train": 70343, "val": 8791, "test": 8791}, 46597),
    ],
)
def test_real_lists(real, parts, counts, articles):
    records = [record for record in real if record.fields["part"] in parts]
    assert Counter(record.split for record in records) == counts
    assert len({record.id for record in records}) == len(records)
    assert len({record.group for record in records}) == articles
    assert all(record.group.startswith("PMC") and record.image.startswith(record.group + "_") for record in records)


def test_real_figures_of_both_parts_are_one_image(real):
    assert len(real) - len({record.image for record in real}) == 86


def test_real_captions(real):
    # The copy at hand lacks the captions of the radiology train part.
    blank = Counter((record.split, record.fields["part"]) for record in real if not record.fields["caption"])
    assert blank == {("train", "radiology"): 65448}
    first = next(record for record in real if record.id == "ROCO_00001")
    assert (first.split, first.group, first.fields["licence"]) == ("test", "PMC4608653", "CC BY-NC")


def test_real_images_are_absent(shared_data):
    source = RocoSource({}, shared_data / "roco")
    with pytest.raises(MissingError, match="ROCO_00001"):
        source.image("PMC4608653_cro-0008-0385-g01.jpg")


def test_records(root):
    records = RocoSource({"part": "radiology"}, root).records()
    assert [(r.id, r.image, r.group, r.split) for r in records] == [
        ("ROCO_00000", "PMC0_fig-0.jpg", "PMC0", "train"),
        ("ROCO_00002", "PMC1_fig-2.jpg", "PMC1", "val"),
        ("ROCO_00004", "PMC2_fig-4.jpg", "PMC2", "test"),
    ]
    caption = "A caption of PMC0_fig-0.jpg."
    assert records[0].fields == {"caption": caption, "licence": "CC BY", "article": "PMC0", "part": "radiology"}


@pytest.mark.parametrize(
    "options, parts", [({}, PARTS), ({"part": "both"}, PARTS), ({"part": "non-radiology"}, PARTS[1:])]
)
def test_part_option(root, options, parts):
    records = RocoSource(options, root).records()
    assert Counter(record.fields["part"] for record in records) == dict.fromkeys(parts, 3)


@pytest.mark.parametrize("part", ["radiologie", "", None, 3])
def test_unknown_part_is_refused(root, part):
    with pytest.raises(UsageError, match="radiology"):
        RocoSource({"part": part}, root)


def test_the_clone_itself_may_be_the_root(root):
    (root / "data").mkdir()
    for split in SPLITS:
        (root / split).rename(root / "data" / split)
    assert len(RocoSource({}, root).records()) == 6


def test_odd_captions_are_kept_line_by_line(root):
    captions = (
        b"\xef\xbb\xbfROCO_1\t  5 \xc2\xb5m and \"quoted, 'text'  \r\n"
        b"ROCO_2\tM\xe9ni\xe8re\r\n"
        b"\r\n"
        b"ROCO_3\t\r\n"
        b"ROCO_4\r\n"
        b"ROCO_5\ta\ttab\x0band a vertical one\r\n"
    )
    rows = [(f"ROCO_{number}", f"PMC7_{number}.jpg", "CC0") for number in range(1, 7)]
    write(root, "test", "radiology", rows, captions)
    records = [record for record in RocoSource({"part": "radiology"}, root).records() if record.split == "test"]
    assert [record.fields["caption"] for record in records] == [
        "5 µm and \"quoted, 'text'",
        "Ménière",
        "",
        "",
        "a\ttab\x0band a vertical one",
        "",
    ]


def test_missing_captions_leave_ids_and_groups(root):
    (root / "train" / "radiology" / "captions.txt").unlink()
    record = RocoSource({"part": "radiology"}, root).records()[0]
    assert (record.id, record.group, record.fields["caption"]) == ("ROCO_00000", "PMC0", "")


def test_extra_columns_and_other_encodings_of_licences(root):
    path = root / "test" / "radiology" / "licences.txt"
    path.write_bytes("\ufeffROCO_ID,PMC_ID,CC,NOTE\r\nROCO_00004,PMC2_fig-4.jpg,CC BY,é\r\n".encode())
    assert RocoSource({"part": "radiology"}, root).records()[-1].fields["licence"] == "CC BY"


def test_a_missing_list_says_where_to_get_it(root):
    path = root / "validation" / "radiology" / "licences.txt"
    path.unlink()
    with pytest.raises(MissingError) as caught:
        RocoSource({}, root).records()
    (problem,) = caught.value.problems
    assert problem.file == str(path)
    assert "github.com/razorx89/roco-dataset" in problem.hint
    assert "licence" in problem.hint


def test_a_missing_column_is_named(root):
    (root / "test" / "radiology" / "licences.txt").write_text("ROCO_ID,PMC,CC\nROCO_00004,PMC2_a.jpg,CC BY\n")
    with pytest.raises(InputError, match="PMC_ID"):
        RocoSource({}, root).records()


def test_all_damaged_rows_of_all_files_are_listed(root):
    write(
        root,
        "test",
        "radiology",
        [("ROCO_1", "PMC1.jpg", "CC0"), ("", "PMC1_a.jpg", "CC0")],
        ["ROCO_9\tno id", "A\t", "A\t"],
    )
    write(root, "test", "non-radiology", [("ROCO_00000", "PMC5_a.jpg", "CC0")])
    with pytest.raises(InputError) as caught:
        RocoSource({}, root).records()
    assert [(problem.what, problem.path) for problem in caught.value.problems] == [
        ("id 'A' stands twice", ""),
        ("no id or figure", "row 2"),
        ("no id or figure", "row 3"),
        ("caption of 'ROCO_9', which licences.txt lacks", ""),
        ("caption of 'A', which licences.txt lacks", ""),
        ("id 'ROCO_00000' stands twice", ""),
    ]


@pytest.mark.parametrize("name", ["PMC0_fig-0.jpg", "ROCO_00000.jpg"])
def test_images_by_either_name(root, name):
    source = RocoSource({}, root)
    path = root / "train" / "radiology" / "images" / name
    path.parent.mkdir()
    Image.new("L", (9, 9)).save(path)
    assert source.image("PMC0_fig-0.jpg") == path.read_bytes()
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(InputError, match=name):
        source.image("PMC0_fig-0.jpg")


def test_a_missing_image_names_its_id(root):
    with pytest.raises(MissingError, match="ROCO_00000") as caught:
        RocoSource({}, root).image("PMC0_fig-0.jpg")
    assert caught.value.problems[0].file == str(root / "train" / "radiology" / "images" / "PMC0_fig-0.jpg")


def test_an_unknown_image_is_missing(root):
    with pytest.raises(MissingError, match="no id"):
        RocoSource({}, root).image("PMC404_x.jpg")


def test_a_figure_of_both_parts_is_one_image(root):
    write(root, "test", "non-radiology", [("ROCO_00005", "PMC0_fig-0.jpg", "CC BY")])
    source = RocoSource({}, root)
    twins = [record.id for record in source.records() if record.image == "PMC0_fig-0.jpg"]
    assert twins == ["ROCO_00000", "ROCO_00005"]
    path = root / "test" / "non-radiology" / "images" / "PMC0_fig-0.jpg"
    path.parent.mkdir()
    Image.new("L", (9, 9)).save(path)
    assert source.image("PMC0_fig-0.jpg") == path.read_bytes()
