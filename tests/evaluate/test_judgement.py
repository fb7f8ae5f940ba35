"""A judged run: its files, its numbers, and that whatever is changed afterwards is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asked_suite import asked_suite
from judge_server import CRITERIA, JudgeServer
from vlmed.data.load import DataLoader
from vlmed.errors import InputError, MissingError, UsageError, VlmedError
from vlmed.evaluate.judge import Judge
from vlmed.evaluate.judgement import judge_run, open_units
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, plan
from vlmed.files import write_json
from vlmed.hashing import file_hash
from vlmed.metrics.means import mean_estimate
from vlmed.models.endpoint_client import ChatClient, Patience
from vlmed.models.load import load_model
from vlmed.results.compare import read_run
from vlmed.results.error_report import run_errors
from vlmed.results.judge_prompt import FOLDER, frozen_prompts, read_prompt
from vlmed.results.judged import Judged, judgement_problems, read_judged, score_judged, write_judged
from vlmed.suite.load import load_suite
from vlmed.suite.types import Suite

# Every version that was ever published. A line here never changes or goes; a new version is a new line.
PUBLISHED = {"judge@1": "04cfe6c1b02ff1ec79bb7e9d314a5dde7af0d35d6ea06d55b1617495f620f4d0"}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return load_suite(asked_suite(tmp_path_factory.mktemp("suite")))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataLoader:
    return DataLoader(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def answered(suite: Suite, data: DataLoader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a control that answers by the question alone: some right, some wrong."""
    folder = tmp_path_factory.mktemp("runs") / "majority"
    runner = Runner(suite, load_model("control:majority"), data)
    runner.run(plan(suite, ["asked"], ["zero_shot_vqa"]), RunFolder(folder), lambda unit, state: None)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as running:
        running.moody = True
        yield running


def judge(server: JudgeServer, run: Path, suite: Suite, data: DataLoader, passes: int = 2) -> dict[str, Any]:
    held = read_run(run)
    client = ChatClient(server.url, "", Patience(attempts=1, timeout=5.0), connections=8)
    asked = Judge(client, server.model, "sha256:" + "ab" * 32, read_prompt())
    path = judge_run(held, open_units(held, suite, data), asked, server.ref, passes, lambda unit: None)
    judgement: dict[str, Any] = json.loads(path.read_text())
    return judgement


@pytest.fixture(scope="module")
def honest(server: JudgeServer, answered: Path, suite: Suite, data: DataLoader) -> Path:
    judge(server, answered, suite, data)
    return answered


@pytest.fixture
def run(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "run"))


def said(run: Path) -> dict[str, Any]:
    judgement: dict[str, Any] = json.loads((run / "judgement.json").read_text())
    return judgement


def scores_file(run: Path) -> Path:
    (file,) = (run / "judged").iterdir()
    return file


def test_published_prompts_never_change() -> None:
    assert frozen_prompts() == PUBLISHED
    for name, expected in PUBLISHED.items():
        assert read_prompt(name).sha256 == expected == file_hash(FOLDER / f"{name.replace('@', '-v')}.txt")


def test_a_changed_prompt_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "prompts"))
    file = folder / "judge-v1.txt"
    file.write_text(file.read_text().replace("worst", "lowest"))
    with pytest.raises(InputError, match="not the frozen one"):
        read_prompt("judge@1", folder)


def test_an_unknown_prompt_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="judge@1"):
        read_prompt("judge@9")


def test_a_judged_run_recomputes(honest: Path, suite: Suite) -> None:
    assert judgement_problems(honest, suite) == []


def test_a_run_without_a_judgement_has_no_problem(answered: Path, suite: Suite, tmp_path: Path) -> None:
    shutil.copyfile(answered / "result.json", tmp_path / "result.json")
    assert judgement_problems(tmp_path, suite) == []


