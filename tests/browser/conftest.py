"""A built site, opened in real Chromium from a file and from a server; no test may leave an error or a request behind."""

from __future__ import annotations

import functools
import http.server
import os
import threading
from pathlib import Path

import pytest
from submission_factory import LORA, World

from vlmed.leaderboard.build import build

CHROMIUM = Path(os.environ.get("VLMED_CHROMIUM", "/usr/bin/chromium"))
HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>\u202e"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("browser") / "world")
    tasks = ("chest", "waiting", "minor", "phantom_side")
    for name, skill in (("alpha", 0.9), ("beta", 2.5), ("gamma-10", 0.4), ("gamma-9", 1.0)):
        world.add(name, skill, tasks=tasks)
    world.add("adapted", 1.8, tasks=("chest",), adapter=LORA, seeds=(0, 1))
    world.add("hostile", 0.1, tasks=("chest",), adapter=LORA | {"ref": HOSTILE, "peft_type": HOSTILE}, ref=HOSTILE)
    world.control("oracle", 30.0, tasks=tasks)
    refused = world.add("refused") / "result.json"
    refused.write_text(refused.read_text().replace('"suite": "2026.1"', '"suite": "<script>document.title=1</script>"'))
    return build(world.submissions, world.root / "site", world.suite, world.manifests).page.parent


@pytest.fixture(scope="session")
def server(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture(scope="session")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        reason = f"no Chromium at {CHROMIUM}; set VLMED_CHROMIUM"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(params=["file", "server"])
def address(request, site, server):
    return (site / "index.html").as_uri() if request.param == "file" else server


@pytest.fixture
def opened(chromium):
    """Opens an address; at the end, there must be no console message, no page error and no request but the page's."""
    contexts, faults = [], []

    def open_page(address, **options):
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith((address, "data:")) else faults.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(opened, address):
    return opened(address, viewport={"width": 1440, "height": 900})
