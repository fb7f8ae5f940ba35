"""Figures of trainings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlmed.errors import InputError
from vlmed.results.plots import plot_trainings

UNIT = "lesion-v1.lora-v1.s0.f100"


def row(epoch: int, lr: float, loss: float) -> str:
    return json.dumps(
        {
            "epoch": epoch,
            "lr": lr,
            "train_loss": loss if epoch else None,
            "val_loss": loss,
            "seconds": 2.0 if epoch else None,
            "images_per_second": 10.0,
            "data_wait_seconds": 0.5,
            "peak_memory_bytes": None,
        }
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "training"
    folder.mkdir(parents=True)
    lines = [row(epoch, lr, 1.0 / (epoch + 1)) for lr in (0.1, 0.01) for epoch in range(3)]
    (folder / f"{UNIT}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "run"


def test_each_tuned_unit_becomes_a_figure_with_its_learning_rates(run: Path, tmp_path: Path) -> None:
    (path,) = plot_trainings(run, tmp_path / "plots")
    text = path.read_text()
    assert path.name == f"{UNIT}.svg"
    for word in ("<svg", "cross-entropy", "val, lr 0.1", "train, lr 0.01", "epoch", UNIT):
        assert word in text


def test_two_drawings_are_byte_identical(run: Path, tmp_path: Path) -> None:
    first, second = (plot_trainings(run, tmp_path / name)[0].read_bytes() for name in "ab")
    assert first == second


def test_a_run_without_trainings_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training logs") as caught:
        plot_trainings(tmp_path, tmp_path / "plots")
    assert "lora" in str(caught.value)


def test_a_damaged_log_is_named_with_its_line(run: Path, tmp_path: Path) -> None:
    path = run / "training" / f"{UNIT}.jsonl"
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(InputError, match="damaged") as caught:
        plot_trainings(run, tmp_path / "plots")
    assert "line 7" in str(caught.value)
