"""What the Ray executor is made of, without Ray: the order of units, a worker, the crew's patience, the options."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import ray_nodes
from vlmed.cli import app
from vlmed.data.load import DataLoader
from vlmed.data.table import Sample
from vlmed.errors import InputError, MissingError, UsageError, VlmedError
from vlmed.evaluate import blocks, features, ray_files
from vlmed.evaluate.ray_crew import PATIENCE, Crew, Lost, Share, connected
from vlmed.evaluate.ray_worker import Done, Elsewhere, Worker
from vlmed.evaluate.run import Runner
from vlmed.evaluate.shards import Shard
from vlmed.evaluate.unit_queue import UnitQueue
from vlmed.evaluate.units import RunFolder, Unit, plan
from vlmed.hashing import pixel_hash
from vlmed.models.load import load_model
from vlmed.models.protocols import Kind, LoadedModel, ModelInfo, Request
from vlmed.progress import Silent
from vlmed.suite.types import SPLITS, Suite


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def queue(suite: Suite, cache: Path, units: list[Unit], kind: Kind = "dual_encoder", width: int = 10_000) -> UnitQueue:
    loader = DataLoader(cache=cache)
    tables = {unit.task.id: loader.table(unit.task) for unit in units}
    return UnitQueue(units, [tables[unit.task.id] for unit in units], loaded("a" * 40, kind), width)


def taken(waiting: UnitQueue) -> list[str]:
    """What may be under way at once: units by track and fraction, shards by what they cover."""
    told = []
    while work := waiting.take():
        if isinstance(work, Shard):
            told.append(f"{work.split} {work.start}-{work.stop}")
        else:
            told.append(f"{work.task.name}.{work.track.name}.{work.fraction:g}")
    return told


def test_units_that_embed_the_same_images_wait_for_the_first(suite: Suite, cache: Path) -> None:
    units = plan(suite, ["lesion"], ["zero_shot", "linear_probe", "lora"], fractions=[0.5, 1.0])
    waiting = queue(suite, cache, units)
    # A tuned encoder's features are its own, so trainings wait for nobody.
    assert taken(waiting) == ["lesion.lora.1", "lesion.lora.0.5", "lesion.zero_shot.1"]
    waiting.done(units[0])
    # The probe on half of train embeds val, which that on all of train needs too.
    assert taken(waiting) == ["lesion.linear_probe.0.5"]
    waiting.done(units[1])
    assert taken(waiting) == ["lesion.linear_probe.1"]
    assert waiting.left == len(units) - 2


def test_other_images_need_not_wait(suite: Suite, cache: Path) -> None:
    units = plan(suite, ["lesion", "side"], ["zero_shot"])
    assert taken(queue(suite, cache, units)) == ["lesion.zero_shot.1", "side.zero_shot.1"]


def test_what_embeds_nothing_waits_for_nobody(suite: Suite, cache: Path) -> None:
    units = plan(suite, ["lesion"], ["zero_shot", "linear_probe"])
    assert len(taken(queue(suite, cache, units, "control"))) == 2


def test_the_longest_training_comes_first(suite: Suite, cache: Path) -> None:
    units = plan(suite, ["side", "lesion"], ["zero_shot", "lora"], fractions=[0.1, 1.0, 0.5])
    told = taken(queue(suite, cache, units))
    trainings, others = told[:6], told[6:]
    # Only lesions have a side, so the other task has more samples.
    ours = [name for name in trainings if name.startswith("lesion")]
    assert ours == ["lesion.lora.1", "lesion.lora.0.5", "lesion.lora.0.1"]
    assert trainings[0] == "lesion.lora.1"
    assert trainings[-1] == "side.lora.0.1"
    assert others == ["side.zero_shot.1", "lesion.zero_shot.1"], "in the order asked for"


def test_a_lost_unit_comes_first_again(suite: Suite, cache: Path) -> None:
    units = plan(suite, ["lesion"], ["zero_shot", "lora"], seeds=[0, 1])
    waiting = queue(suite, cache, units)
    first = waiting.take()
    assert first
    waiting.put_back(first)
    assert waiting.take() is first


@pytest.fixture
def worker(suite: Suite, cache: Path) -> Worker:
    runner_of = partial(Runner, suite, data=DataLoader(cache=cache))
    worker = Worker(partial(load_model, "control:random"), runner_of, {})
    assert worker.start().info.name == "random"
    return worker


def test_a_worker_hands_over_the_files_of_a_run_in_pieces(
    worker: Worker, suite: Suite, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_files, "PIECE", 1000)
    (unit,) = plan(suite, ["lesion"], ["zero_shot"])
    done = worker.do("one", unit)
    assert list(done.files)[-1] == f"ray/one/units/{unit.id}.json", "what makes a unit finished comes last"
    for name, size in done.files.items():
        pieces = [worker.piece(name, start) for start in range(0, size, 1000)]
        assert all(len(piece) <= 1000 for piece in pieces)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"".join(pieces))
    assert RunFolder(tmp_path / "ray" / "one").finished(unit)
    worker.forget(unit)
    assert not [path for path in (cache / "ray" / "one").rglob(f"{unit.id}*") if path.parent.name != "locks"]
    worker.leave("one")
    assert not (cache / "ray" / "one").exists()


def test_a_unit_that_was_finished_and_not_fetched_is_not_done_again(worker: Worker, suite: Suite) -> None:
    (unit,) = plan(suite, ["lesion"], ["zero_shot"])
    first = worker.do("two", unit)
    cost = json.loads(worker.piece(f"ray/two/units/{unit.id}.json", 0))["cost"]
    assert worker.do("two", unit).files == first.files
    assert json.loads(worker.piece(f"ray/two/units/{unit.id}.json", 0))["cost"] == cost


def test_a_workers_own_settings_go_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMED_CACHE", "/node")
    monkeypatch.setenv("VLMED_DATA", "before")  # so that what the worker sets is taken back
    monkeypatch.delenv("VLMED_DATA")
    Worker(lambda: None, lambda model: None, {"VLMED_CACHE": "/driver", "VLMED_DATA": "/data"})  # type: ignore
    assert (os.environ["VLMED_CACHE"], os.environ["VLMED_DATA"]) == ("/node", "/data")


def test_errors_on_a_worker_keep_their_problems_and_name_the_node(suite: Suite, cache: Path, tmp_path: Path) -> None:
    worker = Worker(
        partial(load_model, f"dir:{tmp_path}/none"), partial(Runner, suite, data=DataLoader(cache=cache)), {}
    )
    with pytest.raises(VlmedError) as caught:
        worker.start()
    with pytest.raises(type(caught.value)) as direct:
        load_model(f"dir:{tmp_path}/none")
    (told,), (original,) = caught.value.problems, direct.value.problems
    assert told.what.startswith("on node ")
    assert told.what.endswith(original.what)
    assert (told.file, told.path, told.got) == (original.file, original.path, original.got)
    # This is how it comes to the driver.
    assert pickle.loads(pickle.dumps(caught.value)).problems == [told]


# Shards.


def test_a_large_unit_waits_for_its_shards_and_no_set_is_cut_twice(suite: Suite, cache: Path) -> None:
    units = plan(suite, ["lesion"], ["zero_shot", "linear_probe"])
    table = DataLoader(cache=cache).table(units[0].task)
    images = {name: len({sample.image for sample in table.split(name)}) for name in SPLITS}
    waiting = queue(suite, cache, units, width=16)
    shards = [waiting.take() for _ in range(waiting.left - len(units))]
    assert waiting.take() is None, "both wait for their shards"
    covered = {name: [] for name in SPLITS}  # type: dict[str, list[int]]
    for shard in shards:
        assert isinstance(shard, Shard)
        assert shard.start % 16 == 0, "whole batches"
        covered[shard.split] += range(shard.start, shard.stop)
    assert covered == {name: list(range(count)) if count > 16 else [] for name, count in images.items()}
    assert {shard.unit.track.name for shard in shards if isinstance(shard, Shard) and shard.split == "test"} == {
        "zero_shot"
    }
    first = shards[0]
    assert isinstance(first, Shard)
    waiting.put_back(first)
    assert waiting.take() is first, "it was lost with its worker"
    for shard in shards:
        assert isinstance(shard, Shard)
        waiting.done(shard)
    assert taken(waiting) == ["lesion.zero_shot.1"]
    waiting.done(units[0])
    assert taken(waiting) == ["lesion.linear_probe.1"]


@pytest.mark.parametrize(("kind", "track"), [("dual_encoder", "lora"), ("control", "zero_shot")])
def test_what_embeds_nothing_is_not_cut(suite: Suite, cache: Path, kind: Kind, track: str) -> None:
    assert taken(queue(suite, cache, plan(suite, ["lesion"], [track]), kind, width=1)) == [f"lesion.{track}.1"]


def test_a_generator_that_is_tuned_answers_alone(suite: Suite, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 16)
    units = plan(suite, ["asked"], ["zero_shot_vqa", "projector"])
    told = taken(queue(suite, cache, units, "generator"))
    assert told[:3] == ["asked.projector.1", "test 0-16", "test 16-32"]
    assert told.count("test 0-16") == 1


def node(suite: Suite, cache: Path, load: Callable[[], LoadedModel]) -> Worker:
    """A worker of a node with a cache folder of its own."""
    worker = Worker(load, partial(Runner, suite, data=DataLoader(cache=cache), batch_size=16), {})
    worker.start()
    return worker


def work_of(suite: Suite, cache: Path, model: LoadedModel, task: str, track: str) -> list[Any]:
    """The shards of a unit, and the unit last."""
    (unit,) = plan(suite, [task], [track])
    waiting = UnitQueue([unit], [DataLoader(cache=cache).table(unit.task)], model, 16)
    shards = [waiting.take() for _ in range(waiting.left - 1)]
    return [*shards, unit]


def bring(sender: Worker, receiver: Worker, files: Mapping[str, int]) -> None:
    """As the driver does."""
    ray_files.copy(receiver.lacks(files), sender, receiver)
    assert not receiver.lacks(files)


def written(cache: Path, done: Done) -> list[Any]:
    """A finished unit's files."""
    return [ray_nodes.timeless_file(cache / name) for name in done.files]


