"""What all commands share: options, output, and how a suite, data and problems reach them."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.table import Table

    from vlmed.data.load import DataLoader
    from vlmed.errors import Problem
    from vlmed.suite.types import Suite

# Imports of the package stand inside functions here and in every command, so that `vlmed --help` answers at once.

SuiteOption = Annotated[Path | None, typer.Option("--suite", help="Another tasks.yaml than the frozen one.")]
DataOption = Annotated[Path | None, typer.Option("--data-root", help="Folder of data sets; VLMED_DATA comes next.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


# Options of `vlmed` itself that are understood wherever they stand.
_EVERYWHERE = {"--quiet", "-q", "--no-color", "--no-colour"}

# By these, libraries that print their warnings themselves are told not to.
_VERBOSITIES = ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY", "DATASETS_VERBOSITY")

# More would scroll the first, which usually explains the rest, off the screen.
_SHOWN = 50


class Group(TyperGroup):
    """A group of commands that answers an unknown one as vlmed answers any unknown name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See `TyperGroup.resolve_command`.

        Raises:
            UsageError: There is no such command; names the nearest.
        """
        if args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            from vlmed.errors import unknown

            raise unknown(f"command of `{ctx.command_path}`", args[0], self.commands, f"{ctx.command_path} --help")
        return super().resolve_command(ctx, args)


class Root(Group):
    """`vlmed` itself: `vlmed help COMMAND` is `vlmed COMMAND --help`, and `--quiet` may stand anywhere before `--`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `TyperGroup.parse_args`."""
        end = args.index("--") if "--" in args else len(args)
        args = [*sorted(args[:end], key=lambda word: word not in _EVERYWHERE), *args[end:]]
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)


def be_quiet() -> None:
    """From here on, this process and the libraries that it loads tell no progress and no notes."""
    os.environ |= {"VLMED_QUIET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def hush_libraries() -> None:
    """From here on, libraries warn and log nothing that vlmed's user can do nothing about.

    vlmed itself warns by `note` and `print_problems`, never by `warnings` or `logging`. Who sets PYTHONWARNINGS or a
    library's own variable hears all of it.
    """
    if sys.warnoptions:
        return
    warnings.simplefilter("ignore")
    for name in _VERBOSITIES:
        os.environ.setdefault(name, "error")
    root = logging.getLogger()
    if not root.handlers:
        # Else Python's handler of last resort prints the warnings of libraries that set up none.
        root.addHandler(logging.NullHandler())


def note(text: str) -> None:
    """Say on standard error what a user likes to know and can do without."""
    from vlmed.progress import is_quiet

    if not is_quiet():
        typer.echo(text, err=True)


def suite_of(path: Path | None) -> Suite:
    """The suite a command works on.

    Raises:
        UsageError, MissingError, InputError: There is no such file, or it is no suite.
    """
    from vlmed.errors import UsageError
    from vlmed.suite.load import load_suite

    if path and path.is_dir():
        raise UsageError("--suite names a folder", file=path, expected="a file", hint=f"--suite {path / 'tasks.yaml'}")
    return load_suite(path)


def data_loader(root: Path | None, suite: Path | None) -> DataLoader:
    """The data loader a command works with; proves samples against the suite's own manifests; shows progress."""
    from vlmed.data.load import DataLoader
    from vlmed.progress import Terminal
    from vlmed.results.compare import manifests_of

    return DataLoader(root, progress=Terminal(), manifests=manifests_of(suite))


def names(listed: Sequence[str]) -> list[str]:
    """The names in an option that takes several, by commas or by being given again, each once.

    Raises:
        UsageError: There is none.

    >>> names(["a, b,", "c", "a"])
    ['a', 'b', 'c']
    """
    from vlmed.errors import UsageError

    found = [name.strip() for text in listed for name in text.split(",") if name.strip()]
    if not found:
        got = repr(",".join(listed))
        raise UsageError("an option that takes names has none", expected="names, separated by commas", got=got)
    return list(dict.fromkeys(found))


def run_folder(path: Path) -> Path:
    """A run's folder, which may also be named by its `result.json`."""
    return path.parent if path.name == "result.json" and path.is_file() else path


def refuse_unfinished(run: Path) -> None:
    """See that a folder is no run that was stopped; of those one level below, only tell.

    Raises:
        InputError: It is one.
    """
    from vlmed.errors import InputError

    hint = "`vlmed run` with the same arguments as before goes on from there"
    if _is_unfinished(run):
        done = f"{len(list(run.glob('units/*.json')))} finished units, which are kept"
        raise InputError("this run was stopped before its end", file=run, expected="result.json", got=done, hint=hint)
    for mark in sorted(run.glob("*/run.json")):
        if _is_unfinished(mark.parent):
            note(f"{mark.parent}: left out, this run was stopped before its end\n  next: {hint}")


def _is_unfinished(run: Path) -> bool:
    return (run / "run.json").is_file() and not (run / "result.json").exists()


@contextmanager
def resumable(kept: str) -> Iterator[None]:
    """Work that Ctrl-C ends with exit code 130 and a word on what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nstopped: {kept}\n  next: run the same command again, and it goes on from there", err=True)
        # Threads of native libraries that are still at work abort a process that takes itself apart.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)


def print_json(value: Any) -> None:
    """Print JSON on standard output; paths become texts."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=os.fspath))


def tell(facts: Any, text: str, as_json: bool) -> None:
    """Print what a command has done, for a program or for a person."""
    if as_json:
        print_json(facts)
    else:
        typer.echo(text)


def print_table(table: Table) -> None:
    """Print a rich table on standard output, wide enough for its content where there is no terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def print_problems(problems: Iterable[Problem]) -> None:
    """Print problems on standard error, errors first; beyond `_SHOWN` only their number."""
    ordered = sorted(problems, key=lambda problem: problem.severity)
    for problem in ordered[:_SHOWN]:
        typer.echo(f"{problem.severity}: {problem}", err=True)
    if len(ordered) > _SHOWN:
        typer.echo(f"and {len(ordered) - _SHOWN} more of {len(ordered)} problems", err=True)
