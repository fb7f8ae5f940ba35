import io
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from vlmed.data.vqa_rad import HINT, IMAGES, QUESTIONS, VqaRadSource, case_id, read_questions
from vlmed.errors import InputError, MissingError

CASE = "https://medpix.nlm.nih.gov/case?id="


def row(qid, image="synpic1.jpg", case="aa", **changes):
    return {
        "qid": qid,
        "phrase_type": "freeform",
        "qid_linked_id": f"link-{qid}",
        "image_case_url": CASE + case,
        "image_name": image,
        "image_organ": "CHEST",
        "evaluation": "evaluated",
        "question": "Does item one show a ring?",
        "question_rephrase": "NULL",
        "question_relation": "Strict agreement",
        "question_frame": "NULL",
        "question_type": "PRES",
        "answer": "Yes",
        "answer_type": "CLOSED",
        **changes,
    }


def source(root: Path, rows, encoding="utf-8"):
    text = rows if isinstance(rows, str) else json.dumps(rows, ensure_ascii=False, indent=3)
    (root / QUESTIONS).write_bytes(text.encode(encoding))
    return VqaRadSource({}, root)


def test_real_release(shared_data):
    records = VqaRadSource({}, shared_data / "vqa_rad").records()
    assert len(records) == len({record.id for record in records}) == 2248
    assert Counter(record.split for record in records) == {"train": 1797, "test": 451}
    images = {record.image for record in records}
    assert len(images) == 314
    assert "synpic35356.jpg" not in images
    assert Counter(record.fields["answer_type"] for record in records) == {"CLOSED": 1299, "OPEN": 949}
    numbers = {
        "vqa_rad-1511": "4",
        "vqa_rad-1568": "2",
        "vqa_rad-1683": "2",
        "vqa_rad-2234": "12",
        "vqa_rad-2235": "12",
    }
    assert {record.id: record.fields["answer"] for record in records if record.id in numbers} == numbers
    test = {record.image for record in records if record.split == "test"}
    train = {record.image for record in records if record.split == "train"}
    assert (len(test), len(test & train)) == (203, 202)


def test_real_cases_hold_whole_images(shared_data):
    records = VqaRadSource({}, shared_data / "vqa_rad").records()
    groups = {
        image: {record.group for record in records if record.image == image} for image in {r.image for r in records}
    }
    assert all(len(group) == 1 for group in groups.values())
    per_case = Counter(group for (group,) in groups.values())
    assert Counter(per_case.values()) == {1: 312, 2: 1}


def test_every_real_image_decodes(shared_data):
    found = VqaRadSource({}, shared_data / "vqa_rad")
    for image in sorted({record.image for record in found.records()})[:20]:
        assert Image.open(io.BytesIO(found.image(image))).format == "JPEG"


def test_published_columns_become_fields(tmp_path):
    (record,) = source(
        tmp_path, [row("0", question="  Does item one show a ring?\r\n", phrase_type="test_para")]
    ).records()
    assert (record.id, record.image, record.group, record.split) == ("vqa_rad-0", "synpic1.jpg", "aa", "test")
    assert record.fields == {
        "question": "Does item one show a ring?",
        "answer": "Yes",
        "answer_type": "CLOSED",
        "phrase_type": "test_para",
        "organ": "CHEST",
        "question_type": "PRES",
        "evaluation": "evaluated",
        "qid_linked_id": "link-0",
        "question_rephrase": "",
        "question_relation": "Strict agreement",
        "question_frame": "",
    }


@pytest.mark.parametrize("answer, text", [(4, "4"), (2.5, "2.5"), (True, "true"), (["a", " b"], "a, b"), ("", "")])
def test_answers_that_are_no_strings_become_text(tmp_path, answer, text):
    (record,) = source(tmp_path, [row(1, answer=answer)]).records()
    assert record.fields["answer"] == text


@pytest.mark.parametrize("published", ["CLOSED ", "closed", " Closed"])
def test_answer_type_is_normalised(tmp_path, published):
    (record,) = source(tmp_path, [row(1, answer_type=published)]).records()
    assert record.fields["answer_type"] == "CLOSED"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_encodings_and_line_ends(tmp_path, encoding):
    text = json.dumps([row(1, answer="1 µm, Ménière")], ensure_ascii=False, indent=1).replace("\n", "\r\n")
    (record,) = source(tmp_path, text, encoding).records()
    assert record.fields["answer"] == "1 µm, Ménière"


def test_extra_keys_and_missing_optional_keys_change_nothing(tmp_path):
    plain = row(1)
    extra = {**row(1), "comment": "new", "image_url": None}
    del extra["question_rephrase"]
    (one,) = source(tmp_path, [plain]).records()
    (two,) = source(tmp_path, [extra]).records()
    assert one == two


