"""What all commands share: options, output, and how a suite, data and problems reach them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
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
    os.environ |= {"VLMED_QUIET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}


def note(text: str) -> None:
    """Say on standard error what a user likes to know and can do without."""
    from vlmed.progress import is_quiet

    if not is_quiet():
        typer.echo(text, err=True)


def suite_of(path: Path | None) -> Suite:
    """The suite a command works on."""
    from vlmed.suite.load import load_suite

    return load_suite(path)


def data_loader(root: Path | None) -> DataLoader:
    """The data loader a command works with; shows progress."""
    from vlmed.data.load import DataLoader
    from vlmed.progress import Terminal

    return DataLoader(root, progress=Terminal())


def names(listed: str) -> list[str]:
    """The names in a comma-separated option.

    Raises:
        UsageError: There is none.

    >>> names("a, b,")
    ['a', 'b']
    """
    from vlmed.errors import UsageError

    found = [name.strip() for name in listed.split(",") if name.strip()]
    if not found:
        raise UsageError("an option that takes names has none", expected="names, separated by commas", got=repr(listed))
    return found


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
    """Print JSON on standard output."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


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
