"""`vlmed run`: evaluate models on frozen tasks."""

from __future__ import annotations

import gc
import re
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from vlmed.cli.common import (
    DataOption,
    JsonOption,
    SuiteOption,
    data_loader,
    names,
    note,
    print_json,
    resumable,
    suite_of,
)
from vlmed.cli.on_ray import RayOptions
from vlmed.cli.planned import plan_of, tell_total
from vlmed.cli.profiled import watching

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vlmed.cli.profiled import Watch
    from vlmed.evaluate.ranks import Ranks
    from vlmed.evaluate.ray_executor import RayExecutor
    from vlmed.evaluate.run import Runner
    from vlmed.evaluate.units import RunFolder, Unit
    from vlmed.models.protocols import LoadedModel
    from vlmed.suite.types import Suite

_Number = TypeVar("_Number", int, float)
_MAJORITY = "control:majority"
_TRACKS, _FRACTIONS, _SEEDS = ["zero_shot"], ["1"], ["0,1,2"]
_MODEL = "Such as hf:OWNER/NAME@REVISION, open_clip:, dir:, endpoint:, control:; several run one after another."


def run(
    model: Annotated[list[str], typer.Option("--model", "--models", metavar="REFERENCES", help=_MODEL)],
    tasks: Annotated[list[str], typer.Option(metavar="NAMES", help="Tasks, by names or patterns such as 'organ*'.")],
    tracks: Annotated[list[str], typer.Option(metavar="NAMES", help="Tracks, likewise.")] = _TRACKS,
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter on top of the model.")] = None,
    fractions: Annotated[list[str], typer.Option(metavar="NUMBERS", help="Shares of the training data.")] = _FRACTIONS,
    seeds: Annotated[
        list[str], typer.Option(metavar="NUMBERS", help="Seeds of the tracks in which chance has a part.")
    ] = _SEEDS,
    blind: Annotated[
        bool, typer.Option("--blind", help="Also run each model on blank and on swapped images, and the majority.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder. A run there goes on where it ended.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show units, their state and estimates; run nothing.")] = False,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="What an hour of this machine costs, in any currency; for --plan.")
    ] = None,
    keep_weights: Annotated[bool, typer.Option(help="Keep what is tuned, as adapters and checkpoints.")] = False,
    as_json: JsonOption = False,
    data_root: DataOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images embedded at once.")] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    trust_remote_code: Annotated[bool, typer.Option(help="Run the model repository's own code. Recorded.")] = False,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Of an encoder's inference. Recorded; fp32 is exact.")
    ] = "fp32",
    channels_last: Annotated[bool, typer.Option(help="Images channel by channel in each pixel. Recorded.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the image tower with torch. Recorded.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Tell where the time goes; write a trace.")] = False,
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="Who does the units: this process, or workers on Ray.")
    ] = "local",
    ray_address: Annotated[str | None, typer.Option(help="HOST:PORT of the Ray cluster.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers on Ray at most.")] = None,
    worker_cpus: Annotated[float | None, typer.Option(min=0.1, help="Cores of a worker on Ray; 1.")] = None,
    worker_gpus: Annotated[float | None, typer.Option(min=0, help="GPUs of a worker on Ray; 1 on cuda.")] = None,
    suite: SuiteOption = None,
    *,
    context: typer.Context,
) -> None:
    """Evaluate models: frozen tasks in, prediction files and result.json out.

    NAMES, NUMBERS and REFERENCES stand between commas, or the option is given again. --json prints the plan, or where
    the results lie.

    Example: vlmed run --model hf:openai/clip-vit-base-patch32 --tasks breastmnist --tracks zero_shot,linear_probe

    Example: vlmed run --models hf:vinid/plip,control:majority --tasks 'organ*' --tracks linear_probe,lora
    --fractions 0.05,0.25,1 --plan

    Example: vlmed run --model hf:vinid/plip --tasks vqa_rad --tracks zero_shot_choice --blind
    """
    from vlmed.evaluate.ranks import Ranks
    from vlmed.models.reference import check_references

    # Before anything is said: only the first of several processes speaks.
    ranks = Ranks()
    _check_words(context.args)
    check_references([*names(model), adapter])
    loaded, models = suite_of(suite), _with_blind(names(model)) if blind else names(model)
    # Names and numbers are checked before torch is imported: a typing error is answered at once.
    from vlmed.evaluate.units import RunFolder
    from vlmed.evaluate.units import plan as units_of

    units = units_of(loaded, names(tasks), names(tracks), _numbers(fractions, float), _numbers(seeds, int))
    _check_folders(models, out)
    _check_price(price_per_hour, plan)
    on_ray = RayOptions(ray_address, workers, worker_cpus, worker_gpus)
    on_ray.check(executor, models, device)
    _check_profile(profile, executor)
    _check_together(ranks, plan, profile, executor)
    _tell_left_out(loaded, names(tasks), units)
    from vlmed.files import cache_root
    from vlmed.models.load import load_model
    from vlmed.models.numerics import Numerics

    # Workers on Ray may stand in another folder.
    place = suite.absolute() if suite else None
    # They need the model itself, and may have other folders.
    memory = cache_root() / "models" if executor == "local" else None
    work = _Work(
        units=units,
        ranks=ranks,
        load=partial(
            load_model,
            device=ranks.device(device),
            trust_remote_code=trust_remote_code,
            numerics=Numerics(precision, channels_last, compiled),
            memory=memory,
        ),
        runner_of=partial(_runner, loaded, place, data_root, batch_size, keep_weights),
        on_ray=partial(on_ray.executor, device=device) if executor == "ray" and not plan else None,
        only=len(models) == 1,
        plan=plan,
        price=price_per_hour,
        profile=profile and not plan,
        show=not as_json,
    )
    told: list[dict[str, Any]] = []
    with ranks:
        for ref in models:
            # A control that holds no model has nothing for an adapter to lie on.
            adapter_here = None if blind and ref == _MAJORITY else adapter
            told += work.do(ref, adapter_here, RunFolder(out or Path("runs") / _slug(ref, adapter_here)))
            if not work.only:
                # Models of transformers refer to themselves: else two would be in memory at once.
                gc.collect()
    if as_json:
        print_json(told)
    elif plan and len(models) > 1:
        tell_total(told, len(models))