def test_images_that_share_a_case_over_steps_are_one_group(tmp_path):
    rows = [
        row(0, "a.jpg", "c3"),
        row(1, "b.jpg", "c9"),
        row(2, "a.jpg", "c2"),
        row(3, "b.jpg", "C2"),
        row(4, "d.jpg", "c4"),
    ]
    assert [record.group for record in source(tmp_path, rows).records()] == ["c2", "c2", "c2", "c2", "c4"]


@pytest.mark.parametrize("url", ["http://medpix.nlm.nih.gov/case?id=AB-1", " https://x.org/case/?a=2&id=ab-1 "])
def test_case_addresses_are_normalised(url):
    assert case_id(url) == "ab-1"


def test_a_case_address_without_id_is_its_own_case():
    assert case_id("https://Medpix.nlm.nih.gov/case/7/") == case_id("http://medpix.nlm.nih.gov/case/7")


def test_missing_file_says_where_to_get_it(tmp_path):
    with pytest.raises(MissingError) as caught:
        VqaRadSource({}, tmp_path).records()
    (problem,) = caught.value.problems
    assert problem.file == str(tmp_path / QUESTIONS)
    assert "osf.io" in problem.hint
    assert "CC0" in problem.hint


@pytest.mark.parametrize(
    "text, what",
    [
        (json.dumps([row(1), row(2)])[:-30], "the JSON is damaged or cut off"),
        ("", "the JSON is damaged or cut off"),
        ("{}", "the file holds no rows"),
        ("[]", "the file holds no rows"),
    ],
)
def test_damaged_json_is_named_with_its_place(tmp_path, text, what):
    with pytest.raises(InputError) as caught:
        source(tmp_path, text).records()
    (problem,) = caught.value.problems
    assert (problem.what, problem.file, problem.hint) == (what, str(tmp_path / QUESTIONS), HINT)


def test_truncated_json_names_line_and_column(tmp_path):
    with pytest.raises(InputError) as caught:
        source(tmp_path, '[{"qid": 1,\n "question": "Is').records()
    assert caught.value.problems[0].path == "line 2, column 14"


def test_all_damaged_rows_are_listed(tmp_path):
    nameless = {name: value for name, value in row(1).items() if name != "image_name"}
    rows = [row(0), nameless, 7, row(3, answer=None), row(4, answer_type="MAYBE"), row(5, question=" ")]
    with pytest.raises(InputError) as caught:
        source(tmp_path, rows).records()
    assert [(problem.path, problem.what) for problem in caught.value.problems] == [
        ("$[1]", "'image_name' is missing"),
        ("$[2]", "the row is no JSON object"),
        ("$[3]", "'answer' is missing"),
        ("$[4]", "unknown 'answer_type'"),
        ("$[5]", "'question' is empty"),
    ]


def test_all_duplicate_ids_are_listed_with_both_places(tmp_path):
    with pytest.raises(InputError) as caught:
        source(tmp_path, [row(1), row("1"), row(2), row(1)]).records()
    assert [(problem.path, problem.got) for problem in caught.value.problems] == [
        ("$[1]", f"it also stands in {QUESTIONS}, $[0]"),
        ("$[3]", f"it also stands in {QUESTIONS}, $[0]"),
    ]


def test_images(tmp_path):
    (tmp_path / IMAGES).mkdir()
    found = source(tmp_path, [row(1)])
    with pytest.raises(MissingError, match=r"synpic1\.jpg"):
        found.image("synpic1.jpg")
    path = tmp_path / IMAGES / "synpic1.jpg"
    Image.new("L", (64, 64), 90).save(path)
    content = path.read_bytes()
    assert found.image("synpic1.jpg") == content
    for damaged in (content[: len(content) // 2], b"", b"<html>404</html>"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"synpic1\.jpg"):
            found.image("synpic1.jpg")


def test_json_lines(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"question": "a\\u2028", "answer": 1}\r\n\r\n{"question": "b", "answer": "2"}\r\n')
    rows = read_questions(path, [], "hint")
    assert [(row.place, row.fields["answer"]) for row in rows] == [("line 1", "1"), ("line 3", "2")]


def test_all_faults_of_json_lines_are_listed(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "a", "answer": 1}\n{"question": "b", \n[1]\n{"question": "c"}\n')
    with pytest.raises(InputError) as caught:
        read_questions(path, [], "hint")
    places = sorted(problem.path.partition(",")[0] for problem in caught.value.problems)
    assert places == ["line 2", "line 3", "line 4"]


def test_empty_json_lines_are_refused(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n\n")
    with pytest.raises(InputError, match="holds no rows"):
        read_questions(path, [], "hint")


def test_a_folder_in_place_of_the_file_is_an_input_error(tmp_path):
    (tmp_path / QUESTIONS).mkdir()
    with pytest.raises(InputError, match="can't be read"):
        VqaRadSource({}, tmp_path).records()
