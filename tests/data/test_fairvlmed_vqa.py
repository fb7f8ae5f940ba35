import csv
import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from vlmed.data.fairvlmed_vqa import QUESTIONS, FairVlmedVqaSource
from vlmed.errors import InputError, MissingError

COLUMNS = ["filename", "age", "gender", "race", "ethnicity", "language", "maritalstatus", "note", "glaucoma", "use"]
EYES = [("data_00001", "Training"), ("data_07001", "Validation"), ("data_08001", "Test"), ("data_08002", "Test")]


def question(filename, kind="CLOSED", answer="yes", **changes):
    return {"filename": filename, "question": f"{kind} one?", "answer": answer, "answer_type": kind, **changes}


@pytest.fixture
def root(tmp_path):
    with (tmp_path / "data_summary.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for stem, folder in EYES:
            cells = [f"{stem}.npz", "61.5", "female", "white", "non-hispanic", "english", "single", "a note", "no"]
            table.writerow([*cells, folder.lower()])
    for number, (stem, folder) in enumerate(EYES):
        (tmp_path / folder).mkdir(exist_ok=True)
        pixels = np.full((664, 512), 40 * number, np.uint8)
        np.savez(tmp_path / folder / f"{stem}.npz", slo_fundus=pixels, glaucoma=0, note="a note")
    write(tmp_path, [question(f"{stem}.npz", kind) for stem, _ in EYES for kind in ("OPEN", "CLOSED")])
    return tmp_path


def write(root, rows):
    (root / QUESTIONS).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def test_records(root):
    records = FairVlmedVqaSource({}, root).records()
    assert Counter(record.split for record in records) == {"train": 2, "val": 2, "test": 4}
    first = records[0]
    assert (first.id, first.image, first.group) == (
        "fairvlmed_vqa-data_00001-open",
        "Training/data_00001",
        "data_00001",
    )
    assert first.fields == {
        "question": "OPEN one?",
        "answer": "yes",
        "answer_type": "OPEN",
        "sex": "female",
        "age_band": "60-69",
        "race": "white",
        "ethnicity": "non-hispanic",
        "language": "english",
        "maritalstatus": "single",
    }


def test_both_questions_of_an_image_share_it(root):
    source = FairVlmedVqaSource({}, root)
    keys = [record.image for record in source.records()]
    assert keys[0::2] == keys[1::2]
    pixels = Image.open(io.BytesIO(source.image(keys[4])))
    assert (pixels.mode, pixels.size, pixels.getpixel((5, 5))) == ("L", (512, 664), 80)


def test_ids_do_not_depend_on_the_order_of_lines(root):
    before = {record.id: record for record in FairVlmedVqaSource({}, root).records()}
    lines = (root / QUESTIONS).read_text().splitlines()
    (root / QUESTIONS).write_text("\r\n".join(reversed(lines)))
    assert {record.id: record for record in FairVlmedVqaSource({}, root).records()} == before


def test_names_without_ending_answers_in_numbers_and_extra_keys(root):
    write(root, [question("data_08001", "closed ", 3, model="m", prompt=["p"])])
    (record,) = FairVlmedVqaSource({}, root).records()
    assert (record.id, record.fields["answer"]) == ("fairvlmed_vqa-data_08001-closed", "3")
    assert "model" not in record.fields


def test_missing_questions_say_that_they_were_not_published_and_what_to_write(root):
    (root / QUESTIONS).unlink()
    with pytest.raises(MissingError) as caught:
        FairVlmedVqaSource({}, root).records()
    (problem,) = caught.value.problems
    assert problem.file == str(root / QUESTIONS)
    for words in ("never published", "CC BY-NC-ND 4.0", '"filename": "data_00001.npz"', "answer_type"):
        assert words in problem.hint


def test_missing_data_says_where_to_get_it(root):
    (root / "data_summary.csv").unlink()
    with pytest.raises(MissingError, match=r"data_summary\.csv"):
        FairVlmedVqaSource({}, root).records()


def test_all_questions_on_unknown_images_are_listed(root):
    write(root, [question("data_08001.npz"), question("data_99999.npz"), question("x")])
    with pytest.raises(InputError) as caught:
        FairVlmedVqaSource({}, root).records()
    places = [(problem.path, problem.got) for problem in caught.value.problems]
    assert places == [("line 2", "'data_99999.npz'"), ("line 3", "'x'")]


def test_two_questions_of_one_kind_are_refused(root):
    write(root, [question("data_08001.npz"), question("data_08001", question="another?")])
    with pytest.raises(InputError, match="'fairvlmed_vqa-data_08001-closed' stands twice"):
        FairVlmedVqaSource({}, root).records()


def test_all_damaged_lines_are_listed(root):
    rows = [question("data_08001.npz", "YESNO"), {"filename": "data_08001.npz"}, question("")]
    write(root, rows)
    with (root / QUESTIONS).open("a") as file:
        file.write('{"filename": "data_08002.npz", "quest')
    with pytest.raises(InputError) as caught:
        FairVlmedVqaSource({}, root).records()
    lines = {problem.path.partition(",")[0] for problem in caught.value.problems}
    assert lines == {"line 1", "line 2", "line 3", "line 4"}


def test_damaged_and_missing_images(root):
    source = FairVlmedVqaSource({}, root)
    path = root / "Test" / "data_08001.npz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"data_08001\.npz"):
        source.image("Test/data_08001")
    path.unlink()
    with pytest.raises(MissingError, match=r"data_08001\.npz"):
        source.image("Test/data_08001")
