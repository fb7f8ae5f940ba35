"""Published weights: read without running anything, and put into their places or refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import SwinConfig, SwinModel

import medclip_factory
from vlmed.errors import InputError
from vlmed.models.published import build_exactly, load_exactly, read_weights, swin_as_in_file

FILE = Path("some.pth")


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def weights() -> dict[str, torch.Tensor]:
    return {name: torch.full_like(each, 7) for name, each in network().state_dict().items()}


# Reading


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_both_formats_give_the_same(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    save_file(weights(), file) if name.endswith("safetensors") else torch.save(weights(), file)
    read = read_weights(file)
    assert read.keys() == weights().keys()
    assert all(torch.equal(read[key], each) for key, each in weights().items())


def test_weights_within_a_training_checkpoint(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": weights()}, tmp_path / "checkpoint.pt")
    assert read_weights(tmp_path / "checkpoint.pt", "state_dict").keys() == weights().keys()
    with pytest.raises(InputError, match=r"checkpoint.pt: model: .*lacks its weights(.|\n)*'model'(.|\n)*epoch, state"):
        read_weights(tmp_path / "checkpoint.pt", "model")
    with pytest.raises(InputError, match=r"something else than tensors(.|\n)*got: epoch, state_dict"):
        read_weights(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], "text"])
@pytest.mark.parametrize("within", ["", "model"])
def test_a_checkpoint_without_names(content: object, within: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=f"got: {type(content).__name__}"):
        read_weights(tmp_path / "weights.pth", within)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("content", [b"", b"\x50\x4b\x03\x04 cut off", b"\xff" * 64])
def test_damaged_files(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_weights(tmp_path / name)
    assert caught.value.problems[0].file == str(tmp_path / name)
    assert caught.value.problems[0].hint


# Loading


def test_every_weight_and_buffer_arrives() -> None:
    module = network()
    load_exactly(module, weights(), FILE)
    assert all((each == 7).all() for each in module.state_dict().values())


def test_all_misfits_are_told_and_nothing_is_loaded() -> None:
    module = network()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    wrong = weights() | {"0.weight": torch.zeros(2, 4), "more": torch.zeros(5)}
    del wrong["1.running_mean"]
    with pytest.raises(InputError) as caught:
        load_exactly(module, wrong, FILE)
    assert [(each.path, each.expected, each.got) for each in caught.value.problems] == [
        ("0.weight", "shape (2, 3)", "shape (2, 4)"),
        ("1.running_mean", "shape (2,)", ""),
        ("more", "", "shape (5,)"),
    ]
    assert {each.file for each in caught.value.problems} == {"some.pth"}
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())


def test_what_may_be_ignored_is_never_read() -> None:
    module = network()
    load_exactly(module, weights() | {"more": torch.zeros(5)}, FILE, ["more", r"1\.num_\w+"])
    assert module[1].num_batches_tracked == 0
    without = {name: each for name, each in weights().items() if "num_" not in name}
    load_exactly(module, without, FILE, [r"1\.num_\w+"])
    with pytest.raises(InputError, match=r"1\.num_batches_tracked"):
        load_exactly(module, without, FILE, ["num_batches_tracked"])


def test_names_in_the_file() -> None:
    module = network()
    renamed = {f"module.{name}": each for name, each in weights().items()}
    load_exactly(module, renamed, FILE, name_in_file=lambda name: f"module.{name}")
    assert (module[0].weight == 7).all()
    del renamed["module.0.bias"]
    with pytest.raises(InputError, match=r"some.pth: module\.0\.bias: the checkpoint lacks weights"):
        load_exactly(module, renamed, FILE, name_in_file=lambda name: f"module.{name}")


def test_a_network_too_large_for_its_weights_gets_no_memory() -> None:
    with pytest.raises(InputError, match=r"shape \(10000000, 1000000\)"):
        build_exactly(lambda: nn.Linear(10**6, 10**7, bias=False), {"weight": torch.zeros(2, 2)}, FILE)


def test_a_network_is_built_with_its_weights() -> None:
    built = build_exactly(network, weights(), FILE)
    assert all((each == 7).all() for each in built.state_dict().values())
    assert {each.device.type for each in built.parameters()} == {"cpu"}


def test_swin_names_are_those_of_older_checkpoints() -> None:
    """The reference is the list of names that an older transformers gave its own model."""
    stored = medclip_factory.stored_names("swin")
    prefix = "vision_model.model."
    published = {name.removeprefix(prefix) for name in stored if name.startswith(prefix)}
    # Saved by that version, and by none from 5 on.
    indices = {name for name in published if name.endswith("relative_position_index")}
    model = SwinModel(SwinConfig(**medclip_factory.SWIN_CONFIG))
    assert {swin_as_in_file(name) for name in model.state_dict()} - indices == published - indices
    assert {swin_as_in_file(name) for name in published} == published
