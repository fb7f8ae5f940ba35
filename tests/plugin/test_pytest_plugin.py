"""The plugin in a model repository of its own, which has a folder named `benchmark` and tests of its own."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import factories
import vlmed
import vlmed.evaluate.gate  # pytester drops what a session imported first, and torch can't be imported twice
from phantom_suites import write_phantom_suite
from vlmed.results.validate import validate_run

pytest_plugins = ["pytester"]

# A clone that was installed before the plugin was there has no entry point for it.
LOADED = any(point.value == "vlmed.pytest_plugin" for point in entry_points(group="pytest11"))
PLUGIN = () if LOADED else ("-p", "vlmed.pytest_plugin")
SHOT, PROBE = "lesion-v1.zero_shot-v1.s0.f100", "lesion-v1.linear_probe-v1.s0.f100"
MODEL = """
import sys
import pytest
sys.path.insert(0, {tests!r})

@pytest.fixture(scope="session")
def vlmed_model(tmp_path_factory):
    from own_models import OwnDual
    with open({log!r}, "a") as log:
        log.write("loaded\\n")
    return OwnDual()
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the task file and the cache of all sessions."""
    folder = tmp_path_factory.mktemp("shared")
    write_phantom_suite(folder / "tasks.yaml")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factories.tiny_open_clip(tmp_path_factory.mktemp("models") / "tiny-open-clip")


@pytest.fixture
def suite(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMED_CACHE", str(shared / "cache"))
    monkeypatch.delenv("VLMED_DATA", raising=False)
    return shared / "tasks.yaml"


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A repository with code in a folder named `benchmark`, and a test of it."""
    pytester.makepyfile(**{"benchmark/__init__": "OURS = True"})
    pytester.makepyfile(test_ours="import benchmark\n\ndef test_ours():\n    assert benchmark.OURS")
    return pytester


@pytest.fixture
def log(project: pytest.Pytester) -> Path:
    return project.path / "loads.txt"


@pytest.fixture
def own(project: pytest.Pytester, log: Path) -> None:
    """The repository's model is an object from a fixture; every load leaves a line in `log`."""
    project.makeconftest(MODEL.format(tests=str(Path(__file__).parents[1]), log=str(log)))


@pytest.fixture
def run(project: pytest.Pytester, suite: Path) -> Run:
    """pytest with the small suite, in this process."""

    def call(*arguments: object, fresh: bool = False) -> pytest.RunResult:
        texts = [*PLUGIN, f"--vlmed-suite={suite}", *map(str, arguments)]
        return project.runpytest_subprocess(*texts) if fresh else project.runpytest_inprocess(*texts)

    return call


@pytest.fixture
def oracle(suite: Path, tmp_path: Path) -> Path:
    """The run of a model that nothing can beat."""
    vlmed.evaluate("control:oracle", "lesion", "zero_shot,linear_probe", suite=suite, out=tmp_path / "oracle")
    return tmp_path / "oracle"


def thresholds(project: pytest.Pytester, *rules: str) -> None:
    """The repository's `vlmed.yaml`; rules in YAML's flow style."""
    (project.path / "vlmed.yaml").write_text("thresholds:\n" + "".join(f"- {{{rule}}}\n" for rule in rules))


def test_without_its_options_it_does_nothing(run: Run) -> None:
    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*vlmed::*")


def test_units_are_tests_with_ids(run: Run) -> None:
    options = ("--vlmed-tasks=les*,report", "--vlmed-tracks=zero_shot,*_retrieval,linear_probe", "--collect-only", "-q")
    every = {f"vlmed::{PROBE}", f"vlmed::{SHOT}", "vlmed::report-v1.zero_shot_retrieval-v1.s0.f100"}

    def ids(*more: str) -> set[str]:
        return {line for line in run(*options, *more).outlines if "::" in line}

    assert ids("--strict-markers") == every | {"test_ours.py::test_ours"}
    assert ids("-m", "vlmed") == every
    assert ids("-m", "not vlmed") == {"test_ours.py::test_ours"}
    assert ids("-k", "lesion and not probe") == {f"vlmed::{SHOT}"}
    assert ids(f"vlmed::{SHOT}") == {f"vlmed::{SHOT}"}
    assert ids(f"vlmed::{SHOT}", "test_ours.py") == {f"vlmed::{SHOT}", "test_ours.py::test_ours"}
    run(*options).stdout.fnmatch_lines(["4 tests collected*"])


def test_options_that_come_again_add_up(run: Run) -> None:
    apart = ("--vlmed-tasks=lesion", "--vlmed-tasks=report", "--vlmed-tracks=zero_shot,linear_probe")
    apart += ("--vlmed-tracks=*_retrieval", "--vlmed-fractions=0.5", "--vlmed-fractions=1", "--collect-only", "-q")
    ids = {line for line in run(*apart, "-m", "vlmed").outlines if "::" in line}
    assert ids == {
        f"vlmed::{SHOT}",
        f"vlmed::{PROBE}",
        f"vlmed::{PROBE.replace('f100', 'f50')}",
        "vlmed::report-v1.zero_shot_retrieval-v1.s0.f100",
    }


