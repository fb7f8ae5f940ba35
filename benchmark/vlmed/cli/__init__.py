"""The command line."""

from __future__ import annotations

import sys

import typer

from vlmed import __version__
from vlmed.cli import common, data, demo, fingerprint, leaderboard, leakage, models, run, tasks, validate
from vlmed.errors import VlmedError

app = typer.Typer(
    name="vlmed",
    help="The standardized benchmark for medical vision-language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(tasks.app, name="tasks")
app.add_typer(data.app, name="data")
app.command()(leakage.leakage)
app.add_typer(fingerprint.app, name="fingerprint")
app.add_typer(models.app, name="models")
app.command()(run.run)
app.command()(validate.validate)
app.command()(validate.submit)
app.add_typer(leaderboard.app, name="leaderboard")
app.command()(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_version, is_eager=True),
) -> None:
    pass


def main() -> None:
    """Run a command; an error that vlmed foresaw is told in full and gives its own exit code.

    Exit code: 0 done, 1 a check failed, 2 wrong use or input, 3 data that only the user can get, 130 stopped.
    """
    try:
        app()
    except VlmedError as error:
        common.print_problems(error.problems)
        sys.exit(error.exit_code)
    except OSError as error:
        # A disk or a permission that no deeper place put into words: the system's own words name the file.
        typer.echo(f"error: {error}", err=True)
        sys.exit(VlmedError.exit_code)
