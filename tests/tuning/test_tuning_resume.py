import json
from typing import Any

import numpy as np
import pytest
import torch
from tuning_cases import CLASSES, Case, assert_equal, moved, weights

from vlmed.errors import UsageError, VlmedError
from vlmed.tuning import trial
from vlmed.tuning.batches import Labelled
from vlmed.tuning.tune import LOG, tune


def test_the_seed_decides_everything(case) -> None:
    here: Case = case("clip")

    def run(seed: int) -> dict[str, torch.Tensor]:
        with here.tune("lora", seed=seed, epochs=1) as tuned:
            return weights(tuned)

    state = torch.get_rng_state()
    first = run(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert_equal(run(0), first)
    assert moved(run(1), first)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "scope", "options", "after"),
    [
        ("clip", "full", {}, 2),
        ("open_clip", "lora", {"lora": {"dropout": 0.5}}, 1),
        ("vit", "lora", {"lora": {"dropout": 0.5}, "optimiser": "adamw", "weight_decay": 0.1}, 1),
        ("resnet", "partial", {"lr": [1e-3, 3e-3]}, 4),
    ],
)
def test_a_killed_training_goes_on_to_the_same_weights(
    name: str, scope: str, options: dict[str, Any], after: int, case, tmp_path, monkeypatch
) -> None:
    options = {"epochs": 3, **options}
    with case(name).tune(scope, **options) as tuned:
        whole, log, probabilities = weights(tuned), tuned.log, tuned.probabilities(case(name).pixels, 21)

    here: Case = case(name)
    before = here.tensors()
    save = trial.Trial._save
    saved = []

    def save_and_die(self: trial.Trial) -> None:
        save(self)
        saved.append(self)
        if len(saved) == after:
            raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(trial.Trial, "_save", save_and_die)
        here.tune(scope, folder=tmp_path, **options)
    assert not moved(before, here.tensors())

    here = case(name, fresh=True)
    with here.tune(scope, folder=tmp_path, **options) as tuned:
        assert_equal(weights(tuned), whole)
        np.testing.assert_array_equal(tuned.probabilities(here.pixels, 21), probabilities)
    losses = [(row["epoch"], row["train_loss"], row["val_loss"]) for row in log]
    assert [(row["epoch"], row["train_loss"], row["val_loss"]) for row in tuned.log] == losses
    written = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert written == tuned.log
    assert not list(tmp_path.glob(".*"))


def test_a_finished_training_is_not_done_again(case, tmp_path) -> None:
    with case("vit").tune("full", folder=tmp_path) as tuned:
        first = weights(tuned)
    here: Case = case("vit")

    def pixels(rows: np.ndarray) -> torch.Tensor:
        raise AssertionError("nothing is left to do")

    untouched = Labelled(pixels, here.labels)
    with tune(here.encoder, here.recipe("full"), untouched, untouched, CLASSES, folder=tmp_path) as tuned:
        assert_equal(weights(tuned), first)


@pytest.mark.parametrize("change", ["seed", "recipe", "labels", "weights", "classes"])
def test_the_checkpoint_of_another_training_is_refused(change: str, case, tmp_path) -> None:
    case("vit").tune("full", folder=tmp_path, epochs=1).undo()
    here: Case = case("vit")
    recipe = here.recipe("full", epochs=2 if change == "recipe" else 1)
    labels = here.labels[::-1].copy() if change == "labels" else here.labels
    classes = {name.upper(): texts for name, texts in CLASSES.items()} if change == "classes" else CLASSES
    if change == "weights":
        here = case("vit", fresh=True)
        with torch.no_grad():
            next(here.encoder.image_tower.parameters()).add_(1)
    data = Labelled(here.pixels, labels)
    with pytest.raises(UsageError, match="another training"):
        tune(here.encoder, recipe, data, data, classes, seed=int(change == "seed"), folder=tmp_path)


def test_a_damaged_checkpoint(case, tmp_path) -> None:
    (tmp_path / "trial-0.pt").write_bytes(b"nothing")
    with pytest.raises(VlmedError, match="can't be read") as caught:
        case("vit").tune("full", folder=tmp_path)
    assert "trial-0.pt" in str(caught.value)
