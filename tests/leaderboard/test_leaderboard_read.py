import json
import shutil

import pytest

from submission_factory import World
from vlmed.errors import MissingError
from vlmed.hashing import file_hash
from vlmed.leaderboard.read import natural_key, printable, read_submissions


def read(world: World, **more):
    return read_submissions(world.submissions, world.suite, world.manifests, **more)


def edit(folder, change):
    path = folder / "result.json"
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))


def test_accepted_runs_stand_in_natural_order(world):
    for run in ("10", "9", "2025-01-01"):
        world.add("b", run=run)
    world.add("a", org="zoo")
    found = read(world)
    assert [entry.path for entry in found.entries] == ["lab__b/9", "lab__b/10", "lab__b/2025-01-01", "zoo__a/1"]
    assert found.refused == []
    assert list(found.entries[0].files()) == ["result.json", "predictions/chest-1.zero_shot-1.0.1.parquet"]


def test_controls_are_known(world):
    world.control("random")
    world.add("b")
    assert [entry.control for entry in read(world).entries] == [False, True]


def test_a_changed_number_is_refused_with_its_place_and_the_rest_stays(world):
    world.add("honest")
    liar = world.add("liar")
    edit(liar, lambda result: result["units"][0]["scores"]["metrics"]["clean"]["auc"].update(value=0.999))
    found = read(world)
    assert [entry.model for entry in found.entries] == ["honest"]
    (refused,) = found.refused
    assert refused.path == "lab__liar/1"
    assert [(problem.file, problem.path) for problem in refused.problems] == [
        ("lab__liar/1/result.json", "$.units[0].scores.metrics.clean.auc.value")
    ]


@pytest.mark.parametrize(
    ("task", "track", "metric"),
    [("figures", "retrieve", "text_to_image_recall_at_1"), ("questions", "answer", "open_rouge_l")],
)
def test_every_kind_of_task_is_believed_only_as_far_as_its_predictions_go(tmp_path, task, track, metric):
    world = World(tmp_path / "world", all_kinds=True)
    world.add("honest", tasks=(task,), tracks=(track,))
    liar = world.add("liar", tasks=(task,), tracks=(track,))
    edit(liar, lambda result: result["units"][0]["scores"]["metrics"]["clean"][metric].update(value=0.999))
    found = read(world)
    assert [entry.model for entry in found.entries] == ["honest"]
    assert [problem.path for problem in found.refused[0].problems] == [
        f"$.units[0].scores.metrics.clean.{metric}.value"
    ]


def test_without_intervals_a_changed_score_is_still_refused(world):
    world.add("honest")
    edit(world.add("liar"), lambda result: result["units"][0]["scores"]["metrics"]["all"]["auc"].update(value=0.999))
    found = read(world, intervals=False)
    assert [entry.model for entry in found.entries] == ["honest"]
    assert [run.path for run in found.refused] == ["lab__liar/1"]


@pytest.mark.parametrize(
    "name", ["nomodel/1", "lab__a/1/", "Lab__A/1", "lab__a__b/1", "lab__<b>/1", "lab__a/-run", "lab__a/x y"]
)
def test_folders_of_other_names_are_refused_by_name(world, name):
    path = world.submissions / name
    path.mkdir(parents=True)
    (path / "note.txt").write_text("x")
    found = read(world)
    assert found.entries == []
    assert len(found.refused) == 1
    assert found.refused[0].problems


def test_hidden_folders_and_files_beside_the_submissions_are_no_submissions(world):
    world.add("a")
    (world.submissions / "README.md").write_text("how to submit")
    (world.submissions / ".lab__b").mkdir()
    (world.submissions / "lab__a" / ".1.part").mkdir()
    found = read(world)
    assert len(found.entries) == 1
    assert found.refused == []


@pytest.mark.parametrize("name", ["result.json", "predictions", "predictions/chest-1.zero_shot-1.0.1.parquet"])
def test_a_link_is_refused(world, name):
    path = world.add("a") / name
    elsewhere = world.root / "elsewhere"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)
    (refused,) = read(world).refused
    assert "a link is no evidence" in str(refused.problems[0])


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": NaN}', "\ud800".encode("utf-8", "surrogatepass")])
def test_what_is_no_result_is_refused(world, text):
    file = world.add("a") / "result.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert len(read(world).refused) == 1


def test_a_missing_folder_is_an_error(world):
    with pytest.raises(MissingError, match="no such folder"):
        read_submissions(world.root / "nothing", world.suite)


def test_hostile_texts_become_printable(world):
    edit(world.add("a"), lambda result: result["model"].update(name="a\ud800b\x1b[2Jc\x00"))
    (entry,) = read(world).entries
    assert entry.result["model"]["name"] == "a\ufffdb\ufffd[2Jc\ufffd"
    json.dumps(entry.result, ensure_ascii=False).encode()


@pytest.mark.parametrize("mark", ["\x7f", "\x85"])
def test_control_characters_that_json_need_not_escape_become_printable(world, mark):
    run = world.add("a")
    edit(run, lambda result: result["model"].update(name=f"a{mark}b"))
    path = run / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), "utf-8")
    assert mark in path.read_text("utf-8")
    (entry,) = read(world).entries
    assert entry.result["model"]["name"] == "a\ufffdb"
    assert entry.sha256 == file_hash(path)


def test_printable_leaves_letters_of_all_scripts_alone():
    assert printable({"ä": ["模型", 1, None, True, "\u202e"]}) == {"ä": ["模型", 1, None, True, "\u202e"]}


def test_natural_order_is_total():
    names = ["1", "01", "10", "2", "a2", "a10", "2025-11-02", "2025-2-1"]
    assert sorted(names, key=natural_key) == ["01", "1", "2", "10", "2025-2-1", "2025-11-02", "a2", "a10"]
