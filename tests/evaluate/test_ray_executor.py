"""Units on a real Ray on this machine: the same bytes as without, though a worker is killed on the way.

Ray takes long to start, so these are few runs; tests/bench/ray_faults.py kills nodes and drivers too.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import ray_nodes
from vlmed.data.load import DataLoader
from vlmed.errors import UsageError
from vlmed.evaluate.ray_crew import Share
from vlmed.evaluate.ray_executor import RayExecutor
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, Unit, plan
from vlmed.models.load import load_model
from vlmed.models.protocols import LoadedModel
from vlmed.progress import Advance, Silent
from vlmed.results.validate import validate_run
from vlmed.suite.load import load_suite
from vlmed.suite.types import Suite

pytestmark = pytest.mark.slow

# Long enough for its worker to be killed in the middle of it.
SHORT = {"epochs": 5, "patience": 5, "lr": [0.01], "batch_size": 8}


@pytest.fixture(scope="module")
def ours(small_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    tree: dict[str, Any] = yaml.safe_load(small_suite.read_text())
    tree["tracks"]["lora@1"]["recipe"] |= SHORT
    tree["tracks"]["linear_probe@1"]["recipe"] = {"penalties": [1.0]}
    path = tmp_path_factory.mktemp("ray") / "tasks.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_suite(path)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
    # Workers can't import this module.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.shutdown()


def test_a_worker_is_killed_and_every_file_is_the_one_of_a_run_without_ray(
    ray: Any, ours: Suite, open_clip_model: Path, tmp_path: Path
) -> None:
    cache, told, killed = tmp_path / "cache", [], []
    units = plan(ours, ["side"], ["lora"]) + plan(ours, ["lesion"], ["zero_shot", "linear_probe"])
    load = partial(load_model, f"dir:{open_clip_model}")

    def kill() -> None:
        ray_nodes.wait_for(lambda: any(cache.glob("ray/*/scratch/*/trial-*.pt")))
        killed.append(ray_nodes.kill_a_worker(cache))

    killer = threading.Thread(target=kill)
    killer.start()
    runner_of = partial(Runner, ours, data=DataLoader(cache=cache), batch_size=16, keep_weights=True)
    with RayExecutor(load, runner_of) as executor:
        folder = RunFolder(tmp_path / "run")
        executor.runner().run(units, folder, lambda unit, state: told.append((unit.id, state)))
    killer.join()
    assert killed
    local = Runner(ours, load(), DataLoader(cache=tmp_path / "fresh"), 16, keep_weights=True)
    local.run(units, RunFolder(tmp_path / "local"), lambda unit, state: None)
    assert ray_nodes.content(folder.path) == ray_nodes.content(tmp_path / "local")
    assert validate_run(folder.path, ours).accepted
    assert sorted(name for name, _ in told) == sorted(unit.id for unit in units), "each is reported once"
    assert all(state.startswith("done in ") and state.endswith(", cpu") for _, state in told)
    assert not [path for path in (cache / "ray").rglob("*") if path.is_file()], "workers clear up after themselves"


# Two batches a shard; of the 120 images, no split has fewer than two shards.
SHARD, BATCH = 16, 8


def slow(model: Path, log: Path, workers: int = 1) -> LoadedModel:
    """A model that takes its time for each batch, once so many workers have it, and tells which ones it embeds."""
    loaded = load_model(f"dir:{model}")
    log.with_name(f"ready-{os.getpid()}").touch()
    encoder: Any = loaded.predictor
    embed = encoder.encode_images

    def slowly(pixels: torch.Tensor) -> torch.Tensor:
        while len(list(log.parent.glob("ready-*"))) < workers:
            time.sleep(0.1)
        with log.open("a") as file:
            file.write(f"{hashlib.sha256(pixels.numpy().tobytes()).hexdigest()}\n")
        time.sleep(0.1)
        return embed(pixels)  # type: ignore[no-any-return]

    encoder.encode_images = slowly
    return loaded


def own_cache(suite: Suite, caches: Path, model: LoadedModel) -> Runner:
    """A runner with a cache folder of this process's own, as on another machine."""
    return Runner(suite, model, DataLoader(cache=caches / str(os.getpid())), BATCH)


