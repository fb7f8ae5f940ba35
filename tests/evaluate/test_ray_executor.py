"""Units on a real Ray on this machine: the same bytes as without, though a worker is killed on the way.

Ray takes long to start, so these are few runs; tests/bench/ray_faults.py kills nodes and drivers too.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
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
from vlmed.evaluate import features, ray_crew, ray_executor
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
from vlmed.tuning.trial import Trial

pytestmark = pytest.mark.slow

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
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False,
             # Else Ray lets all other programs go before its workers.
             _system_config={"worker_niceness": 0})  # fmt: skip
    # Workers can't import this module.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.shutdown()


# Two batches a shard; of the 120 images, no split has fewer than two shards.
SHARD, BATCH = 16, 8


def watched(model: Path, log: Path, after: Path | None = None) -> LoadedModel:
    """A model that takes its time, embeds nothing before there is a file, and tells who embeds what or trains."""
    embed, epoch = features.embed, Trial._epoch

    def tell(what: str) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {what}\n")

    def embed_and_tell(encoder: Any, pixels: torch.Tensor) -> Any:
        while after and not after.exists():
            time.sleep(0.1)
        tell(hashlib.sha256(pixels.numpy().tobytes()).hexdigest())
        time.sleep(0.1)
        return embed(encoder, pixels)

    def train_and_tell(self: Trial, number: int) -> None:
        epoch(self, number)
        tell(f"epoch {number}")
        time.sleep(0.5)

    # In the worker's own process, which ends with the run.
    features.embed = embed_and_tell
    Trial._epoch = train_and_tell  # type: ignore[method-assign]
    return load_model(f"dir:{model}")


def epochs(log: Path) -> dict[int, list[int]]:
    """By worker, the epochs it did."""
    by_worker: dict[int, list[int]] = {}
    for line in log.read_text().splitlines():
        worker, what, *number = line.split()
        if what == "epoch":
            by_worker.setdefault(int(worker), []).append(int(*number))
    return by_worker


def batches(log: Path) -> Counter[str]:
    """What was embedded, and how often."""
    return Counter(what for _, what, *epoch in map(str.split, log.read_text().splitlines()) if not epoch)


def embedders(log: Path) -> set[str]:
    """Workers that embedded something."""
    return {worker for worker, _, *epoch in map(str.split, log.read_text().splitlines()) if not epoch}


def own_cache(suite: Suite, caches: Path, model: LoadedModel) -> Runner:
    """A runner with a cache folder of this process's own, as on another machine."""
    return Runner(suite, model, DataLoader(cache=caches / str(os.getpid())), BATCH, keep_weights=True)


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
    runner = Runner(suite, load_model(f"dir:{model}"), DataLoader(cache=place / "alone"), BATCH, keep_weights=True)
    runner.run(units, RunFolder(place / "local"), lambda unit, state: None)
    return ray_nodes.content(place / "local")


def test_shards_survive_the_driver_and_a_worker_and_none_is_embedded_twice(
    ray: Any, ours: Suite, open_clip_model: Path, tmp_path: Path
) -> None:
    units, log, cache = plan(ours, ["lesion"], ["zero_shot", "linear_probe"]), tmp_path / "log", tmp_path / "cache"
    load, folder = partial(watched, open_clip_model, log), RunFolder(tmp_path / "run")
    executor = partial(RayExecutor, load, shard=SHARD)
    leaving = partial(Runner, ours, data=DataLoader(cache=cache, progress=Leaving()), batch_size=BATCH)
    with executor(leaving, share=Share(workers=1)) as first, pytest.raises(KeyboardInterrupt):
        first.runner().run(units, folder, lambda unit, state: None)
    assert not list((tmp_path / "run").glob("units/*")), "it had only done shards"
    assert list(cache.glob("features/*-*.npy"))
    killer = threading.Thread(target=ray_nodes.kill_a_worker, args=(cache, ".part.npy"))
    killer.start()
    runner_of = partial(Runner, ours, data=DataLoader(cache=cache), batch_size=BATCH)
    with executor(runner_of, share=Share(workers=1)) as second:
        second.runner().run(units, folder, lambda unit, state: None)
    killer.join()
    assert ray_nodes.content(folder.path) == locally(ours, open_clip_model, units, tmp_path)
    # The driver left a worker amid a shard, and another was killed: what each had under way is embedded again.
    assert batches(log).total() - len(batches(log)) <= 2 * SHARD // BATCH
    assert not [path for path in cache.rglob("*-*.npy") if path.is_file()], "ranges go once the whole is there"


def test_nodes_that_share_no_folder_get_what_others_embedded_and_how_far_a_lost_one_came(
    ray: Any, ours: Suite, open_clip_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "KEEP", 0.1)
    monkeypatch.setattr(ray_crew, "_LOOK", 0.2)
    units = plan(ours, ["lesion"], ["zero_shot", "linear_probe"]) + plan(ours, ["side"], ["lora"])
    log, caches, folder, told = tmp_path / "log", tmp_path / "caches", RunFolder(tmp_path / "run"), []
    kept = partial((caches / str(os.getpid())).glob, "ray/*/kept/*/*/trial-0.pt")

    def kill() -> None:
        ray_nodes.wait_for(lambda: any(kept()))
        os.kill(*epochs(log), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    # Then both workers are free to embed.
    load = partial(watched, open_clip_model, log, after=folder.outcome(units[-1]))
    with RayExecutor(load, partial(own_cache, ours, caches), shard=SHARD) as executor:
        executor.runner().run(units, folder, lambda unit, state: told.append((unit.id, state)))
    killer.join()
    assert ray_nodes.content(folder.path) == locally(ours, open_clip_model, units, tmp_path)
    assert validate_run(folder.path, ours).accepted
    assert sorted(name for name, _ in told) == sorted(unit.id for unit in units), "each is reported once"
    assert all(state.startswith("done in ") and state.endswith(", cpu") for _, state in told)
    assert batches(log).total() == len(batches(log)), "nothing is embedded twice"
    assert len(embedders(log)) == 2
    first, second = epochs(log).values()
    assert first[0] == 1
    assert 1 < second[0] <= first[-1] + 1, "the training does not begin anew"
    assert second[-1] == SHORT["epochs"]
    lost = str(next(iter(epochs(log))))
    left = [path for what in ("*/ray/**/*", "*/features/*-*.npy") for path in caches.glob(what) if path.is_file()]
    assert not [path for path in left if lost not in path.parts], "the others clear up after themselves"


def test_a_worker_that_fits_nowhere_is_refused(ray: Any, ours: Suite, tmp_path: Path) -> None:
    runner_of = partial(Runner, ours, data=DataLoader(cache=tmp_path))
    load = partial(load_model, "control:random")
    with RayExecutor(load, runner_of, share=Share(gpus=2)) as executor, pytest.raises(UsageError) as caught:
        executor.runner()
    assert "no node has room" in str(caught.value)
    assert "2 GPUs" in caught.value.problems[0].expected
    assert "2 CPUs and 0 GPUs" in caught.value.problems[0].got
