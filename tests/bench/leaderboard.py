"""How long a site of many models takes to build and how large its pages are: MODELS x 17 tasks x 3 tracks.

    python tests/bench/leaderboard.py [MODELS] [--browser]

Prints seconds for reading, ranking, writing, and all of it as a share of the limit (60 s); the first page's compressed
size as a share of its limit (500 kB); and, with --browser, how long Chromium takes to filter and sort (limit 100 ms).
Submissions are synthetic and hold 120 samples per task, intervals are not recomputed.
"""

from __future__ import annotations

import gzip
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import submission_factory as factory
from vlmed.leaderboard.board import board
from vlmed.leaderboard.build import site_files
from vlmed.leaderboard.read import read_submissions
from vlmed.leaderboard.site import write_site

TASKS, SECONDS, FIRST_PAGE, RESPONSE = 17, 60, 500_000, 0.1
TRACKS = ("zero_shot", "zero_shot_b", "linear_probe")


def quick_score(*arguments, **options):
    """Scores without the bootstrap, which is what a submitter pays; intervals are made up around the values."""
    scores = REAL_SCORE(*arguments, **options, intervals=False)
    for metrics in filter(None, scores["metrics"].values()):
        for estimate in metrics.values():
            value = estimate["value"]
            estimate |= {"low": round(max(0.0, value - 0.06), 6), "high": round(min(1.0, value + 0.05), 6)}
    return scores


REAL_SCORE = factory.score


def make_world(root: Path, models: int) -> factory.World:
    factory.score = quick_score
    factory.PENDING = set()
    factory.TASKS = {
        f"task_{index}@1": factory.task(f"Task {index}", "radiographs") | {"tracks": list(TRACKS)}
        for index in range(TASKS)
    }
    factory.TRACKS |= {"zero_shot_b@1": factory.TRACKS["zero_shot@1"] | {"title": "Zero-shot, other prompts"}}
    world = factory.World(root)
    tasks = [f"task_{index}" for index in range(TASKS)]
    for index in range(models):
        world.add(f"model-{index}", 0.2 + 2.0 * (index * 0.618 % 1), tasks=tasks, tracks=TRACKS)
    world.control("majority", 0.0, tasks=tasks, tracks=TRACKS)
    return world


def timed(name: str, work):
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    print(f"{name:28}{seconds:9.1f} s")
    return result, seconds


def in_browser(page: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page()
        start = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector("#board tbody tr")
        print(f"{'first table visible':28}{time.perf_counter() - start:9.2f} s, limit 1 s")
        for name, change in (
            ("filter", "document.getElementById('search').value = 'model-1'; update()"),
            ("sort", "document.querySelector('#board thead th:nth-child(2) button').click()"),
        ):
            took = tab.evaluate(
                f"() => {{ const start = performance.now(); {change}; return performance.now() - start }}"
            )
            print(f"{name:28}{took:9.0f} ms, {took / 1000 / RESPONSE:.2f} of the limit")
        browser.close()


def main() -> None:
    models = next((int(text) for text in sys.argv[1:] if text.isdigit()), 20)
    root = Path(tempfile.mkdtemp(prefix="vlmed-bench-"))
    try:
        world, _ = timed(f"(making {models} models)", lambda: make_world(root / "world", models))
        read, reading = timed(
            "validate", lambda: read_submissions(world.submissions, world.suite, world.manifests, False)
        )
        assert not read.refused, read.refused[0].problems[0]
        ranked, ranking = timed("rank", lambda: board(world.suite, read, world.manifests))
        files, rendering = timed("render", lambda: dict(site_files(ranked)))
        _, writing = timed("write", lambda: write_site(root / "site", files, {}))
        total = ranking + rendering + writing
        print(f"{'rank, render and write':28}{total:9.1f} s, {total / SECONDS:.2f} of the limit")
        print(f"{'with validation':28}{reading + total:9.1f} s")
        for name in ("index.html", "tasks/task_0-1.html", "compare.html", "answers.html", "data/results.csv"):
            raw = files[name] if isinstance(files[name], bytes) else files[name].encode()
            packed = len(gzip.compress(raw, 6))
            share = f", {packed / FIRST_PAGE:.2f} of the limit" if name == "index.html" else ""
            print(f"{name:28}{len(raw) / 1e3:9.0f} kB, {packed / 1e3:.0f} kB compressed{share}")
        print(f"{'all generated files':28}{len(files):9d}")
        if "--browser" in sys.argv:
            in_browser(root / "site" / "index.html")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
