"""Against a real HTTP server on this machine that misbehaves on request."""

import hashlib
import random
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vlmed.data.download import fetch
from vlmed.errors import InputError, MissingError, VlmedError

BODY = random.Random(0).randbytes(3_000_000)
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """What the server does, and what it was asked: `script` gives one behaviour per request, the last one stays."""

    url: str = ""
    script: list[str] = field(default_factory=lambda: ["ok"])
    ranges: list[str | None] = field(default_factory=list)

    def next(self) -> str:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers["Range"]
            state.ranges.append(asked)
            behaviour = state.next()
            if behaviour.isdigit():
                return self.send_error(int(behaviour))
            start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked and "no range" not in behaviour else 0
            if start >= len(BODY):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
            if "no length" not in behaviour:
                self.send_header("Content-Length", str(len(BODY) - start))
            self.end_headers()
            body = BODY[start:]
            self.wfile.write(body[: len(body) // 2] if "cut" in behaviour else body)
            return None

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_port}/data.npz"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "new" / "data.npz"


def _files(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


@pytest.mark.parametrize("checksum", [MD5, SHA])
@pytest.mark.parametrize("behaviour", ["ok", "no length"])
def test_a_download_lands_whole(server, target, checksum, behaviour):
    server.script = [behaviour]
    assert fetch(server.url, target, checksum) == target
    assert target.read_bytes() == BODY
    assert _files(target) == ["data.npz"]


def test_a_cut_off_body_is_resumed_where_it_ended(server, target):
    server.script = ["cut", "cut", "ok"]
    fetch(server.url, target, MD5, pause=0)
    assert target.read_bytes() == BODY
    assert server.ranges == [None, "bytes=1500000-", "bytes=2250000-"]


def test_a_part_of_an_earlier_run_is_resumed(server, target):
    server.script = ["cut"]
    with pytest.raises(MissingError, match="Run again to resume"):
        fetch(server.url, target, MD5, attempts=1)
    assert _files(target) == ["data.npz.part"]
    server.script = ["ok"]
    fetch(server.url, target, MD5)
    assert server.ranges == [None, "bytes=1500000-"]
    assert target.read_bytes() == BODY


def test_a_server_without_ranges_is_read_from_the_start(server, target):
    server.script = ["no range cut", "no range"]
    fetch(server.url, target, MD5, pause=0)
    assert server.ranges == [None, "bytes=1500000-"]
    assert target.read_bytes() == BODY


def test_a_whole_part_only_needs_its_hash(server, target):
    target.parent.mkdir()
    target.with_name("data.npz.part").write_bytes(BODY)
    fetch(server.url, target, SHA)
    assert target.read_bytes() == BODY
    assert _files(target) == ["data.npz"]


@pytest.mark.parametrize("old", [b"another file", BODY + b"too long"])
def test_a_part_of_another_file_is_replaced(server, target, old):
    target.parent.mkdir()
    target.with_name("data.npz.part").write_bytes(old)
    fetch(server.url, target, MD5)
    assert target.read_bytes() == BODY


def test_a_wrong_hash_is_refused_and_nothing_is_kept(server, target):
    wrong = "md5:" + "0" * 32
    with pytest.raises(InputError) as caught:
        fetch(server.url, target, wrong)
    problem = caught.value.problems[0]
    assert (problem.file, problem.expected, problem.got) == (str(target), wrong, MD5)
    assert _files(target) == []


def test_a_wrong_hash_leaves_the_old_file_alone(server, target):
    target.parent.mkdir()
    target.write_bytes(b"good old file")
    with pytest.raises(InputError):
        fetch(server.url, target, "md5:" + "0" * 32)
    assert target.read_bytes() == b"good old file"


@pytest.mark.parametrize("code", ["500", "503", "429"])
def test_server_errors_are_tried_again(server, target, code):
    server.script = [code, code, "ok"]
    fetch(server.url, target, MD5, pause=0)
    assert len(server.ranges) == 3
    assert target.read_bytes() == BODY


def test_a_server_that_stays_broken_is_given_up(server, target):
    server.script = ["500"]
    with pytest.raises(MissingError, match="HTTP 500") as caught:
        fetch(server.url, target, MD5, attempts=3, pause=0)
    assert len(server.ranges) == 3
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("code", ["404", "401", "403"])
def test_a_refusal_is_final_and_says_where_to_put_the_file(server, target, code):
    server.script = [code]
    with pytest.raises(MissingError, match=f"HTTP {code}") as caught:
        fetch(server.url, target, MD5, pause=0)
    assert len(server.ranges) == 1
    assert str(target) in caught.value.problems[0].hint


def test_no_network_says_where_to_put_the_file(target):
    with pytest.raises(MissingError) as caught:
        fetch("http://127.0.0.1:9/data.npz", target, MD5, attempts=2, pause=0, timeout=2)
    assert f"put it at {target}" in caught.value.problems[0].hint


def test_a_full_disk_is_told_as_such(server, target):
    target.parent.mkdir()
    target.with_name("data.npz.part").symlink_to("/dev/full")
    with pytest.raises(VlmedError, match="the disk is full") as caught:
        fetch(server.url, target, MD5)
    assert "VLMED_CACHE" in caught.value.problems[0].hint
    assert not target.exists()


def test_a_folder_that_is_a_file_is_told(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VlmedError, match="can't be written"):
        fetch(server.url, tmp_path / "file" / "data.npz", MD5)
