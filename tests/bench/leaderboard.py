"""How long a site of many models takes to build and how large its pages are: MODELS x 17 tasks x 3 tracks.

    python tests/bench/leaderboard.py [MODELS] [--shared] [--browser] [--in FOLDER]

Builds the site on two processes three times: cold, with verdicts kept and no draws; warm, with both; and warm once
more after one submission has come. Prints seconds of each step, of clock and of processors, and all of them as a share
of the limit (60 s); how many files the new submission changed, and that cold and warm gave equal bytes; the peak
memory of this process and of its largest worker; the first page's compressed size as a share of its limit (500 kB);
and, with --browser, how long Chromium takes for the first table (limit 1 s), to filter and to sort (limit 100 ms).

Submissions are synthetic and hold 120 samples per task. Of more than 24 models, the others mix the units of those 24;
their prediction files have bytes of their own, so that each is drawn for. Their validation, which
`tests/bench/validation.py` measures, is skipped: they get the verdict that the 24 got. With --shared their files keep
the bytes that they have in the 24, and the cold build says nothing of so many models: it draws for the 24 alone, which
is all that the warm build needs. With --in, the submissions stay in FOLDER and are used again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import submission_factory as factory
from vlmed.files import json_text
from vlmed.hashing import file_hash
from vlmed.leaderboard.board import board
from vlmed.leaderboard.build import DRAWN, data_files, site_makers
from vlmed.leaderboard.read import read_submissions
from vlmed.leaderboard.site import write_site
from vlmed.leaderboard.together import unswept
from vlmed.results import many
from vlmed.results.many import Validator
from vlmed.results.validate import Report, find_runs
from vlmed.suite.load import load_suite

TASKS, SECONDS, FIRST_PAGE, RESPONSE = 17, 60, 500_000, 0.1
TRACKS = ("zero_shot", "zero_shot_b", "linear_probe")
DISTINCT, JOBS = 24, 2
# What every file of pyarrow says of its maker, and something as long.
MAKER, NUMBERED = b"parquet-cpp-arrow", "synthetic-%07d"


def quick_score(*arguments, **options):
    """Scores without the bootstrap, which is what a submitter pays; intervals are made up around the values."""
    scores = REAL_SCORE(*arguments, **options, intervals=False)
    for metrics in filter(None, scores["metrics"].values()):
        for estimate in metrics.values():
            value = estimate["value"]
            estimate |= {"low": round(max(0.0, value - 0.06), 6), "high": round(min(1.0, value + 0.05), 6)}
    return scores


REAL_SCORE = factory.score


def make_world(root: Path, models: int, shared: bool) -> factory.World:
    factory.score = quick_score
    factory.PENDING = set()
    factory.TASKS = {
        f"task_{index}@1": factory.task(f"Task {index}", "radiographs") | {"tracks": list(TRACKS)}
        for index in range(TASKS)
    }
    factory.TRACKS |= {"zero_shot_b@1": factory.TRACKS["zero_shot@1"] | {"title": "Zero-shot, other prompts"}}
    world = factory.World(root)
    tasks = [f"task_{index}" for index in range(TASKS)]
    for index in range(min(models, DISTINCT)):
        world.add(f"model-{index}", 0.2 + 2.0 * (index * 0.618 % 1), tasks=tasks, tracks=TRACKS)
    world.control("majority", 0.0, tasks=tasks, tracks=TRACKS)
    for index in range(DISTINCT, models):
        mix(world.submissions, index, shared)
    return world


# What the distinct models have said is read once.
results_of = cache(lambda run: json.loads((run / "result.json").read_text()))


def mix(submissions: Path, number: int, shared: bool) -> None:
    """A further submission: of each unit that of one of the distinct models."""
    chance = random.Random(number)
    sources = [submissions / f"lab__model-{index}" / "1" for index in range(DISTINCT)]
    results = [results_of(source) for source in sources]
    target = submissions / f"lab__model-{number}" / "1"
    (target / "predictions").mkdir(parents=True)
    # A model is good or bad on the whole, as real ones are.
    order = sorted(
        range(DISTINCT), key=lambda index: results[index]["units"][0]["scores"]["metrics"]["all"]["auc"]["value"]
    )
    middle = chance.randrange(DISTINCT)
    units = []
    for place in range(len(results[0]["units"])):
        source = order[min(DISTINCT - 1, max(0, middle + chance.randint(-3, 3)))]
        unit = results[source]["units"][place]
        units.append(
            unit | {"predictions": copied(sources[source], target, unit["predictions"], None if shared else number)}
        )
    name = f"model-{number}"
    model = results[0]["model"] | {"name": name, "ref": f"hf:lab/{name}"}
    (target / "result.json").write_text(json_text(results[0] | {"model": model, "units": units}))


def copied(source: Path, target: Path, predictions: dict, number: int | None) -> dict:
    if number is None:
        shutil.copyfile(source / predictions["file"], target / predictions["file"])
        return predictions
    content = (source / predictions["file"]).read_bytes()
    assert content.count(MAKER) == 1
    (target / predictions["file"]).write_bytes(content.replace(MAKER, (NUMBERED % number).encode()))
    return predictions | {"sha256": file_hash(target / predictions["file"])}


def validate(world: factory.World, kept: Path) -> None:
    """Keep a verdict of every submission; that of a mixed one is the one that its parts got."""
    runs = find_runs(world.submissions)
    parts = [run for run in runs if int(run.parent.name.partition("-")[2] or 0) < DISTINCT]
    validator = Validator(world.suite, world.manifests, False, kept)
    assert all(report.accepted for report in validator.reports(parts, JOBS))
    real, many.validate_run = many.validate_run, lambda run, *_: Report(run, sha256=file_hash(run / "result.json"))
    list(validator.reports(runs, 1))
    many.validate_run = real


def processors() -> float:
    return sum(os.times()[:4])


@contextmanager
def timed(name: str) -> Iterator[list[float]]:
    start, cpu = time.perf_counter(), processors()
    took: list[float] = []
    yield took
    took += [time.perf_counter() - start, processors() - cpu]
    print(f"{name:28}{took[0]:9.1f} s {took[1]:9.1f} s of processors", flush=True)


def built(world: factory.World, out: Path, kept: Path, name: str) -> None:
    """The steps of `vlmed.leaderboard.build.build`."""
    with timed(f"{name}: all") as whole, unswept():
        with timed(f"{name}: read"):
            read = read_submissions(world.submissions, world.suite, world.manifests, False, kept, JOBS)
        assert not read.refused, read.refused[0].problems[0]
        with timed(f"{name}: rank"):
            ranked = board(world.suite, read, world.manifests, kept=kept / DRAWN, jobs=JOBS)
        with timed(f"{name}: render and write"):
            write_site(out, data_files(ranked), site_makers(ranked), JOBS)
    print(f"{'':28}{whole[0] / SECONDS:9.2f} of the limit by the clock, {whole[1] / JOBS / SECONDS:.2f} by processors")


def written(site: Path) -> dict[str, str]:
    files: dict[str, str] = json.loads((site / "site.json").read_text())["files"]
    return files


def sizes(site: Path) -> None:
    for name in ("index.html", "tasks/task_0-1.html", "compare.html", "answers.html", "data/results.csv"):
        raw = (site / name).read_bytes()
        packed = len(gzip.compress(raw, 6))
        share = f", {packed / FIRST_PAGE:.2f} of the limit" if name == "index.html" else ""
        print(f"{name:28}{len(raw) / 1e3:9.0f} kB, {packed / 1e3:.0f} kB compressed{share}")


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
        painted = tab.evaluate(
            "() => performance.getEntriesByType('paint').map((one) => `${one.name} ${Math.round(one.startTime)} ms`)"
        )
        print(f"{'':28}{'; '.join(painted)}")
        for name, change in (
            ("filter", "document.getElementById('search').value = 'model-1'; update()"),
            ("sort", "document.querySelector('#board thead th:nth-child(2) button').click()"),
        ):
            took = tab.evaluate(
                f"() => {{ const start = performance.now(); {change}; return performance.now() - start }}"
            )
            print(f"{name:28}{took:9.0f} ms, {took / 1000 / RESPONSE:.2f} of the limit")
        browser.close()


def world_in(root: Path, models: int, shared: bool) -> factory.World:
    if (root / "submissions").is_dir():
        world = factory.World.__new__(factory.World)
        world.root, world.suite = root, load_suite(root / "tasks.yaml")
        return world
    with timed(f"(making {models} models)"):
        return make_world(root, models, shared)


def measure(root: Path, models: int, shared: bool, browser: bool) -> None:
    world, kept = world_in(root / "world", models, shared), root / "kept"
    with timed("(verdicts)"):
        validate(world, kept)
    shutil.rmtree(kept / DRAWN, ignore_errors=True)
    shutil.rmtree(world.submissions / f"lab__model-{max(models, DISTINCT)}", ignore_errors=True)
    # Never where a site was removed: for minutes after a hundred thousand files are gone, ext4 makes new ones slowly.
    sites = [Path(tempfile.mkdtemp(prefix="site-", dir=root)) for _ in range(2)]
    for site, name in zip(sites, ("cold", "warm"), strict=True):
        built(world, site, kept, name)
    first, second = map(written, sites)
    print(f"cold and warm gave {'equal' if first == second else 'OTHER'} bytes: {len(first)} files")
    sizes(sites[0])
    if browser:
        in_browser(sites[0] / "index.html")
    if models >= DISTINCT:
        mix(world.submissions, models, shared)
        built(world, sites[1], kept, "one more")
        again = written(sites[1])
        changed = [name for name in again if again[name] != first.get(name)]
        print(f"{'files that it changed':28}{len(changed):9d} of {len(again)}")
    here, child = (
        resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"{'peak memory':28}{here:9d} MiB here, {child} MiB in the largest worker")
    for site in sites:
        shutil.rmtree(site)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="?", type=int, default=40)
    parser.add_argument("--shared", action="store_true")
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--in", dest="folder", type=Path)
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        measure(options.folder, options.models, options.shared, options.browser)
        return
    with tempfile.TemporaryDirectory(prefix="vlmed-bench-") as folder:
        measure(Path(folder), options.models, options.shared, options.browser)


if __name__ == "__main__":
    main()
