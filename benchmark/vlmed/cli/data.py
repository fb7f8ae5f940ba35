"""`vlmed data`: find, prepare and prove the data of a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmed.cli.common import (
    DataOption,
    JsonOption,
    SuiteOption,
    data_loader,
    print_json,
    print_problems,
    resumable,
    suite_of,
    tell,
)

if TYPE_CHECKING:
    from vlmed.suite.types import Dataset

app = typer.Typer(help="Find, prepare and prove data sets.\n\nExample: vlmed data where papila", no_args_is_help=True)


@app.command()
def prepare(task: str, data_root: DataOption = None, as_json: JsonOption = False, suite: SuiteOption = None) -> None:
    """Decode a task's images once into memory-mapped files and prove them against the manifest.

    Example: vlmed data prepare breastmnist --data-root ~/data
    """
    chosen = suite_of(suite).task(task)
    loader = data_loader(data_root, suite)
    with resumable("what is prepared so far is kept"):
        table = loader.table(chosen)
    counts = {name: len(table.split(name)) for name in sorted({sample.split for sample in table.samples})}
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    proof = "not proved: the manifest is pending" if chosen.pending else "proved against the frozen manifest"
    folder = loader.prepared_folder(chosen.dataset)
    facts = {"task": chosen.id, "samples": counts, "pending": chosen.pending, "folder": folder}
    tell(facts, f"{chosen.id}: {listed}; {proof}\n{folder}", as_json)


@app.command()
def verify(task: str, data_root: DataOption = None, as_json: JsonOption = False, suite: SuiteOption = None) -> None:
    """Prove that your copy of a data set is the frozen one, down to every pixel. Nothing leaves this machine.

    Example: vlmed data verify breastmnist
    """
    chosen = suite_of(suite).task(task)
    loader = data_loader(data_root, suite)
    problems = loader.dataset(chosen.dataset).damaged_images()
    table = loader.table(chosen)
    if as_json:
        told = [problem.to_json() for problem in problems]
        print_json({"task": chosen.id, "samples": len(table.samples), "pending": chosen.pending, "problems": told})
    else:
        print_problems(problems)
    if problems:
        raise typer.Exit(1)
    if as_json:
        return
    if chosen.pending:
        typer.echo(f"{chosen.id}: {len(table.samples)} samples read; its manifest is pending, so nothing is proved")
    else:
        typer.echo(f"{chosen.id}: all {len(table.samples)} samples are the frozen ones")


@app.command()
def where(task: str, data_root: DataOption = None, as_json: JsonOption = False, suite: SuiteOption = None) -> None:
    """Say where a task's data lie, or how to get them.

    Example: vlmed data where breastmnist
    """
    from vlmed.data.locate import data_roots

    dataset = suite_of(suite).task(task).dataset
    looked = [] if dataset.access == "embedded" else [_look(dataset, root) for root in data_roots(data_root)]
    if as_json:
        facts = {name: getattr(dataset, name) for name in ("title", "licence", "access", "homepage", "layout")}
        places = [{"path": str(place), "found": found} for place, found in looked]
        print_json({"dataset": dataset.name, **facts, "places": places})
        return
    typer.echo(f"{dataset.title} ({dataset.licence}; access: {dataset.access})")
    for place, found in looked:
        typer.echo(f"found: {place}" if found else f"not in: {place}")
    typer.echo(f"{dataset.homepage}\n{dataset.layout}" if looked else "made by vlmed itself; nothing to download")


def _look(dataset: Dataset, root: Path) -> tuple[Path, bool]:
    """Where a data set lies below a root, or would lie, and whether it does."""
    folder, file = dataset.options.get("folder", dataset.name), dataset.options.get("file", "")
    # A data set of one file needs no folder of its own.
    places = [root / folder / file, *([root / file] if file else [])]
    found = next((place for place in places if place.exists()), None)
    return found or places[0], found is not None


@app.command()
def freeze(
    task: str,
    ids_only: Annotated[
        bool, typer.Option("--ids-only", help="Freeze ids, groups and texts; needs no images.")
    ] = False,
    data_root: DataOption = None,
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """For maintainers: write a pending manifest, with leaks marked, and its hash into the task file.

    The manifests of another task file than vlmed's lie in the folder `manifests` beside it, which is begun if need be.

    Example: vlmed data freeze papila --data-root ~/data
    """
    from vlmed.cli.frozen import own_manifests
    from vlmed.leakage.find import find_leaks
    from vlmed.leakage.freeze import freeze_manifest
    from vlmed.leakage.report import Report
    from vlmed.suite.load import suite_path

    chosen = suite_of(suite).task(task)
    loader = data_loader(data_root, suite)
    table = loader.table(chosen, images=not ids_only)
    findings = find_leaks(table, None if ids_only else loader.dataset(chosen.dataset).image, loader.progress)
    path = freeze_manifest(table, findings, suite or suite_path(), own_manifests(suite))
    summary = Report(table, findings).summary()
    following = "vlmed tasks freeze" + (f" --suite {suite}" if suite else "")
    text = f"{path}\n{summary['test']} test samples, {summary['clean']} clean\nnext: {following}"
    tell({"manifest": path, **summary}, text, as_json)
