"""The guard sees a planted slowdown, and cries on nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parent / "bench"
HERE = {"python": "3.11.7", "cpu": "one"}


@pytest.fixture(scope="module")
def guard() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCH))
    import guard

    yield guard
    sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def workloads(guard: ModuleType) -> ModuleType:
    import guard_workloads

    return guard_workloads


def loop(times: int = 1000) -> int:
    return sum(number * number for number in range(times))


def test_steps_are_equal_in_equal_runs_and_double_in_double_work(guard: ModuleType) -> None:
    here = str(Path(__file__).parent)
    once = guard.steps(loop, here)
    assert once == guard.steps(loop, here) > 1000
    assert guard.steps(lambda: (loop(), loop()), here) == pytest.approx(2 * once, rel=0.01)


def test_steps_of_libraries_are_not_counted(guard: ModuleType, tmp_path: Path) -> None:
    assert guard.steps(loop, str(tmp_path)) == 0


def test_steps_in_threads_are_counted(guard: ModuleType) -> None:
    def in_a_thread() -> None:
        worker = threading.Thread(target=loop)
        worker.start()
        worker.join()

    assert guard.steps(in_a_thread, __file__) > guard.steps(loop, __file__)


def test_whoever_traced_before_traces_afterwards(guard: ModuleType) -> None:
    before = sys.gettrace()
    with pytest.raises(ZeroDivisionError):
        guard.steps(lambda: 1 / 0)
    assert sys.gettrace() is before


def test_a_workload_that_does_double_work_is_told_worse(guard: ModuleType, workloads: Any, tmp_path: Path) -> None:
    work = workloads.answers(tmp_path)
    stored = guard.measure(work.ours, None, None)
    again = guard.measure(work.ours, None, None)
    planted = guard.measure(lambda: (work.ours(), work.ours()), None, None)
    verdicts = [guard.verdict("steps", stored["steps"], now["steps"]) for now in (again, planted)]
    assert verdicts == ["same", "worse"]
    assert guard.verdict("steps", planted["steps"], stored["steps"]) == "better"


def test_a_native_slowdown_shows_in_the_ratio(guard: ModuleType) -> None:
    spent = [0.0]

    def native(cost: float = 1.0) -> None:
        spent[0] += cost

    def of(cost: float) -> Any:
        return guard.ratio(lambda: native(cost), native, lambda: spent[0])

    assert of(3).value == 3
    assert of(3).noise == 0
    assert guard.verdict("time", of(3), of(6)) == "worse"


def test_scattered_rounds_make_the_ratio_noisy(guard: ModuleType) -> None:
    costs = iter([1, 1, 2, 1] * 5)  # ours costs 1 and 2 in turn
    spent = [0.0]

    def work() -> None:
        spent[0] += next(costs)

    figure = guard.ratio(work, work, lambda: spent[0], rounds=10)
    assert figure.value == pytest.approx(1.5)
    assert figure.noise == pytest.approx(1 / 1.5 / 10**0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "stored", "now", "told"),
    [
        ("steps", (1000, 0.0), (1009, 0.0), "same"),
        ("steps", (1000, 0.0), (1011, 0.0), "worse"),
        ("steps", (1000, 0.0), (989, 0.0), "better"),
        ("steps", (1000, 0.02), (1030, 0.02), "noise"),
        ("steps", (1000, 0.02), (1050, 0.02), "worse"),
        ("time", (2.0, 0.0), (2.4, 0.0), "same"),
        ("time", (2.0, 0.3), (3.0, 0.3), "noise"),
        ("time", (2.0, 0.1), (3.0, 0.1), "worse"),
        ("machine", (2.0, 0.0), (2.1, 0.0), "worse"),
    ],
)
def test_a_verdict(guard: ModuleType, kind: str, stored: Any, now: Any, told: str) -> None:
    assert guard.verdict(kind, guard.Figure(*stored), guard.Figure(*now)) == told


def lines(guard: ModuleType, stored: dict[str, str], now: Any, here: dict[str, str]) -> list[tuple[str, ...]]:
    held = {"versions": stored, "figures": {"work": {"steps": [100, 0.0], "machine": [2.0, 0.0]}}}
    return list(guard.rows(held, now, here))


def test_figures_of_another_python_or_cpu_are_not_compared(guard: ModuleType) -> None:
    now = {"work": {"steps": guard.Figure(300), "machine": guard.Figure(6.0)}}
    told = lines(guard, HERE, now, HERE | {"python": "3.12.1"})
    assert [line[3:] for line in told] == [("", "not comparable: stored under Python 3.11")] * 2
    steps, machine = lines(guard, HERE, now, HERE | {"python": "3.11.9", "cpu": "another"})
    assert steps == ("work: steps", "100", "300", "+200.0 %", "worse")
    assert machine[3:] == ("", "not comparable: stored on another CPU")


def test_what_was_never_stored_is_new_and_what_is_broken_says_why(guard: ModuleType) -> None:
    now = {"other": {"steps": guard.Figure(7)}, "work": "can't run: ValueError: no"}
    assert [line[-1] for line in lines(guard, HERE, now, HERE)] == ["new", "can't run: ValueError: no"]


def test_the_counter_of_machine_instructions_counts_or_is_absent(guard: ModuleType) -> None:
    counter = guard.machine_counter()
    if counter is None:
        pytest.skip("this system lets nobody count")
    before = counter()
    loop(100_000)
    assert counter() - before > 100_000


PLANTED = """
from guard_workloads import Work, answers
def doubled(folder):
    work = answers(folder)
    return Work(lambda: (work.ours(), work.ours()))
