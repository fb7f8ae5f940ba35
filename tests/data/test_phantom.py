"""The phantom: the same pixels everywhere, text true to them, and leaks exactly where they were planted."""

import io
import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmed.data.phantom import PhantomSource
from vlmed.data.phantom_case import KINDS, LESIONS, MODALITIES, patient
from vlmed.data.phantom_draw import pixels
from vlmed.errors import MissingError, UsageError
from vlmed.hashing import pixel_hash

LEAKS = {"exact": 5, "reencoded": 4, "near": 10, "group": 3, "text": 5}


def phantom(**options):
    return PhantomSource(options, Path("unused"))


def picture(source, key):
    return Image.open(io.BytesIO(source.image(key)))


def grey(source, key):
    return np.asarray(picture(source, key).convert("L")).astype(int)


@pytest.fixture(scope="module")
def images():
    return phantom(patients=400).records()


@pytest.fixture(scope="module")
def questions():
    return phantom(patients=400, rows="questions").records()


@pytest.fixture(scope="module")
def leaky():
    return phantom(patients=200, leaks=LEAKS)


# Pixels


@pytest.mark.parametrize(
    ("options", "key", "expected"),
    [
        ({}, "phantom-p0000-i0", "647d72cc9ff09a01776d268e652d4e53"),
        ({}, "phantom-p0001-i0", "61a68b252709e731cff058c8609ce917"),
        ({}, "phantom-p0002-i0", "cc3fc7c1032f3c94794cd1766fbd829a"),
        ({}, "phantom-p0003-i0", "b9af939e002efd298e55a15535d2b7ff"),
        ({}, "phantom-p0010-i0", "0fca3f683af842b1c33e0df62046ba96"),
        ({}, "phantom-p0013-i0", "0b9fec1dc1c6d0d456917e258d859200"),
        ({}, "phantom-p0015-i0", "554296840f111fd5fda9a4a3c1278ec7"),
        ({}, "phantom-p0017-i0", "58a3ac5dc1f042e61fe3f219b3d3048f"),
        ({}, "phantom-p0022-i0", "a718b62c4091e06395a97af5c8a24015"),
        ({"size": 224}, "phantom-p0000-i0", "6033dd736254b7cd2b15660d2f68b29c"),
        ({"seed": 7, "size": 33}, "phantom-p0001-i2", "bd59ebfb2442a89196f380c3d83bca56"),
    ],
)
def test_pixels_never_change(options, key, expected):
    assert pixel_hash(picture(phantom(**options), key)) == expected


def test_pixels_do_not_depend_on_what_was_drawn_before():
    first, second = phantom(patients=30), phantom(patients=40)
    keys = [record.image for record in first.records()]
    forward = {key: first.image(key) for key in keys}
    assert {key: second.image(key) for key in reversed(keys)} == forward


@pytest.mark.parametrize("size", [32, 64, 97, 224])
def test_images_are_grey_and_of_the_size_asked_for(size):
    image = picture(phantom(patients=1, size=size), "phantom-p0000-i0")
    assert (image.mode, image.size, image.format) == ("L", (size, size), "PNG")
    assert np.asarray(image).std() > 10


def test_no_two_images_share_their_pixels_unless_planted():
    source = phantom(patients=100)
    hashes = Counter(pixel_hash(picture(source, record.image)) for record in source.records())
    assert max(hashes.values()) == 1


