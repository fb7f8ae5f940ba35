"""`vlmed models`: what is known of famous models before anyone has run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmed.cli.common import JsonOption, SuiteOption, print_json, print_table, suite_of

if TYPE_CHECKING:
    from vlmed.models.cards import Card
    from vlmed.models.inspect import Inspection, Part
    from vlmed.suite.types import Task

app = typer.Typer()


@app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """List known models and what they saw in training; inspect any model.

    A model that is not listed can be run as well; of its training, nothing is known then.

    Example: vlmed models
    """
    if context.invoked_subcommand:
        return
    from vlmed.models.cards import load_cards

    rows = [_row(card) for card in load_cards().values()]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        row |= {"parameters": f"{row['parameters'] / 1e6:,.0f} M", "modalities": ", ".join(row["modalities"])}
    _print(rows, "Known models")


@app.command()
def show(name: str, as_json: JsonOption = False, suite: SuiteOption = None) -> None:
    """Show one model, by its name here or a reference: corpora, modalities, and what it may have seen of every task.

    Example: vlmed models show pubmedclip
    """
    from vlmed.models.cards import card, find_card

    found = (find_card(name) if {"/", ":"} & set(name) else None) or card(name)
    facts = _facts(found)
    verdicts = [_verdict(found, task) for task in suite_of(suite).current_tasks()]
    if as_json:
        print_json({**facts, "contamination": verdicts})
        return
    import yaml

    typer.echo(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=110), nl=False)
    _print([row | {"path": " → ".join(row["path"])} for row in verdicts], "Contamination")


@app.command()
def inspect(
    ref: Annotated[str, typer.Argument(help="What to inspect: hf:, open_clip: or dir: and a location.")],
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter on top of the model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a model or adapter is without running anything in it or fetching its weights.

    Exit code: 0 vlmed would load it, 1 it would be refused and why, 2 there is no such model, 3 no access or network.

    Example: vlmed models inspect hf:openai/clip-vit-base-patch32
    """
    from vlmed.errors import CheckError
    from vlmed.models.inspect import inspect as look_into
    from vlmed.models.reference import check_references

    check_references([ref, adapter])
    found = look_into(ref, adapter)
    if as_json:
        print_json(found.to_json())
    else:
        for label, text in _lines(found):
            typer.echo(f"{label:12}{text}")
    if found.problems:
        raise CheckError(found.problems)


def _lines(found: Inspection) -> list[tuple[str, str]]:
    """Label and text of everything that is shown."""
    model, code = found.model, [*found.model.remote_code, *(found.adapter.remote_code if found.adapter else ())]
    asked = f"asked for at {', '.join(code)}: refused without --trust-remote-code" if code else "none"
    others = "told by the weights, which are not here" if found.companions is None else ", ".join(found.companions)
    lines = [
        ("model", f"{model.ref} at {model.revision[:19]}"),
        ("kind", f"{found.kind.replace('_', ' ')}, loaded by {found.family}: {found.architecture or 'no name given'}"),
        ("parameters", _parameters(model)),
        ("files", _sizes(model)),
        ("card", f"{found.card}, see vlmed models show {found.card}" if found.card else "none"),
        ("needs", others or "no files of other repositories"),
    ]
    if found.adapter:
        facts = ", ".join(f"{name} {_listed(value)}" for name, value in found.adapter_facts.items())
        lines += [
            ("adapter", f"{found.adapter.ref} at {found.adapter.revision[:19]}"),
            ("", facts),
            ("", _parameters(found.adapter)),
        ]
    lines += [("remote code", asked), ("safety", f"{len(found.problems) or 'no'} reason to refuse it found")]
    return lines + _estimates(found.estimate)


def _parameters(part: Part) -> str:
    if part.parameters is None:
        return "unknown: the weights are not here, or not readable; vlmed run fetches them"
    types = ", ".join(f"{count:,} {dtype}" for dtype, count in part.dtypes.items())
    return f"{part.parameters:,} ({types})"


def _sizes(part: Part) -> str:
    whole = sum(size or 0 for size in part.files.values())
    largest = sorted(part.files, key=lambda name: part.files[name] or 0, reverse=True)
    shown = ", ".join(f"{name} {_bytes(part.files[name])}" for name in largest[:8])
    return f"{_bytes(whole)} in {len(largest)}: {shown}" + (", ..." if len(largest) > 8 else "")


def _bytes(size: float | None) -> str:
    if size is None:
        return "?"
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if size >= unit), (1e3, "kB"))
    return f"{size / unit:,.1f} {name}"


def _listed(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def _estimates(estimate: dict[str, Any]) -> list[tuple[str, str]]:
    if not estimate:
        return []
    memory = (
        f"about {_bytes(estimate['weights_float32'])} of weights in float32, "
        f"{_bytes(estimate['weights_bfloat16'])} in bfloat16, and {_bytes(estimate['activations_float32'])} "
        f"of activations for {estimate['batch_size']} images"
    )
    rate = f"{estimate['operations_per_second'] / 1e9:,.0f} GFLOP/s, {estimate['rate_from']}"
    time = f"about {estimate['seconds_per_1000_images']:,.1f} s per 1,000 images on this CPU, all weights counted"
    tokens = f"{estimate['tokens_per_image']} tokens per image ({estimate['tokens_from']})"
    return [("memory", memory), ("time", time), ("", f"from {tokens} and {rate}")]


def _row(card: Card) -> dict[str, Any]:
    return {
        "name": card.name,
        "title": card.title,
        "kind": card.kind,
        "domain": card.domain,
        "parameters": card.parameters,
        "modalities": list(card.modalities),
        "licence": card.licence,
    }


def _facts(card: Card) -> dict[str, Any]:
    return {
        **_row(card),
        "family": card.family,
        "references": list(card.refs),
        "weights": card.weights,
        "corpora": list(card.corpora),
        "inherited corpora": {base: list(corpora) for base, corpora in card.inherited().items()},
        "paper": {"text": card.paper[0], "url": card.paper[1]},
        "note": card.note,
    }


def _verdict(card: Card, task: Task) -> dict[str, Any]:
    from vlmed.leakage.contamination import verdict

    found = verdict(task.dataset.name, None, card.corpora, card.inherited())
    return {"task": task.id, "verdict": found.status, "path": list(found.path), "reason": found.reason}


def _print(rows: list[dict[str, Any]], title: str) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row.values()))
    print_table(table)
