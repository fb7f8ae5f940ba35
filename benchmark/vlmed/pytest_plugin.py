"""The pytest front door: every unit of an evaluation is a test, and own tests get fixtures.

pytest imports this module wherever vlmed is installed, so it imports nothing but pytest until something is asked of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from vlmed.api import Result
    from vlmed.data.table import TaskTable
    from vlmed.evaluate.gate import Gate
    from vlmed.evaluate.units import Unit
    from vlmed.models.protocols import LoadedModel
    from vlmed.results.compare import Run
    from vlmed.results.thresholds import Rule
    from vlmed.results.verdict import Verdict
    from vlmed.suite.types import Suite

# Option -> what it is. Every one may also stand in the ini file, as `vlmed_model` and so on.
_OPTIONS = {
    "model": "model reference: [hf:|open_clip:|dir:|control:]location[@revision]",
    "adapter": "PEFT adapter on top of the model",
    "tasks": "tasks to evaluate: names or patterns, separated by commas; each task on each track is a test",
    "tracks": "tracks to evaluate, likewise (zero_shot)",
    "fractions": "shares of the training split, separated by commas (1)",
    "seeds": "seeds, separated by commas (0)",
    "suite": "another tasks.yaml than the frozen one",
    "thresholds": "what the model has to reach (vlmed.yaml in the root folder, where there is one)",
    "baseline": "result.json or run folder that the model may not be worse than",
    "data-root": "folder of data sets; VLMED_DATA comes next",
    "device": "cpu, cuda, cuda:1, mps (cpu)",
    "out": "run folder to keep; finished units in it are not evaluated again (a new temporary folder)",
}
_HOOK = "override the fixture vlmed_model in the conftest.py of the root folder"
_PROPERTY = "vlmed."
_PREFIX = "vlmed::"
_ACTIONS = dict.fromkeys(("tasks", "tracks", "fractions", "seeds"), "append")  # given again, they add up
_PATHS = {"suite", "thresholds", "baseline", "data_root", "out"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--vlmed-*`, and the same names in the ini file."""
    group = parser.getgroup("vlmed", "evaluation of medical vision-language models")
    for name, text in _OPTIONS.items():
        group.addoption(f"--vlmed-{name}", action=_ACTIONS.get(name, "store"), metavar=name.upper(), help=text)
        parser.addini(f"vlmed_{name.replace('-', '_')}", text)
    text = "fail where data, access or a test is missing, instead of skipping"
    group.addoption("--vlmed-strict", action="store_true", default=None, help=text)
    parser.addini("vlmed_strict", text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Everything that costs nothing is checked here, so that a misspelt task ends the session at once."""
    config.addinivalue_line("markers", "vlmed: a unit of an evaluation by vlmed")
    plugin = config.stash[_PLUGIN] = Plugin(config)
    plugin.take_arguments()
    if plugin.wanted:
        plugin.check()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the units to the tests, before `-k` and `-m` choose among them."""
    plugin = config.stash[_PLUGIN]
    if plugin.wanted:
        items += session.genitems(Units.from_parent(session, name="vlmed", nodeid="vlmed"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What the workers wrote together becomes one result; features of objects are dropped."""
    plugin = session.config.stash[_PLUGIN]
    plugin.close(worker=hasattr(session.config, "workerinput"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line for each evaluated unit, and where the predictions are."""
    lines = [
        line
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call" and (line := _summary(report))
    ]
    if lines:
        terminalreporter.section("vlmed")
        for line in sorted(lines):
            terminalreporter.line(line)
        if kept := config.stash[_PLUGIN].option("out"):
            terminalreporter.line(f"predictions: {kept}")


@pytest.fixture(scope="session")
def vlmed_model(pytestconfig: pytest.Config) -> Any:
    """The model to evaluate, that of `--vlmed-model`.

    Override it in the conftest.py of your root folder to return any object with the members of a protocol in
    `vlmed.models.protocols`, or a reference.
    """
    return pytestconfig.stash[_PLUGIN].model()


@pytest.fixture
def vlmed_run(request: pytest.FixtureRequest) -> Callable[..., Result]:
    """`vlmed.evaluate`, with the session's options as defaults: `vlmed_run(tasks="breastmnist")`.

    Without `model` it evaluates `vlmed_model`. Skips the test where data or access are missing.
    """

    def run(model: Any = None, tasks: Any = None, tracks: Any = None, **options: Any) -> Result:
        import vlmed.api

        plugin = request.config.stash[_PLUGIN]
        chosen = request.getfixturevalue("vlmed_model") if model is None else model
        on, given = tracks or plugin.option("tracks") or "zero_shot", plugin.defaults | options
        if isinstance(chosen, str) and (device := plugin.option("device")):
            given.setdefault("device", device)
        with plugin.skipped_if_missing():
            return vlmed.api.evaluate(chosen, tasks or plugin.option("tasks") or (), on, **given)

    return run


@pytest.fixture
def vlmed_task(pytestconfig: pytest.Config) -> Callable[[str], TaskTable]:
    """A function from a task's name to its samples, as `vlmed.load_task`. Skips the test where data are missing."""

    def load(name: str) -> TaskTable:
        import vlmed.api

        plugin = pytestconfig.stash[_PLUGIN]
        with plugin.skipped_if_missing():
            return vlmed.api.load_task(name, **plugin.defaults)

    return load


class Units(pytest.Collector):
    """What the units stand under: `vlmed::UNIT`."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        """One test for each unit."""
        plugin = self.config.stash[_PLUGIN]
        return [_item(self, plugin, unit) for unit in plugin.units]


class UnitItem(pytest.Function):
    """One unit as a test."""

    def reportinfo(self) -> tuple[Path, int, str]:
        """No file holds a unit; the title keeps its dots."""
        return self.config.rootpath, 0, f"vlmed unit {self.name}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:  # noqa: ARG002
        """What vlmed foresaw is told in words, without a traceback."""
        from vlmed.errors import VlmedError

        if isinstance(excinfo.value, Unreached):
            return str(excinfo.value)
        if isinstance(excinfo.value, VlmedError):
            return f"{type(excinfo.value).__name__}: {excinfo.value}"
        return super().repr_failure(excinfo)


class Unreached(Exception):  # noqa: N818
    """A unit that did not reach its thresholds; its text is the table."""


@dataclass
class Plugin:
    """One session's evaluation; what costs something is made when it is first needed, once for each process.

    Attributes:
        chosen: Units that the command line names by their ids; empty for all.
        wanted: Whether units are tests in this session.
    """

    config: pytest.Config
    chosen: list[str] = field(default_factory=list)
    wanted: bool = False
    _loaded: dict[int, tuple[Any, LoadedModel]] = field(default_factory=dict)

    def option(self, name: str) -> str:
        """What the command line says, else the ini file; paths of the ini file are relative to it."""
        given = self.config.getoption(f"vlmed_{name}")
        if given is not None:
            return ",".join(given) if name in _ACTIONS else str(given)
        text = str(self.config.getini(f"vlmed_{name}"))
        home = self.config.inipath.parent if self.config.inipath else self.config.rootpath
        return str(home / Path(text).expanduser()) if text and name in _PATHS else text

    @property
    def strict(self) -> bool:
        """Whether what is missing fails."""
        return bool(self.config.getoption("vlmed_strict") or self.config.getini("vlmed_strict"))

    def take_arguments(self) -> None:
        """Part `vlmed::UNIT` on the command line from files, and decide whether units are tests in this session.

        Tasks of the ini file are left out where the command line names files alone.
        """
        config = self.config
        self.chosen = [text.removeprefix(_PREFIX) for text in config.args if text.startswith(_PREFIX)]
        if self.chosen and not self.option("tasks"):
            raise pytest.UsageError(f"{_PREFIX}{self.chosen[0]} needs --vlmed-tasks, or vlmed_tasks in the ini file")
        config.args = [text for text in config.args if not text.startswith(_PREFIX)]
        asked = bool(self.chosen or config.getoption("vlmed_tasks") or config.getoption("vlmed_model"))
        everything = config.args_source != pytest.Config.ArgsSource.ARGS
        self.wanted = bool(self.option("tasks")) and (asked or everything)

    @property
    def defaults(self) -> dict[str, Any]:
        """What the Python functions take from the options."""
        return {"suite": self.option("suite") or None, "data_root": self.option("data_root") or None}

    @cached_property
    def suite(self) -> Suite:
        """The task file."""
        from vlmed.api import load_suite

        return load_suite(self.option("suite") or None)

    @cached_property
    def units(self) -> list[Unit]:
        """All units that are asked for."""
        from vlmed.api import names_in
        from vlmed.errors import unknown
        from vlmed.evaluate.units import plan

        tracks = self.option("tracks") or "zero_shot"
        fractions, seeds = (self._numbers(name, kind) for name, kind in (("fractions", float), ("seeds", int)))
        units = plan(self.suite, names_in(self.option("tasks")), names_in(tracks), fractions or [1.0], seeds or [0])
        known = {unit.id: unit for unit in units}
        if lost := [name for name in self.chosen if name not in known]:
            raise unknown("unit", lost[0], known, "pytest --collect-only -m vlmed lists them")
        return [known[name] for name in self.chosen or known]

    @cached_property
    def rules(self) -> list[Rule]:
        """The thresholds, from the file that is named or from `vlmed.yaml` in the root folder."""
        from vlmed.results.thresholds import read_rules

        named, usual = self.option("thresholds"), self.config.rootpath / "vlmed.yaml"
        return read_rules(Path(named), self.suite) if named else read_rules(usual, self.suite) if usual.exists() else []

    @cached_property
    def baseline(self) -> Run | None:
        """The run under `--vlmed-baseline`."""
        from vlmed.results.compare import read_run

        return read_run(Path(self.option("baseline"))) if self.option("baseline") else None

    def check(self) -> None:
        """Read what names units, thresholds, baseline and model.

        Raises:
            pytest.UsageError: Something is misspelt, damaged or not there.
        """
        from vlmed.errors import VlmedError
        from vlmed.models.reference import check_references

        try:
            _ = self.units, self.rules, self.baseline
            check_references((self.option("model"), self.option("adapter")))
        except VlmedError as error:
            raise pytest.UsageError(f"vlmed: {error}") from None

    def model(self) -> LoadedModel:
        """The model of the options, loaded."""
        from vlmed.api import loaded_model
        from vlmed.errors import VlmedError

        if not self.option("model"):
            pytest.fail(f"no model is named\n  next: give --vlmed-model REF, or {_HOOK}", pytrace=False)
        adapter, device = self.option("adapter") or None, self.option("device") or None
        try:
            with self.skipped_if_missing():
                return loaded_model(self.option("model"), adapter=adapter, device=device)
        except VlmedError as error:
            pytest.fail(f"the model can't be loaded\n{error}", pytrace=False)

    def evaluate(self, model: Any, unit: Unit) -> Verdict:
        """Evaluate one unit of what `vlmed_model` gave, and check it.

        Raises:
            VlmedError: As `loaded_model` and `Gate.check`.
        """
        from vlmed.api import loaded_model

        if id(model) not in self._loaded:
            device = (self.option("device") or None) if isinstance(model, str) else None
            # An object is hashed once. It is kept, so that no other one gets its id.
            self._loaded[id(model)] = model, loaded_model(model, device=device)
        return self._gate.check(self._loaded[id(model)][1], unit)

    def close(self, worker: bool) -> None:
        """Drop what is temporary; outside a worker also put together what all workers wrote."""
        if self.wanted and self.option("out") and not worker:
            _put_together(Path(self.option("out")))
        if "_scratch" in vars(self):
            self._scratch.cleanup()

    @contextmanager
    def skipped_if_missing(self) -> Iterator[None]:
        """A block that skips, or under `--vlmed-strict` fails, where data or access are missing."""
        from vlmed.errors import MissingError

        try:
            yield
        except MissingError as error:
            self._missing(str(error))

    def _missing(self, why: str) -> NoReturn:
        if self.strict:
            pytest.fail(why, pytrace=False)
        pytest.skip(why)

    def _numbers(self, name: str, kind: Callable[[str], Any]) -> list[Any]:
        from vlmed.errors import UsageError

        try:
            return [kind(part) for part in self.option(name).split(",") if part.strip()]
        except ValueError:
            got = repr(self.option(name))
            raise UsageError(f"--vlmed-{name} takes numbers, separated by commas", got=got) from None

    @cached_property
    def _gate(self) -> Gate:
        from vlmed.api import loader
        from vlmed.evaluate.gate import Gate

        scratch = Path(self._scratch.name)
        out = Path(self.option("out") or scratch / "run")
        return Gate(self.suite, loader(**self.defaults), self.rules, self.baseline, out, scratch)

    @cached_property
    def _scratch(self) -> Any:
        from tempfile import TemporaryDirectory

        return TemporaryDirectory(prefix="vlmed-")


_PLUGIN = pytest.StashKey[Plugin]()


def _item(parent: Units, plugin: Plugin, unit: Unit) -> UnitItem:
    def check(vlmed_model: Any, request: pytest.FixtureRequest) -> None:
        with plugin.skipped_if_missing():
            verdict = plugin.evaluate(vlmed_model, unit)
        request.node.user_properties += _properties(verdict, unit)
        if verdict.failed(plugin.strict):
            raise Unreached(verdict.text())

    item: UnitItem = UnitItem.from_parent(parent, name=unit.id, callobj=check)
    item.add_marker("vlmed")
    return item


def _properties(verdict: Verdict, unit: Unit) -> list[tuple[str, object]]:
    """What JUnit XML and the summary show: metrics with intervals, and each paired test."""
    found: list[tuple[str, object]] = [("samples", verdict.samples), ("n", verdict.n), ("main", unit.task.main_metric)]
    for name, estimate in verdict.metrics.items():
        found += [(name if key == "value" else f"{name}.{key}", estimate[key]) for key in ("value", "low", "high")]
    for check in verdict.checks:
        place = f"{check.metric}.{check.demand.replace(' ', '_')}"
        found += [(place, check.state)]
        found += [(f"{place}.{key}", getattr(check, key)) for key in ("peer", "difference", "p")]
    return [(_PROPERTY + name, value) for name, value in found if value is not None]


def _summary(report: pytest.TestReport) -> str:
    known = dict(report.user_properties)
    main = known.get(f"{_PROPERTY}main")
    if main is None:
        return ""
    value, low, high = (known.get(f"{_PROPERTY}{main}{end}") for end in ("", ".low", ".high"))
    numbers = "undefined" if value is None else f"{value:.4f}"
    numbers += "" if low is None or high is None else f" ({low:.4f} to {high:.4f})"
    unchecked = [name.removeprefix(_PROPERTY) for name, state in known.items() if state == "unchecked"]
    tail = f"; unchecked: {', '.join(unchecked)}" if unchecked else ""
    samples = f"{known[f'{_PROPERTY}n']} samples ({known[f'{_PROPERTY}samples']})"
    return f"{report.nodeid}: {main} {numbers} on {samples}{tail}"


def _put_together(out: Path) -> None:
    """Name every finished unit in `result.json`: of several workers the last to write may have missed another's."""
    from vlmed.evaluate.units import RunFolder
    from vlmed.files import read_json, write_json

    file = out / "result.json"
    if file.exists():
        write_json(file, read_json(file) | {"units": RunFolder(out).outcomes()})
