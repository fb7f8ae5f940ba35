"""What dies on the way, and what that costs: a worker, a node at 50 %, the driver. Every run ends with the same bytes.

On one machine: a Ray cluster of two one-core nodes. Prints how long each run took against the one that nothing befell,
by wall time and, since other programs may have the machine as well, by the processor time of the busiest worker; how
the cores were shared out; and whether all files of the run folder are equal but for times. A dead node of two costs 1.5
times the time at best, for half of the work is left then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import ray_account

import factories
import ray_nodes
from vlmed.data.load import DataLoader
from vlmed.evaluate.ray_executor import RayExecutor
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, plan
from vlmed.models.load import load_model
from vlmed.suite.load import load_suite

UNITS = 32
TRAINED = {"epochs": 6, "patience": 6, "lr": [0.01], "batch_size": 8}
ASKED = ["--tasks", "lesion", "--tracks", "lora", "--seeds", ",".join(map(str, range(UNITS)))]


def on_ray(place: Path, name: str, fault: Callable[[RunFolder], None] | None = None) -> tuple[float, float]:
    """Run all units from the moment when two workers have loaded the model; `fault` strikes beside it.

    Gives wall seconds and the processor seconds of the busiest worker.
    """
    suite, folder = load_suite(place / "tasks.yaml"), RunFolder(place / name)
    runner_of = partial(Runner, suite, data=DataLoader(cache=place / f"cache-{name}"), batch_size=16, keep_weights=True)
    striker = threading.Thread(target=fault, args=(folder,), daemon=True) if fault else None
    (place / f"{name}-ready").mkdir()
    load = partial(ray_account.together, 2, place / f"{name}-ready", partial(load_model, f"dir:{place}/model"))
    with RayExecutor(load, runner_of) as executor:
        runner = executor.runner(UNITS)
        with ray_account.Account() as account:
            if striker:
                striker.start()
            runner.run(plan(suite, ["lesion"], ["lora"], seeds=range(UNITS)), folder, lambda unit, state: None)
    if striker:
        striker.join()
    print(f"{name}: of all cores {account.shares()}")
    return account.wall, account.workers[0]


def half_done(folder: RunFolder) -> bool:
    return len(list((folder.path / "units").glob("*.json"))) >= UNITS // 2


def kill_worker(place: Path, folder: RunFolder) -> None:
    ray_nodes.wait_for(lambda: half_done(folder))
    ray_nodes.kill_a_worker(place / f"cache-{folder.path.name}")


def kill_node(cluster: Any, folder: RunFolder) -> None:
    ray_nodes.wait_for(lambda: half_done(folder))
    ray_nodes.lost_node(cluster)


def driver_killed(place: Path, address: str) -> tuple[int, int, bool]:
    """A driver killed at 50 % and started again: units finished before it died, units not repeated, all well."""
    code = "import sys; from vlmed.cli import main; sys.argv[0] = 'vlmed'; main()"
    run = [sys.executable, "-c", code, "run", "--suite", f"{place}/tasks.yaml", "--model", f"dir:{place}/model",
           "--out", f"{place}/driver", *ASKED, "--batch-size", "16", "--keep-weights", "--executor", "ray",
           "--ray-address", address]  # fmt: skip
    settings = os.environ | {"VLMED_CACHE": str(place / "cache-driver")}
    killed = subprocess.Popen(run, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ray_nodes.wait_for(lambda: half_done(RunFolder(place / "driver")) or killed.poll() is not None)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    finished = {path: path.stat().st_mtime_ns for path in (place / "driver" / "units").glob("*.json")}
    resumed = subprocess.run(run, env=settings, capture_output=True, text=True)
    untouched = sum(path.stat().st_mtime_ns == when for path, when in finished.items())
    return len(finished), untouched, resumed.returncode == 0


def same(place: Path, name: str) -> str:
    return "identical" if ray_nodes.content(place / name) == ray_nodes.content(place / "quiet") else "DIFFERENT"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ray_nodes.two_nodes() as cluster:
        import ray

        # Workers can't import what lies beside this script.
        ray.cloudpickle.register_pickle_by_value(ray_account)
        place = Path(folder)
        factories.tiny_open_clip(place / "model")
        ray_nodes.write_trainings(place / "tasks.yaml", TRAINED)
        quiet = on_ray(place, "quiet")
        print(f"{UNITS} trainings on two nodes, nothing dies: {quiet[0]:.1f} s, busiest worker {quiet[1]:.1f} s")
        for name, fault in (("worker", partial(kill_worker, place)), ("node", partial(kill_node, cluster))):
            wall, busiest = on_ray(place, name, fault)
            print(f"a {name} killed at 50 %: {wall:.1f} s, {wall / quiet[0]:.2f} x the time; busiest worker", end=" ")
            print(f"{busiest:.1f} s, {busiest / quiet[1]:.2f} x (aim 1.6); {same(place, name)}")
        ray_nodes.add_node(cluster)
        finished, untouched, well = driver_killed(place, cluster.address)
        print(f"the driver killed with {finished} of {UNITS} units finished and started again:", end=" ")
        print(f"{'finished' if well else 'FAILED'}, {untouched} of {finished} untouched, {same(place, 'driver')}")


if __name__ == "__main__":
    main()
