"""What users pay for, counted and compared with what `guard.json` holds. It tells, and never fails on noise.

    python tests/bench/guard.py [WORKLOAD ...] [--store] [--strict] [--figures FILE]

Nothing is in seconds:

steps     bytecode instructions that vlmed's own code executes: equal on every machine with one minor version of Python
modules   modules that a command imports, its libraries' among them
time      processor time over that of the bare equivalent, alternating in one run; the median of nine rounds
machine   the same in machine instructions, where Linux counts them for us; compared on one kind of CPU only

A change is `noise` as long as the spreads of both runs explain it, and `same` below the least change of its kind that
is told. The exit code is 0, with --strict 1 where anything is worse or can't run. --store writes what was found.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import platform
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

import vlmed
from vlmed.files import read_json, write_json
from vlmed.leaderboard.together import unswept

STORED = Path(__file__).with_suffix(".json")
OURS = str(Path(vlmed.__file__).parent)
ROUNDS = 9
# The least change that is told. Processor times move with the kind of machine, counts with a library's patch release.
LEAST = {"steps": 0.01, "modules": 0.02, "time": 0.25, "machine": 0.03}
PACKAGES = ("numpy", "torch", "pillow", "pyarrow")
IMPORTED = """
import atexit, sys
atexit.register(lambda: print(len(sys.modules), file=sys.stderr))
sys.argv[0] = "vlmed"
from vlmed.cli import main
main()
"""
# Linux: the number of the system call perf_event_open by machine.
_PERF = {"x86_64": 298, "aarch64": 241}


class Figure(NamedTuple):
    """A value and by what share of it repeated measurements lay apart."""

    value: float
    noise: float = 0.0


Call = Callable[[], object]
# The figures of one workload by kind, or why there are none.
Found = Mapping[str, Figure] | str


def steps(work: Call, below: str = OURS) -> int:
    """Bytecode instructions that `work` executes in files below a folder, in all threads that it starts."""
    count = 0

    def inside(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "opcode"
        return inside

    def entered(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(below):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return inside

    before = sys.gettrace()
    threading.settrace(entered)
    sys.settrace(entered)
    try:
        work()
    finally:
        sys.settrace(before)
        threading.settrace(None)
    return count


def modules(command: Sequence[str]) -> int:
    """How many modules are imported when a command ends."""
    done = subprocess.run([sys.executable, "-c", IMPORTED, *command], capture_output=True, text=True, check=True)
    return int(done.stderr.split()[-1])


def machine_counter() -> Callable[[], float] | None:
    """Machine instructions so far, of this thread and of all it starts from now on; None where nobody may count."""
    if sys.platform != "linux" or platform.machine() not in _PERF:
        return None
    # perf_event_attr: hardware, its size, instructions; inherited by threads, without those of kernel and hypervisor.
    wanted = struct.pack("IIQQQQQIIQ", 0, 64, 1, 0, 0, 0, 1 << 1 | 1 << 5 | 1 << 6, 0, 0, 0)
    file = ctypes.CDLL(None).syscall(_PERF[platform.machine()], wanted, 0, -1, -1, 0)
    if file < 0:
        return None
    return lambda: float(struct.unpack("Q", os.read(file, 8))[0])


def ratio(ours: Call, bare: Call, counter: Callable[[], float], rounds: int = ROUNDS) -> Figure:
    """What ours takes over what the bare takes: the median of alternating rounds."""

    def took(work: Call) -> float:
        start = counter()
        work()
        return counter() - start

    gc.collect()
    with unswept():
        ratios = [took(ours) / took(bare) for _ in range(rounds)]
    low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
    # About two standard errors of the median.
    return Figure(round(float(middle), 4), round(float((high - low) / middle / rounds**0.5), 4))


def measure(ours: Call, bare: Call | None, machine: Callable[[], float] | None) -> dict[str, Figure]:
    """All figures of one piece of work, once it is warm."""
    ours()
    first, second = steps(ours), steps(ours)
    found = {"steps": Figure(first, round(abs(first - second) / max(1, first), 4))}
    if bare:
        bare()
        found["time"] = ratio(ours, bare, time.process_time)
        if machine:
            found["machine"] = ratio(ours, bare, machine, 3)
    return found


def verdict(kind: str, stored: Figure, now: Figure) -> str:
    """`same`, `better`, `worse`, or `noise` where the spreads explain the change."""
    change = now.value / stored.value - 1
    if abs(change) <= LEAST[kind]:
        return "same"
    if abs(change) <= stored.noise + now.noise:
        return "noise"
    return "worse" if change > 0 else "better"


def versions() -> dict[str, str]:
    """Under which figures are stored."""
    cpu = platform.processor()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return {"python": platform.python_version(), "cpu": cpu, **{name: metadata.version(name) for name in PACKAGES}}


def other(kind: str, stored: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Why figures of a kind can't be compared; empty where they can."""
    minors = [each["python"].rpartition(".")[0] for each in (stored, here)]
    if minors[0] != minors[1]:
        return f"not comparable: stored under Python {minors[0]}"
    return "not comparable: stored on another CPU" if kind == "machine" and stored["cpu"] != here["cpu"] else ""