def test_shards_of_an_encoder_make_the_same_bytes_and_nothing_twice(
    suite: Suite, open_clip_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_files, "PIECE", 1000)
    load = partial(load_model, f"dir:{open_clip_model}")
    first, second, alone = (node(suite, tmp_path / name, load) for name in ("first", "second", "alone"))
    *shards, unit = work_of(suite, tmp_path, load(), "lesion", "linear_probe")
    assert len(shards) > 4
    batches: list[int] = []
    embed = features.embed

    def counting(encoder: Any, batch: Any) -> Any:
        batches.append(len(batch))
        return embed(encoder, batch)

    monkeypatch.setattr(features, "embed", counting)
    # The last shard is lost, as with its worker: the unit makes up for it alone.
    for place, shard in enumerate(shards[:-1]):
        done = (first, second)[place % 2].do("run", shard)
        assert list(done.shared) == [unit.id]
        assert not done.files
        bring((first, second)[place % 2], second, done.shared[unit.id])
    together, by_one = second.do("run", unit), alone.do("run", unit)
    assert written(tmp_path / "second", together) == written(tmp_path / "alone", by_one), "also what it cost"
    assert len(batches) % 2 == 0
    assert sorted(batches[: len(batches) // 2]) == sorted(batches[len(batches) // 2 :])
    assert together.shared == by_one.shared
    assert not list((tmp_path / "second" / "features").glob("*-*.npy")), "ranges go once the whole is there"
    # A worker that has the whole set embeds no part of it.
    count = len(batches)
    assert second.do("run", shards[0]).shared.items() <= together.shared.items()
    assert len(batches) == count


@pytest.mark.parametrize("swaps", [False, True])
def test_shards_of_a_generator_ask_the_same_blocks_and_nothing_twice(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 16)
    asked: list[tuple[str, ...]] = []

    class Pupil:
        """Answers by what it is shown, and tells of its batches."""

        def answer(self, requests: Sequence[Request]) -> list[str]:
            seen = [pixel_hash(request.image) + request.prompt for request in requests if request.image]
            asked.append(tuple(seen))
            return seen

    model = LoadedModel(loaded("a" * 40, "generator").info, Pupil(), swaps)
    first, second, alone = (node(suite, tmp_path / name, lambda: model) for name in ("first", "second", "alone"))
    *shards, unit = work_of(suite, tmp_path, model, "asked", "zero_shot_vqa")
    assert len(shards) > 1
    for shard in shards[1:]:
        done = first.do("run", shard)
        bring(first, second, done.shared[unit.id])
    together = written(tmp_path / "second", second.do("run", unit))
    batches = sorted(asked)
    asked.clear()
    assert together == written(tmp_path / "alone", alone.do("run", unit))
    assert batches == sorted(asked)
    for worker in (first, second):
        worker.leave("run")
    assert not [path for path in tmp_path.glob("*/ray/run/**/*.jsonl") if "alone" not in path.parts]


def test_a_block_that_a_killed_worker_left_half_written_is_asked_again_whole(
    suite: Suite, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4)
    samples = DataLoader(cache=cache).table(suite.task("asked")).split("test")[:10]
    job: Any = SimpleNamespace(scratch=tmp_path, progress=Silent())
    asked: list[list[str]] = []

    def ask(block: Sequence[Sample]) -> list[Any]:
        asked.append([sample.id for sample in block])
        return [sample.id.upper() for sample in block]

    whole = blocks.in_blocks(job, "answers", samples, ask)
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    told, asked[:] = list(asked), []
    # Another worker did the second block; of the first, two lines and a half were written.
    (tmp_path / "4-8").mkdir()
    (tmp_path / "4-8" / "answers.jsonl").write_text("\n".join([*lines[4:8], ""]))
    (tmp_path / "answers.jsonl").write_text("\n".join(lines[:3])[:-5])
    assert blocks.in_blocks(job, "answers", samples, ask) == whole
    assert asked == [told[0], told[2]]


def test_a_checkpoint_that_is_replaced_while_it_is_copied_comes_whole(
    worker: Worker, suite: Suite, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_files, "PIECE", 1000)
    (unit,) = plan(suite, ["lesion"], ["lora"])
    assert worker.checkpoints("three", unit) == {}, "it has not begun"
    scratch = RunFolder(cache / "ray" / "three").scratch(unit)
    (scratch / "0-16").mkdir(parents=True)
    (scratch / ".trial-0.pt.part").write_bytes(b"half")
    (scratch / "trial-0.pt").write_bytes(b"a" * 2500)
    first = worker.checkpoints("three", unit)
    assert list(first.values()) == [2500]
    assert worker.checkpoints("three", unit) == first, "what is not new has its old name, and is not copied again"

    class Replacing(ray_files.Folder):
        def put(self, name: str, start: int, piece: bytes, last: bool) -> None:
            super().put(name, start, piece, last)
            (scratch / "new").write_bytes(b"b" * 2500)
            (scratch / "new").replace(scratch / "trial-0.pt")

    driver = Replacing(tmp_path)
    ray_files.copy(first, worker, driver)
    (copied,) = (driver.file(name).read_bytes() for name in first)
    assert copied == b"a" * 2500
    second = worker.checkpoints("three", unit)
    assert list(second.values()) == [2500]
    assert not second.keys() & first.keys()
    assert worker.lacks(first) == first, "the old one is gone"


def test_a_node_without_room_says_which(suite: Suite, cache: Path, tmp_path: Path) -> None:
    worker = node(suite, tmp_path, partial(load_model, "control:random"))
    (tmp_path / "features").write_text("no folder")
    with pytest.raises(VlmedError) as caught:
        worker.put("features/x.npy", 0, b"x", last=True)
    (problem,) = caught.value.problems
    assert problem.what.startswith("on node ")
    assert problem.file == str(tmp_path / "features" / "x.npy")
    assert "VLMED_CACHE" in problem.hint


def crew(ray: Any = None) -> Crew:
    return Crew(ray, lambda: None, lambda model: None, Share())  # type: ignore[arg-type, return-value]


def loaded(revision: str, kind: Kind = "dual_encoder") -> LoadedModel:
    model = ModelInfo("hf:a/b", "b", revision, "clip", "CLIP", kind, 1)
    return LoadedModel(model, Elsewhere())  # type: ignore[arg-type]


def test_workers_must_load_the_same_commit() -> None:
    ours = crew()
    ours.started(loaded("a" * 40))
    ours.started(loaded("a" * 40))
    with pytest.raises(InputError, match="different models") as caught:
        ours.started(loaded("b" * 40))
    (problem,) = caught.value.problems
    assert (problem.expected, problem.got) == ("a" * 40, "b" * 40)


def test_workers_that_die_at_birth_are_not_hired_for_ever() -> None:
    ours = crew()
    for _ in range(PATIENCE - 1):
        ours.started(Lost("out of memory"))
    with pytest.raises(VlmedError, match="died while they loaded the model") as caught:
        ours.started(Lost("out of memory"))
    assert caught.value.problems[0].got == "out of memory"


@pytest.mark.parametrize(
    ("share", "resources", "room"),
    [
        (Share(), {"CPU": 4.0}, 4),
        (Share(cpus=4), {"CPU": 6.0}, 1),
        (Share(cpus=8, gpus=1), {"CPU": 64.0, "GPU": 4.0}, 4),
        (Share(cpus=1, gpus=0.1), {"CPU": 64.0, "GPU": 1.0}, 10),
        (Share(cpus=1, gpus=1), {"CPU": 64.0}, 0),
        (Share(), {}, 0),
    ],
)
def test_room_on_a_node(share: Share, resources: dict[str, float], room: int) -> None:
    assert share.room(resources) == room


class Failing:
    """Ray, with an answer that is an error."""

    def __init__(self, ray: Any, error: Exception) -> None:
        self.exceptions, self._error = ray.exceptions, error

    def get(self, call: Any) -> Any:
        raise self._error


@pytest.mark.parametrize(
    "name", ["ActorDied", "ActorUnavailable", "NodeDied", "WorkerCrashed", "OutOfMemory", "ObjectLost", "OwnerDied"]
)
def test_whatever_is_lost_is_told_from_what_is_wrong(name: str) -> None:
    ray = pytest.importorskip("ray")
    # Ray makes these itself, each from other parts.
    gone = type(
        name, (getattr(ray.exceptions, f"{name}Error"),), {"__init__": lambda _: None, "__str__": lambda _: "gone"}
    )
    with pytest.raises(Lost):
        crew(Failing(ray, gone())).get("call")


def test_a_workers_error_comes_as_it_was_raised() -> None:
    ray = pytest.importorskip("ray")
    mine = InputError("the model gives NaN", file="weights", hint="look")
    told = ray.exceptions.RayTaskError("do", "traceback", mine)
    with pytest.raises(InputError) as caught:
        crew(Failing(ray, told)).get("call")
    assert caught.value.problems == mine.problems
    unforeseen = ray.exceptions.RayTaskError("do", "the worker's traceback", ZeroDivisionError())
    with pytest.raises(ray.exceptions.RayTaskError, match="the worker's traceback"):
        crew(Failing(ray, unforeseen)).get("call")


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingError, match=r"pip install 'vlmed\[ray\]'"):
        connected(None)


@pytest.mark.parametrize("address", ["nowhere", "ray://head:10001", "host:port", ":6379", "head:99999999"])
def test_what_is_no_address_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match=r"address of a Ray cluster|no Ray cluster answers"):
        connected(address)


def test_an_address_where_nobody_answers_is_told_at_once() -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
            connected(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ray-address", "head:6379"], "--executor ray"),
        (["--worker-gpus", "0.5"], "--executor ray"),
        (["--executor", "ray", "--device", "cuda:1"], "--device cuda"),
        (["--executor", "ray", "--model", "endpoint:http://localhost:1/v1#m"], "keeps its budget"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], said: str, small_suite: Path) -> None:
    given: list[Any] = ["run", "--suite", str(small_suite), "--model", "control:random", "--tasks", "lesion", *options]
    result = CliRunner().invoke(app, given)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)
