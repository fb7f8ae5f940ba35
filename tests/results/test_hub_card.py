"""Metrics in a model's own card: what stands there stays, what vlmed wrote is replaced, and the owner decides."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from forgery import edit
from hub_server import HubServer, local_hub
from submission_factory import LORA, World
from vlmed.cli import app
from vlmed.errors import CheckError, InputError, UsageError, VlmedError
from vlmed.results.hub_card import Evaluation, check_repository, evaluations_of, with_evaluations

CARD = """---
# a comment, and "odd" quoting
license:   'mit'
tags: [medical, "clip"]
model-index:
- name: m
  results:
  - task:
      type: image-classification
    dataset:
      type: beans
      name: Beans
    metrics:
    - type: accuracy
      value: 0.9
# last comment
language:
- en
---
# Model m

---
A rule above, and model-index: in words.
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("cards") / "world", samples=40, all_kinds=True)


@pytest.fixture(scope="module")
def honest(world: World) -> Path:
    tasks, tracks = ("chest", "waiting"), ("zero_shot",)
    return world.add("m", 2.0, tasks=tasks, tracks=tracks, seeds=(0, 1))


def evaluations(world: World, run: Path, place: str = "lab__m/1") -> list[Evaluation]:
    return list(evaluations_of(json.loads((run / "result.json").read_text()), world.suite, place))


def front(card: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load(card.lstrip("\ufeff").split("---")[1])
    return value


# The text


def test_every_other_line_of_a_card_stays(world: World, honest: Path) -> None:
    after = with_evaluations(CARD, "m", evaluations(world, honest))
    head, _, rest = CARD.partition("model-index:\n")
    below, _, body = rest[rest.index("# last comment") :].partition("---\n")
    assert after.startswith(head + below + "model-index:\n")
    assert after.endswith("\n---\n" + body)
    old, new = front(CARD), front(after)
    assert {**new, "model-index": None} == {**old, "model-index": None}
    (index,) = new["model-index"]
    assert index["name"] == "m"
    assert index["results"][0] == old["model-index"][0]["results"][0]
    assert len(index["results"]) == 1 + 4


def test_the_hubs_own_library_reads_the_metrics(world: World, honest: Path) -> None:
    cards = pytest.importorskip("huggingface_hub")
    results = cards.ModelCard(with_evaluations(CARD, "m", evaluations(world, honest))).data.eval_results
    beans, *ours = results
    assert (beans.dataset_type, beans.metric_value) == ("beans", 0.9)
    units = json.loads((honest / "result.json").read_text())["units"]
    claimed = [unit["scores"]["metrics"]["clean"] or unit["scores"]["metrics"]["all"] for unit in units]
    expected = sorted(found["value"] for known in claimed for found in known.values() if found["value"] is not None)
    assert sorted(one.metric_value for one in ours) == expected
    auc = next(one for one in ours if (one.metric_type, one.dataset_config) == ("auc", "chest@1"))
    assert (auc.dataset_split, auc.dataset_args["seed"]) == ("test, clean samples", 0)
    assert auc.metric_args == {name: claimed[0]["auc"][name] for name in ("low", "high")}


def test_offered_again_they_replace_themselves_and_nothing_else(world: World, honest: Path) -> None:
    once = with_evaluations(CARD, "m", evaluations(world, honest))
    assert with_evaluations(once, "m", evaluations(world, honest)) == once
    again = front(with_evaluations(once, "m", evaluations(world, honest, "lab__m/2")))["model-index"][0]["results"]
    assert len(again) == 5
    assert {one["source"]["url"].rpartition("/")[2] for one in again[1:]} == {"2"}


def test_seeds_and_tracks_stand_apart(world: World, honest: Path) -> None:
    both = with_evaluations("", "m", evaluations(world, honest)[:1])
    both = with_evaluations(both, "m", evaluations(world, honest)[1:2])
    seeds = [one["dataset"]["args"]["seed"] for one in front(both)["model-index"][0]["results"]]
    assert seeds == [0, 1]


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# only words\n",
        "---\nlicense: mit\n---\n# m\n",
        "---\n---\n# m\n",
        "---\nlicense: mit\n---",
        "\ufeff---\nlicense: mit\n---\n# m\n",
        "---\r\nlicense: mit\r\n---\r\n# m\r\n",
        "---\nmodel-index:\nlicense: mit\n---\n",
        '---\n"model-index": [{name: m, results: []}]\nlicense: mit\n---\n',
        "---\nlicense: mit\nmodel-index: [{name: m,\n  results: []}]\n---\n",
    ],
)
def test_cards_of_all_forms(world: World, honest: Path, card: str) -> None:
    after = with_evaluations(card, "m", evaluations(world, honest))
    assert len(front(after)["model-index"][0]["results"]) == 4
    assert front(after).get("license") == ("mit" if "mit" in card else None)
    assert after.endswith(card.rpartition("---")[2].lstrip("\r\n"))
    assert after.count("\r\n") in (0, after.count("\n"))


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("---\na: [\n---\n", "not YAML"),
        ("---\nlicense: mit\n", "no end"),
        ("---\rlicense: mit\r---\r", "no end"),
        ("---\n- a\n---\n", "no mapping"),
        ("---\nmodel-index: 3\n---\n", "can't read these evaluations"),
        ("---\nmodel-index: [{name: m}]\n---\n", "can't read these evaluations"),
        ("---\nmodel-index: []\n---\n", "can't read these evaluations"),
        ("---\na: !!python/object/apply:os.system [ls]\n---\n", "not YAML"),
        ("---\n{license: mit, model-index: [{name: m, results: []}]}\n---\n", "not YAML|changed alone"),
        ("---\na: " + "[" * 1200 + "\n---\n", "not YAML"),
    ],
)
def test_what_would_be_lost_is_refused(world: World, honest: Path, card: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        with_evaluations(card, "m", evaluations(world, honest), "lab/m/README.md")


def test_hostile_names_stay_names(world: World, honest: Path) -> None:
    name = "a: b\n---\n!!x <script>"
    after = with_evaluations("---\nlicense: mit\n---\nbody\n", name, evaluations(world, honest))
    assert after.count("\n---\n") == 1
    assert yaml.safe_load(after[4:].partition("\n---\n")[0])["model-index"][0]["name"] == name


def test_parts_of_the_training_data_are_no_result_of_a_card(world: World) -> None:
    run = world.add("part", fraction=0.1)
    assert evaluations(world, run) == []


# Whose card


@pytest.mark.parametrize(
    ("ref", "adapter", "repository", "fits"),
    [
        ("lab/m", None, "lab/m", True),
        ("hf:lab/m@main", None, "lab/m", True),
        ("dir:/home/me/m", None, "lab/any", True),
        ("hf:lab/base", LORA, "lab/chest-lora", True),
        ("hf:lab/base", LORA, "lab/base", False),
        ("lab/m", None, "other/m", False),
        ("control:majority", None, "lab/m", False),
        ("endpoint:http://localhost:1/v1#m", None, "lab/m", False),
    ],
)
def test_numbers_go_to_the_card_of_what_was_run(ref: str, adapter: Any, repository: str, fits: bool) -> None:
    model = {"ref": ref, "adapter": adapter}
    if fits:
        check_repository(model, repository)
    else:
        with pytest.raises(UsageError):
            check_repository(model, repository)


# The command


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    pytest.importorskip("huggingface_hub")
    with local_hub(tmp_path / "hub-cache") as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


@pytest.fixture
def run(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "run"))


