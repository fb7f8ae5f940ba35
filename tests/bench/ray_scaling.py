"""Two Ray nodes of one core against one, on trainings that are bound by the processor; and Ray against no Ray.

Beside the ratio stands what this machine allows at all: the same trainings by two plain processes against one. Since
other programs may have the machine as well, there is also how the cores were shared out, how long workers waited for a
unit, and the ratio by the processor time of the busiest worker.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import ray_account

import factories
import ray_nodes
from vlmed.data.load import DataLoader
from vlmed.evaluate.ray_crew import Share
from vlmed.evaluate.ray_executor import RayExecutor
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, plan
from vlmed.models.load import load_model
from vlmed.suite.load import load_suite

UNITS = int(sys.argv[1]) if len(sys.argv) > 1 else 16
TRAINED = {"epochs": 12, "patience": 12, "lr": [0.01], "batch_size": 8}


def on_ray(place: Path, name: str, workers: int) -> tuple[float, float]:
    """All units on so many workers, from the moment when all have loaded the model.

    Gives wall seconds and the processor seconds of the busiest worker.
    """
    suite, log = load_suite(place / "tasks.yaml"), place / f"{name}.log"
    (place / f"{name}-ready").mkdir()
    load = partial(ray_account.together, workers, place / f"{name}-ready", partial(load_model, f"dir:{place}/model"))
    runner_of = partial(Runner, suite, data=DataLoader(cache=place / "cache"), batch_size=16)
    timed = partial(ray_account.timed, log, runner_of)
    with RayExecutor(load, timed, share=Share(workers=workers)) as executor:
        runner = executor.runner(UNITS)
        with ray_account.Account() as account:
            start = time.monotonic()
            runner.run(
                plan(suite, ["lesion"], ["lora"], seeds=range(UNITS)), RunFolder(place / name), lambda unit, state: None
            )
            end = time.monotonic()
    print(f"{workers} node(s): {end - start:.1f} s. {ray_account.waits(log, start, end)}")
    print(f"  of all cores: {account.shares()}")
    return end - start, account.workers[0]


def here(place: Path, seeds: Sequence[int], start: Any, told: Any) -> None:
    """Units without Ray, in this process."""
    suite = load_suite(place / "tasks.yaml")
    runner = Runner(suite, load_model(f"dir:{place}/model"), DataLoader(cache=place / "cache"), 16)
    start.wait()
    begun, spent = time.monotonic(), time.process_time()
    folder = RunFolder(place / f"local-{len(seeds)}-{seeds[0]}")
    runner.run(plan(suite, ["lesion"], ["lora"], seeds=seeds), folder, lambda unit, state: None)
    told.put((time.monotonic() - begun, time.process_time() - spent))


def plain(place: Path, processes: int) -> tuple[float, float]:
    """The same by so many processes: wall and processor seconds of the one that took longest."""
    context = multiprocessing.get_context("spawn")
    start, told = context.Barrier(processes), context.Queue()
    started = [
        context.Process(target=here, args=(place, range(first, UNITS, processes), start, told))
        for first in range(processes)
    ]
    for process in started:
        process.start()
    seconds = max(told.get() for _ in started)
    for process in started:
        process.join()
    print(f"{processes} plain process(es): {seconds[0]:.1f} s, of them {seconds[1]:.1f} s of the processor")
    return seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        factories.tiny_open_clip(place / "model")
        ray_nodes.write_trainings(place / "tasks.yaml", TRAINED, patients=120)
        without = {count: plain(place, count) for count in (1, 2)}
        with ray_nodes.two_nodes():
            import ray

            # Workers can't import what lies beside this script.
            ray.cloudpickle.register_pickle_by_value(ray_account)
            ours = {count: on_ray(place, f"{count}", count) for count in (1, 2)}
        for what, part in (("the clock", 0), ("the processor time of the busiest", 1)):
            limit, ratio = (each[1][part] / each[2][part] for each in (without, ours))
            print(f"two against one by {what}: nodes {ratio:.2f} x (aim 1.7), plain processes {limit:.2f} x")
        print(f"one node against no Ray, by processor time: {ours[1][1] / without[1][1]:.2f} x")
        local = ray_nodes.content(place / f"local-{UNITS}-0")
        same = all(ray_nodes.content(place / f"{count}") == local for count in (1, 2))
        print("all runs identical" if same else "runs DIFFER")


if __name__ == "__main__":
    main()
