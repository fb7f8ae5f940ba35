import io
import json
from collections import Counter

import pytest
from PIL import Image

from vlmed.data.slake import SlakeSource
from vlmed.errors import InputError, MissingError


def row(qid, image=1, **changes):
    return {
        "img_id": image,
        "img_name": f"xmlab{image}/source.jpg",
        "question": "Which made-up thing is this?",
        "answer": "thing",
        "q_lang": "en",
        "location": "Abdomen",
        "modality": "MRI",
        "answer_type": "OPEN",
        "base_type": "vqa",
        "content_type": "Modality",
        "triple": ["vhead", "_", "_"],
        "qid": qid,
        **changes,
    }


def source(root, train=(), val=(), test=(), val_name="validate.json"):
    for name, rows, qid in (("train.json", train, 900), (val_name, val, 901), ("test.json", test, 902)):
        (root / name).write_text(json.dumps(list(rows) or [row(qid)], ensure_ascii=False), encoding="utf-8")
    return SlakeSource({}, root)


def shared(records, language=None):
    """Images of train and val, train and test, val and test in common, and the images per split."""
    images = {
        split: {r.image for r in records if r.split == split and language in (None, r.fields["q_lang"])}
        for split in ("train", "val", "test")
    }
    pairs = (("train", "val"), ("train", "test"), ("val", "test"))
    return [len(images[a] & images[b]) for a, b in pairs], [len(group) for group in images.values()]


def test_real_release(shared_data):
    records = SlakeSource({}, shared_data / "slake").records()
    assert Counter(record.split for record in records) == {"train": 9835, "val": 2099, "test": 2094}
    english = Counter(record.split for record in records if record.fields["q_lang"] == "en")
    assert english == {"train": 4919, "val": 1053, "test": 1061}
    assert len({record.id for record in records}) == len(records)
    assert len({record.image for record in records}) == len({record.group for record in records}) == 642
    closed = Counter(r.fields["answer_type"] for r in records if (r.split, r.fields["q_lang"]) == ("test", "en"))
    assert closed == {"CLOSED": 416, "OPEN": 645}


def test_real_images_shared_between_splits(shared_data):
    records = SlakeSource({}, shared_data / "slake").records()
    assert shared(records) == ([130, 142, 26], [586, 174, 180])
    assert shared(records, "en") == ([0, 0, 0], [450, 96, 96])
    assert shared(records, "zh") == ([0, 0, 0], [450, 96, 96])


def test_a_real_image_decodes(shared_data):
    content = SlakeSource({}, shared_data / "slake").image("xmlab102/source.jpg")
    assert Image.open(io.BytesIO(content)).format == "JPEG"


def test_published_columns_become_fields(tmp_path):
    records = source(tmp_path, test=[row(7, 12, question=" 这是甲还是乙? ", answer=" 甲 ", q_lang="zh")]).records()
    record = records[-1]
    assert (record.id, record.image, record.group, record.split) == ("slake-7", "xmlab12/source.jpg", "xmlab12", "test")
    assert record.fields == {
        "question": "这是甲还是乙?",
        "answer": "甲",
        "answer_type": "OPEN",
        "q_lang": "zh",
        "modality": "MRI",
        "location": "Abdomen",
        "content_type": "Modality",
        "base_type": "vqa",
    }


def test_an_empty_answer_is_kept_as_published(tmp_path):
    assert source(tmp_path, train=[row(1622, answer="")]).records()[0].fields["answer"] == ""


def test_splits_come_in_order_and_the_hub_name_is_known(tmp_path):
    records = source(tmp_path, [row(1)], [row(2)], [row(3)], "validation.json").records()
    assert [(record.id, record.split) for record in records] == [
        ("slake-1", "train"),
        ("slake-2", "val"),
        ("slake-3", "test"),
    ]


def test_the_folder_of_the_archive_may_stay(tmp_path):
    (tmp_path / "Slake1.0").mkdir()
    source(tmp_path / "Slake1.0")
    assert len(SlakeSource({}, tmp_path).records()) == 3


def test_extra_keys_and_missing_optional_keys(tmp_path):
    changed = row(1, mask="mask.png")
    for name in ("modality", "triple", "img_id"):
        del changed[name]
    record = source(tmp_path, train=[changed]).records()[0]
    assert record.fields["modality"] == ""
    assert "mask" not in record.fields


def test_ids_twice_over_files_are_refused_with_both_places(tmp_path):
    with pytest.raises(InputError) as caught:
        source(tmp_path, [row(1), row(2)], [row(2)], [row(1)]).records()
    assert [(problem.file, problem.path, problem.got) for problem in caught.value.problems] == [
        (str(tmp_path / "validate.json"), "$[0]", "it also stands in train.json, $[1]"),
        (str(tmp_path / "test.json"), "$[0]", "it also stands in train.json, $[0]"),
    ]


@pytest.mark.parametrize("name", ["qid", "img_name", "question", "answer", "q_lang", "answer_type"])
def test_a_missing_key_is_named(tmp_path, name):
    damaged = row(1)
    del damaged[name]
    with pytest.raises(InputError, match=f"'{name}' is missing"):
        source(tmp_path, train=[damaged]).records()


@pytest.mark.parametrize("name", ["train.json", "validate.json", "test.json"])
def test_a_missing_file_says_where_to_get_it(tmp_path, name):
    found = source(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(MissingError) as caught:
        found.records()
    assert caught.value.problems[0].file == str(tmp_path / name)
    assert "BoKelvin/SLAKE (CC BY 4.0" in caught.value.problems[0].hint


def test_a_truncated_file_is_refused(tmp_path):
    found = source(tmp_path)
    path = tmp_path / "validate.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match=r"validate\.json.*damaged or cut off"):
        found.records()


def test_images(tmp_path):
    found = source(tmp_path)
    path = tmp_path / "imgs" / "xmlab1" / "source.jpg"
    with pytest.raises(MissingError, match=r"xmlab1/source\.jpg"):
        found.image("xmlab1/source.jpg")
    path.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(path)
    assert found.image("xmlab1/source.jpg") == path.read_bytes()
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"xmlab1/source\.jpg"):
        found.image("xmlab1/source.jpg")
