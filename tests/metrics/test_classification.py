"""Classification metrics against scikit-learn, values worked by hand, and input that must be refused."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from vlmed.errors import InputError
from vlmed.metrics import classification
from vlmed.metrics.classification import Bins, Classified, accuracy, auc, average_precision, balanced_accuracy, ece, f1

ALL = (auc, accuracy, balanced_accuracy, f1, average_precision, ece)


@pytest.fixture(autouse=True)
def _quiet_reference():
    """scikit-learn warns of what is undefined; that it is undefined is what some tests ask."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def one_vs_rest(score, probabilities, targets):
    """Macro average of a binary scikit-learn score over the classes that have both a positive and a negative."""
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    marks = [(targets == index, probabilities[:, index]) for index in classes]
    values = [score(mark, scores) for mark, scores in marks if 0 < mark.sum() < len(mark)]
    return np.mean(values) if values else np.nan


def reference_f1(probabilities, targets):
    guesses = probabilities.argmax(axis=1)
    if probabilities.shape[1] == 2:
        return reference.f1_score(targets, guesses, pos_label=1, average="binary", zero_division=np.nan)
    return reference.f1_score(targets, guesses, average="macro")


def reference_ece(probabilities, targets):
    """Guo et al.'s definition, written bin by bin."""
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    total = 0.0
    for index in range(15):
        inside = (top > index / 15) & (top <= (index + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(top[inside].mean() - right[inside].mean())
    return total


REFERENCES = {
    auc: lambda p, t: one_vs_rest(reference.roc_auc_score, p, t),
    average_precision: lambda p, t: one_vs_rest(reference.average_precision_score, p, t),
    accuracy: lambda p, t: reference.accuracy_score(t, p.argmax(axis=1)),
    balanced_accuracy: lambda p, t: reference.balanced_accuracy_score(t, p.argmax(axis=1)),
    f1: reference_f1,
    ece: reference_ece,
}


def assert_equal_to_reference(probabilities, targets):
    for metric, expected in REFERENCES.items():
        np.testing.assert_allclose(
            metric(probabilities, targets), expected(probabilities, targets), rtol=0, atol=1e-9, err_msg=metric.__name__
        )


@st.composite
def predictions(draw):
    """Few samples and coarse scores, so that ties, missing classes and lone classes are common."""
    classes, size = draw(st.integers(2, 5)), draw(st.integers(1, 25))
    parts = st.lists(st.integers(0, 4), min_size=classes, max_size=classes).filter(any)
    scores = np.array(draw(st.lists(parts, min_size=size, max_size=size)), dtype=float)
    targets = draw(st.lists(st.integers(0, classes - 1), min_size=size, max_size=size))
    return scores / scores.sum(axis=1, keepdims=True), np.array(targets)


@settings(max_examples=100, deadline=None)
@given(predictions())
def test_any_small_input_equals_scikit_learn(case):
    assert_equal_to_reference(*case)


@settings(max_examples=50, deadline=None)
@given(predictions(), st.integers(0, 2**32 - 1))
def test_weights_equal_repeated_samples(case, seed):
    probabilities, targets = case
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(targets)))
    weights[:, 0] += 1  # scikit-learn refuses an empty draw
    for metric in ALL:
        values = metric(probabilities, targets, weights)
        for value, draw in zip(values, weights, strict=True):
            repeated = metric(np.repeat(probabilities, draw, axis=0), np.repeat(targets, draw))
            np.testing.assert_allclose(value, repeated, rtol=0, atol=1e-12, err_msg=metric.__name__)


@pytest.mark.parametrize("classes", [2, 3, 11])
@pytest.mark.parametrize("decimals", [1, 2, 15])
def test_larger_input_equals_scikit_learn(classes, decimals):
    rng = np.random.default_rng(classes)
    targets = rng.choice(classes, 700, p=rng.dirichlet(np.ones(classes)))
    scores = np.round(rng.random((700, classes)) + 0.4 * np.eye(classes)[targets], decimals) + 0.1
    assert_equal_to_reference(scores / scores.sum(axis=1, keepdims=True), targets)


