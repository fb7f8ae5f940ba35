"""The Python front door: evaluate a model, read results, compare them, load tasks.

>>> load_suite().task("breastmnist").main_metric
'auc'
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmed.data.load import DataLoader
from vlmed.data.table import TaskTable
from vlmed.errors import InputError, MissingError, UsageError
from vlmed.files import cache_root
from vlmed.progress import Silent, Terminal
from vlmed.results.compare import Comparison, Run, compare_runs, manifests_of, read_run
from vlmed.results.rows import Row, rows_of
from vlmed.results.shown import shown, shown_p
from vlmed.suite.check import definition_problems
from vlmed.suite.load import load_suite as read_suite
from vlmed.suite.types import Suite

if TYPE_CHECKING:
    import pandas as pd

    from vlmed.models.protocols import LoadedModel

__all__ = [
    "Comparison",
    "Result",
    "Row",
    "assert_no_regression",
    "compare",
    "evaluate",
    "load_result",
    "load_suite",
    "load_task",
]

Location = str | Path
Names = str | Iterable[str]


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        path: Its `result.json`; the prediction files lie in `predictions` beside it.
        data: Its content, as `schemas/result.schema.json` describes it.
    """

    path: Path
    data: Mapping[str, Any]

    @property
    def rows(self) -> list[Row]:
        """Every metric of every unit, on all samples and on clean ones."""
        return rows_of(Run(self.path, self.data))

    @property
    def metrics(self) -> dict[str, dict[str, float | None]]:
        """Unit -> metric -> value, on what rankings use: the clean samples wherever the manifest is frozen."""
        return {
            unit["unit"]: {name: estimate["value"] for name, estimate in _ranked(unit).items()}
            for unit in self.data["units"]
        }

    def to_pandas(self) -> pd.DataFrame:
        """`rows` as a data frame, one column for each field of `Row`.

        Raises:
            MissingError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise MissingError("pandas is not installed", hint="pip install pandas, or use Result.rows") from None
        return pd.DataFrame([row.to_json() for row in self.rows], columns=list(Row.__dataclass_fields__))


def evaluate(
    model: Any,
    tasks: Names,
    tracks: Names = "zero_shot",
    *,
    adapter: str | None = None,
    fractions: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    suite: Location | None = None,
    out: Location | None = None,
    data_root: Location | None = None,
    device: str | None = None,
    batch_size: int = 64,
    name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> Result:
    """Evaluate a model on tasks.

    Args:
        model: A reference such as `openai/clip-vit-base-patch32`, `dir:./model` or `control:majority`; what
            `load_model` gave; or any object with the members of `ImageEncoder`, `DualEncoder` or `Generator` (see
            `vlmed.models.protocols`).
        tasks, tracks: Names, `name@version` or shell patterns; one text may hold several, separated by commas.
        adapter, trust_remote_code, device: For a reference only. `device` is `cpu` by default.
        fractions: Shares of the training split, in (0, 1].
        suite: A `tasks.yaml` of your own. Its frozen manifests are looked for in `manifests` beside it.
        out: Run folder. Units that are finished there are not evaluated again. By default a new temporary folder.
        data_root: Folder of data sets; `VLMED_DATA` comes next.
        batch_size: Images embedded at once.
        name, revision: For an object only: what results call it, and what identifies it instead of its weights.
        progress: Show progress on standard error.

    Raises:
        UsageError: A name is unknown, or model, track and options don't fit one another.
        MissingError: Data are absent, or access to the model is gated.
        InputError: Data are not the frozen ones, or the model or task file is damaged.
    """
    from vlmed.evaluate.own_features import data_for
    from vlmed.evaluate.run import Runner
    from vlmed.evaluate.units import RunFolder, plan

    loaded_suite = load_suite(suite)
    # What costs nothing is checked before the model is loaded.
    units = plan(loaded_suite, names_in(tasks), names_in(tracks), fractions, seeds)
    loaded = loaded_model(
        model, adapter=adapter, device=device, name=name, revision=revision, trust_remote_code=trust_remote_code
    )
    folder = Path(out) if out else Path(tempfile.mkdtemp(prefix="vlmed-"))
    with tempfile.TemporaryDirectory(prefix="vlmed-features-") as scratch:
        data = loader(suite, data_root, progress)
        runner = Runner(loaded_suite, loaded, data_for(loaded, data, Path(scratch)), batch_size)
        path = runner.run(units, RunFolder(folder), lambda _unit, _state: None)
    return load_result(path)


def load_result(path: Location) -> Result:
    """A run from its folder or its `result.json`. Its numbers are claims until `vlmed validate` recomputed them.

    Raises:
        MissingError: There is none.
        InputError: It does not follow the schema; lists every place.
    """
    run = read_run(Path(path))
    return Result(run.file, run.result)


def compare(
    a: Result | Location, b: Result | Location, metric: str | None = None, *, suite: Location | None = None
) -> list[Comparison]:
    """How two runs differ in every unit that both have, from their prediction files, paired by sample id.

    Args:
        a, b: Results, run folders or `result.json` files; differences are `a` minus `b`.
        metric: As in `result.json`; by default each task's main metric.
        suite: The task file that both were run with, if it is not the frozen one.

    Raises:
        UsageError: The runs share no unit, or a task has no such metric.
        MissingError: A file is not there.
        InputError: A file is damaged, or the runs predict other samples or targets; lists every sample.
    """
    return compare_runs(_run(a), _run(b), load_suite(suite), metric, manifests_of(_path(suite)))


def assert_no_regression(
    new: Result | Location,
    old: Result | Location,
    metric: str | None = None,
    alpha: float = 0.05,
    *,
    suite: Location | None = None,
) -> None:
    """Fail where a paired test shows that `new` is worse than `old`, or where it is worse and no test is possible.

    The chance of any false alarm is held at `alpha` over all units (Holm's correction).

    Raises:
        AssertionError: With a row for each unit that became worse.
        UsageError, MissingError, InputError: As `compare`; also where a unit of `old` is not in `new`.
    """
    import numpy as np

    from vlmed.leaderboard.separate import holm

    if not 0 < alpha < 1:
        raise UsageError("alpha is the chance of a false alarm", expected="above 0, below 1", got=str(alpha))
    before, after = _run(old), _run(new)
    if lost := [unit["unit"] for unit in before.units if after.unit_like(unit) is None]:
        what = "the new run lacks units of the old one, or has them on other definitions"
        raise UsageError(what, file=after.file, expected=", ".join(lost), hint="evaluate the same units")
    rows = compare_runs(after, before, load_suite(suite), metric, manifests_of(_path(suite)))
    shown = holm(np.array([1.0 if row.p is None else row.p for row in rows]), alpha)
    worse = [row for row, clear in zip(rows, shown, strict=True) if row.undecided or (clear and row.worse(alpha))]
    if worse:
        raise AssertionError("\n".join(["the new run is worse", *map(_told, worse)]))


def load_suite(path: Location | None = None) -> Suite:
    """The frozen suite, or that of a `tasks.yaml` of your own, whose definitions are then checked as the frozen ones.

    Raises:
        MissingError: There is no such file.
        InputError: It does not follow the schema, or a definition contradicts itself; lists every place.
    """
    suite = read_suite(_path(path))
    if path:
        problems = [problem for task in suite.tasks.values() for problem in definition_problems(task)]
        if problems:
            raise InputError(problems)
    return suite


def load_task(name: str, suite: Location | None = None, data_root: Location | None = None) -> TaskTable:
    """The samples of a task, proved to be the frozen ones unless its manifest is pending.

    Args:
        name: `name`, which is its newest version, or `name@version`.

    Raises:
        UsageError: There is no such task; says which are near.
        MissingError: The data are absent; says where to get them and under which licence.
        InputError: They are damaged or not the frozen ones; lists every sample.
    """
    return loader(suite, data_root).table(load_suite(suite).task(name))


def loader(suite: Location | None, data_root: Location | None, progress: bool = False) -> DataLoader:
    """What loads the data of a suite's tasks."""
    shown = Terminal() if progress else Silent()
    return DataLoader(_path(data_root), progress=shown, manifests=manifests_of(_path(suite)))


def loaded_model(
    model: Any,
    *,
    adapter: str | None = None,
    device: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Whatever `evaluate` takes as a model, loaded; arguments and errors as there."""
    from vlmed.models.load import load_model
    from vlmed.models.own import own_model
    from vlmed.models.protocols import LoadedModel

    if isinstance(model, str):
        _refuse({"name": name, "revision": revision}, "an object", "a reference says both")
        memory = cache_root() / "models"
        return load_model(model, adapter, device or "cpu", trust_remote_code, memory=memory)
    given = {"adapter": adapter, "device": device, "trust_remote_code": trust_remote_code}
    _refuse(given, "a reference", "do with the object what it needs before it is evaluated")
    if isinstance(model, LoadedModel):
        _refuse({"name": name, "revision": revision}, "an object", "the loaded model has both")
        return model
    return own_model(model, name, revision)


def names_in(listed: Names) -> list[str]:
    """Names from one text that is separated by commas, or from several.

    Raises:
        UsageError: There is none.

    >>> names_in("breast*, slake")
    ['breast*', 'slake']
    """
    parts = listed.split(",") if isinstance(listed, str) else listed
    found = [part.strip() for part in parts if part.strip()]
    if not found:
        raise UsageError("no name was given", expected="names or patterns", got=repr(listed))
    return found


def _refuse(given: Mapping[str, object], of: str, hint: str) -> None:
    if wrong := [name for name, value in given.items() if value]:
        raise UsageError(f"only {of} takes {' and '.join(wrong)}", hint=hint)


def _run(result: Result | Location) -> Run:
    return Run(result.path, result.data) if isinstance(result, Result) else read_run(Path(result))


def _path(location: Location | None) -> Path | None:
    return Path(location) if location else None


def _ranked(unit: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    metrics = unit["scores"]["metrics"]
    ranked: Mapping[str, Mapping[str, Any]] = metrics["all"] if metrics["clean"] is None else metrics["clean"]
    return ranked


def _told(row: Comparison) -> str:
    if row.difference is None or row.p is None:
        test = f"no test is possible: {row.reason}"
    else:
        p = shown_p(row.p)
        test = (
            f"difference {row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f}), p {p if p[0] == '<' else '= ' + p}"
        )
    values = " against ".join("undefined" if value is None else shown(value) for value in (row.first, row.second))
    return f"  {row.unit}: {row.metric} {values} on {row.n} samples ({row.samples}); {test}"
