"""Units of a model under test: evaluated one by one and held against thresholds, a baseline and controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlmed.data.load import DataLoader
from vlmed.evaluate.own_features import data_for
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, Unit
from vlmed.models.load import load_model
from vlmed.models.protocols import LoadedModel
from vlmed.results.compare import Run, read_run
from vlmed.results.thresholds import BASELINE, Rule, rules_for
from vlmed.results.verdict import Verdict, judge
from vlmed.suite.types import Suite


@dataclass
class Gate:
    """What a model has to pass.

    Attributes:
        rules: The thresholds of all units.
        baseline: The run that the model may not be worse than.
        out: Run folder of the model.
        scratch: Where runs of controls and features of objects go.
    """

    suite: Suite
    data: DataLoader
    rules: Sequence[Rule]
    baseline: Run | None
    out: Path
    scratch: Path
    _controls: dict[str, LoadedModel] = field(default_factory=dict)

    def check(self, model: LoadedModel, unit: Unit) -> Verdict:
        """Evaluate one unit, and the controls that its rules name, and judge it.

        Raises:
            VlmedError: As `Runner.run` and `judge`.
        """
        rules = rules_for(self.rules, unit.task, unit.track, self.baseline is not None)
        run = self._run(model, unit, self.out)
        controls = {name: self._control(name, unit) for rule in rules for name in rule.peers if name != BASELINE}
        claim = next(each for each in run.units if each["unit"] == unit.id)
        return judge(run, claim, self.suite, rules, {**controls, BASELINE: self.baseline}, self.data.manifests)

    def _control(self, name: str, unit: Unit) -> Run:
        if name not in self._controls:
            self._controls[name] = load_model(name)
        return self._run(self._controls[name], unit, self.scratch / name.replace(":", "-"))

    def _run(self, model: LoadedModel, unit: Unit, out: Path) -> Run:
        data = data_for(model, self.data, self.scratch / "own")
        return read_run(Runner(self.suite, model, data).run([unit], RunFolder(out), lambda _unit, _state: None))