def test_result_json_is_not_touched(server: JudgeServer, run: Path, suite: Suite, data: DataLoader) -> None:
    before = (run / "result.json").read_bytes()
    judge(server, run, suite, data)
    assert (run / "result.json").read_bytes() == before


def test_only_open_answers_are_judged_in_order(honest: Path, suite: Suite) -> None:
    held = read_run(honest)
    (unit,) = held.units
    predictions: Any = held.predictions(unit, held.task(unit, suite))
    opened = [name for name, closed in zip(predictions.sample_ids, predictions.closed, strict=True) if not closed]
    assert read_judged(scores_file(honest)).sample_ids == opened
    assert said(honest)["units"][0]["scores"]["n"] == len(opened) == unit["scores"]["n"]["open"]


def test_scores_are_what_the_judge_said(honest: Path, suite: Suite) -> None:
    held = read_run(honest)
    (unit,) = held.units
    predictions: Any = held.predictions(unit, held.task(unit, suite))
    judged = read_judged(scores_file(honest))
    right = dict(zip(predictions.sample_ids, predictions.answered.exact == 1, strict=True))
    first = judged.scores[[right[name] for name in judged.sample_ids], 0]
    assert len(first)
    assert (first == 99).all()
    assert (judged.scores[[not right[name] for name in judged.sample_ids], 0] < 99).all()


def test_means_and_agreement_are_those_of_the_scores(honest: Path) -> None:
    judged, claimed = read_judged(scores_file(honest)), said(honest)["units"][0]["scores"]
    for number, name in enumerate(CRITERIA):
        first, second = judged.scores[:, :, number].T
        assert claimed["criteria"][name]["value"] == pytest.approx(first.mean(), abs=1e-6)
        assert claimed["criteria"][name]["low"] < first.mean() < claimed["criteria"][name]["high"]
        assert claimed["agreement"][name]["n"] == len(first)
        assert claimed["agreement"][name]["mean_difference"] == pytest.approx(np.abs(first - second).mean(), abs=1e-6)
        assert claimed["agreement"][name]["exact"] == pytest.approx((first == second).mean(), abs=1e-6)
    assert claimed["criteria"]["overall"]["value"] == pytest.approx(judged.scores[:, 0].mean(), abs=1e-6)
    assert 0.9 < claimed["agreement"]["overall"]["alpha"] < 1


def test_who_judged_is_told(honest: Path, server: JudgeServer) -> None:
    judgement = said(honest)
    assert judgement["prompt"] == {"id": "judge@1", "sha256": PUBLISHED["judge@1"]}
    assert judgement["judge"] == {
        "ref": server.ref,
        "revision": "sha256:" + "ab" * 32,
        "temperature": 0,
        "max_tokens": 256,
    }
    assert judgement["cost"]["tokens"] == 100 * judgement["cost"]["requests"] > 0
    assert judgement["cost"]["kept_replies"] == 0


def test_one_pass_has_no_agreement(server: JudgeServer, run: Path, suite: Suite, data: DataLoader) -> None:
    judgement = judge(server, run, suite, data, passes=1)
    assert judgement["units"][0]["scores"]["agreement"] is None
    assert judgement_problems(run, suite) == []


def edit(run: Path, change: Any) -> None:
    judgement = said(run)
    change(judgement)
    write_json(run / "judgement.json", judgement)


def unit_of(judgement: dict[str, Any]) -> dict[str, Any]:
    unit: dict[str, Any] = judgement["units"][0]
    return unit


