"""`vlmed plot`: draw the trainings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmed.cli.common import JsonOption, run_folder, tell


def plot(
    run: Annotated[Path, typer.Argument(help="A run folder with tuned units.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the figures; RUN/plots by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw losses, speed, waiting and memory of every tuned unit as SVG.

    Example: vlmed plot runs/vinid-plip
    """
    from vlmed.results.plots import plot_trainings

    run = run_folder(run)
    drawn = plot_trainings(run, out or run / "plots")
    tell({"figures": drawn}, "\n".join(map(str, drawn)), as_json)