class Leaving(Silent):
    """Ends the program once some work is done, as Ctrl-C or the end of a job's time does."""

    @contextmanager
    def task(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        count = itertools.count(1)

        def advance(_: int) -> None:
            if description == "evaluating on Ray" and next(count) == 2:
                raise KeyboardInterrupt

        yield advance


def locally(suite: Suite, model: Path, units: list[Unit], place: Path) -> dict[str, Any]:
    Runner(suite, load_model(f"dir:{model}"), DataLoader(cache=place / "alone"), BATCH).run(
        units, RunFolder(place / "local"), lambda unit, state: None
    )
    return ray_nodes.content(place / "local")


def test_shards_survive_the_driver_and_a_worker_and_none_is_embedded_twice(
    ray: Any, ours: Suite, open_clip_model: Path, tmp_path: Path
) -> None:
    units, log, cache = plan(ours, ["lesion"], ["zero_shot", "linear_probe"]), tmp_path / "log", tmp_path / "cache"
    load, folder = partial(slow, open_clip_model, log), RunFolder(tmp_path / "run")
    executor = partial(RayExecutor, load, shard=SHARD)
    leaving = partial(Runner, ours, data=DataLoader(cache=cache, progress=Leaving()), batch_size=BATCH)
    with executor(leaving) as first, pytest.raises(KeyboardInterrupt):
        first.runner().run(units, folder, lambda unit, state: None)
    assert not list((tmp_path / "run").glob("units/*")), "it had only done shards"
    assert list(cache.glob("features/*-*.npy"))
    killer = threading.Thread(target=ray_nodes.kill_a_worker, args=(cache, ".part.npy"))
    killer.start()
    with executor(partial(Runner, ours, data=DataLoader(cache=cache), batch_size=BATCH)) as second:
        second.runner().run(units, folder, lambda unit, state: None)
    killer.join()
    assert ray_nodes.content(folder.path) == locally(ours, open_clip_model, units, tmp_path)
    batches = Counter(log.read_text().split())
    # The driver left two workers amid a shard, and one was killed: what each had under way is embedded again.
    assert sum(batches.values()) - len(batches) <= 3 * SHARD // BATCH
    assert not [path for path in cache.rglob("*-*.npy") if path.is_file()], "ranges go once the whole is there"


def test_nodes_that_share_no_folder_get_what_others_embedded(
    ray: Any, ours: Suite, open_clip_model: Path, tmp_path: Path
) -> None:
    units, log, caches = plan(ours, ["lesion"], ["zero_shot", "linear_probe"]), tmp_path / "log", tmp_path / "caches"
    load, folder = partial(slow, open_clip_model, log, workers=2), RunFolder(tmp_path / "run")
    with RayExecutor(load, partial(own_cache, ours, caches), shard=SHARD) as executor:
        executor.runner().run(units, folder, lambda unit, state: None)
    assert len(list(caches.iterdir())) == 3, "two workers' and the driver's own"
    assert ray_nodes.content(folder.path) == locally(ours, open_clip_model, units, tmp_path)
    batches = log.read_text().split()
    assert len(batches) == len(set(batches)), "nothing is embedded twice"
    assert not [path for path in caches.rglob("*-*.npy") if path.is_file()]


def test_a_worker_that_fits_nowhere_is_refused(ray: Any, ours: Suite, tmp_path: Path) -> None:
    runner_of = partial(Runner, ours, data=DataLoader(cache=tmp_path))
    load = partial(load_model, "control:random")
    with RayExecutor(load, runner_of, share=Share(gpus=2)) as executor, pytest.raises(UsageError) as caught:
        executor.runner()
    assert "no node has room" in str(caught.value)
    assert "2 GPUs" in caught.value.problems[0].expected
    assert "2 CPUs and 0 GPUs" in caught.value.problems[0].got
