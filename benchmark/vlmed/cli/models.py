"""`vlmed models`: what is known of famous models before anyone has run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from vlmed.cli.common import JsonOption, SuiteOption, print_json, print_table, suite_of

if TYPE_CHECKING:
    from vlmed.models.cards import Card
    from vlmed.suite.types import Task

app = typer.Typer(help="List known models and what they saw in training.")


@app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """List known models. Any other model can be run as well; of its training, nothing is known then.

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