def test_another_seed_is_another_phantom():
    assert phantom(seed=1).image("phantom-p0000-i0") != phantom(seed=0).image("phantom-p0000-i0")


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("kind", LESIONS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_lesion_changes_the_picture_on_its_side_only(modality, kind, side):
    candidates = (patient(0, number) for number in range(4000))
    found = (who for who in candidates if who.modality == modality and who.kind == kind and who.finding.side == side)
    for who in islice(found, 3):
        change = np.abs(pixels(who, 0, 64).astype(int) - pixels(replace(who, finding=None), 0, 64))
        # Radiological convention: the patient's left is on the right of the picture.
        left, right = change[:, :32].sum(), change[:, 32:].sum()
        assert (right > 3 * left) if side == "left" else (left > 3 * right)


def test_large_lesions_cover_more_than_small_ones():
    covered = defaultdict(list)
    for number in range(300):
        who = patient(0, number)
        if who.finding and who.kind != "calcification":
            change = pixels(who, 0, 64) != pixels(replace(who, finding=None), 0, 64)
            covered[who.kind, who.finding.size].append(change.sum())
    for kind in ("nodule", "cyst", "mass"):
        assert np.median(covered[kind, "large"]) > 1.4 * np.median(covered[kind, "small"])


# Records


def test_rows_are_named_grouped_and_split_by_patient(images):
    assert len(images) == 1200 == len({record.id for record in images})
    assert images[7].id == images[7].image == "phantom-p0002-i1"
    assert images[7].group == "phantom-p0002"
    splits = defaultdict(set)
    for record in images:
        splits[record.group].add(record.split)
    assert all(len(found) == 1 for found in splits.values())
    share = Counter(next(iter(found)) for found in splits.values())
    assert share["train"] / 400 == pytest.approx(0.60, abs=0.08)
    assert share["val"] / 400 == pytest.approx(0.15, abs=0.06)


def test_a_patient_stays_in_its_split_whatever_the_seed_and_number_of_patients(images):
    split = {record.group: record.split for record in images}
    assert all(record.split == split[record.group] for record in phantom(seed=5, patients=50).records())


def test_every_class_and_modality_is_common(images):
    for name, values in (("label", KINDS), ("modality", MODALITIES)):
        counts = Counter(record.fields[name] for record in images)
        assert set(counts) == set(values)
        assert min(counts.values()) > 0.6 * len(images) / len(values)


def test_captions_say_what_the_fields_say_and_that_it_is_a_phantom(images):
    words = {"radiograph": "radiograph", "ct": "CT", "ultrasound": "ultrasound"}
    for record in images:
        fields = record.fields
        finding, _, heart = fields["caption"].partition(" The heart is ")
        assert heart in ("", "large.", "of normal size.")
        said = set(re.findall(r"\w+", finding))
        assert said & {"phantom", "Phantom"}
        assert words[fields["modality"]] in said
        facts = {fields["label"], fields["side"], fields["size"]} - {"none", ""}
        assert said & {*LESIONS, "left", "right", "small", "large"} == facts


def test_captions_are_mostly_unique_with_some_duplicates(images):
    assert 0.7 < len({record.fields["caption"] for record in images}) / len(images) < 1


def test_only_lesions_have_side_and_size(images):
    for record in images:
        bare = record.fields["side"] == record.fields["size"] == ""
        assert bare == (record.fields["label"] == "none")


def test_questions_are_answered_by_the_facts_of_their_image(images, questions):
    facts = {record.image: record.fields for record in images}
    values = {
        "kind": LESIONS,
        "side": ("left", "right"),
        "size": ("small", "large"),
        "modality": ("radiograph", "CT", "ultrasound"),
    }
    for record in questions:
        fields, fact = record.fields, facts[record.image]
        topic = fields["question_type"]
        assert "phantom" in fields["question"]
        truth = {**fact, "kind": fact["label"], "modality": fact["modality"].replace("ct", "CT")}.get(topic)
        if topic == "presence":
            assert fields["answer"] == ("no" if fact["label"] == "none" else "yes")
        elif fields["answer_type"] == "OPEN":
            assert fields["answer"] == truth
        else:
            (asked,) = [value for value in values[topic] if f" {value}" in fields["question"]]
            assert fields["answer"] == ("yes" if asked == truth else "no")


def test_question_ids_count_up_within_their_image(questions):
    numbers = defaultdict(list)
    for record in questions:
        image, _, number = record.id.rpartition("-q")
        assert image == record.image
        numbers[image].append(int(number))
    assert all(found == list(range(len(found))) for found in numbers.values())
    assert set(map(len, numbers.values())) == {2, 4, 5}


def test_the_question_alone_does_not_tell_the_answer(questions):
    closed = [record.fields for record in questions if record.fields["answer_type"] == "CLOSED"]
    yes = defaultdict(list)
    for fields in closed:
        yes[fields["question"]].append(fields["answer"] == "yes")
    best_guess = sum(max(sum(found), len(found) - sum(found)) for found in yes.values()) / len(closed)
    assert np.mean([fields["answer"] == "yes" for fields in closed]) == pytest.approx(0.5, abs=0.03)
    assert best_guess < 0.6


def test_questions_have_the_group_and_split_of_their_image(images, questions):
    place = {record.image: (record.group, record.split) for record in images}
    assert all(place[record.image] == (record.group, record.split) for record in questions)


# Leaks


def pairs(source, kind):
    found = [leak for leak in source.planted() if leak.kind == kind]
    assert found
    return found


def test_as_many_leaks_are_planted_as_asked_for(leaky):
    counts = Counter(leak.kind for leak in leaky.planted())
    # Each text leak is a near-duplicate too; each moved image leaks to the two others of its patient.
    assert counts == {"exact": 5, "reencoded": 4, "near": 10 + 5, "text": 5, "group": 2 * 3}
    assert phantom().planted() == []


def test_leaks_go_from_train_to_test_and_no_image_serves_twice(leaky):
    split = {record.id: record.split for record in leaky.records()}
    found = leaky.planted()
    assert {split[leak.train] for leak in found} == {"train"}
    assert {split[leak.test] for leak in found} == {"test"}
    single = [leak for leak in found if leak.kind not in ("group", "text")]
    assert len({leak.test for leak in single}) == len({leak.train for leak in single}) == len(single)


def test_exact_leaks_are_the_same_file_of_another_patient(leaky):
    group = {record.id: record.group for record in leaky.records()}
    for leak in pairs(leaky, "exact"):
        assert leaky.image(leak.train) == leaky.image(leak.test)
        assert group[leak.train] != group[leak.test]


def test_reencoded_leaks_are_other_files_with_the_same_pixels(leaky):
    assert {leak.how for leak in pairs(leaky, "reencoded")} == {"tiff", "rgb"}
    for leak in pairs(leaky, "reencoded"):
        assert leaky.image(leak.train) != leaky.image(leak.test)
        assert np.array_equal(grey(leaky, leak.train), grey(leaky, leak.test))


def test_near_leaks_look_alike_but_differ(leaky):
    hows = Counter(leak.how for leak in pairs(leaky, "near"))
    assert set(hows) == {"brighter", "darker", "resized", "cropped", "jpeg"}
    for leak in pairs(leaky, "near"):
        one, other = grey(leaky, leak.train), grey(leaky, leak.test)
        assert not np.array_equal(one, other)
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.85


def test_jpeg_leaks_are_jpeg_files(leaky):
    formats = {picture(leaky, leak.test).format for leak in pairs(leaky, "near") if leak.how == "jpeg"}
    assert formats == {"JPEG"}


def test_group_leaks_are_images_of_one_patient(leaky):
    group = {record.id: record.group for record in leaky.records()}
    assert all(group[leak.train] == group[leak.test] for leak in pairs(leaky, "group"))


@pytest.mark.parametrize(("rows", "names"), [("images", ["caption"]), ("questions", ["question", "answer"])])
def test_only_text_leaks_repeat_the_text(rows, names):
    source = phantom(patients=200, leaks=LEAKS, rows=rows)
    text = defaultdict(list)
    for record in source.records():
        text[record.image].append(tuple(record.fields[name] for name in names))
    for leak in pairs(source, "text"):
        assert text[leak.train] == text[leak.test]
    verbatim = {leak.test for leak in pairs(source, "text")}
    for leak in source.planted():
        if leak.kind != "group" and leak.test not in verbatim:
            assert not set(text[leak.train]) & set(text[leak.test])


def test_a_copy_has_the_findings_of_what_it_shows(leaky):
    fields = {record.id: record.fields for record in leaky.records()}
    for leak in leaky.planted():
        for name in ("label", "side", "size", "modality"):
            assert fields[leak.train][name] == fields[leak.test][name]


def test_images_without_a_leak_are_those_of_the_clean_phantom(leaky):
    clean, touched = phantom(patients=200), {leak.test for leak in leaky.planted()}
    for one, other in zip(clean.records(), leaky.records(), strict=True):
        if one.id not in touched:
            assert one == other
    untouched = [record.id for record in clean.records() if record.id not in touched][:60]
    assert all(clean.image(key) == leaky.image(key) for key in untouched)


def test_both_kinds_of_rows_have_the_same_leaks(leaky):
    assert phantom(patients=200, leaks=LEAKS, rows="questions").planted() == leaky.planted()


# Bad input


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"patient": 3}, "patient"),
        ({"patients": 0}, "patients"),
        ({"patients": 10_000}, "patients"),
        ({"patients": 2.0}, "patients"),
        ({"patients": "20"}, "patients"),
        ({"patients": True}, "patients"),
        ({"patients": None}, "patients"),
        ({"seed": -1}, "seed"),
        ({"images_per_patient": 0}, "images_per_patient"),
        ({"size": 31}, "size"),
        ({"size": 513}, "size"),
        ({"rows": "pictures"}, "rows"),
        ({"rows": ["images"]}, "rows"),
        ({"leaks": 3}, "leaks"),
        ({"leaks": None}, "leaks"),
        ({"leaks": ["exact"]}, "leaks"),
        ({"leaks": {"twins": 1}}, "leaks.twins"),
        ({"leaks": {"exact": -1}}, "leaks.exact"),
        ({"leaks": {"exact": "5"}}, "leaks.exact"),
        ({"patients": 5, "leaks": {"exact": 50}}, "leaks"),
        ({"images_per_patient": 1, "leaks": {"group": 1}}, "leaks.group"),
    ],
)
def test_wrong_options_are_refused_by_name(options, path):
    with pytest.raises(UsageError) as caught:
        phantom(**options)
    assert path in [problem.path for problem in caught.value.problems]


def test_all_wrong_options_are_named_at_once():
    with pytest.raises(UsageError) as caught:
        phantom(patients=0, size=1, rows="x", colour="red", leaks={"twins": 1, "near": -2})
    paths = sorted(problem.path for problem in caught.value.problems)
    assert paths == ["colour", "leaks.near", "leaks.twins", "patients", "rows", "size"]


@pytest.mark.parametrize("key", ["", "p0000-i0", "phantom-p0002-i0", "phantom-p0000-i3", "phantom-p0000-i0-q0"])
def test_an_image_that_is_not_there_is_missing(key):
    with pytest.raises(MissingError, match="phantom-p0000-i0 to phantom-p0001-i2"):
        phantom(patients=2).image(key)
