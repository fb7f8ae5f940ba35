"""`vlmed doctor`: what works is called so, what doesn't is named with a way out, and nothing secret is shown."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from command_line import Vlmed

from submission_factory import World
from vlmed.evaluate import doctor
from vlmed.suite.load import load_suite

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test asks the real Hub, or finds the user's own token."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("VLMED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VLMED_DATA", raising=False)


def found(root: Path | None = None) -> dict[str, doctor.Finding]:
    return {finding.part: finding for finding in doctor.examine(load_suite(), root, timeout=2)}


def test_here_a_run_is_possible(vlmed: Vlmed) -> None:
    said = vlmed("doctor")
    assert said.code == 0
    assert "a run is possible" in said.out
    assert "ok       data phantom" in said.out


def test_the_first_run_that_is_offered_is_one_of_the_suite(vlmed: Vlmed, phantom_suite: Path, world: World) -> None:
    assert "next: vlmed run --model control:majority --tasks phantom_lesion\n" in vlmed("doctor").out
    own = vlmed("doctor", "--suite", phantom_suite).out
    assert f"next: vlmed run --model control:majority --tasks lesion --suite {phantom_suite}\n" in own
    # None of its data are here.
    assert f"next: vlmed tasks --suite {world.tasks_file}\n" in vlmed("doctor", "--suite", world.tasks_file).out


def test_json_says_the_same(vlmed: Vlmed) -> None:
    told = json.loads(vlmed("doctor", "--json").out)
    assert told["ready"] is True
    by_part = {finding["part"]: finding for finding in told["findings"]}
    assert by_part["torch"]["state"] == "ok"
    assert metadata.version("torch").split("+")[0] in by_part["torch"]["what"]
    assert set(by_part["data papila"]) == {"part", "state", "what", "fix", "needed"}


def test_everything_that_does_not_work_says_what_to_do() -> None:
    assert all(finding.fix for finding in found().values() if finding.state != "ok")


def test_without_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['vlmed', 'doctor']\nfrom vlmed.cli import main; main()"
    said = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert said.returncode == 1, said.stderr
    assert "missing !torch" in said.stdout
    assert "pip install 'vlmed[run]'" in said.stdout
    assert "no run is possible yet" in said.stdout
    assert "data papila" in said.stdout


def test_a_package_that_is_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(package: str) -> str:
        if package == "timm":
            raise metadata.PackageNotFoundError(package)
        return "0.5.1" if package == "peft" else real(package)

    monkeypatch.setattr(doctor.metadata, "version", version)
    extra = found()["extra run"]
    assert (extra.state, extra.needed) == ("missing", True)
    assert "no timm" in extra.what
    assert "peft 0.5.1 is older than 0.14" in extra.what
    assert not doctor.ready([extra])


def test_what_only_some_need_refuses_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(package: str) -> str:
        if package == "matplotlib":
            raise metadata.PackageNotFoundError(package)
        return real(package)

    monkeypatch.setattr(doctor.metadata, "version", version)
    findings = found()
    assert findings["extra plot"].state == "warning"
    assert doctor.ready(findings.values())


@pytest.mark.parametrize(
    ("free", "state", "possible"), [(2**40, "ok", True), (5 * 2**30, "warning", True), (2**20, "missing", False)]
)
def test_room_on_the_disk(monkeypatch: pytest.MonkeyPatch, free: int, state: str, possible: bool) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(2**41, 0, free))
    findings = found()
    assert findings["cache"].state == state
    assert doctor.ready(findings.values()) is possible


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VLMED_CACHE", str(tmp_path / "file" / "cache"))
    cache = found()["cache"]
    assert cache.state == "missing"
    assert "VLMED_CACHE" in cache.fix


class Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_that_answers(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", hub)
    assert found()["Hub"].state == "ok"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:{port}", "nonsense", "file:///etc/passwd"])
def test_a_hub_that_does_not(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", endpoint.format(port=port))
    told = found()["Hub"]
    assert told.state == "warning"
    assert "HF_ENDPOINT" in told.fix


def test_offline_by_choice() -> None:
    assert "HF_HUB_OFFLINE" in found()["Hub"].what


def test_a_token_is_never_shown(vlmed: Vlmed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_averysecrettoken")
    for words in (["doctor"], ["doctor", "--json"]):
        said = vlmed(*words)
        assert "there is one" in said.out
        assert "averysecret" not in said.out + said.err


def test_data_that_are_there_and_data_that_are_not(tmp_path: Path) -> None:
    (tmp_path / "breastmnist.npz").touch()
    (tmp_path / "papila").mkdir()
    findings = found(tmp_path)
    assert findings["data breastmnist"].what == str(tmp_path / "breastmnist.npz")
    assert "downloaded on first use" in findings["data pneumoniamnist"].what
    assert findings["data papila"].state == "missing"
    assert "patient_data_od.xlsx" in findings["data papila"].what
    assert findings["data chexpert"].what == "not in any data root"
    assert "vlmed data where chexpert" in findings["data chexpert"].fix


def test_real_data_are_found(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "slake").symlink_to(shared_data / "slake")
    told = found(tmp_path)["data slake"]
    assert told.state == "ok"
    assert "14,028 rows" in told.what


def test_a_data_root_that_is_none(vlmed: Vlmed, tmp_path: Path) -> None:
    said = vlmed("doctor", "--data-root", tmp_path / "nowhere")
    assert said.code == 0
    assert "missing  data roots" in said.out
