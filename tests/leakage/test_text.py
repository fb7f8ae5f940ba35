import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmed.errors import UsageError
from vlmed.leakage.text import equal_texts, normalise, question_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Where is\tthe\r\nMass? ", "where is the mass"),
        ("X-ray", "x ray"),
        ("ＭＲＩ ①", "mri 1"),
        ("Straße", "strasse"),
        ("ﬁbrosis", "fibrosis"),
        ("1.5 cm", "1 5 cm"),
        ("T1 > T2", "t1 > t2"),
        ("zero\u200bwidth", "zero width"),
        ("图中有肝脏吗？", "图中有肝脏吗"),
        ("e\u0301", "é"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalised_texts(text, expected):
    assert normalise(text) == expected


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.text())
def test_case_and_outer_blanks_do_not_matter(text):
    assert normalise(f" {text}. ") == normalise(text)


def test_numbers_keep_apart():
    assert normalise("1.5") != normalise("15")


def test_question_and_answer_do_not_run_into_each_other():
    assert question_answer("is it", "big lung") != question_answer("is it big", "lung")
    assert question_answer("A?", "") != question_answer("", "A")
    assert question_answer("?", "!") == ""


def test_equal_texts_are_grouped_with_every_position():
    a = ["Normal chest.", "A cyst", "normal  CHEST"]
    b = ["cyst a", "NORMAL CHEST!", "a cyst", "other"]
    assert equal_texts(a, b) == {"normal chest": ([0, 2], [1]), "a cyst": ([1], [2])}


def test_question_answer_texts_can_be_compared():
    train, test = [question_answer("Is it broken?", "No")], [question_answer("is it broken", "Yes"), "is it broken no"]
    assert equal_texts(train, test) == {}
    assert equal_texts(train, [question_answer("IS IT BROKEN", "no.")]) == {"is it broken\nno": ([0], [0])}


@pytest.mark.parametrize(("a", "b"), [([], []), (["a"], []), ([], ["a"]), (["", "?", " \n "], ["", "!", "\n"])])
def test_nothing_is_shared_by_empty_sets_and_empty_texts(a, b):
    assert equal_texts(a, b) == {}


def test_a_million_equal_answers_take_no_pairs():
    shared = equal_texts(["yes"] * 200_000, ["Yes."] * 200_000)
    assert [len(places) for places in shared["yes"]] == [200_000, 200_000]


def test_what_is_no_text_is_told_with_every_position():
    with pytest.raises(UsageError) as caught:
        equal_texts(["a", 3, None], ["b", b"c"])
    assert [(problem.path, problem.got) for problem in caught.value.problems] == [
        ("a[1]", "int"),
        ("a[2]", "NoneType"),
        ("b[1]", "bytes"),
    ]


def test_slake_asks_the_same_questions_of_train_and_test(shared_data):
    def texts(split):
        rows = json.loads((shared_data / "slake" / f"{split}.json").read_text(encoding="utf-8"))
        return [question_answer(row["question"], row["answer"]) for row in rows if row["q_lang"] == "en"]

    train, test = texts("train"), texts("test")
    shared = equal_texts(train, test)
    assert sum(len(places) for _, places in shared.values()) == sum(text in set(train) for text in test)
    assert shared