def offer(world: World, run: Path, *more: str, card: str = "lab/m") -> Any:
    words = [
        "submit",
        str(run),
        "--org",
        "lab",
        "--model",
        "m",
        "--card",
        card,
        "--suite",
        str(world.tasks_file),
        *more,
    ]
    return CliRunner().invoke(app, words)


def test_a_pull_request_changes_the_card_alone(world: World, run: Path, hub: HubServer) -> None:
    commit = hub.commit("lab/m", {"README.md": CARD.encode(), "config.json": b"{}"})
    said = offer(world, run)
    assert said.exit_code == 0, said.output + repr(said.exception)
    assert f"{hub.url}/lab/m/discussions/1" in said.stdout
    (offered,) = hub.pull_requests
    assert offered == {"README.md": with_evaluations(CARD, "m", evaluations(world, run)).encode()}
    assert hub.parents == [commit]
    assert hub.repositories["lab/m"].refs == {"main": commit}
    assert not (run / "submission.json").exists()


def test_a_repository_without_a_card_gets_one(world: World, run: Path, hub: HubServer) -> None:
    hub.commit("lab/m", {"config.json": b"{}"})
    assert offer(world, run).exit_code == 0
    (offered,) = hub.pull_requests
    assert front(offered["README.md"].decode())["model-index"][0]["name"] == "m"


def test_a_dry_run_shows_the_change_and_makes_none(world: World, run: Path, hub: HubServer) -> None:
    hub.commit("lab/m", {"README.md": CARD.encode()})
    said = offer(world, run, "--dry-run")
    assert said.exit_code == 0, said.output
    lines = said.stdout.splitlines()
    assert any(line.startswith("+") and "chest@1" in line for line in lines)
    assert not any(line.startswith("-license") for line in lines)
    assert hub.pull_requests == []
    assert not any(request.startswith("POST") for request in hub.requests)


def test_a_push_meanwhile_is_not_overwritten(world: World, run: Path, hub: HubServer) -> None:
    """The pull request stands on the commit whose card was read, so that git tells of both changes."""
    commit = hub.commit("lab/m", {"README.md": CARD.encode()})
    hub.after_information = lambda: hub.commit("lab/m", {"README.md": b"# new\n"})
    assert offer(world, run).exit_code == 0
    assert hub.parents == [commit]
    assert b"# Model m" in hub.pull_requests[0]["README.md"]


def test_a_refused_run_offers_nothing(world: World, run: Path, hub: HubServer) -> None:
    hub.commit("lab/m", {"README.md": CARD.encode()})
    edit(run, "units/0/scores/metrics/clean/auc/value", 0.5)
    said = offer(world, run)
    assert isinstance(said.exception, CheckError)
    assert "$.units[0].scores.metrics.clean.auc.value" in str(said.exception)
    assert hub.requests == []


def test_what_the_hub_refuses_is_told(world: World, run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    said = offer(world, run)
    assert isinstance(said.exception, VlmedError)
    assert "the Hub says" in str(said.exception)
    assert isinstance(offer(world, run, card="lab/another").exception, UsageError)
    hub.commit("lab/m", {"README.md": b"\xff\xfe"})
    assert isinstance(offer(world, run).exception, InputError)
    hub.commit("lab/m", {"README.md": CARD.encode()})
    monkeypatch.delenv("HF_TOKEN")
    assert "401" in str(offer(world, run).exception)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.commit("lab/m", {"README.md": b"---\nlicense: no-such-licence\n---\n"})
    said = offer(world, run)
    assert isinstance(said.exception, VlmedError)
    assert "must be one of these" in str(said.exception)
    assert hub.pull_requests == []
