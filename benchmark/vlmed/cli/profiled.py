"""`vlmed run --profile`: the account of a run on the screen, and its trace beside the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vlmed.cli.common import print_table

if TYPE_CHECKING:
    from vlmed.evaluate.profile import Profile, Spent
    from vlmed.evaluate.run import Report, Runner
    from vlmed.evaluate.units import RunFolder, Unit
    from vlmed.models.protocols import LoadedModel


@dataclass(frozen=True)
class Watch:
    """Loads and runs as usual, and tells where the time went.

    Attributes:
        show: Whether the account is printed; it is always written.
    """

    profile: Profile
    show: bool

    def load(self, load: Callable[[], LoadedModel], runner_of: Callable[[LoadedModel], Runner]) -> Runner:
        """What evaluates the model that `load` gives."""
        from vlmed.evaluate.stages import stage

        with stage("load model"):
            runner = runner_of(load())
        runner.data.progress = self.profile.watched(runner.data.progress)
        return runner

    def run(self, runner: Runner, units: Sequence[Unit], folder: RunFolder, report: Report) -> Path:
        """As `Runner.run`; then write the folder `profile` of the run folder."""
        from vlmed.evaluate.profile import FOLDER

        with self.profile.traced():
            result = runner.run(units, folder, report)
        spent = self.profile.write(folder.path / FOLDER)
        if self.show:
            _show(spent, folder.path / FOLDER)
        return result


@contextmanager
def watching(*, show: bool) -> Iterator[Watch]:
    """Count from here to the end of the block."""
    from vlmed.evaluate.profile import profiled

    with profiled() as profile:
        yield Watch(profile, show)


def _show(spent: Spent, folder: Path) -> None:
    from rich.table import Table

    table = Table(title="where the time went")
    for column in ("stage", "seconds", "share"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for line in spent.lines():
        table.add_row(*line)
    print_table(table)
    typer.echo(f"a trace for https://ui.perfetto.dev: {folder / 'trace.json.gz'}")
