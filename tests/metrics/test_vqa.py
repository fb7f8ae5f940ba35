"""Scores of answers against nltk, rouge-score and sacrebleu, and metrics against scikit-learn and by hand."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from vlmed.errors import InputError
from vlmed.metrics import vqa
from vlmed.metrics.answers import candidates_of
from vlmed.metrics.vqa import Answered, bleu_1, rouge_l, score_answers, token_f1, token_recall

# BLEU-1 by nltk 3.10.4 (`sentence_bleu`, weights=(1,)) and sacrebleu 2.6.0 (unigrams, no smoothing, no tokenizer),
# which agree; ROUGE-L F by rouge-score 0.1.2 without stemming. All were given these tokens.
REFERENCES = [
    ("left lung", "left lung", 1.000000, 1.000000),
    ("left lung", "left upper lung", 0.606531, 0.800000),
    ("the opacity lies in the right lower lobe", "right lower lobe", 0.375000, 0.545455),
    ("right lower lobe", "opacity in right lower lobe of lung", 0.263597, 0.600000),
    ("lung lung lung", "lung", 0.333333, 0.500000),
    ("lung", "lung lung lung", 0.135335, 0.500000),
    ("mass in liver and mass in spleen", "mass in spleen and liver", 0.714286, 0.500000),
    ("pleural effusion", "cardiomegaly", 0.000000, 0.000000),
    ("t2 weighted mri", "mri flair", 0.333333, 0.400000),
    ("10 20 min", "15 min", 0.333333, 0.400000),
    ("heart lungs and great vessels of mediastinum", "heart and lungs", 0.428571, 0.400000),
    ("a b c d e f g h", "h g f e d c b a", 1.000000, 0.125000),
    ("ct", "ct with contrast in axial plane at level of kidneys", 0.000123, 0.181818),
    ("basal ganglia caudate and putamen", "caudate and putamen", 0.600000, 0.750000),
]


@pytest.mark.parametrize(("said", "wanted", "bleu", "rouge"), REFERENCES)
def test_bleu_and_rouge_equal_their_references(said, wanted, bleu, rouge):
    assert bleu_1(said.split(), wanted.split()) == pytest.approx(bleu, abs=1e-6)
    assert rouge_l(said.split(), wanted.split()) == pytest.approx(rouge, abs=1e-6)


@pytest.mark.parametrize(
    ("said", "wanted", "f1", "recall"),
    [
        ("left lung", "left lung", 1, 1),
        ("left lung", "left upper lung", 4 / 5, 2 / 3),
        ("lung lung lung", "lung", 1 / 2, 1),
        ("lung", "lung lung lung", 1 / 2, 1 / 3),
        ("mass of liver", "spleen", 0, 0),
        ("", "spleen", 0, 0),
        ("spleen", "", 0, 0),
        ("", "", 0, 0),
    ],
)
def test_token_scores_by_hand(said, wanted, f1, recall):
    assert token_f1(said.split(), wanted.split()) == pytest.approx(f1)
    assert token_recall(said.split(), wanted.split()) == pytest.approx(recall)
    assert (rouge_l(said.split(), wanted.split()) == 0) == (f1 == 0)
    assert (bleu_1(said.split(), wanted.split()) == 0) == (f1 == 0)


@given(st.lists(st.sampled_from("abcd"), max_size=80), st.lists(st.sampled_from("abcde"), max_size=80))
def test_rouge_l_is_the_longest_common_subsequence(said, wanted):
    @cache
    def common(a, b):
        if a == len(said) or b == len(wanted):
            return 0
        if said[a] == wanted[b]:
            return 1 + common(a + 1, b + 1)
        return max(common(a + 1, b), common(a, b + 1))

    assert rouge_l(said, wanted) == pytest.approx(2 * common(0, 0) / max(1, len(said) + len(wanted)))


YES_NO = ("yes", "no")
SIDES = ("both", "left", "right")
# raw, target, closed, candidates, parsed, exact
ROWS = [
    ("Yes, there is a mass.", "Yes", True, YES_NO, "yes", 1),
    ("No evidence of it.", "yes", True, YES_NO, "no", 0),
    ("The lungs look normal.", "no", True, YES_NO, None, 0),
    ("没有肿块", "不包含", True, YES_NO, "no", 1),
    ("It is on the left side", "Left", True, SIDES, "left", 1),
    ("Left or right", "left", True, SIDES, None, 0),
    ("The answer is: The Left Lung.", "left lung", False, (), "left lung", 1),
    ("upper left lung", "left lung", False, (), "upper left lung", 0),
    ("I'm sorry, I can't tell.", "left lung", False, (), None, 0),
    ("", "left lung", False, (), None, 0),
]
COUNTS = np.ones((len(ROWS), 1), np.int32)


def scored(rows=ROWS):
    raw, targets, closed, candidates, *_ = zip(*rows, strict=True)
    return score_answers(raw, targets, closed, candidates)


def test_answers_by_hand():
    samples = scored()
    assert list(samples.parsed) == [row[4] for row in ROWS]
    assert samples.exact.tolist() == [row[5] for row in ROWS]
    assert samples.strata.tolist() == [1, 1, 2, 2, 3, 3, 0, 0, 0, 0]
    assert samples.n_unparsed == 4
    assert samples.token_f1[6:].tolist() == [1, 4 / 5, 0, 0]
    assert samples.token_recall[6:].tolist() == [1, 1, 0, 0]
    assert samples.bleu_1[6:].tolist() == pytest.approx([1, 2 / 3, 0, 0])
    assert samples.rouge_l[6:].tolist() == [1, 4 / 5, 0, 0]
    assert samples.token_f1[:6].tolist() == samples.exact[:6].tolist()


def test_an_answer_is_scored_alike_wherever_and_however_often_it_stands():
    """Equal answers are read once; what is compared with another target, candidates or letters is another answer."""
    random = np.random.RandomState(0)
    raw = [row[0] for row in ROWS] + ["B", "(b) left", "left", "right or both"]
    rows = []
    for _ in range(400):
        closed, kind = random.rand() < 0.6, (YES_NO, SIDES, SIDES[1:])[random.randint(3)]
        target = kind[random.randint(len(kind))] if closed else ("left lung", "left")[random.randint(2)]
        rows.append((raw[random.randint(len(raw))], target, closed, list(kind) if closed else [], random.rand() < 0.5))
    together = score_answers(*list(zip(*rows, strict=True))[:4], lettered=np.array([row[4] for row in rows]))
    assert len(set(map(str, rows))) < len(rows)
    for index, (answer, target, closed, candidates, lettered) in enumerate(rows):
        alone = score_answers([answer], [target], [closed], [candidates], lettered=lettered)
        for name in ("parsed", "strata", "exact", "token_f1", "token_recall", "bleu_1", "rouge_l"):
            assert getattr(together, name)[index] == getattr(alone, name)[0], rows[index]


METRICS = {
    vqa.accuracy: 4 / 10,
    vqa.closed_accuracy: 3 / 6,
    vqa.balanced_closed_accuracy: 1 / 2,
    vqa.open_exact_match: 1 / 4,
    vqa.open_token_f1: 1.8 / 4,
    vqa.open_token_recall: 2 / 4,
    vqa.open_bleu_1: (1 + 2 / 3) / 4,
    vqa.open_rouge_l: 1.8 / 4,
}


@pytest.mark.parametrize(("metric", "value"), METRICS.items())
def test_metrics_by_hand(metric, value):
    assert metric(scored(), COUNTS) == pytest.approx([value])


@pytest.mark.parametrize("metric", METRICS)
def test_a_draw_is_the_questions_repeated(metric):
    counts = np.random.default_rng(0).integers(0, 3, (len(ROWS), 20)).astype(np.int32)
    for draw, value in zip(counts.T, metric(scored(), counts), strict=True):
        repeated = [row for row, times in zip(ROWS, draw, strict=True) for _ in range(times)]
        expected = metric(scored(repeated), np.ones((len(repeated), 1), np.int32))[0]
        assert value == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("metric", METRICS)
def test_the_order_of_questions_changes_no_bit(metric):
    rng = np.random.default_rng(1)
    counts, order = rng.integers(0, 3, (len(ROWS), 20)).astype(np.int32), rng.permutation(len(ROWS))
    values = metric(scored([ROWS[row] for row in order]), counts[order])
    np.testing.assert_array_equal(values, metric(scored(), counts))


def test_balanced_accuracy_is_scikit_learns():
    rng = np.random.default_rng(2)
    targets = rng.choice([*YES_NO, "left"], 200, p=[0.7, 0.2, 0.1])
    answers = np.where(rng.random(200) < 0.6, targets, rng.choice([*YES_NO, "left"], 200))
    samples = score_answers(answers.tolist(), targets.tolist(), np.ones(200, bool), [(*YES_NO, "left")] * 200)
    value = vqa.balanced_closed_accuracy(samples, np.ones((200, 1), np.int32))[0]
    assert value == pytest.approx(balanced_accuracy_score(targets, answers))


def test_saying_yes_to_everything_is_no_better_than_a_coin():
    targets = ["yes"] * 95 + ["no"] * 5
    samples = score_answers(["Yes."] * 100, targets, [True] * 100, [YES_NO] * 100)
    assert vqa.closed_accuracy(samples, np.ones((100, 1), np.int32)) == 0.95
    assert vqa.balanced_closed_accuracy(samples, np.ones((100, 1), np.int32)) == 0.5


def test_metrics_without_a_question_are_undefined():
    closed, open_ended = scored(ROWS[:6]), scored(ROWS[6:])
    assert np.isnan(vqa.open_exact_match(closed, COUNTS[:6])).all()
    assert np.isnan(vqa.closed_accuracy(open_ended, COUNTS[:4])).all()
    assert np.isnan(vqa.balanced_closed_accuracy(open_ended, COUNTS[:4])).all()
    assert np.isnan(vqa.accuracy(open_ended, 0 * COUNTS[:4])).all()
    assert vqa.accuracy(closed, COUNTS[:6]) == 0.5


def test_a_part_of_the_answers():
    part = scored().take([0, 7, 8])
    assert isinstance(part, Answered)
    assert part.parsed == ("yes", "upper left lung", None)
    assert part.rouge_l.tolist() == [1, 0.8, 0]
    assert part.n_unparsed == 1
    assert scored().take(np.arange(10) < 2).parsed == ("yes", "no")


def test_letters_count_where_the_prompt_had_them():
    given = (["B"], ["right"], [True], [("left", "right")])
    assert score_answers(*given).exact.tolist() == [0]
    assert score_answers(*given, lettered=True).exact.tolist() == [1]


@pytest.mark.parametrize(
    ("question", "target", "candidates"),
    [
        ("Is there a mass?", "Yes", ("yes", "no")),
        ("图中有肿块吗？", "不包含", ("yes", "no")),
        ("Is it left or right?", "left", ("left", "right")),
        ("Is it left or right?", "both", ("CT", "MRI", "both", "left", "right")),
        ("Which modality is it?", "CT", ("CT", "MRI", "both", "left", "right")),
        ("Is it a CT or a PET?", "PET", ("CT", "PET")),
        ("Is this a CT?", "CT", ("CT", "MRI", "both", "left", "right")),
    ],
)
def test_candidates(question, target, candidates):
    choices = ["no", "left", "Yes", "right", "MRI", "both", "CT", "包含"]
    assert candidates_of(question, target, choices) == candidates
    assert candidates_of(question, target, choices[::-1]) == candidates


GOOD = {
    "answers": ["yes", "liver"],
    "targets": ["yes", "liver"],
    "closed": [True, False],
    "candidates": [YES_NO, ()],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": ["yes"]}, "the columns differ in length\n  expected: 2 of each\n  got: 1 answers, 2 targets"),
        ({"candidates": [YES_NO]}, "the columns differ in length"),
        ({"closed": [1, 0]}, "closed is no column"),
        ({"closed": True}, "closed is no column"),
        ({"closed": np.zeros(0, bool)}, "closed is no column"),
        ({"answers": ["yes", None]}, "row 1: answer is no text\n  expected: text\n  got: NoneType"),
        ({"targets": [1, "liver"]}, "row 0: target is no text\n  expected: text\n  got: int"),
        ({"targets": ["left", "liver"]}, "row 0: no candidate is right\n  expected: .*\n  got: left"),
        ({"candidates": [(), ()]}, "row 0: no candidate is right"),
    ],
)
def test_damaged_input_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        score_answers(**(GOOD | change))


def test_every_damaged_row_is_listed():
    with pytest.raises(InputError) as error:
        score_answers([None, 1], ["left", "up"], [True, True], [YES_NO, YES_NO])
    assert [problem.path for problem in error.value.problems] == ["row 0", "row 1"] * 2
