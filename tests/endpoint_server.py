"""A real HTTP server on localhost that speaks the part of OpenAI's API which chat with images needs.

    with EndpointServer(models=["org/tiny"], key="secret") as server:
        server.faults = [Fault(status=429, headers={"Retry-After": "1"})]
        requests.post(f"{server.url}/chat/completions", ...)

Answers name the prompt and the hash of the decoded image's pixels, so that a test sees what arrived. Faults befall the
next chat completions, one each. `stop` cuts all connections, as a killed process does; `start` listens on the same port
again.

    python tests/endpoint_server.py [latency] [capacity]      # prints its URL, serves until its input ends
"""

from __future__ import annotations

import base64
import io
import json
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from vlmed.hashing import pixel_hash


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    Attributes:
        status: Answered instead of 200.
        headers: Sent with it.
        body: Sent instead of an answer.
        cut: Announce the whole body, send half of it and close the connection.
        slow: Seconds until the answer, beyond the server's latency.
        drip: Send the body byte by byte, with this many seconds between.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut: bool = False
    slow: float = 0.0
    drip: float = 0.0


class EndpointServer:
    """The server.

    Attributes:
        faults: What goes wrong with the next chat completions.
        refused: Prompts that are answered with status 400.
        asked: Prompt and pixel hash of each chat completion that arrived, in order.
        answered: The same for those whose answer was sent in full.
        most_at_once: The most requests that were under way at the same time.
    """

    def __init__(
        self, models: list[str], key: str = "", *, latency: float = 0.0, capacity: int = 64, usage: int | None = 10
    ) -> None:
        self.models = models
        self.key = key
        self.latency = latency
        self.usage = usage
        self.lists_models = True
        self.faults: list[Fault] = []
        self.refused: set[str] = set()
        self.asked: list[tuple[str, str | None]] = []
        self.answered: list[tuple[str, str | None]] = []
        self.keys_seen: set[str] = set()
        self.bodies: list[dict[str, Any]] = []
        self.under_way = self.most_at_once = 0
        self.slots = threading.Semaphore(capacity)
        self.lock = threading.Lock()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> EndpointServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._server = _Server(self, self.port)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take it down and cut whatever is under way."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.cut_all()

    def next_fault(self) -> Fault:
        with self.lock:
            return self.faults.pop(0) if self.faults else Fault()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, endpoint: EndpointServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.endpoint = endpoint
        self.connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def cut_all(self) -> None:
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A cut connection is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    @property
    def endpoint(self) -> EndpointServer:
        return self.server.endpoint

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        if self._may() and self.path == "/v1/models" and self.endpoint.lists_models:
            self._json(200, {"object": "list", "data": [self._entry(name) for name in self.endpoint.models]})
        else:
            self._json(404, {"error": {"message": f"no {self.path} here"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._may():
            return
        if self.path != "/v1/chat/completions":
            self._json(404, {"error": {"message": f"no {self.path} here"}})
        elif body["model"] not in self.endpoint.models:
            self._json(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        else:
            self._complete(body)

    def _entry(self, name: str) -> dict[str, Any]:
        # As vLLM has it: `created` is now.
        return {"id": name, "object": "model", "created": time.time_ns(), "owned_by": "tests", "root": f"/{name}"}

    def _may(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.endpoint.keys_seen.add(given)
        if given == self.endpoint.key:
            return True
        self._json(401, {"error": {"message": f"Incorrect API key provided: {given}."}})
        return False

    def _complete(self, body: dict[str, Any]) -> None:
        endpoint = self.endpoint
        asked = _asked(body)
        with endpoint.lock:
            endpoint.asked.append(asked)
            endpoint.bodies.append(body)
            endpoint.under_way += 1
            endpoint.most_at_once = max(endpoint.most_at_once, endpoint.under_way)
        try:
            fault = endpoint.next_fault()
            with endpoint.slots:
                time.sleep(endpoint.latency + fault.slow)
            self._reply(asked, fault)
        finally:
            with endpoint.lock:
                endpoint.under_way -= 1

    def _reply(self, asked: tuple[str, str | None], fault: Fault) -> None:
        if asked[0] in self.endpoint.refused:
            self._json(400, {"error": {"message": "This prompt is refused."}})
            return
        answer = {"choices": [{"message": {"role": "assistant", "content": f" {asked[0]} | {asked[1]}\n"}}]}
        if self.endpoint.usage is not None:
            answer["usage"] = {"total_tokens": self.endpoint.usage}
        content = json.dumps(answer).encode() if fault.body is None else fault.body
        self._send(fault.status, content, fault)
        if fault == Fault(slow=fault.slow):
            with self.endpoint.lock:
                self.endpoint.answered.append(asked)

    def _json(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value).encode(), Fault())

    def _send(self, status: int, body: bytes, fault: Fault) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **fault.headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if fault.cut:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault.drip:
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(fault.drip)
        else:
            self.wfile.write(body)
        self.wfile.flush()


def _asked(body: dict[str, Any]) -> tuple[str, str | None]:
    """Prompt and hash of the RGB pixels of what a body asks."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content, None
    image, text = content
    data = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))
    return text["text"], pixel_hash(Image.open(io.BytesIO(data)).convert("RGB"))


if __name__ == "__main__":
    latency, capacity = float(sys.argv[1]), int(sys.argv[2])
    with EndpointServer(["org/tiny"], latency=latency, capacity=capacity) as running:
        print(running.url, flush=True)
        sys.stdin.read()
