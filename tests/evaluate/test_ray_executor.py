"""Units on a real Ray on this machine: the same bytes as without, though a worker is killed on the way.

Ray takes long to start, so this is one run; tests/bench/ray_faults.py kills nodes and drivers too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

import ray_nodes
from vlmed.data.load import DataLoader
from vlmed.errors import UsageError
from vlmed.evaluate.ray_crew import Share
from vlmed.evaluate.ray_executor import RayExecutor
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, plan
from vlmed.models.load import load_model
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


def test_a_worker_that_fits_nowhere_is_refused(ray: Any, ours: Suite, tmp_path: Path) -> None:
    runner_of = partial(Runner, ours, data=DataLoader(cache=tmp_path))
    load = partial(load_model, "control:random")
    with RayExecutor(load, runner_of, share=Share(gpus=2)) as executor, pytest.raises(UsageError) as caught:
        executor.runner()
    assert "no node has room" in str(caught.value)
    assert "2 GPUs" in caught.value.problems[0].expected
    assert "2 CPUs and 0 GPUs" in caught.value.problems[0].got