def broken(folder):
    raise ValueError("on purpose")
"""


def run(figures: Path, *words: str, planted: str = "") -> subprocess.CompletedProcess[str]:
    """The script as CI runs it; `planted` stands in for the workload `answers`."""
    stand_in = f"guard_workloads.WORKLOADS['answers'] = {planted}" if planted else ""
    code = (
        f"import sys; sys.path.insert(0, {str(BENCH)!r})\nimport guard, guard_workloads\n{PLANTED}\n{stand_in}\n"
        "sys.exit(guard.main())"
    )
    command = [sys.executable, "-c", code, *words, "--figures", str(figures)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def stored(guard: ModuleType, workloads: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guard")
    work = workloads.answers(folder)
    figures = {"answers": guard.measure(work.ours, None, None)}
    (folder / "guard.json").write_text(json.dumps({"versions": guard.versions(), "figures": figures}))
    return folder / "guard.json"


def test_an_equal_run_is_the_same(stored: Path) -> None:
    done = run(stored, "answers", "--strict")
    assert (done.returncode, done.stdout.splitlines()[1].split()[-1]) == (0, "same"), done.stdout + done.stderr


def test_a_slowdown_is_told_and_fails_only_if_asked(stored: Path) -> None:
    for words, code in (((), 0), (("--strict",), 1)):
        done = run(stored, "answers", *words, planted="doubled")
        assert done.returncode == code, done.stderr
        assert "+100" in done.stdout
        assert done.stdout.splitlines()[1].split()[-1] == "worse"
        assert "worse or broken: answers: steps" in done.stdout


def test_a_workload_that_cannot_run_is_told(stored: Path) -> None:
    done = run(stored, "answers", planted="broken")
    assert done.returncode == 0
    assert "can't run: ValueError: on purpose" in done.stdout


def test_part_of_the_figures_is_never_stored(stored: Path) -> None:
    before = stored.read_bytes()
    done = run(stored, "answers", "--store")
    assert done.returncode == 2
    assert stored.read_bytes() == before


def test_what_is_stored_is_what_there_is(guard: ModuleType, workloads: Any) -> None:
    stored = json.loads(guard.STORED.read_text())
    assert set(stored["figures"]) == {*workloads.WORKLOADS, *workloads.COMMANDS}
    assert {"python", "cpu", "numpy"} <= set(stored["versions"])