@dataclass(frozen=True)
class _Work:
    """What one command does with each of its models.

    Attributes:
        load: A reference and an adapter -> the model.
        on_ray: Makes the executor that works on Ray; None for this process.
        only: Whether there is a single model.
        plan, profile: Whether to plan instead of running, and to account for the time.
        price: What an hour costs.
        show: Whether to print for a person.
    """

    units: Sequence[Unit]
    ranks: Ranks
    load: Callable[[str, str | None], LoadedModel]
    runner_of: Callable[[LoadedModel], Runner]
    on_ray: Callable[..., RayExecutor] | None
    only: bool
    plan: bool
    price: float | None
    profile: bool
    show: bool

    def do(self, ref: str, adapter: str | None, folder: RunFolder) -> list[dict[str, Any]]:
        """Plan or run a model's units; gives what `--json` prints of it."""
        with resumable(f"finished units are kept in {folder.path}"), ExitStack() as stack:
            watch = stack.enter_context(watching(show=self.show)) if self.profile else None
            runner = self._runner(partial(self.load, ref, adapter), watch, stack)
            fitting = _fitting(runner, self.units, only=self.only)
            if self.plan:
                return plan_of(runner, fitting, folder, self.price, show=self.show)
            leader = self.ranks.take_part(runner, fitting, folder) if fitting else None
            if leader is None:
                return []
            start = partial(watch.run, leader) if watch else leader.run
            result = start(fitting, folder, _report)
        if self.show:
            typer.echo(f"{result}\nnext: vlmed validate {folder.path}")
        return [{"model": ref, "result": str(result)}]

    def _runner(self, load: Callable[[], LoadedModel], watch: Watch | None, stack: ExitStack) -> Runner:
        if self.on_ray:
            return stack.enter_context(self.on_ray(load, self.runner_of)).runner(len(self.units))
        return watch.load(load, self.runner_of) if watch else self.runner_of(self.ranks.in_turn(load))


