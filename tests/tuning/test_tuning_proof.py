import numpy as np
import pytest
import torch
from tuning_cases import CLASSES

from vlmed.errors import CheckError
from vlmed.tuning.batches import Labelled
from vlmed.tuning.learner import make_learner
from vlmed.tuning.proof import prove, snapshot, tensor_hash
from vlmed.tuning.tune import tune


def test_the_proof_counts_what_changed(case) -> None:
    here = case("clip")
    before = here.tensors()
    with here.tune("partial") as tuned:
        after = here.tensors()
        proof = tuned.proof.to_json()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert proof["tensors_changed"] == len(changed)
    assert proof["parameters_changed"] == sum(int((before[name] != after[name]).sum()) for name in changed)
    assert proof["tensors"] + proof["frozen_tensors"] == len(before)
    groups = {group["group"]: group for group in proof["groups"]}
    assert groups.keys() == {"vision_model.encoder.layers.1", "vision_model.post_layernorm", "visual_projection"}
    weight = "visual_projection.weight"
    relative = (after[weight] - before[weight]).norm() / before[weight].norm()
    assert groups["visual_projection"]["relative_change"] == pytest.approx(float(relative), rel=1e-5)


def test_a_head_that_started_at_zero_has_no_relative_change(case) -> None:
    with case("vit").tune("lora", epochs=1, head_init="zeros") as tuned:
        (head,) = (group for group in tuned.proof.groups if group.group == "vlmed_head")
        assert head.relative_change is None
        assert head.tensors_changed == 2


@pytest.mark.parametrize("name", ["clip", "open_clip"])
def test_a_frozen_part_that_moved(name: str, case) -> None:
    here = case(name, fresh=True)
    frozen = here.encoder.model.text_projection
    weight = frozen if isinstance(frozen, torch.nn.Parameter) else frozen.weight

    def pixels(rows: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            weight.add_(1e-6)
        return here.images[rows]

    with pytest.raises(CheckError, match="a frozen tensor changed") as caught:
        tune(here.encoder, here.recipe("lora", epochs=1), Labelled(pixels, here.labels), here.data, CLASSES)
    assert [problem.path.partition(".")[0] for problem in caught.value.problems] == ["text_projection"]


def test_statistics_that_moved(case) -> None:
    here = case("resnet", fresh=True)
    norm = next(module for module in here.encoder.image_tower.modules() if isinstance(module, torch.nn.BatchNorm2d))

    def drift(module: torch.nn.BatchNorm2d, _: object) -> None:
        module.running_mean.add_(1e-3)

    norm.register_forward_pre_hook(drift)
    with pytest.raises(CheckError, match="running_mean"):
        here.tune("partial", epochs=1)


def test_parts_that_stayed_are_all_named(case) -> None:
    here = case("clip", fresh=True)
    learner = make_learner(here.encoder, here.recipe("partial"), CLASSES)
    before = snapshot(learner.root, learner.parameters())
    with torch.no_grad():
        learner.trained["visual_projection.weight"].add_(1)
    with pytest.raises(CheckError, match="stayed as it was") as caught:
        prove(before, learner.root, learner.parameters(), learner.block_names)
    stayed = {problem.path for problem in caught.value.problems}
    assert stayed == {"vision_model.encoder.layers.1", "vision_model.post_layernorm"}


def test_a_lora_that_stayed_zero(case) -> None:
    """Weight decay moves A also where no gradient comes; only B makes a LoRA act."""
    here = case("vit", fresh=True)
    learner = make_learner(here.encoder, here.recipe("lora"), CLASSES)
    before = snapshot(learner.root, learner.parameters())
    with torch.no_grad():
        for name, parameter in learner.parameters().items():
            if ".lora_B." not in name:
                parameter.add_(0.1)
    with pytest.raises(CheckError, match="every B is zero") as caught:
        prove(before, learner.root, learner.parameters(), learner.block_names)
    assert {problem.path for problem in caught.value.problems} == {"layers.0", "layers.1"}


def test_a_tower_that_learns_nothing_is_caught_in_training(case) -> None:
    """The head learns, so the loss falls; only the proof shows that the LoRA never did."""
    here = case("vit", fresh=True)
    learned = here.encoder.encode_images
    # Gradients come through when they are looked for, one image at a time, and not in training.
    here.encoder.encode_images = lambda pixels: learned(pixels) if len(pixels) == 1 else learned(pixels).detach()
    with pytest.raises(CheckError, match="stayed as it was"):
        here.tune("lora")


@pytest.mark.parametrize("tensor", [torch.tensor(3.0), torch.empty(0), torch.ones(2, 3).T, torch.ones(2).bfloat16()])
def test_hashes_take_any_tensor(tensor: torch.Tensor) -> None:
    assert tensor_hash(tensor) == tensor_hash(tensor.clone())
    assert len({tensor_hash(each) for each in (tensor, tensor.double(), tensor[None])}) == 3
