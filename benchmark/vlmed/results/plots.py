"""Training logs of a run -> one figure per unit."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmed.errors import InputError, MissingError
from vlmed.files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = list[dict[str, Any]]


def plot_trainings(run: Path, out: Path) -> list[Path]:
    """Draw the losses, speed, waiting and memory of every tuned unit of a run, by epoch and learning rate.

    Args:
        out: Folder for `<unit>.svg`; equal logs give equal bytes, and a figure that is there is replaced.

    Raises:
        InputError: The run has no training logs, or one is damaged.
        MissingError: matplotlib is not installed.
    """
    logs = sorted((run / "training").glob("*.jsonl"))
    if not logs:
        hint = "run a tuned track first, such as --tracks lora"
        raise InputError("this run has no training logs", file=run / "training", expected="<unit>.jsonl", hint=hint)
    return [_plot(path.stem, _read(path), out / f"{path.stem}.svg") for path in logs]


def _read(path: Path) -> Mapping[float, Rows]:
    """Learning rate -> its epochs."""
    by_lr: dict[float, Rows] = defaultdict(list)
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            by_lr[float(row["lr"])].append(row)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("the training log is damaged", file=path, path=f"line {number}", got=str(error)) from None
    return by_lr


def _plot(unit: str, by_lr: Mapping[float, Rows], path: Path) -> Path:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingError("drawing needs matplotlib", hint="pip install 'vlmed[plot]'") from None
    # Without a fixed salt and date two drawings of one log would differ.
    with mpl.rc_context({"svg.hashsalt": unit, "svg.fonttype": "none"}):
        figure = Figure(figsize=(10, 6), layout="constrained")
        figure.suptitle(unit)
        for axes, draw in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
            for number, (lr, rows) in enumerate(sorted(by_lr.items())):
                draw(axes, f"lr {lr:g}", rows, f"C{number}")
            axes.set_xlabel("epoch")
            axes.legend()
        with new_file(path) as part:
            figure.savefig(part, format="svg", metadata={"Date": None})
    return path


def _losses(axes: Axes, name: str, rows: Rows, colour: str) -> None:
    axes.set_title("cross-entropy")
    _line(axes, rows, "train_loss", f"train, {name}", colour, "--")
    _line(axes, rows, "val_loss", f"val, {name}", colour, "-")


def _speed(axes: Axes, name: str, rows: Rows, colour: str) -> None:
    axes.set_title("images per second in training")
    _line(axes, rows, "images_per_second", name, colour, "-")


def _waiting(axes: Axes, name: str, rows: Rows, colour: str) -> None:
    axes.set_title("share of time waiting for data")
    share = [
        {"epoch": row["epoch"], "share": row["data_wait_seconds"] / row["seconds"]}
        for row in rows
        if row.get("seconds")
    ]
    _line(axes, share, "share", name, colour, "-")


def _memory(axes: Axes, name: str, rows: Rows, colour: str) -> None:
    axes.set_title("peak memory of the GPU, GiB")
    known = [{"epoch": row["epoch"], "gib": row["peak_memory_bytes"] / 2**30} for row in rows
             if row.get("peak_memory_bytes")]  # fmt: skip
    _line(axes, known, "gib", name, colour, "-")
    if not known:
        axes.text(0.5, 0.5, "no GPU was used", transform=axes.transAxes, ha="center")


_PANELS: tuple[Callable[[Axes, str, Rows, str], None], ...] = (_losses, _speed, _waiting, _memory)


def _line(axes: Axes, rows: Rows, key: str, label: str, colour: str, style: str) -> None:
    known = [row for row in rows if row.get(key) is not None]
    axes.plot([row["epoch"] for row in known], [row[key] for row in known], style, color=colour, label=label)
