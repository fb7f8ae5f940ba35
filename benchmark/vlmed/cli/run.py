"""`vlmed run`: evaluate a model on frozen tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmed.cli.common import DataOption, SuiteOption, data_loader, names, resumable, suite_of

if TYPE_CHECKING:
    from vlmed.evaluate.units import Unit


def run(
    model: Annotated[str, typer.Option(help="[hf:|open_clip:|dir:|control:]location[@revision]")],
    tasks: Annotated[str, typer.Option(help="Task names, separated by commas.")],
    tracks: Annotated[str, typer.Option(help="Track names, separated by commas.")] = "zero_shot",
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter on top of the model.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. A run there goes on where it ended.")] = None,
    data_root: DataOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images embedded at once.")] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    trust_remote_code: Annotated[bool, typer.Option(help="Run the model repository's own code. Recorded.")] = False,
    suite: SuiteOption = None,
) -> None:
    """Evaluate a model: frozen tasks in, prediction files and result.json out.

    Example: vlmed run --model hf:openai/clip-vit-base-patch32 --tasks breastmnist --tracks zero_shot,linear_probe
    """
    loaded = suite_of(suite)
    chosen, on = names(tasks), names(tracks)
    # Names are checked before torch is imported: a typing error is answered at once.
    for task in chosen:
        loaded.task(task)
    for track in on:
        loaded.track(track)
    folder = out or Path("runs") / _slug(model, adapter)
    with resumable(f"finished units are kept in {folder}"):
        from vlmed.evaluate.run import Runner
        from vlmed.evaluate.units import RunFolder, plan
        from vlmed.models.load import load_model

        units = plan(loaded, chosen, on)
        for left_out in sorted({loaded.task(task).id for task in chosen} - {unit.task.id for unit in units}):
            typer.echo(f"{left_out}: left out, it has none of these tracks (see vlmed tasks)", err=True)
        encoder = load_model(model, adapter, device, trust_remote_code)
        runner = Runner(loaded, encoder, data_loader(data_root), batch_size)
        result = runner.run(units, RunFolder(folder), _report)
    typer.echo(f"{result}\nnext: vlmed validate {folder}")


def _report(unit: Unit, state: str) -> None:
    typer.echo(f"{unit.id}: {state}", err=True)


def _slug(model: str, adapter: str | None) -> str:
    """A folder name from references."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", "+".join(filter(None, (model, adapter)))).strip("-.")