def test_weighted_values_equal_scikit_learn_with_sample_weights():
    rng = np.random.default_rng(5)
    scores, targets, weights = rng.random(300).round(2), rng.integers(0, 2, 300), rng.integers(0, 5, (4, 300))
    probabilities = np.stack([1 - scores, scores], axis=1)
    for metric, expected in (
        (auc, reference.roc_auc_score),
        (average_precision, reference.average_precision_score),
    ):
        wanted = [expected(targets, probabilities[:, 1], sample_weight=draw) for draw in weights]
        np.testing.assert_allclose(metric(probabilities, targets, weights), wanted, rtol=0, atol=1e-12)


def test_perfect_scores_are_one_and_free_of_calibration_error():
    targets = np.array([0, 1, 2, 1, 0])
    assert [metric(np.eye(3)[targets], targets) for metric in ALL] == [1, 1, 1, 1, 1, 0]


def test_constant_scores_are_chance():
    constant, targets = np.full((4, 2), 0.5), np.array([0, 1, 1, 1])
    # All samples tie: AUC 1/2, AP the share of positives; argmax goes to class 0, so one of four is right.
    values = [metric(constant, targets) for metric in ALL]
    assert values == [0.5, 0.25, 0.5, 0.0, 0.75, 0.25]


def test_reversed_scores():
    targets = np.array([0, 0, 1])
    backwards = np.eye(2)[1 - targets]
    assert auc(backwards, targets) == 0
    assert accuracy(backwards, targets) == 0
    # The only positive is found last, tied with nobody: precision 1/3.
    assert average_precision(backwards, targets) == pytest.approx(1 / 3)
    assert ece(backwards, targets) == 1


def test_macro_by_hand():
    probabilities = [[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4]]
    targets = [0, 1, 1, 2]
    # Class 0: .6 beats .5, .2, .1. Class 1: .4 and .7 against .3 and .5 win three of four. Class 2: .4 beats all.
    assert auc(probabilities, targets) == pytest.approx((1 + 3 / 4 + 1) / 3)
    # Predicted 0, 0, 1, 1: recalls 1, 1/2, 0; F1 2/3, 1/2, 0.
    assert accuracy(probabilities, targets) == 0.5
    assert balanced_accuracy(probabilities, targets) == 0.5
    assert f1(probabilities, targets) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # Class 1 descending: .7 yes, .5 no, .4 yes: (1 + 2/3) / 2.
    assert average_precision(probabilities, targets) == pytest.approx((1 + 5 / 6 + 1) / 3)


def test_one_class_only():
    probabilities, targets = np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 0])
    assert np.isnan(auc(probabilities, targets))
    assert np.isnan(average_precision(probabilities, targets))
    assert np.isnan(f1(probabilities, targets))
    assert accuracy(probabilities, targets) == balanced_accuracy(probabilities, targets) == 1


def test_a_draw_without_samples_is_undefined():
    values = [metric([[0.9, 0.1], [0.2, 0.8]], [0, 1], np.array([[0, 0], [1, 1]])) for metric in ALL]
    assert np.isnan([value[0] for value in values]).all()
    assert not np.isnan([value[1] for value in values]).any()


def test_float32_probabilities_pass():
    scores = np.random.default_rng(0).random((50, 7), dtype=np.float32)
    assert 0 <= accuracy(scores / scores.sum(axis=1, keepdims=True), np.zeros(50, int)) <= 1


GOOD = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ([np.nan, 1.0], "probability is not finite"),
        ([np.inf, 0.0], "probability is not finite"),
        ([np.inf, -np.inf], "probability is not finite"),
        ([-0.25, 1.25], "probability lies outside [0, 1]"),
        ([1.5, 0.0], "probability lies outside [0, 1]"),
        ([0.5, 0.5001], "probabilities do not sum to 1"),
        ([0.0, 0.0], "probabilities do not sum to 1"),
    ],
)
@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
def test_a_bad_row_is_refused_by_number(metric, row, fault):
    bad = GOOD.copy()
    bad[1] = row
    with pytest.raises(InputError, match=re.escape(f"row 1: {fault}")) as caught:
        metric(bad, [0, 1, 0])
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("target", [-1, 2, 99])
def test_a_target_that_is_no_class_is_refused_by_row(target):
    with pytest.raises(InputError, match=r"row 2: target is no class\n  expected: an integer in \[0, 1\]"):
        auc(GOOD, [0, 1, target])