def test_shares_and_seeds_are_units(run: Run) -> None:
    options = ("--vlmed-tasks=lesion", "--vlmed-tracks=linear_probe", "--collect-only", "-q", "-m", "vlmed")
    result = run(*options, "--vlmed-fractions=0.5,1", "--vlmed-seeds=0,1")
    result.stdout.fnmatch_lines(["vlmed::lesion-v1.linear_probe-v1.s0.f50", f"vlmed::{PROBE}"])


def test_a_reference_is_evaluated_and_leaves_a_run(run: Run, clip: Path, suite: Path, tmp_path: Path) -> None:
    report, out = tmp_path / "junit.xml", tmp_path / "run"
    result = run(
        f"--vlmed-model=dir:{clip}", "--vlmed-tasks=lesion", f"--vlmed-out={out}", f"--junitxml={report}", "-v"
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"vlmed::{SHOT} PASSED*", f"vlmed::{SHOT}: auc 0.* (0.* to 0.*) on * samples (all)"])
    assert validate_run(out, vlmed.load_suite(suite)).accepted
    case = ElementTree.parse(report).find(".//testcase[@classname='vlmed']")
    assert case is not None
    assert case.get("name") == SHOT
    properties = {each.get("name"): each.get("value") for each in case.iter("property")}
    stored = vlmed.load_result(out).metrics[SHOT]
    assert properties["vlmed.auc"] == str(stored["auc"])
    assert {"vlmed.auc.low", "vlmed.auc.high", "vlmed.n", "vlmed.balanced_accuracy"} <= properties.keys()


@pytest.mark.usefixtures("own")
def test_an_object_from_a_fixture_is_loaded_once_and_held_against_thresholds(
    run: Run, project: pytest.Pytester, log: Path
) -> None:
    thresholds(project, "tracks: zero_shot, min: 0.99, better_than: 'control:random'", "metric: accuracy, min: 0")
    options = ("--vlmed-tasks=lesion", "--vlmed-tracks=zero_shot,linear_probe")
    result = run(*options)
    result.assert_outcomes(passed=2, failed=1)
    text = str(result.stdout)
    for part in (
        f"vlmed unit {SHOT}",
        "auc 0.",
        "min 0.99",
        "FAILED",
        "control:random",
        "the 10 worst samples",
        "said",
    ):
        assert part in text
    assert "Traceback" not in text
    assert log.read_text() == "loaded\n"
    again = run(*options, "--lf")
    again.assert_outcomes(failed=1)
    assert PROBE not in str(again.stdout)
    thresholds(project, "min: 0")
    alone = run(*options, f"vlmed::{SHOT}")
    alone.assert_outcomes(passed=1)


@pytest.mark.usefixtures("own")
def test_a_baseline_is_compared_by_a_paired_test(run: Run, oracle: Path) -> None:
    options = ("--vlmed-tasks=lesion", "-m", "vlmed")
    result = run(*options, f"--vlmed-baseline={oracle / 'result.json'}")
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["no worse than baseline*auc*1.0000*-0.*FAILED"])
    (oracle / "predictions" / f"{SHOT}.parquet").unlink()
    bare = run(*options, f"--vlmed-baseline={oracle}")
    bare.assert_outcomes(passed=1, deselected=1)
    bare.stdout.fnmatch_lines(["*unchecked: auc.no_worse_than_baseline"])
    strict = run(*options, f"--vlmed-baseline={oracle}", "--vlmed-strict")
    strict.assert_outcomes(failed=1, deselected=1)
    strict.stdout.fnmatch_lines(["no worse than baseline: there is no such*"])


def test_the_same_model_passes_its_own_baseline(run: Run, oracle: Path) -> None:
    options = ("--vlmed-tasks=lesion", "--vlmed-tracks=zero_shot,linear_probe", "--vlmed-strict")
    run(*options, "--vlmed-model=control:oracle", f"--vlmed-baseline={oracle}").assert_outcomes(passed=3)