def rows(stored: Mapping[str, Any], now: Mapping[str, Found], here: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Workload and kind, stored, now, change, verdict."""
    for name, figures in now.items():
        if isinstance(figures, str):
            yield name, "", "", "", figures
            continue
        for kind, figure in figures.items():
            known = stored["figures"].get(name, {}).get(kind)
            told = _shown(kind, figure)
            if known is None:
                yield f"{name}: {kind}", "", told, "", "new"
                continue
            before, why = Figure(*known), other(kind, stored["versions"], here)
            change = "" if why else f"{100 * (figure.value / before.value - 1):+.1f} %"
            yield f"{name}: {kind}", _shown(kind, before), told, change, why or verdict(kind, before, figure)


def _shown(kind: str, figure: Figure) -> str:
    return f"{figure.value:,.{0 if kind in ('steps', 'modules') else 2}f}"


def found(names: Sequence[str]) -> dict[str, Found]:
    """The figures of these workloads, or of all."""
    machine = machine_counter()  # before any library starts threads
    from guard_workloads import COMMANDS, WORKLOADS

    def of(name: str) -> Found:
        try:
            if name in COMMANDS:
                return {"modules": Figure(modules(COMMANDS[name]))}
            (folder := Path(scratch) / name).mkdir()
            work = WORKLOADS[name](folder)
            return measure(work.ours, work.bare, machine)
        except Exception as error:  # one that can't run must not hide the others
            return f"can't run: {type(error).__name__}: {error}"

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["VLMED_CACHE"] = str(Path(scratch) / "cache")
        return {name: of(name) for name in names or (*COMMANDS, *WORKLOADS)}


def table(lines: Sequence[Sequence[str]]) -> str:
    """Columns, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, tail = f"{{:{widths[0]}}}", "".join(f"  {{:>{width}}}" for width in widths[1:4]) + "  {}"
    return "\n".join((head + tail).format(*line) for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workloads", nargs="*")
    parser.add_argument("--store", action="store_true", help="keep what was found as the new figures")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where anything is worse")
    parser.add_argument("--figures", type=Path, default=STORED, help="where figures are stored")
    asked = parser.parse_args()
    if asked.store and asked.workloads:
        parser.error("--store keeps figures of one run, so it takes no names")
    held = read_json(asked.figures) if asked.figures.exists() else {"versions": versions(), "figures": {}}
    start, now, here = sum(os.times()[:4]), found(asked.workloads), versions()
    lines = list(rows(held, now, here))
    print(table([("workload", "stored", "now", "change", "verdict"), *lines]))
    bad = [line[0] for line in lines if line[-1].startswith(("worse", "can't run"))]
    seconds = sum(os.times()[:4]) - start
    print(f"{len(lines)} figures; worse or broken: {', '.join(bad) or 'none'}; {seconds:.0f} s of processor")
    if asked.store:
        kept = {name: figures for name, figures in now.items() if not isinstance(figures, str)}
        write_json(asked.figures, {"versions": here, "figures": kept})
    return int(asked.strict and bool(bad))


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets decides how many steps some loops take; a second thread, how long products take.
        os.execve(
            sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        )
    sys.exit(main())