def test_every_fault_is_listed_and_many_are_counted():
    bad = np.tile([0.5, 0.6], (30, 1))
    with pytest.raises(InputError) as caught:
        accuracy(bad, np.full(30, 2))
    paths = [problem.path for problem in caught.value.problems]
    assert paths == [*(f"row {row}" for row in range(20)), "10 more rows"] * 2


@pytest.mark.parametrize(
    ("probabilities", "targets", "fault"),
    [
        (np.empty((0, 2)), [], "no samples"),
        ([], [], "no table"),
        (GOOD, [0, 1], "differ in length"),
        (GOOD, [[0], [1], [0]], "differ in length"),
        (GOOD[:, 0], [0, 1, 0], "no table"),
        (GOOD[:, :1], [0, 0, 0], "no table"),
        (GOOD.astype(str), [0, 1, 0], "no table"),
        (GOOD, [0.0, 1.0, 0.0], "no class indices"),
        (GOOD, ["0", "1", "0"], "no class indices"),
    ],
)
def test_shapes_and_types_that_do_not_fit_are_refused(probabilities, targets, fault):
    with pytest.raises(InputError, match=fault):
        auc(probabilities, targets)


@pytest.mark.parametrize(
    ("weights", "fault"),
    [
        (np.ones((2, 2), int), "do not fit"),
        (np.ones(3, int), "do not fit"),
        (np.ones((2, 3)), "do not fit"),
        (np.array([[1, 1, 1], [1, -1, 1]]), "draw 1: weight is negative"),
    ],
)
def test_weights_that_are_no_counts_are_refused(weights, fault):
    with pytest.raises(InputError, match=fault):
        f1(GOOD, [0, 1, 0], weights)


SHAPES = [(1, 2, 9), (2, 2, 1), (60, 2, 3), (60, 3, 4), (60, 3, 10**6), (300, 5, 20), (300, 2, 10**6)]


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(("samples", "classes", "levels"), SHAPES)
def test_one_draw_alone_equals_the_same_among_many_to_the_last_bit(metric, samples, classes, levels):
    """Few draws are summed another way than many; ties, absent classes and single samples are nothing special."""
    random = np.random.RandomState(samples + classes)
    odds = random.randint(1, levels + 1, (samples, classes)).astype(float)
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    targets = random.randint(0, max(1, classes - 1), samples)  # nobody has the last class
    weights = random.poisson(1, (130, samples))
    weights[0] = 1
    many = metric(probabilities, targets, weights)
    few = np.concatenate([metric(probabilities, targets, weights[first : first + 5]) for first in range(0, 130, 5)])
    if metric in (average_precision, ece):  # sums of fractions, whose order may differ
        np.testing.assert_allclose(few, many, rtol=1e-13, atol=1e-15)
    else:
        np.testing.assert_array_equal(few, many)
    alone = metric(probabilities, targets)
    assert alone == pytest.approx(many[0], rel=1e-13, abs=1e-15, nan_ok=True)


@pytest.mark.parametrize("classes", [2, 9])
@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
def test_values_depend_neither_on_blocks_nor_on_how_counts_are_stored(monkeypatch, metric, classes):
    rng = np.random.default_rng(classes)
    scores, targets = rng.integers(1, 6, (300, classes)), rng.integers(0, classes, 300)
    samples = Classified(scores / scores.sum(axis=1, keepdims=True), targets)
    counts = rng.poisson(1, (300, 11))
    expected = metric.of(samples, counts)
    monkeypatch.setattr(classification, "_BLOCK_CELLS", 4 * 300)
    for kind in (np.uint8, np.int32, np.int64):
        for layout in "CF":
            assert metric.of(samples, counts.astype(kind, order=layout)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [3, 200])
def test_bins_hold_what_falls_into_them(size):
    rng = np.random.default_rng(size)
    where, counts = rng.integers(0, size, 500), rng.integers(0, 256, (500, 4)).astype(np.uint8)
    expected = [[counts[where == index, draw].sum() for draw in range(4)] for index in range(size)]
    assert Bins.of(where, size).sum(counts).tolist() == expected


def test_sums_over_no_samples_are_zero():
    assert Bins.of(np.empty(0, np.intp), 3).sum(np.empty((0, 2), np.uint8)).tolist() == [[0, 0]] * 3
