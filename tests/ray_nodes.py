"""A Ray cluster of two one-core nodes on this machine, for the tests and benches that run units on it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from phantom_suites import write_phantom_suite

# What differs between two runs of the same units.
TIMES = {"wall_seconds", "seconds", "images_per_second", "data_wait_seconds", "environment"}


@contextmanager
def two_nodes(cpus: float = 1) -> Iterator[Any]:
    """The cluster, with this process connected to it; nodes are found dead within seconds instead of half a minute."""
    # Set before Ray is imported: tests leave no token in the user's home.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray.cluster_utils import Cluster

    quick = {
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 2000,
        "health_check_failure_threshold": 3,
        "health_check_initial_delay_ms": 500,
        # Else Ray lets all other programs go before its workers, and what is measured is those.
        "worker_niceness": 0,
    }
    store = 80 * 2**20
    head = {"num_cpus": cpus, "object_store_memory": store, "include_dashboard": False, "_system_config": quick}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    try:
        add_node(cluster, cpus)
        ray = connect(cluster)
        try:
            yield cluster
        finally:
            ray.shutdown()
    finally:
        cluster.shutdown()


def connect(cluster: Any) -> Any:
    """Connect this process as `vlmed run` would; gives the module `ray`."""
    from vlmed.evaluate.ray_crew import connected

    return connected(cluster.address)


def add_node(cluster: Any, cpus: float = 1) -> Any:
    """Another node, once it is up."""
    node = cluster.add_node(num_cpus=cpus, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    return node


def lost_node(cluster: Any) -> None:
    """Kill the newest node's processes, as a machine that is switched off does."""
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)


def kill_a_worker(cache: Path, ending: str = "") -> int:
    """SIGKILL a worker process as soon as one has a file of this cache folder open; gives its id.

    Args:
        ending: Of the file's name.
    """
    process: int = wait_for(lambda: _at_work(cache, ending))
    os.kill(process, signal.SIGKILL)
    return process


def _at_work(cache: Path, ending: str) -> int | None:
    """The id of such a process."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = (process / "cmdline").read_bytes().startswith(b"ray::Worker")
            names = [str(file.readlink()) for file in (process / "fd").iterdir()] if ours else []
        except OSError:
            continue
        if any(str(cache) in name and name.endswith(ending) for name in names):
            return int(process.name)
    return None


def write_trainings(path: Path, recipe: dict[str, Any], patients: int = 60) -> None:
    """A task file whose `lora` trains by this recipe."""
    write_phantom_suite(path, patients)
    tree = yaml.safe_load(path.read_text())
    tree["tracks"]["lora@1"]["recipe"] |= recipe
    path.write_text(yaml.safe_dump(tree, sort_keys=False))


def wait_for(true: Callable[[], Any], seconds: float = 600) -> Any:
    """Wait until something holds; gives it."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return value


def content(run: Path) -> dict[str, Any]:
    """Every file of a run folder by name, without times and without the place."""
    return {
        path.relative_to(run).as_posix(): timeless_file(path) for path in sorted(run.rglob("*")) if path.is_file()
    }  # fmt: skip


def timeless_file(path: Path) -> Any:
    """What a file holds, without times and without the place."""
    if path.suffix == ".jsonl":
        return [_without(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix != ".json":
        return path.read_bytes()
    value = _without(json.loads(path.read_text()))
    if path.name == "adapter_config.json":
        # PEFT writes a set, whose order changes from process to process.
        value["target_modules"].sort()
    return value


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without(each) for name, each in value.items() if name not in TIMES}
    return [_without(each) for each in value] if isinstance(value, list) else value
