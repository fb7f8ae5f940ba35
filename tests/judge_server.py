"""A judge on localhost that is honest about what is properly fenced and obeys everything else.

It reads a request as a careless model would:

- A turn begins wherever a line starts with a role and a colon, or a chat template's mark stands; it obeys a new turn.
- A fence opens and closes wherever a line looks like one: full-width brackets and invisible characters deceive it. It
  tells fences apart by the code that the user's turn names first, where that names one, and else not at all.
- Outside of fences, it obeys whoever asks for a score.
- What is fenced it takes for JSON if it can, and grades its words against the reference's.

    with JudgeServer() as server:
        ...
        server.replies = ["no JSON", None]      # what the next requests get instead of a grade; None: a grade
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import unicodedata
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CRITERIA = ("helpfulness", "relevance", "accuracy", "level_of_detail")
_ORDER = re.compile(r"(?:score|grade|rate|give|award)\D{0,60}(\d{1,3})", re.IGNORECASE)
_TURN = re.compile(r"^\s*(?:system|developer|assistant|user)\s*:|<\|?(?:im_start|start_header_id|system)\|?>|\[INST\]",
                   re.IGNORECASE | re.MULTILINE)  # fmt: skip
_CODE = re.compile(r"code of this request is (\w+)")


class JudgeServer:
    """The server.

    Attributes:
        replies: What the next requests get, one each; None is an honest grade.
        refused: Texts; a request that holds one is refused with status 400.
        asked: The messages of every request that arrived.
        moody: Whether the second way of asking gets five points less.
        latency: Seconds until a reply.
    """

    def __init__(self, model: str = "org/judge") -> None:
        self.model = model
        self.replies: list[str | None] = []
        self.refused: set[str] = set()
        self.asked: list[list[dict[str, str]]] = []
        self.bodies: list[dict[str, Any]] = []
        self.moody = False
        self.broken = False
        self.latency = 0.0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def ref(self) -> str:
        return f"endpoint:{self.url}#{self.model}"

    def __enter__(self) -> JudgeServer:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.judge = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reply(self, messages: list[dict[str, str]]) -> str:
        with self.lock:
            self.asked.append(messages)
            given = self.replies.pop(0) if self.replies else None
        if given is not None:
            return given
        score = grade(messages[-1]["content"])
        second = messages[-1]["content"].find("<<<answer") < messages[-1]["content"].find("<<<question")
        return reply_of(max(1, score - 5) if self.moody and second else score)


def reply_of(score: int) -> str:
    return json.dumps(dict.fromkeys(CRITERIA, score))


def grade(content: str) -> int:
    """The score that a careless reader gives for a user's turn."""
    fences, outside = _fences(content)
    seen = unicodedata.normalize("NFKC", content)
    if turn := _TURN.search(seen):
        ordered = _ORDER.search(seen, turn.end())
        if ordered:
            return min(100, int(ordered[1]))
    if ordered := _ORDER.search(outside):
        return min(100, int(ordered[1]))
    answer, reference = (set(_words(fences.get(name, ""))) for name in ("answer", "reference"))
    return 1 + round(98 * len(answer & reference) / max(1, len(answer | reference)))


def _fences(content: str) -> tuple[dict[str, str], str]:
    """The fenced texts by name, and all lines outside of fences."""
    code = (_CODE.search(content) or [None, ""])[1]
    inside: dict[str, list[str]] = {}
    outside, name = [], ""
    for line in content.splitlines():
        mark = re.fullmatch(rf"<<<\s*(end )?(question|reference|answer)(?: \(.*\))?\s*{code}\s*>>>", _looks_like(line))
        if mark:
            name = "" if mark[1] else mark[2]
        elif name:
            inside.setdefault(name, []).append(line)
        else:
            outside.append(line)
    return {fence: "\n".join(lines) for fence, lines in inside.items()}, "\n".join(outside)


def _looks_like(line: str) -> str:
    """A line as the eye takes it."""
    seen = "".join(mark for mark in unicodedata.normalize("NFKC", line) if unicodedata.category(mark) != "Cf")
    return (
        seen.translate({0x2039: "<", 0x203A: ">", 0x276E: "<", 0x276F: ">", 0x02C2: "<", 0x02C3: ">"}).strip().lower()
    )


def _words(text: str) -> list[str]:
    with contextlib.suppress(ValueError):
        text = json.loads(text)
    return re.findall(r"\w+", str(text).lower())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    judge: JudgeServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A cut connection is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self._json(200, {"data": [{"id": self.server.judge.model, "owned_by": "tests", "created": time.time_ns()}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        judge = self.server.judge
        judge.bodies.append(body)
        time.sleep(judge.latency)
        if judge.broken:
            self._json(401, {"error": {"message": "no"}})
        elif any(text in body["messages"][-1]["content"] for text in judge.refused):
            self._json(400, {"error": {"message": "refused"}})
        else:
            message = {"role": "assistant", "content": judge.reply(body["messages"])}
            self._json(200, {"choices": [{"message": message}], "usage": {"total_tokens": 100}})

    def _json(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
