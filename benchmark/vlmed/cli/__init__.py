"""The command line."""

from __future__ import annotations

import os
import sys

import typer

from vlmed import __version__
from vlmed.cli import (
    common,
    compare,
    data,
    demo,
    doctor,
    errors,
    fingerprint,
    judge,
    leaderboard,
    leakage,
    models,
    plot,
    results,
    run,
    submissions,
    submit,
    tasks,
    validate,
)
from vlmed.errors import MissingError, Problem, VlmedError
from vlmed.process import keep_memory

app = typer.Typer(
    name="vlmed",
    cls=common.Root,
    help="The standardized benchmark for medical vision-language models.",
    epilog="Start with `vlmed doctor`; see it all work offline with `vlmed demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(tasks.app, name="tasks", cls=common.Group)
app.add_typer(data.app, name="data", cls=common.Group)
app.command()(leakage.leakage)
app.add_typer(fingerprint.app, name="fingerprint")
app.add_typer(models.app, name="models", cls=common.Group)
app.command(context_settings={"allow_extra_args": True})(run.run)
app.command()(plot.plot)
app.command()(validate.validate)
app.command()(submit.submit)
app.command()(submissions.audit)
app.add_typer(submissions.app, name="submissions", cls=common.Group)
app.command()(compare.compare)
app.command()(results.results)
app.add_typer(leaderboard.app, name="leaderboard", cls=common.Group)
app.command()(judge.judge)
app.command()(errors.errors)
app.command()(demo.demo)
app.command()(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_version, is_eager=True),  # noqa: ARG001
    quiet: bool = typer.Option(
        False, "--quiet", "-q", envvar="VLMED_QUIET", help="No progress and no notes; results and problems remain."
    ),
    no_color: bool = typer.Option(False, "--no-color", "--no-colour", help="No colours, as NO_COLOR=1."),
) -> None:
    common.hush_libraries()
    if quiet:
        common.be_quiet()
    if no_color or os.environ.get("NO_COLOR"):
        os.environ["NO_COLOR"] = "1"
        context.color = False


def main() -> None:
    """Run a command; an error that vlmed foresaw is told in full and gives its own exit code.

    Exit code: 0 done, 1 a check failed, 2 wrong use or input, 3 data that only the user can get, 130 stopped.
    """
    keep_memory()
    try:
        app(prog_name="vlmed")
    except VlmedError as error:
        common.print_problems(error.problems)
        if not any(problem.hint for problem in error.problems):
            typer.echo(f"  next: {_called()} --help", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if (error.name or "vlmed").startswith("vlmed"):
            raise
        hint = "pip install 'vlmed[run]'; `vlmed doctor` tells what else is missing"
        common.print_problems([Problem(f"this needs {error.name}, which is not installed", hint=hint)])
        sys.exit(MissingError.exit_code)
    except OSError as error:
        # A disk or a permission that no deeper place put into words: the system's own words name the file.
        typer.echo(f"error: {error}", err=True)
        sys.exit(VlmedError.exit_code)


def _called() -> str:
    """The command as it was typed, without its options and arguments."""
    command: object = typer.main.get_command(app)
    words = ["vlmed"]
    for word in sys.argv[1:]:
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            break
        words.append(word)
    return " ".join(words)
