"""`vlmed judge`: a language model grades the open answers of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmed.cli.common import (
    DataOption,
    JsonOption,
    SuiteOption,
    data_loader,
    print_json,
    refuse_unfinished,
    resumable,
    suite_of,
    tell,
)

if TYPE_CHECKING:
    from vlmed.evaluate.judge import Judge


def judge(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    judge: Annotated[str, typer.Option(help="endpoint:URL#MODEL")],
    passes: Annotated[int, typer.Option(min=1, max=2, help="2 tells how far the judge agrees with itself.")] = 2,
    plan: Annotated[bool, typer.Option("--plan", help="Only tell what it would cost at most.")] = False,
    data_root: DataOption = None,
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """Grade the open answers of a run from 1 to 100: judgement.json beside result.json, which stays as it is.

    Nothing is ranked by it. The key and the budget are those of endpoint models: VLMED_ENDPOINT_KEY,
    VLMED_ENDPOINT_BUDGET. Replies are kept: a judge that was stopped asks nothing twice.

    Example: vlmed judge runs/my-model --judge endpoint:http://localhost:8000/v1#my-judge --plan
    """
    from vlmed.evaluate.judge import plan_for
    from vlmed.evaluate.judgement import judge_run, open_units
    from vlmed.results.compare import read_run
    from vlmed.results.judge_prompt import read_prompt

    refuse_unfinished(run)
    held, prompt = read_run(run), read_prompt()
    units = open_units(held, suite_of(suite), data_loader(data_root, suite))
    if plan:
        planned = plan_for(prompt, [item for unit in units for item in unit.items], passes)
        text = f"{planned.answers} answers, {planned.requests} requests, at most {planned.tokens} tokens"
        tell(asdict(planned), text, as_json)
        return
    with resumable("replies of the judge are kept"):
        path = judge_run(
            held, units, _judge(judge), judge, passes, lambda unit: typer.echo(f"{unit}: judged", err=True)
        )
    _tell(path, as_json)


def _judge(ref: str) -> Judge:
    from typing import cast

    from vlmed.errors import UsageError
    from vlmed.evaluate.judge import Judge
    from vlmed.files import cache_root
    from vlmed.models.answer_cache import AnswerCache
    from vlmed.models.endpoint import EndpointGenerator, load_endpoint
    from vlmed.models.reference import parse_reference
    from vlmed.progress import Terminal
    from vlmed.results.judge_prompt import read_prompt

    reference = parse_reference(ref)
    if reference.scheme != "endpoint":
        raise UsageError(
            "a judge is a model behind an endpoint", path="--judge", expected="endpoint:URL#MODEL", got=ref
        )
    served = cast(EndpointGenerator, load_endpoint(reference, None).predictor)
    replies = AnswerCache(cache_root() / "judgements" / f"{served.revision.removeprefix('sha256:')}.jsonl")
    return Judge(served.client, served.model, served.revision, read_prompt(), replies, Terminal())


def _tell(path: Path, as_json: bool) -> None:
    from vlmed.files import read_json

    judgement = read_json(path)
    if as_json:
        print_json(judgement)
        return
    for unit in judgement["units"]:
        typer.echo(f"{unit['unit']}: {unit['scores']['n']} open answers, {unit['scores']['unjudged']} unjudged")
        for name, estimate in unit["scores"]["criteria"].items():
            typer.echo(f"  {name:16}{_estimate(estimate)}{_agreed((unit['scores']['agreement'] or {}).get(name))}")
    cost = judgement["cost"]
    typer.echo(f"{cost['requests']} requests, {cost['tokens']} tokens, {cost['kept_replies']} replies kept from before")
    typer.echo(str(path))


def _estimate(estimate: dict[str, Any]) -> str:
    between = f" [{estimate['low']:.1f}, {estimate['high']:.1f}]" if estimate["low"] is not None else ""
    return f"{estimate['value']:5.1f}{between}"


def _agreed(found: dict[str, Any] | None) -> str:
    if not found or not found["n"]:
        return ""
    alpha = "none" if found["alpha"] is None else f"{found['alpha']:.3f}"
    return f"  passes: {found['exact']:.1%} equal, {found['mean_difference']:.1f} apart on average, alpha {alpha}"
