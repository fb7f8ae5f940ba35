import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from vlmed.errors import UsageError, VlmedError
from vlmed.leaderboard.site import check_replaceable, write_site, written_files

PAGES = {"index.html": "<p>one</p>", "data/a.json": "{}"}


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_writes_texts_and_copies(tmp_path):
    source = tmp_path / "source.bin"
    source.write_bytes(b"\0\1")
    write_site(tmp_path / "out" / "site", [*PAGES.items(), ("runs/a/source.bin", source)])
    files = content(tmp_path / "out" / "site")
    assert files.pop("site.json")
    assert files == {"index.html": b"<p>one</p>", "data/a.json": b"{}", "runs/a/source.bin": b"\0\1"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["site"]


def test_replaces_an_earlier_site_whole(tmp_path):
    write_site(tmp_path / "site", PAGES.items())
    write_site(tmp_path / "site", [("index.html", "two")])
    assert sorted(content(tmp_path / "site")) == ["index.html", "site.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_what_stays_the_same_is_linked_where_that_can_be_done(tmp_path, monkeypatch, links):
    def refuse(self, target):
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    write_site(tmp_path / "site", PAGES.items())
    before = {name: (tmp_path / "site" / name).stat().st_ino for name in PAGES}
    write_site(tmp_path / "site", (PAGES | {"index.html": "two"}).items())
    after = {name: (tmp_path / "site" / name).stat().st_ino for name in PAGES}
    assert after["index.html"] != before["index.html"]
    assert (after["data/a.json"] == before["data/a.json"]) == links
    assert (tmp_path / "site" / "index.html").read_text() == "two"
    assert (tmp_path / "site" / "data" / "a.json").read_text() == "{}"
    assert (tmp_path / "site" / "data" / "a.json").stat().st_nlink == 1


def test_fills_an_empty_folder(tmp_path):
    (tmp_path / "site").mkdir()
    write_site(tmp_path / "site", PAGES.items())
    assert (tmp_path / "site" / "index.html").exists()


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_site(tmp_path / "link", PAGES.items())
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "index.html").exists()


@pytest.mark.parametrize("name", ["thesis.txt", "index.html", "site.json", ".git/config"])
def test_refuses_a_folder_that_is_no_site(tmp_path, name):
    path = tmp_path / "home" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"generator": "another", "files": {}}')
    before = content(tmp_path)
    with pytest.raises(UsageError, match="no site of vlmed"):
        write_site(tmp_path / "home", PAGES.items())
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["CNAME", "data/mine.csv", ".git/config"])
def test_refuses_a_site_with_a_file_that_no_build_wrote(tmp_path, name):
    write_site(tmp_path / "site", PAGES.items())
    (tmp_path / "site" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "site" / name).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(UsageError, match="would lose this file") as caught:
        write_site(tmp_path / "site", [("index.html", "two")])
    assert name in str(caught.value)
    assert content(tmp_path) == before


def test_refuses_a_site_with_a_file_changed_by_hand(tmp_path):
    write_site(tmp_path / "site", PAGES.items())
    (tmp_path / "site" / "index.html").write_text("my own words")
    with pytest.raises(UsageError, match="would lose this file"):
        write_site(tmp_path / "site", PAGES.items())


def test_a_check_by_names_finds_what_no_build_wrote_and_reads_nothing(tmp_path):
    write_site(tmp_path / "site", PAGES.items())
    (tmp_path / "site" / "index.html").write_text("my own words")
    check_replaceable(tmp_path / "site", contents=False)
    (tmp_path / "site" / "data" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="would lose this file") as caught:
        check_replaceable(tmp_path / "site", contents=False)
    assert [problem.file for problem in caught.value.problems] == [str(tmp_path / "site" / "data" / "mine")]


def test_refuses_a_file(tmp_path):
    (tmp_path / "site").write_text("mine")
    with pytest.raises(UsageError, match="this is a file"):
        write_site(tmp_path / "site", PAGES.items())


def test_a_failing_build_leaves_the_old_site_and_no_rest(tmp_path):
    write_site(tmp_path / "site", PAGES.items())
    before = content(tmp_path)
    with pytest.raises(VlmedError):
        write_site(tmp_path / "site", [("index.html", "two"), ("x", tmp_path / "absent")])
    assert content(tmp_path) == before


def test_a_killed_build_leaves_the_old_site_whole(tmp_path):
    write_site(tmp_path / "site", PAGES.items())
    before = content(tmp_path / "site")
    # A pipe that nobody writes to holds the build in the middle of its copies.
    os.mkfifo(tmp_path / "pipe")
    program = (
        "import sys; from pathlib import Path; from vlmed.leaderboard.site import write_site\n"
        "write_site(Path(sys.argv[1]), [('index.html', 'two'), ('x', Path(sys.argv[2]))])"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "site"), str(tmp_path / "pipe")])
    while not list(tmp_path.glob(".site.*/index.html")) and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert content(tmp_path / "site") == before
    write_site(tmp_path / "site", [("index.html", "three")])
    assert (tmp_path / "site" / "index.html").read_text() == "three"


@pytest.mark.parametrize("jobs", [1, 2])
def test_other_processes_write_their_part(tmp_path, jobs):
    makers = [partial(list, [(f"models/{number}.html", f"page {number}")]) for number in range(5)]
    write_site(tmp_path / "site", PAGES.items(), makers, jobs)
    files = content(tmp_path / "site")
    assert {name: files[f"models/{name}.html"].decode() for name in "01234"} == {
        name: f"page {name}" for name in "01234"
    }
    assert sorted(written_files(tmp_path / "site")) == sorted(set(files) - {"site.json"})


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_fails_in_another_process_leaves_the_old_site_and_no_rest(tmp_path, jobs):
    write_site(tmp_path / "site", PAGES.items())
    before = content(tmp_path)
    with pytest.raises(VlmedError, match="No such file"):
        write_site(tmp_path / "site", PAGES.items(), [partial(list, [("x", tmp_path / "absent")])], jobs)
    assert content(tmp_path) == before
