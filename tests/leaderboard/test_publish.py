"""A built site in front of readers: served on this machine, in a folder for Pages, in a Space of the Hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
import yaml
from typer.testing import CliRunner

from hub_server import Fault, HubServer, local_hub
from submission_factory import World
from vlmed.cli.leaderboard import app
from vlmed.errors import InputError, MissingError, UsageError, VlmedError
from vlmed.leaderboard.build import build
from vlmed.leaderboard.publish import publish_pages
from vlmed.leaderboard.serve import address, site_server
from vlmed.leaderboard.space import publish_space

SPACE = "lab/board"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two builds: of two models, and of one of these and another one."""
    world = World(tmp_path_factory.mktemp("publish") / "world")
    world.add("a")
    gone = world.add("gone")
    one, two = world.root / "one", world.root / "two"
    build(world.submissions, one, world.suite, world.manifests, intervals=False)
    shutil.rmtree(gone.parent)
    world.add("new")
    build(world.submissions, two, world.suite, world.manifests, intervals=False)
    return one, two


@pytest.fixture
def site(sites: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(sites[0], tmp_path / "site"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Serve


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    with site_server(site, 0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield address(server)
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "text/html; charset=utf-8"),
        ("models/lab__a.html", "text/html; charset=utf-8"),
        ("feed.atom", "application/atom+xml"),
        ("data/leaderboard.json", "application/json"),
        ("data/results.parquet", "application/vnd.apache.parquet"),
        ("badges/lab__a/chest-1.zero_shot-1.svg", "image/svg+xml"),
    ],
)
def test_every_kind_of_file_is_served_as_what_it_is(served: str, site: Path, name: str, kind: str) -> None:
    with urllib.request.urlopen(served + name) as answer:
        assert answer.headers["Content-Type"] == kind
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.read() == (site / (name or "index.html")).read_bytes()


@pytest.mark.parametrize("name", ["no/such.html", "../world/tasks.yaml", "%2e%2e/world/tasks.yaml"])
def test_nothing_outside_the_site_is_served(served: str, name: str) -> None:
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(served + name)
    assert refused.value.code == 404


def test_only_this_machine_is_served(served: str) -> None:
    assert served.startswith("http://127.0.0.1:")


def test_a_taken_port_is_said_to_be_taken(site: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port}") as refused:
            site_server(site, port)
    assert "--port" in refused.value.problems[0].hint


@pytest.mark.parametrize("files", [[], ["index.html"]])
def test_what_no_build_wrote_is_not_served(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).write_text("mine")
    with pytest.raises(MissingError, match="no built site") as refused:
        site_server(tmp_path, 0)
    assert "leaderboard build" in refused.value.problems[0].hint