@pytest.mark.parametrize(("strict", "outcome"), [((), "skipped"), (("--vlmed-strict",), "failed")])
def test_absent_data_skip_and_say_why(run: Run, strict: tuple[str, ...], outcome: str) -> None:
    options = ("--vlmed-model=control:majority", "--vlmed-tasks=chexpert,lesion", "-rs")
    result = run(*options, *strict)
    result.assert_outcomes(passed=2, **{outcome: 1})
    result.stdout.fnmatch_lines(["*next: Register at *accept the CheXpert research use agreement*"])
    assert "Traceback" not in str(result.stdout)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--vlmed-tasks=leson",), "'lesion'"),
        (("--vlmed-tasks=lesion", "--vlmed-tracks=zero_shoot"), "'zero_shot'"),
        (("--vlmed-tasks=lesion", "--vlmed-tracks=zero_shot_vqa"), "none of these tasks has any"),
        (("--vlmed-tasks=lesion", "--vlmed-fractions=half"), "takes numbers"),
        (("--vlmed-tasks=lesion", "--vlmed-fractions=2"), "fraction 2"),
        (("--vlmed-tasks=lesion", "--vlmed-model=control:majorty"), "'majority'"),
        (("--vlmed-tasks=lesion", "--vlmed-baseline=absent.json"), "there is no result here"),
        (("--vlmed-tasks=lesion", "--vlmed-thresholds=absent.yaml"), "no such file of thresholds"),
        (("--vlmed-tasks=lesion", "--vlmed-suite=absent.yaml"), "no such task file"),
        (("--vlmed-tasks=lesion", "vlmed::leson"), "unknown unit"),
        ((f"vlmed::{SHOT}",), "needs --vlmed-tasks"),
    ],
)
def test_wrong_use_ends_the_session(run: Run, options: tuple[str, ...], words: str) -> None:
    result = run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in str(result.stderr)
    assert "Traceback" not in str(result.stderr)


def test_a_wrong_file_of_thresholds_ends_the_session(run: Run, project: pytest.Pytester) -> None:
    thresholds(project, "tasks: leson, min: 0.5", "metric: auk, max: 1")
    result = run("--vlmed-tasks=lesion")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "$.thresholds[0].tasks" in str(result.stderr)
    assert "$.thresholds[1].metric" in str(result.stderr)


def test_models_that_can_not_be_had(run: Run, project: pytest.Pytester) -> None:
    none = run("--vlmed-tasks=lesion", "-m", "vlmed")
    none.assert_outcomes(errors=1, deselected=1)
    none.stdout.fnmatch_lines(["*no model is named*", "*--vlmed-model REF, or override the fixture vlmed_model*"])
    absent = run("--vlmed-tasks=lesion", "-m", "vlmed", f"--vlmed-model=dir:{project.path / 'absent'}")
    absent.assert_outcomes(errors=1, deselected=1)
    absent.stdout.fnmatch_lines(["*the model can't be loaded*"])
    project.makeconftest(MODEL.format(tests=str(Path(__file__).parents[1]), log="log").replace("OwnDual", "OwnImages"))
    unfit = run("--vlmed-tasks=lesion", "-m", "vlmed")
    unfit.assert_outcomes(failed=1, deselected=1)
    unfit.stdout.fnmatch_lines(["UsageError: OwnImages * can't follow zero_shot*", "*--tracks *linear_probe*"])


@pytest.mark.usefixtures("own")
def test_fixtures_for_own_tests(run: Run, project: pytest.Pytester) -> None:
    project.makepyfile(
        test_quality="""
        import vlmed

        def test_no_regression(vlmed_run, vlmed_model, request):
            suite = request.config.getoption("vlmed_suite")
            mine, worst = vlmed_run(tasks="lesion"), vlmed_run("control:majority", "lesion")
            assert mine.data["model"]["ref"] == "object:OwnDual"
            assert type(vlmed_model).__name__ == "OwnDual"
            vlmed.assert_no_regression(mine, mine, suite=suite)
            oracle = vlmed_run("control:oracle", "lesion", "zero_shot")
            vlmed.assert_no_regression(worst, oracle, suite=suite)

        def test_samples(vlmed_task):
            assert {sample.split for sample in vlmed_task("lesion").samples} == {"train", "val", "test"}

        def test_absent(vlmed_task):
            vlmed_task("chexpert")

        def test_absent_too(vlmed_run):
            vlmed_run(tasks="chexpert")
        """
    )
    result = run("test_quality.py")
    result.assert_outcomes(passed=1, failed=1, skipped=2)
    result.stdout.fnmatch_lines(["*AssertionError: the new run is worse*"])


@pytest.mark.usefixtures("own")
def test_the_ini_file(run: Run, project: pytest.Pytester, suite: Path) -> None:
    project.makeini("[pytest]\nvlmed_tasks = lesion\nvlmed_tracks = linear_probe\nvlmed_out = kept/run\n")
    run("test_ours.py").assert_outcomes(passed=1)
    run("--vlmed-tracks=zero_shot").assert_outcomes(passed=2)
    assert list(vlmed.load_result(project.path / "kept" / "run").metrics) == [SHOT]


def test_workers_load_once_each_and_write_one_result(
    run: Run, own: None, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ("--vlmed-tasks=lesion,report", "--vlmed-tracks=zero_shot,zero_shot_retrieval,linear_probe", "-n2")
    result = run(*options, f"--vlmed-out={tmp_path / 'run'}", "-p", "no:cacheprovider", fresh=True)
    result.assert_outcomes(passed=4)
    assert set(log.read_text().splitlines()) == {"loaded"}
    assert len(log.read_text().splitlines()) <= 2
    assert len(vlmed.load_result(tmp_path / "run").metrics) == 3
    result.stdout.fnmatch_lines([f"vlmed::{SHOT}: auc*"])
