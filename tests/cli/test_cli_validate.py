"""`vlmed validate`, `submit` and `leaderboard build`: what is believed, what is refused, and with which exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Vlmed, files, room

from submission_factory import World


@pytest.fixture
def run(world: World) -> Path:
    return world.add("model", 1.5, tasks=("waiting",))


def lie(run: Path) -> None:
    """Claim one sample more than there is."""
    result = run / "result.json"
    result.write_text(result.read_text("utf-8").replace('"rows": 120', '"rows": 121'), "utf-8")


def test_the_core_never_imports_torch(world: World, run: Path, tmp_path: Path) -> None:
    suite = ("--suite", str(world.tasks_file))
    submissions, to = str(world.submissions), str(tmp_path / "to")
    commands = (
        ["validate", submissions, "--no-intervals", *suite],
        ["leaderboard", "build", submissions, "--no-intervals", "--out", str(tmp_path / "site"), *suite],
        ["submit", str(run), "--org", "lab", "--model", "copy", "--to", to, *suite],
    )
    code = (
        "import sys; from vlmed.cli import app\n"
        "sys.modules |= dict.fromkeys(('torch', 'transformers', 'open_clip', 'peft', 'safetensors'))\n"
        f"for command in {commands}: app(command, standalone_mode=False)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "1 runs accepted, 0 left out" in said.stdout
    assert files(Path(to) / "lab__copy" / "1") == files(run)


def test_accepted(vlmed: Vlmed, world: World, run: Path) -> None:
    said = vlmed("validate", run, "--suite", world.tasks_file)
    assert said.code == 0
    assert f"{run}: accepted; 4 metrics recomputed" in said.out
    assert said.err.startswith("warning: ")


def test_refused(vlmed: Vlmed, world: World, run: Path) -> None:
    lie(run)
    said = vlmed("validate", run, "--suite", world.tasks_file)
    assert said.code == 1
    assert f"{run}: refused, 1 errors" in said.out
    assert "$.units[0].predictions.rows" in said.err
    assert "expected: 120" in said.err
    assert "got: 121" in said.err


def test_json_has_every_problem(vlmed: Vlmed, world: World, run: Path) -> None:
    good = world.add("other", tasks=("waiting",))
    lie(run)
    said = vlmed("validate", "--json", world.submissions, "--suite", world.tasks_file)
    assert said.code == 1
    verdicts = {verdict["run"]: verdict for verdict in json.loads(said.out)}
    assert verdicts[str(good)]["accepted"]
    assert not verdicts[str(run)]["accepted"]
    places = [problem["path"] for problem in verdicts[str(run)]["problems"] if problem["severity"] == "error"]
    assert places == ["$.units[0].predictions.rows"]


UNREADABLE = [
    (b"{", "this is not JSON"),
    (b"", "this is not JSON"),
    (b'{"schema_version": NaN}', "NaN"),
    (b'{"schema_version": -Infinity}', "-Infinity"),
    (b"\xff\xfe", "not UTF-8"),
]


@pytest.mark.parametrize(("content", "says"), UNREADABLE)
def test_a_result_that_is_none(
    vlmed: Vlmed, world: World, run: Path, tmp_path: Path, content: bytes, says: str
) -> None:
    (run / "result.json").write_bytes(content)
    suite = ("--suite", world.tasks_file)
    to = tmp_path / "submissions"
    for command in (["validate", run], ["submit", run, "--org", "lab", "--model", "m", "--to", to]):
        said = vlmed(*command, *suite)
        assert said.code == 2
        assert says in said.err
        assert str(run / "result.json") in said.err
    assert not to.exists()
    assert (run / "result.json").read_bytes() == content
    (verdict,) = json.loads(vlmed("validate", "--json", run, *suite).out)
    assert not verdict["accepted"]


def test_a_nan_among_the_metrics_is_refused(vlmed: Vlmed, world: World, run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    result["units"][0]["scores"]["metrics"]["all"]["auc"]["value"] = float("nan")
    (run / "result.json").write_text(json.dumps(result))
    said = vlmed("validate", run, "--suite", world.tasks_file)
    assert said.code == 2
    assert "NaN, which is not a number in JSON" in said.err


@pytest.mark.parametrize("command", ["validate", "submit"])
def test_a_folder_without_a_result(vlmed: Vlmed, tmp_path: Path, command: str) -> None:
    options = ["--org", "lab", "--model", "m", "--to", tmp_path / "to"] if command == "submit" else []
    for folder in (tmp_path, tmp_path / "none"):
        said = vlmed(command, folder, *options)
        assert said.code == 2
        assert "no" in said.err
        assert str(folder) in said.err
    assert not (tmp_path / "to").exists()


def submit(vlmed: Vlmed, world: World, folder: Path, to: Path, **names: str) -> tuple[int, str]:
    chosen = {"org": "lab", "model": "m", "run": "1"} | names
    options = [word for name, value in chosen.items() for word in (f"--{name}", value)]
    said = vlmed("submit", folder, *options, "--to", to, "--suite", world.tasks_file)
    return said.code, said.err


def test_submit_never_changes_what_is_published(vlmed: Vlmed, world: World, run: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    assert submit(vlmed, world, run, to)[0] == 0
    before = files(to)
    code, err = submit(vlmed, world, run, to)
    assert (code, "exists already" in err) == (2, True)
    assert files(to) == before
    assert submit(vlmed, world, run, to, run="2")[0] == 0
    assert files(to).items() > before.items()


@pytest.mark.parametrize("names", [{"org": "../up"}, {"model": "A b"}, {"run": ""}])
def test_submit_refuses_names_that_are_no_folders(
    vlmed: Vlmed, world: World, run: Path, tmp_path: Path, names: dict[str, str]
) -> None:
    code, err = submit(vlmed, world, run, tmp_path / "to", **names)
    assert code == 2
    assert "can't be a folder" in err
    assert not (tmp_path / "to").exists()


def test_a_refused_run_is_not_submitted(vlmed: Vlmed, world: World, run: Path, tmp_path: Path) -> None:
    lie(run)
    code, err = submit(vlmed, world, run, tmp_path / "to")
    assert code == 1
    assert "$.units[0].predictions.rows" in err
    assert not (tmp_path / "to").exists()


def test_submit_on_a_full_disk_leaves_nothing(vlmed: Vlmed, world: World, run: Path, tmp_path: Path) -> None:
    with room(1000):
        code, err = submit(vlmed, world, run, tmp_path / "to")
    assert code == 2
    assert err.count("\nerror: ") == 1
    assert "File too large" in err
    assert files(tmp_path / "to") == {}
    assert submit(vlmed, world, run, tmp_path / "to")[0] == 0


def test_leaderboard_as_json(vlmed: Vlmed, world: World, run: Path, tmp_path: Path) -> None:
    said = vlmed(
        "leaderboard", "build", world.submissions, "--out", tmp_path / "s", "--json", "--suite", world.tasks_file
    )
    assert said.code == 0
    board = json.loads(said.out)
    assert board["page"] == str(tmp_path / "s" / "index.html")
    assert "lab" in json.dumps(board)


def test_leaderboard_leaves_out_what_is_refused_and_says_so(
    vlmed: Vlmed, world: World, run: Path, tmp_path: Path
) -> None:
    lie(world.add("liar", tasks=("waiting",)))
    (world.add("broken", tasks=("waiting",)) / "result.json").write_text("{")
    said = vlmed("leaderboard", "build", world.submissions, "--out", tmp_path / "site", "--suite", world.tasks_file)
    assert said.code == 0
    assert "1 runs accepted, 2 left out" in said.out
    assert "$.units[0].predictions.rows" in said.err
    assert "this is not JSON" in said.err
    assert "lab/model" in said.out


def test_leaderboard_replaces_nothing_but_its_own_site(vlmed: Vlmed, world: World, run: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = ("leaderboard", "build", world.submissions, "--out", site, "--suite", world.tasks_file)
    site.mkdir()
    (site / "notes.txt").write_text("precious")
    said = vlmed(*command)
    assert said.code == 2
    assert "notes.txt" in said.err
    assert files(site) == {"notes.txt": b"precious"}
    shutil.rmtree(site)
    assert vlmed(*command).code == 0
    before = files(site)
    with room(1000):
        said = vlmed(*command)
    assert said.code == 2
    assert "the disk is full" in said.err
    assert files(site) == before


def test_leaderboard_without_submissions(vlmed: Vlmed, tmp_path: Path) -> None:
    said = vlmed("leaderboard", "build", tmp_path / "none", "--out", tmp_path / "site")
    assert said.code == 3
    assert str(tmp_path / "none") in said.err
    assert not (tmp_path / "site").exists()
