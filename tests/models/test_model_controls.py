import numpy as np
import pytest
import torch
from PIL import Image

from vlmed.errors import InputError, UsageError
from vlmed.models.load import load_model
from vlmed.models.protocols import Control, DualEncoder

TRAIN = np.array([2, 0, 2, 1, 0, 2])
TEST = np.array([0, 1, 2, 1])


def control(name: str) -> Control:
    encoder = load_model(f"control:{name}").predictor
    assert isinstance(encoder, Control)
    return encoder


def test_majority_predicts_the_most_frequent_class() -> None:
    assert control("majority").probabilities(TRAIN, TEST, 4, 0).tolist() == [[0.0, 0.0, 1.0, 0.0]] * 4


def test_majority_takes_the_lowest_class_in_a_tie() -> None:
    assert control("majority").probabilities(np.array([2, 1, 2, 1]), TEST, 3, 0).argmax(axis=1).tolist() == [1] * 4


def test_oracle_knows_every_target() -> None:
    probabilities = control("oracle").probabilities(np.array([], dtype=int), TEST, 3, 0)
    assert probabilities.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_random_depends_on_the_seed_alone() -> None:
    first, again, other = (control("random").probabilities(TRAIN, TEST, 3, seed) for seed in (7, 7, 8))
    assert first.tobytes() == again.tobytes() == control("random").probabilities(TEST, TRAIN[:4], 3, 7).tobytes()
    assert first.tobytes() != other.tobytes()


def test_random_is_at_chance() -> None:
    targets = np.arange(20_000) % 4
    hits = control("random").probabilities(TRAIN, targets, 4, 0).argmax(axis=1) == targets
    assert abs(hits.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(targets))


@pytest.mark.parametrize("name", ["majority", "random", "oracle"])
def test_controls_give_probabilities_in_float64(name: str) -> None:
    probabilities = control(name).probabilities(TRAIN, TEST, 5, 0)
    assert probabilities.dtype == np.float64
    assert probabilities.shape == (4, 5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-15)
    info = load_model(f"control:{name}").info
    assert (info.kind, info.family, info.revision, info.parameters) == ("control", "control", "builtin", 0)


@pytest.mark.parametrize(("name", "bad"), [("majority", "training"), ("oracle", "test")])
@pytest.mark.parametrize("target", [-1, 3])
def test_targets_outside_the_classes_are_refused(name: str, bad: str, target: int) -> None:
    with pytest.raises(InputError, match=f"{bad} target is no class index") as caught:
        control(name).probabilities(np.array([0, target]), np.array([0, target]), 3, 0)
    assert "row 1" in str(caught.value)


def test_majority_without_training_targets_is_refused() -> None:
    with pytest.raises(InputError, match="needs training targets"):
        control("majority").probabilities(np.array([], dtype=int), TEST, 3, 0)


def test_a_control_takes_no_adapter() -> None:
    with pytest.raises(UsageError, match="no weights for an adapter"):
        load_model("control:random", adapter="org/adapter")


def test_the_blank_control_is_its_model_on_mid_grey(checkpoints, images) -> None:
    seeing = load_model(f"dir:{checkpoints['clip']}")
    blank = load_model(f"control:blank/dir:{checkpoints['clip']}")
    assert isinstance(blank.predictor, DualEncoder)
    assert isinstance(seeing.predictor, DualEncoder)
    grey = Image.new("RGB", images[0].size, (128, 128, 128))
    pixels = blank.predictor.preprocess(images[0])
    assert torch.equal(pixels, seeing.predictor.preprocess(grey))
    assert not torch.equal(pixels, seeing.predictor.preprocess(images[0]))
    assert torch.equal(blank.predictor.encode_texts(["lung"]), seeing.predictor.encode_texts(["lung"]))
    assert blank.predictor.preprocessing != seeing.predictor.preprocessing
    assert (blank.info.family, blank.info.kind) == ("control", "dual_encoder")
    assert blank.info.revision == seeing.info.revision


def test_the_blank_control_cannot_tell_images_apart(checkpoints, images) -> None:
    blank = load_model(f"control:blank/dir:{checkpoints['open_clip']}").predictor
    assert isinstance(blank, DualEncoder)
    assert torch.equal(*(blank.preprocess(image) for image in images))
