"""Encoders that compute other than exactly: only where asked, only while they infer, and said in results."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import factories
import generator_factories
from vlmed.errors import UsageError
from vlmed.models.encoders import TwoTowerEncoder
from vlmed.models.load import load_model
from vlmed.models.numerics import EXACT, Numerics

BF16 = Numerics("bf16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factories.tiny_clip(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def encoder(folder: Path, numerics: Numerics = EXACT) -> TwoTowerEncoder:
    predictor = load_model(f"dir:{folder}", numerics=numerics).predictor
    assert isinstance(predictor, TwoTowerEncoder)
    return predictor


def test_exact_is_the_default(folder: Path) -> None:
    assert load_model(f"dir:{folder}").predictor.numerics == EXACT  # type: ignore[union-attr]
    assert EXACT.to_text() == {"precision": "fp32"}


@torch.inference_mode()
def test_bf16_moves_images_and_texts_a_little(folder: Path, pixels: torch.Tensor) -> None:
    exact, fast = encoder(folder), encoder(folder, BF16)
    for one, other in (
        (exact.encode_images(pixels), fast.encode_images(pixels)),
        (exact.encode_texts(["a lesion", "none"]), fast.encode_texts(["a lesion", "none"])),
    ):
        assert other.dtype == torch.float32
        assert 0 < (one - other).abs().max() < 0.03 * one.abs().max()


def test_where_gradients_are_wanted_nothing_is_rounded(folder: Path, pixels: torch.Tensor) -> None:
    exact, fast = encoder(folder), encoder(folder, BF16)
    assert torch.equal(exact.encode_images(pixels), fast.encode_images(pixels))
    with torch.no_grad():
        assert torch.equal(exact.encode_images(pixels), fast.encode_images(pixels))


@torch.inference_mode()
def test_channels_last_is_the_same_but_for_the_last_digits(folder: Path, pixels: torch.Tensor) -> None:
    numerics = Numerics(channels_last=True)
    torch.testing.assert_close(
        encoder(folder, numerics).encode_images(pixels), encoder(folder).encode_images(pixels), atol=1e-5, rtol=1e-5
    )
    assert numerics.to_text() == {"precision": "fp32", "memory_format": "channels_last"}


def test_a_compiled_tower_keeps_its_names_and_its_numbers() -> None:
    plain, compiled = nn.Linear(4, 3), nn.Linear(4, 3)
    compiled.load_state_dict(plain.state_dict())
    Numerics(compiled=True).prepare(compiled)
    rows = torch.ones(2, 4)
    torch.testing.assert_close(compiled(rows), plain(rows))
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert Numerics(compiled=True).to_text()["compiled"] == "torch.compile"


def test_a_blinded_model_computes_as_asked(folder: Path) -> None:
    blank = load_model(f"control:blank/dir:{folder}", numerics=BF16).predictor
    assert blank.numerics == BF16  # type: ignore[union-attr]


def test_what_embeds_nothing_computes_exactly_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="control"):
        load_model("control:majority", numerics=BF16)
    generator = generator_factories.tiny_llava(tmp_path / "llava")
    with pytest.raises(UsageError, match="generator"):
        load_model(f"dir:{generator}", numerics=BF16)


@pytest.mark.parametrize(("numerics", "said"), [(Numerics("fp16"), "fp16 on cpu"), (Numerics("int8"), "int8")])  # type: ignore[arg-type]
def test_what_the_device_cannot_do_is_refused_before_loading(folder: Path, numerics: Numerics, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_model(f"dir:{folder}", numerics=numerics)


@torch.inference_mode()
def test_many_texts_come_back_in_their_order(folder: Path) -> None:
    model = encoder(folder)
    texts = [f"{'very ' * (number % 7)}small lesion {number}" for number in range(300)]
    together = model.encode_texts(texts)
    for place in (0, 1, 150, 255, 256, 299):
        torch.testing.assert_close(together[place], model.encode_texts([texts[place]])[0], atol=1e-5, rtol=1e-4)
    assert model.encode_texts([]).shape == (0, model.dim)