def _with_blind(models: Sequence[str]) -> list[str]:
    """The models, each followed by itself without its sight, and what needs none at the end; each once."""
    seeing = [ref for ref in models if not ref.startswith("control:")]
    blind = {ref: [f"control:blank/{ref}", f"control:swapped/{ref}"] for ref in seeing}
    return list(dict.fromkeys([*(each for ref in models for each in [ref, *blind.get(ref, [])]), _MAJORITY]))


def _runner(
    suite: Suite, place: Path | None, data_root: Path | None, batch_size: int, keep_weights: bool, model: LoadedModel
) -> Runner:
    from vlmed.evaluate.run import Runner

    return Runner(suite, model, data_loader(data_root, place), batch_size, keep_weights)


def _fitting(runner: Runner, units: Sequence[Unit], *, only: bool) -> Sequence[Unit]:
    """The units that the model can follow; where it is the only model, all, so that the run says what doesn't fit."""
    from vlmed.errors import UsageError
    from vlmed.evaluate.methods import method_for

    fitting = []
    for unit in units:
        try:
            method_for(unit, runner.model.info, runner.suite)
            fitting.append(unit)
        except UsageError as error:
            if only:
                raise
            note(f"left out: {error.problems[0].what}")
    return fitting


def _tell_left_out(suite: Suite, tasks: Sequence[str], units: Sequence[Unit]) -> None:
    kept = {unit.task.id for unit in units}
    for task in suite.tasks_matching(tasks):
        if task.id not in kept:
            note(f"{task.id}: left out, it has none of these tracks (see vlmed tasks)")


def _check_price(price: float | None, plan: bool) -> None:
    from vlmed.errors import UsageError

    if price is not None and not plan:
        raise UsageError("--price-per-hour is for a plan", expected="--plan", hint="add --plan")


def _check_profile(profile: bool, executor: str) -> None:
    from vlmed.errors import UsageError

    if profile and executor != "local":
        hint = "leave out --executor, or look at the cluster's own dashboard"
        raise UsageError("only this process can be profiled", expected="--executor local", got=executor, hint=hint)


def _check_words(extra: Sequence[str]) -> None:
    """Words that belong to no option are what a shell or a space made of a list."""
    from vlmed.errors import UsageError

    if extra:
        hint = "separate names by commas, and put patterns into quotes: --tasks 'organ*,papila'"
        raise UsageError("these words belong to no option", got=" ".join(extra), hint=hint)


def _check_together(ranks: Ranks, plan: bool, profile: bool, executor: str) -> None:
    from vlmed.errors import UsageError

    if ranks.together and (plan or profile or executor != "local"):
        got, hint = f"{ranks.size} processes", "start vlmed run without torchrun or accelerate"
        raise UsageError("--plan, --profile and --executor ray are for one process", got=got, hint=hint)


def _check_folders(models: Sequence[str], out: Path | None) -> None:
    from vlmed.errors import UsageError

    if out and len(models) > 1:
        hint = "leave out --out: each model then gets a folder of its own under runs/"
        raise UsageError("one run folder can't hold several models", got=str(out), hint=hint)
    if out and out.is_file():
        raise UsageError("--out names a file", file=out, expected="a run folder", hint=f"--out {out.parent}")


def _numbers(listed: Sequence[str], kind: type[_Number]) -> list[_Number]:
    from vlmed.errors import UsageError

    try:
        return [kind(text) for text in names(listed)]
    except ValueError:
        expected = "whole numbers" if kind is int else "numbers"
        hint = "such as --seeds 0,1,2" if kind is int else "such as --fractions 0.05,0.25,1"
        what, got = "this is no list of numbers", ",".join(listed)
        raise UsageError(what, expected=f"{expected} separated by commas", got=got, hint=hint) from None


def _report(unit: Unit, state: str) -> None:
    note(f"{unit.id}: {state}")


def _slug(model: str, adapter: str | None) -> str:
    """A folder name from references."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", "+".join(filter(None, (model, adapter)))).strip("-.")
