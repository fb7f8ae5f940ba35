"""`vlmed run --plan`: what each unit will take, and all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from vlmed.cli.common import print_table

if TYPE_CHECKING:
    from vlmed.evaluate.run import Runner
    from vlmed.evaluate.units import RunFolder, Unit

_ABOUT = (
    "Times come from a few images measured now. Trainings stop early as a rule, so theirs, for all epochs and learning "
    "rates, are upper bounds."
)


def plan_of(
    runner: Runner, units: Sequence[Unit], folder: RunFolder, price: float | None, show: bool
) -> list[dict[str, Any]]:
    """What a model's units will take, as `--json` prints it.

    Args:
        price: What an hour costs; without it `cost` is None.
        show: Whether to print it for a person.
    """
    from vlmed.evaluate.estimate import estimate

    planned = [
        {
            **vars(each),
            "cost": None if price is None else each.seconds / 3600 * price,
            "model": runner.model.info.name,
            "unit": each.unit.id,
        }
        for each in estimate(runner, units, folder)
    ]
    if show:
        _show(planned, f"{runner.model.info.name}: {len(units)} units into {folder.path}")
    return planned


def tell_total(planned: Sequence[Mapping[str, Any]], models: int) -> None:
    """Print what the units of all models together will take."""
    time, *cost = _time_and_cost(planned)
    priced = f", cost about {cost[0]}" if cost else ""
    typer.echo(f"all {len(planned)} units of {models} models: about {time}{priced}")


def _show(planned: Sequence[Mapping[str, Any]], title: str) -> None:
    from rich.table import Table

    table = Table(title=title)
    for column in ("unit", "state", "images to embed or test", "images to train on at most", "time about"):
        table.add_column(column, justify="left" if column in ("unit", "state") else "right")
    if any(each["cost"] is not None for each in planned):
        table.add_column("cost about", justify="right")
    for each in planned:
        table.add_row(each["unit"], each["state"], f"{each['images']:,}", _training(each), *_time_and_cost([each]))
    table.add_section()
    images, training = (sum(each[name] for each in planned) for name in ("images", "training"))
    table.add_row("all", "", f"{images:,}", f"{training:,}", *_time_and_cost(planned))
    print_table(table)
    typer.echo(_ABOUT)


def _training(each: Mapping[str, Any]) -> str:
    if not each["training"]:
        return "0"
    images = each["training"] // (each["epochs"] * each["rates"])
    return f"{images:,} x {each['epochs']} epochs x {each['rates']} rates"


def _time_and_cost(planned: Sequence[Mapping[str, Any]]) -> list[str]:
    costs = [each["cost"] for each in planned if each["cost"] is not None]
    return [_duration(sum(each["seconds"] for each in planned)), *([f"{sum(costs):,.2f}"] if costs else [])]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
