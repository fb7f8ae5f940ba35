"""Two Ray nodes of one core against one, on trainings that are bound by the processor; and Ray against no Ray.

On a machine with other work, wall time says little about two cores. So beside it stands the processor time that each
worker spent on units: the busiest of two against the only one is the speed-up that two free cores would show, less what
workers wait for the driver.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import factories
import ray_nodes
from vlmed.data.load import DataLoader
from vlmed.evaluate.ray_crew import Share
from vlmed.evaluate.ray_executor import RayExecutor
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, plan
from vlmed.models.load import load_model
from vlmed.suite.load import load_suite

UNITS, ROUNDS = 12, 2
TRAINED = {"epochs": 8, "patience": 8, "lr": [0.01], "batch_size": 8}


def on_ray(place: Path, name: str, workers: int) -> tuple[float, list[float]]:
    """All units on so many workers: wall seconds from the first unit handed out, and processor seconds by worker."""
    suite, watch = load_suite(place / "tasks.yaml"), ray_nodes.Watch()
    runner_of = partial(Runner, suite, data=DataLoader(cache=place / "cache"), batch_size=16)
    with RayExecutor(partial(load_model, f"dir:{place}/model"), runner_of, share=Share(workers=workers)) as executor:
        runner = executor.runner(UNITS)
        watch.start()
        start = time.monotonic()
        runner.run(
            plan(suite, ["lesion"], ["lora"], seeds=range(UNITS)), RunFolder(place / name), lambda unit, state: None
        )
        return time.monotonic() - start, watch.seconds()


def here(place: Path) -> tuple[float, float]:
    """All units without Ray: wall and processor seconds."""
    suite = load_suite(place / "tasks.yaml")
    runner = Runner(suite, load_model(f"dir:{place}/model"), DataLoader(cache=place / "cache"), 16)
    start, spent = time.monotonic(), time.process_time()
    runner.run(
        plan(suite, ["lesion"], ["lora"], seeds=range(UNITS)), RunFolder(place / "local"), lambda unit, state: None
    )
    return time.monotonic() - start, time.process_time() - spent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ray_nodes.two_nodes():
        place = Path(folder)
        factories.tiny_open_clip(place / "model")
        ray_nodes.write_trainings(place / "tasks.yaml", TRAINED, patients=120)
        wall, spent = here(place)
        print(f"{UNITS} trainings without Ray: {wall:.1f} s, of them {spent:.1f} s of the processor")
        walls: dict[int, list[float]] = {1: [], 2: []}
        shares: dict[int, list[float]] = {1: [], 2: []}
        for number in range(ROUNDS):
            for workers in (1, 2):
                wall, by_worker = on_ray(place, f"{workers}-{number}", workers)
                walls[workers].append(wall)
                shares[workers].append(by_worker[0])
                each = ", ".join(f"{seconds:.1f}" for seconds in by_worker)
                print(f"{workers} node(s): {wall:.1f} s; processor seconds on units, by worker: {each}")
        for what, seconds in (("wall time", walls), ("processor time of the busiest worker", shares)):
            ratio = statistics.median(seconds[1]) / statistics.median(seconds[2])
            print(f"two nodes against one, by {what}: {ratio:.2f} x (aim 1.7)")
        print(f"one node against no Ray, by processor time: {statistics.median(shares[1]) / spent:.2f} x")
        same = all(
            ray_nodes.content(place / f"{workers}-{number}") == ray_nodes.content(place / "local")
            for workers in (1, 2)
            for number in range(ROUNDS)
        )
        print("all runs identical" if same else "runs DIFFER")


if __name__ == "__main__":
    main()
