"""A real HTTP server on localhost that speaks the part of the Hub's API which `huggingface_hub` needs to load a model.

    with HubServer() as hub:
        commit = hub.add("org/tiny", folder)
        subprocess.run([...], env={**os.environ, **hub.environment(cache)})

It answers model information by revision (commit, siblings), the file tree, and `resolve` with `X-Repo-Commit` and
`ETag`; large files redirect to another host as LFS does; unknown repositories and revisions are 404, gated files 401.
What goes wrong on a real network is put into `faults`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

LFS_SUFFIXES = (".safetensors", ".bin", ".pt")


@dataclass
class Repository:
    """Commits with their files, and the branches and tags that point at them."""

    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit_of(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Fault:
    """Something that goes wrong with the next `times` requests whose `METHOD path` matches a regular expression.

    Attributes:
        status: Answered in place of what was asked for; 0 answers as usual, except for what the rest says.
        cut: Break off after that many bytes.
        pause: Seconds to wait before every 1,000 bytes.
    """

    request: str
    status: int = 0
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = -1
    pause: float = 0.0


class HubServer:
    """The server.

    Attributes:
        pull_requests: The files of every pull request, by path.
        parents: The commit on top of which each was made; empty for the newest.
        requests: Every request as `METHOD path`.
        authorizations: Host and `Authorization` header of every request, empty where it had none.
        ranges: Every `Range` header.
        token: Opens gated repositories.
        faults: What goes wrong next.
        after_information: Called after each answer about a repository, as if somebody pushed just then.
        closed: Organisations to which the token may not write.
    """

    def __init__(self, token: str = "hf_test") -> None:
        self.token = token
        self.faults: list[Fault] = []
        self.ranges: list[str] = []
        self.authorizations: list[tuple[str, str]] = []
        self.after_information: Callable[[], object] = lambda: None
        self.repositories: dict[str, Repository] = {}
        self.pull_requests: list[dict[str, bytes]] = []
        self.parents: list[str] = []
        self.requests: list[str] = []
        self.closed: set[str] = set()
        self._stopped = False
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the network down, connections that are still open included."""
        self._stopped = True
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def add(
        self, repository: str, folder: Path, *, tag: str = "", gated: bool = False, more: dict[str, bytes] | None = None
    ) -> str:
        """Commit a folder's files, and more, to `main`, and to a tag if one is given; returns the 40-hex commit."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        commit = self.commit(repository, files | (more or {}))
        entry = self.repositories[repository]
        entry.gated = entry.gated or gated
        entry.refs |= {tag: commit} if tag else {}
        return commit

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Commit files to `main`; a Space's name begins with `spaces/`."""
        entry = self.repositories.setdefault(repository, Repository())
        content = "".join(f"{name} {_sha1(data)}\n" for name, data in sorted(files.items()))
        commit = _sha1(f"{repository} {len(entry.commits)}\n{content}".encode())
        entry.commits[commit] = files
        entry.refs["main"] = commit
        return commit

    def environment(self, cache: Path) -> dict[str, str]:
        """What a child process needs in its environment to use this server and an own cache."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    def downloaded(self) -> set[str]:
        """The files whose content was asked for."""
        paths = (request.partition(" ")[2] for request in self.requests if request.startswith("GET "))
        return {
            unquote(match[1]) for path in paths if (match := re.search(r"/(?:resolve/|lfs/.+/)[0-9a-f]{40}/(.+)", path))
        }


@contextmanager
def local_hub(cache: Path) -> Iterator[HubServer]:
    """A local Hub for this process, with a cache of its own; the library read its settings when it was imported, so
    they are set again."""
    from huggingface_hub import constants

    with HubServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.delenv("HF_TOKEN", raising=False)
        yield server


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _is_lfs(name: str) -> bool:
    return name.endswith(LFS_SUFFIXES)


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _sha1(data)}
    if _is_lfs(name):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


class _Server(ThreadingHTTPServer):
    def __init__(self, hub: HubServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    fault: Fault

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        """Uploads: how each file is to be sent, then all of them in one commit, which becomes a pull request."""
        path, self.fault = urlsplit(self.path), Fault("")
        self.hub.requests.append(f"POST {path.path}")
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        match = re.fullmatch(r"/api/(datasets/|models/|)(.+?)/(preupload|commit)/main", path.path)
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._refuse(401, "Unauthorized", "Invalid credentials")
        elif path.path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.path == "/api/validate-yaml":
            self._validate(**json.loads(body))
        elif not match or match[2] not in self.hub.repositories:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif match[3] == "preupload":
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self._json({"files": files})
        elif "create_pr=1" in path.query:
            header, *lines = (json.loads(line)["value"] for line in body.splitlines())
            self.hub.pull_requests.append({line["path"]: base64.b64decode(line["content"]) for line in lines})
            self.hub.parents.append(header.get("parentCommit", ""))
            place = f"{self.hub.url}/{match[1].removeprefix('models/')}{match[2]}"
            pull = f"{place}/discussions/{len(self.hub.pull_requests)}"
            self._json({"commitUrl": f"{place}/commit/{'f' * 40}", "commitOid": "f" * 40, "pullRequestUrl": pull})
        elif match[2].startswith("spaces/"):
            self._commit_to_space(match[2], [json.loads(line) for line in body.splitlines()])
        else:
            self._refuse(403, "Forbidden", "only pull requests")

    def _validate(self, content: str, repoType: str) -> None:  # noqa: N803
        """The metadata of a card: a Space names its kind, and a licence is one that is known."""
        key, known = ("sdk", {"static", "docker", "gradio"}) if repoType == "space" else ("license", {"mit", "'mit'"})
        said = re.findall(rf"^{key}: *(.*?)\r?$", content, re.MULTILINE)
        wrong = not known.issuperset(said) or (repoType == "space" and not said)
        answer = {"errors": [{"message": f'"{key}" must be one of these'}] if wrong else [], "warnings": []}
        self._send(400 if wrong else 200, json.dumps(answer).encode())

    def _create(self, wanted: dict[str, Any]) -> None:
        """A Space, which begins with two files of the Hub's own."""
        name = f"spaces/{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] in self.hub.closed:
            self._refuse(403, "Forbidden", f"You don't have the rights to create a space under {name}")
        elif name in self.hub.repositories:
            answer = {"error": "You already created this space repo", "url": f"{self.hub.url}/{name}"}
            self._send(409, json.dumps(answer).encode())
        else:
            assert (wanted["type"], wanted["sdk"]) == ("space", "static")
            self.hub.commit(name, {"README.md": b"---\nsdk: static\n---\n", ".gitattributes": b"*.bin filter=lfs\n"})
            self._json({"url": f"{self.hub.url}/{name}"})

    def _commit_to_space(self, name: str, lines: list[dict[str, Any]]) -> None:
        repository = self.hub.repositories[name]
        files = dict(repository.commits[repository.refs["main"]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.hub.commit(name, files)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _answer(self) -> None:
        if self.hub._stopped:
            self.close_connection = True
            return
        path = urlsplit(self.path).path
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        self.hub.authorizations.append((self.headers["Host"].partition(":")[0], self.headers.get("Authorization", "")))
        self.hub.ranges += filter(None, [self.headers.get("Range")])
        self.fault = next((fault for fault in self.hub.faults if re.fullmatch(fault.request, request)), Fault(""))
        if self.fault in self.hub.faults:
            self.fault.times -= 1
            if not self.fault.times:
                self.hub.faults.remove(self.fault)
        if self.fault.status:
            self._send(self.fault.status, b"{}", self.fault.headers)
        elif match := re.fullmatch(r"/api/(?:models/)?(.+?)(?:/(revision|tree)/([^/]+))?", path):
            self._information(match[1], match[2] or "revision", unquote(match[3] or "main"))
        elif match := re.fullmatch(r"/lfs/(.+?)/([0-9a-f]{40})/(.+)", path):
            self._send(200, self.hub.repositories[match[1]].commits[match[2]][unquote(match[3])])
        elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], unquote(match[2]), unquote(match[3]))
        else:
            self._refuse(404, "NotFound", path)

    def _commit(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
            return None
        commit = repository.commit_of(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository, commit

    def _information(self, name: str, what: str, revision: str) -> None:
        found = self._commit(name, revision)
        if not found:
            return
        repository, commit = found
        files = repository.commits[commit]
        if what == "tree":
            self._json([_entry(file, data) for file, data in sorted(files.items())])
            return
        sized = "blobs=true" in urlsplit(self.path).query.lower()
        siblings = [
            {"rfilename": file} | ({"size": len(data)} if sized else {}) for file, data in sorted(files.items())
        ]
        gated = "manual" if repository.gated else False
        self._json({"id": name, "modelId": name, "sha": commit, "gated": gated, "private": False, "siblings": siblings})
        self.hub.after_information()

    def _resolve(self, name: str, revision: str, file: str) -> None:
        found = self._commit(name, revision)
        if not found:
            return
        repository, commit = found
        if repository.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._refuse(401, "GatedRepo", f"Access to model {name} is restricted.")
            return
        data = repository.commits[commit].get(file)
        if data is None:
            self._refuse(404, "EntryNotFound", f"Entry not found: {file}")
            return
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_sha1(data)}"'}
        if not _is_lfs(file):
            self._send(200, data, headers)
            return
        headers |= {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
        # The client follows redirects on one host by itself; large files lie on another, which must be visible.
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        self._send(302, b"", headers | {"Location": f"{elsewhere}/lfs/{name}/{commit}/{file}"})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        start = self.headers.get("Range", "") if status == 200 else ""
        if match := re.fullmatch(r"bytes=(\d+)-", start):
            status, total = 206, len(body)
            headers = {**(headers or {}), "Content-Range": f"bytes {match[1]}-{total - 1}/{total}"}
            body = body[int(match[1]) :]
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command in ("GET", "POST"):
            self._write(body)

    def _write(self, body: bytes) -> None:
        sent = body if self.fault.cut < 0 else body[: self.fault.cut]
        for start in range(0, len(sent), 1000 if self.fault.pause else len(sent)):
            time.sleep(self.fault.pause)
            self.wfile.write(sent[start : start + (1000 if self.fault.pause else len(sent))])
        self.close_connection = self.close_connection or len(sent) < len(body)