def hears_ctrl_c() -> None:
    """A job in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_the_command_cleanly(site: Path) -> None:
    command = [sys.executable, "-m", "vlmed", "leaderboard", "serve", str(site), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(command, preexec_fn=hears_ctrl_c, **pipes) as running:
        assert running.stdout
        line = running.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        assert urllib.request.urlopen(found[0]).status == 200
        running.send_signal(signal.SIGINT)
        try:
            _, errors = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 0
    assert errors == "stopped\n"


# Pages


def test_the_folder_holds_the_site_and_says_that_it_is_whole(site: Path, tmp_path: Path) -> None:
    done = publish_pages(site, tmp_path / "pages")
    assert content(tmp_path / "pages") == content(site) | {".nojekyll": b""}
    assert (done.written, done.removed, done.kept) == (len(content(site)) - 1, 0, 0)


def test_a_second_site_replaces_the_first_and_leaves_what_is_not_its_own(
    sites: tuple[Path, Path], tmp_path: Path
) -> None:
    pages = tmp_path / "pages"
    publish_pages(sites[0], pages)
    (pages / ".git").write_text("gitdir: elsewhere")
    (pages / "CNAME").write_text("example.org")
    done = publish_pages(sites[1], pages)
    own = {".nojekyll": b"", ".git": b"gitdir: elsewhere", "CNAME": b"example.org"}
    assert content(pages) == content(sites[1]) | own
    assert done.kept > 0
    assert done.removed == len(content(sites[0]).keys() - content(sites[1]).keys())
    assert not (pages / "runs/lab__gone").exists()
    again = publish_pages(sites[1], pages)
    assert (again.written, again.removed) == (0, 0)


def test_a_dry_run_counts_and_writes_nothing(sites: tuple[Path, Path], tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    publish_pages(sites[0], pages)
    before = content(pages)
    dry = publish_pages(sites[1], pages, dry_run=True)
    assert content(pages) == before
    assert publish_pages(sites[1], pages) == dry


def test_nothing_of_the_users_is_lost(site: Path, sites: tuple[Path, Path], tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.html").write_text("my thesis")
    with pytest.raises(UsageError, match="would lose") as refused:
        publish_pages(site, pages)
    assert [problem.file for problem in refused.value.problems] == [str(pages / "index.html")]
    assert content(pages) == {"index.html": b"my thesis"}
    (pages / "index.html").unlink()
    publish_pages(site, pages)
    for name in ("about.html", "models/lab__gone.html"):
        (pages / name).write_text("edited by hand")
    before = content(pages)
    (pages / "feed.atom").unlink()
    with pytest.raises(UsageError) as refused:
        publish_pages(sites[1], pages)
    assert {problem.file for problem in refused.value.problems} == {
        str(pages / "models/lab__gone.html"),
        str(pages / "about.html"),
    }
    assert content(pages) == {name: data for name, data in before.items() if name != "feed.atom"}


def test_a_publication_that_was_cut_off_is_mended(sites: tuple[Path, Path], tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    publish_pages(sites[0], pages)
    for name in ("index.html", "models/lab__new.html"):  # of the second site, while the index is the first one's
        (pages / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(sites[1] / name, pages / name)
    publish_pages(sites[1], pages)
    assert content(pages) == content(sites[1]) | {".nojekyll": b""}


def test_a_site_that_was_changed_by_hand_is_not_published(site: Path, tmp_path: Path) -> None:
    (site / "index.html").write_text("better numbers")
    (site / "about.html").unlink()
    for publish in (lambda: publish_pages(site, tmp_path / "pages"), lambda: publish_space(site, SPACE, "m", True)):
        with pytest.raises(InputError) as refused:
            publish()
        assert (Path(refused.value.problems[0].file).name, refused.value.problems[0].got) == ("about.html", "no file")
        assert len(refused.value.problems) == 2
    assert not (tmp_path / "pages").exists()


@pytest.mark.parametrize("place", ["site", "site/pages", ".", "file.txt"])
def test_impossible_places_are_refused(site: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file.txt").write_text("")
    before = content(tmp_path)
    with pytest.raises(UsageError):
        publish_pages(site, tmp_path / place)
    assert content(tmp_path) == before


# Space


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with local_hub(tmp_path / "cache") as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def space_of(hub: HubServer) -> dict[str, bytes]:
    repository = hub.repositories[f"spaces/{SPACE}"]
    return repository.commits[repository.refs["main"]]


def test_a_static_space_is_made_with_the_site_in_one_commit(hub: HubServer, site: Path) -> None:
    done = publish_space(site, SPACE, "first")
    files = space_of(hub)
    front = yaml.safe_load(files.pop("README.md").decode().split("---")[1])
    assert (front["sdk"], front["app_file"]) == ("static", "index.html")
    assert len(front["short_description"]) <= 60
    assert files.pop(".gitattributes")
    assert files == content(site)
    assert len(hub.repositories[f"spaces/{SPACE}"].commits) == 2
    assert done.written == len(content(site)) - 1


def test_the_next_site_sends_what_changed_and_removes_what_is_gone(hub: HubServer, sites: tuple[Path, Path]) -> None:
    publish_space(sites[0], SPACE, "first")
    hub.commit(f"spaces/{SPACE}", space_of(hub) | {"LICENSE": b"mine"})
    done = publish_space(sites[1], SPACE, "second")
    files = space_of(hub)
    assert files.pop("LICENSE") == b"mine"
    assert {name: files[name] for name in files if name not in ("README.md", ".gitattributes")} == content(sites[1])
    assert 0 < done.written < len(files)
    assert done.kept > 0
    assert done.removed > 0
    assert publish_space(sites[1], SPACE, "third").written == 0


def test_a_strange_index_in_the_space_removes_nothing(hub: HubServer, site: Path) -> None:
    hub.commit(f"spaces/{SPACE}", {"site.json": b"[]", "mine.txt": b"mine"})
    publish_space(site, SPACE, "first")
    assert space_of(hub)["mine.txt"] == b"mine"
    assert json.loads(space_of(hub)["site.json"])["generator"] == "vlmed leaderboard"


def test_a_dry_run_asks_nobody(hub: HubServer, site: Path) -> None:
    done = publish_space(site, SPACE, "first", dry_run=True)
    assert hub.requests == []
    assert done.written == len(content(site))
    assert done.bytes > 10_000


def test_without_a_token_the_hint_names_it(hub: HubServer, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_STORED_TOKENS_PATH", "/nowhere")
    with pytest.raises(MissingError) as refused:
        publish_space(site, SPACE, "first")
    assert "HF_TOKEN" in refused.value.problems[0].hint
    assert hub.requests == []


def test_refusals_are_told_in_the_hubs_words(hub: HubServer, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.closed.add("lab")
    with pytest.raises(VlmedError, match="rights to create"):
        publish_space(site, SPACE, "first")
    with pytest.raises(VlmedError, match="the Hub says"):
        publish_space(site, "no such name!", "first")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(VlmedError, match="401"):
        publish_space(site, SPACE, "first")
    assert hub.repositories == {}


def test_a_hub_that_fails_leaves_the_space_as_it_was(hub: HubServer, sites: tuple[Path, Path]) -> None:
    publish_space(sites[0], SPACE, "first")
    before = space_of(hub)
    hub.faults.append(Fault(rf"GET /api/spaces/{SPACE}/tree/main", status=500, times=20))
    with pytest.raises(VlmedError, match="the Hub says"):
        publish_space(sites[1], SPACE, "second")
    assert space_of(hub) == before


# The command


@pytest.mark.parametrize("more", [[], ["--pages", "here", "--space", SPACE]])
def test_one_place_must_be_named(site: Path, more: list[str]) -> None:
    done = CliRunner().invoke(app, ["publish", str(site), *more])
    assert isinstance(done.exception, UsageError)
    assert "--pages" in done.exception.problems[0].expected


def test_the_command_tells_what_it_did(site: Path, tmp_path: Path) -> None:
    dry = CliRunner().invoke(app, ["publish", str(site), "--pages", str(tmp_path / "pages"), "--dry-run"])
    assert dry.stdout.startswith("dry run: ")
    assert not (tmp_path / "pages").exists()
    done = CliRunner().invoke(app, ["publish", str(site), "--pages", str(tmp_path / "pages"), "--json"])
    told = json.loads(done.stdout)
    assert told["written"] == len(content(site)) - 1
    assert told["dry_run"] is False


def test_the_command_fills_a_space(hub: HubServer, site: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vlmed", "leaderboard", "publish", str(site), "--space", SPACE, "--json"]
    environment = {**os.environ, **hub.environment(tmp_path / "home"), "HF_TOKEN": hub.token}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["target"].endswith(f"/spaces/{SPACE}")
    assert space_of(hub)["index.html"] == (site / "index.html").read_bytes()