FORGERIES = {
    "a mean": lambda it: unit_of(it)["scores"]["criteria"]["accuracy"].update(value=100.0),
    "an interval": lambda it: unit_of(it)["scores"]["criteria"]["overall"].update(low=90.0),
    "agreement": lambda it: unit_of(it)["scores"]["agreement"]["relevance"].update(alpha=1.0),
    "unjudged": lambda it: unit_of(it)["scores"].update(unjudged=3),
    "n": lambda it: unit_of(it)["scores"].update(n=1),
    "the hash of the scores": lambda it: unit_of(it)["judged"].update(sha256="0" * 64),
    "rows": lambda it: unit_of(it)["judged"].update(rows=1),
    "the hash of the predictions": lambda it: unit_of(it).update(predictions_sha256="0" * 64),
    "the unit": lambda it: unit_of(it).update(unit="other"),
    "another prompt": lambda it: it["prompt"].update(sha256="0" * 64),
    "an unknown prompt": lambda it: it["prompt"].update(id="judge@7"),
    "passes": lambda it: it.update(passes=1),
    "a key": lambda it: it.update(remark="fine"),
    "a path outside": lambda it: unit_of(it)["judged"].update(file="judged/../../x.parquet"),
    "temperature": lambda it: it["judge"].update(temperature=1),
    "no units": lambda it: it.update(units=[]),
    "a mean above the scale": lambda it: unit_of(it)["scores"]["criteria"]["accuracy"].update(value=101),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_changed_claim_is_found(run: Path, suite: Suite, name: str) -> None:
    edit(run, FORGERIES[name])
    assert judgement_problems(run, suite)


def rewrite(run: Path, change: Any) -> None:
    """Change the scores and claim their new hash."""
    judged = read_judged(scores_file(run))
    write_judged(scores_file(run), change(judged))
    edit(run, lambda it: unit_of(it)["judged"].update(sha256=file_hash(scores_file(run))))


def test_changed_scores_are_found_though_their_hash_is_claimed(run: Path, suite: Suite) -> None:
    rewrite(run, lambda judged: replace(judged, scores=np.full_like(judged.scores, 100)))
    paths = {problem.path for problem in judgement_problems(run, suite)}
    assert "$.units[0].scores.criteria.accuracy.value" in paths


def test_other_samples_or_groups_are_found(run: Path, suite: Suite) -> None:
    rewrite(run, lambda judged: replace(judged, groups=["g"] * len(judged.groups)))
    (problem,) = judgement_problems(run, suite)
    assert "open questions" in problem.what


def test_two_passes_claimed_as_one_are_found(run: Path, suite: Suite) -> None:
    edit(run, lambda it: it.update(passes=1))
    edit(run, lambda it: unit_of(it)["scores"].update(agreement=None))
    assert [problem.what for problem in judgement_problems(run, suite)] == ["one pass was made and the file holds two"]


@pytest.mark.parametrize("damage", ["gone", "link", "noise"])
def test_a_damaged_file_of_scores_is_a_problem(run: Path, suite: Suite, damage: str) -> None:
    file = scores_file(run)
    content = file.read_bytes()
    file.unlink()
    if damage == "link":
        (run / "elsewhere").write_bytes(content)
        file.symlink_to(run / "elsewhere")
    elif damage == "noise":
        file.write_bytes(content[:-10])
    assert judgement_problems(run, suite)


def test_a_judgement_that_is_a_link_or_no_json_is_a_problem(run: Path, suite: Suite) -> None:
    file = run / "judgement.json"
    content = file.read_text()
    file.write_text(content[:-20])
    assert judgement_problems(run, suite)
    file.unlink()
    file.symlink_to(run / "nowhere")
    assert judgement_problems(run, suite)


def column(*values: float) -> Judged:
    """One score per answer, the same for all criteria, in one pass."""
    scores = np.full((len(values), 2, 4), np.nan)
    scores[:, 0] = np.array(values)[:, None]
    return Judged([f"s{row}" for row in range(len(values))], [f"g{row}" for row in range(len(values))], scores)


def test_what_was_not_judged_counts_as_the_lowest_score() -> None:
    with_it, without = score_judged(column(80, 60, np.nan), 1), score_judged(column(80, 60, 1), 1)
    assert (with_it["unjudged"], without["unjudged"]) == (1, 0)
    assert with_it["criteria"] == without["criteria"]
    assert with_it["criteria"]["overall"]["value"] == pytest.approx(47)


def test_an_interval_is_the_one_of_shares_on_the_scale_from_1_to_100() -> None:
    values = np.array([10.0, 40, 55, 70, 71, 90])
    expected = mean_estimate((values - 1) / 99, [f"g{row}" for row in range(6)])
    found = score_judged(column(*values), 1)["criteria"]["accuracy"]
    assert found["value"] == pytest.approx(values.mean())
    assert (found["low"], found["high"]) == pytest.approx((1 + 99 * expected.low, 1 + 99 * expected.high), abs=1e-5)


@pytest.mark.parametrize("value", [0, 101, -5])
def test_scores_outside_the_scale_are_refused(tmp_path: Path, value: int) -> None:
    write_judged(tmp_path / "x.parquet", column(50, value))
    with pytest.raises(InputError) as caught:
        read_judged(tmp_path / "x.parquet")
    assert [problem.path for problem in caught.value.problems] == ["s1"]


def test_half_a_judgement_of_an_answer_is_refused(tmp_path: Path) -> None:
    judged = column(50, 60)
    judged.scores[1, 0, 2] = np.nan
    write_judged(tmp_path / "x.parquet", judged)
    with pytest.raises(InputError, match="no scores"):
        read_judged(tmp_path / "x.parquet")


def test_other_targets_in_the_data_are_refused(
    answered: Path, data: DataLoader, suite: Suite, monkeypatch: Any
) -> None:
    table = DataLoader.table

    def other(self: DataLoader, task: Any, images: bool = True) -> Any:
        held = table(self, task, images)
        return replace(held, samples=tuple(replace(sample, target="moon") for sample in held.samples))

    monkeypatch.setattr(DataLoader, "table", other)
    with pytest.raises(InputError, match="another target"):
        open_units(read_run(answered), suite, data)


def test_a_run_without_open_questions_is_refused(
    answered: Path, data: DataLoader, suite: Suite, tmp_path: Path
) -> None:
    result = json.loads((answered / "result.json").read_text())
    write_json(tmp_path / "result.json", result | {"units": []})
    with pytest.raises(VlmedError):
        open_units(read_run(tmp_path), suite, data)


def test_every_wrong_answer_has_one_class(answered: Path, suite: Suite, data: DataLoader) -> None:
    (found,) = run_errors(read_run(answered), suite, data)
    (unit,) = read_run(answered).units
    assert found.n == unit["scores"]["n"]["all"]
    assert found.wrong == round(found.n * (1 - unit["scores"]["metrics"]["all"]["accuracy"]["value"]))
    assert sum(each.n for each in found.classes) == found.wrong
    shares = [each.share.value for each in found.classes]
    assert sum(share for share in shares if share) == pytest.approx(1)
    assert all(len(each.samples) == min(5, each.n) for each in found.classes)
    assert all(each.share.low <= each.share.value <= each.share.high for each in found.classes)


def test_a_judge_may_tell_paraphrases(run: Path, suite: Suite, data: DataLoader) -> None:
    def counts(judged: bool) -> dict[str, int]:
        (found,) = run_errors(read_run(run), suite, data, judged)
        return {each.name: each.n for each in found.classes}

    before = counts(False)
    rewrite(run, lambda judged: replace(judged, scores=np.full_like(judged.scores, 90)))
    after = counts(True)
    assert after["paraphrase"] > before["paraphrase"]
    assert after["granularity"] == before["granularity"]
    assert sum(after.values()) == sum(before.values())
    rewrite(run, lambda judged: replace(judged, scores=np.full_like(judged.scores, 89)))
    assert counts(True) == before


def test_a_judge_is_missed_where_there_was_none(answered: Path, suite: Suite, data: DataLoader, tmp_path: Path) -> None:
    unjudged = Path(shutil.copytree(answered, tmp_path / "run", ignore=shutil.ignore_patterns("judge*")))
    with pytest.raises(MissingError, match="not judged"):
        run_errors(read_run(unjudged), suite, data, judged=True)
