"""Endpoint throughput with 32 requests in flight against the server's own limit, capacity / latency. Limit: 0.9.

    python tests/bench/endpoint.py [requests] [rounds]

The server is a process of its own that works on 16 requests at once for 0.2 s each, so it can answer 80 a second. Every
request carries another grey image of 224 x 224 pixels, encoded while others are under way; every answer is kept on
disk. On a busy machine the server itself falls short of its limit; so bare posts of ready bodies, as many at once, are
timed in turn with it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from vlmed.models.endpoint import EndpointGenerator, _content
from vlmed.models.endpoint_client import ChatClient
from vlmed.models.protocols import Request

SERVER = Path(__file__).parents[1] / "endpoint_server.py"
LATENCY, CAPACITY, IN_FLIGHT = 0.2, 16, 32


@contextmanager
def server() -> Iterator[str]:
    command = [sys.executable, str(SERVER), str(LATENCY), str(CAPACITY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


def requests(count: int) -> list[Request]:
    """Soft shadows with a little noise, as radiographs are."""
    generator = np.random.default_rng(0)
    across = np.linspace(0, 3, 224)
    shadow = 128 + 80 * np.sin(across)[:, None] * np.cos(across)
    images = (shadow + generator.normal(0, 2, (224, 224)) for _ in range(count))
    return [Request(Image.fromarray(image.astype(np.uint8)), "Is this a benchmark?", 16) for image in images]


def bare_posts(url: str, bodies: list[dict[str, Any]]) -> None:
    limits = httpx2.Limits(max_connections=IN_FLIGHT)
    with httpx2.Client(limits=limits, timeout=60) as client, ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(lambda body: client.post(f"{url}/chat/completions", json=body).json(), bodies))


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(count: int = 400, rounds: int = 3) -> None:
    ours, bare = [], []
    asked = requests(count)
    content = [{"role": "user", "content": _content(each.prompt, each.image)} for each in asked]
    bodies = [{"model": "org/tiny", "messages": [turn], "max_tokens": 16} for turn in content]
    with server() as url, tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            client = ChatClient(url, connections=IN_FLIGHT)
            model = EndpointGenerator(client, "org/tiny", f"sha256:{number}", Path(scratch))
            ours.append(timed(lambda model=model: model.answer(asked)))
            bare.append(timed(lambda: bare_posts(url, bodies)))
    best = count * LATENCY / CAPACITY
    print(f"{count} requests, {IN_FLIGHT} in flight, limit {CAPACITY / LATENCY:.0f} a second")
    print(f"throughput / limit: {best / statistics.median(ours):.3f} (best {best / min(ours):.3f}); bound 0.9")
    print(f"bare posts / limit: {best / statistics.median(bare):.3f} (best {best / min(bare):.3f})")
    print(f"throughput / bare posts: {statistics.median(bare) / statistics.median(ours):.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
