"""`vlmed fingerprint`: show that no test image is among training images, without showing an image."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from vlmed.cli.common import (
    DataOption,
    JsonOption,
    SuiteOption,
    data_loader,
    names,
    print_json,
    print_problems,
    print_table,
    suite_of,
    tell,
)

if TYPE_CHECKING:
    from vlmed.leakage.fingerprint import Check, Fingerprint
    from vlmed.leakage.training_images import TrainingImages
    from vlmed.suite.types import Task


_SPLITS = ["train,val"]


class _MakesByDefault(TyperGroup):
    """A group whose command `make` need not be named: `vlmed fingerprint IMAGES --out FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["make", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_MakesByDefault,
    help="Hash your training images and look for test images among them.\n\n"
    "Example: vlmed fingerprint images/ --out training.parquet",
    no_args_is_help=True,
)


@app.command()
def make(
    images: Annotated[Path, typer.Argument(help="A folder, searched recursively, or an .npz file of MedMNIST.")],
    out: Annotated[Path, typer.Option(help="The fingerprint, a Parquet file.")],
    skip_unreadable: Annotated[bool, typer.Option(help="Leave out what is no readable image.")] = False,
    splits: Annotated[
        list[str], typer.Option(metavar="NAMES", help="Splits of an .npz file that the model saw.")
    ] = _SPLITS,
    as_json: JsonOption = False,
) -> None:
    """Write the fingerprint of training images: two hashes an image, no pixels, no names. Nothing leaves this machine.

    The word `make` may be left out. Example: vlmed fingerprint make images/ --out training.parquet
    """
    from vlmed.leakage.fingerprint import write_fingerprint
    from vlmed.leakage.training_images import TrainingImages
    from vlmed.progress import Terminal

    training = TrainingImages(images, names(splits), Terminal())
    made = _hashed(training, skip_unreadable)
    write_fingerprint(out, made)
    for name in training.left_out:
        typer.echo(f"left out: {name}; name its split in --splits if the model saw it", err=True)
    unreadable = len(training.unreadable)
    left = f", left out: {unreadable}" if unreadable else ""
    facts = {"fingerprint": out, "images": len(made), "unreadable": unreadable, "left_out": list(training.left_out)}
    tell(facts, f"{out}: {len(made):,} images{left}\nnext: vlmed fingerprint check {out}", as_json)


def _hashed(training: TrainingImages, skip: bool) -> Fingerprint:
    """The fingerprint; every file that can't be hashed is named, and refused unless it may be skipped."""
    from dataclasses import replace

    from vlmed.errors import InputError
    from vlmed.leakage.fingerprint import fingerprint

    try:
        made = fingerprint(training)
    except InputError as error:
        raise InputError([*training.unreadable, *error.problems]) from None
    if training.unreadable and not (skip and len(made)):
        raise InputError(training.unreadable)
    print_problems(replace(problem, hint="", severity="warning") for problem in training.unreadable)
    return made


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A fingerprint.")],
    exact: Annotated[bool, typer.Option("--exact", help="Look for equal pixels only.")] = False,
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """Look for the test images of every frozen task in a fingerprint. Needs no data.

    Equal pixels are proof; near-duplicates are a suspicion, to be settled by whoever has the images. Exit code 1: some
    test image was found in either way.

    Example: vlmed fingerprint check training.parquet
    """
    from vlmed.leakage.fingerprint import read_fingerprint
    from vlmed.results.compare import manifests_of

    made, manifests = read_fingerprint(file), manifests_of(suite)
    frozen = [task for task in suite_of(suite).tasks.values() if not task.pending]
    checks = [_check(made, task, exact, manifests) for task in frozen]
    if as_json:
        print_json([asdict(found) for found in checks])
    else:
        _print(checks, f"Test images among the {len(made):,} of {file.name}")
    if any(found.matches for found in checks):
        raise typer.Exit(1)


def _check(made: Fingerprint, task: Task, exact: bool, manifests: Path) -> Check:
    from vlmed.leakage.fingerprint import check_fingerprint, read_task_hashes
    from vlmed.suite.manifest import read_manifest

    manifest = read_manifest(task, manifests)
    return check_fingerprint(made, task, manifest, None if exact else read_task_hashes(task, manifest, manifests))


def _print(checks: list[Check], title: str) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("task", "test samples", "not checkable", "equal pixels", "near"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for found in checks:
        kinds = [match.kind for match in found.matches]
        near = str(kinds.count("near")) if found.near else "not looked for"
        pixels = str(kinds.count("pixels")) if found.samples > found.without_image else "–"
        table.add_row(found.task, str(found.samples), str(found.without_image), pixels, near)
    print_table(table)
    hit = [found.task for found in checks if found.matches]
    if hit:
        typer.echo(f"found: {', '.join(hit)}. --json lists every sample with its row in the fingerprint")
    else:
        typer.echo("no test image of these tasks was found")


@app.command()
def freeze(task: str, data_root: DataOption = None, as_json: JsonOption = False, suite: SuiteOption = None) -> None:
    """For maintainers: write the perceptual hashes of a frozen task's test images beside its manifest.

    Example: vlmed fingerprint freeze breastmnist --data-root ~/data
    """
    from vlmed.cli.frozen import own_manifests
    from vlmed.errors import UsageError
    from vlmed.leakage.fingerprint import write_task_hashes
    from vlmed.leakage.perceptual import perceptual_hashes
    from vlmed.suite.manifest import read_manifest

    chosen, loader = suite_of(suite).task(task), data_loader(data_root, suite)
    manifest = read_manifest(chosen, loader.manifests)
    images = sorted({row.image for row in manifest.split("test") if row.image})
    if not images:
        raise UsageError(f"{chosen.id} was frozen by ids, without images", file=manifest.file)
    loader.table(chosen)  # proves that the data at hand are the frozen ones
    data = loader.dataset(chosen.dataset)
    hashes = perceptual_hashes(data.image(image) for image in images)
    path = write_task_hashes(chosen, dict(zip(images, map(int, hashes), strict=True)), own_manifests(suite))
    tell({"task": chosen.id, "hashes": path, "test_images": len(images)}, f"{path}\n{len(images)} test images", as_json)
