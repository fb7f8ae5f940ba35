"""A built site in real Chromium; no test may leave an error, a message or a foreign request behind."""

from __future__ import annotations

import functools
import http.server
import os
import re
import threading
from pathlib import Path

import pytest

from submission_factory import LORA, World
from vlmed.leaderboard.build import build

pytestmark = pytest.mark.browser
CHROMIUM = Path(os.environ.get("VLMED_CHROMIUM", "/usr/bin/chromium"))
CHEST = "#chest-1-zero_shot-1"
HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>\u202e"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("browser") / "world")
    tasks = ("chest", "waiting", "minor", "phantom_side")
    for name, skill in (("alpha", 0.7), ("beta", 2.5), ("gamma-10", 0.4), ("gamma-9", 1.2)):
        world.add(name, skill, tasks=tasks)
    world.add("adapted", 1.8, tasks=("chest",), adapter=LORA, seeds=(0, 1))
    world.add("hostile", 0.1, tasks=("chest",), adapter=LORA | {"ref": HOSTILE, "peft_type": HOSTILE}, ref=HOSTILE)
    world.add("one-class", 1.0, tasks=("waiting",), samples=slice(0, 120, 2))
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


@pytest.fixture(scope="session")
def address(site):
    return (site / "index.html").as_uri()


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
        page.on("request", lambda request: request.url.startswith((address, "data:")) or faults.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(opened, address):
    return opened(address, viewport={"width": 1440, "height": 900})


def models(page, table=CHEST, body=0):
    rows = page.locator(f"{table} tbody").nth(body).locator("tr:not(.group):visible th.model > bdi")
    return rows.all_text_contents()


def header(page, name):
    return page.locator(f"{CHEST} thead button", has_text=name).first


def test_works_from_a_server_too(opened, server):
    page = opened(server)
    header(page, "Model").click()
    page.locator("#search").fill("gamma")
    assert models(page) == ["gamma-9", "gamma-10"]


def test_models_stand_best_first_with_their_rank_intervals(page):
    assert models(page) == ["beta", "adapted", "gamma-9", "alpha", "gamma-10", "hostile"]
    assert models(page, body=1) == ["oracle"]
    ranks = page.locator(f"{CHEST} tbody td.rank").all_text_contents()
    assert all(re.fullmatch(r"\d+(–\d+)?|–", rank.strip()) for rank in ranks)
    assert ranks[-1].strip() == "–"


def test_sorts_by_mouse_in_both_directions(page):
    header(page, "Model").click()
    assert models(page) == ["adapted", "alpha", "beta", "gamma-9", "gamma-10", "hostile"]
    assert page.locator(f"{CHEST} th[aria-sort]").get_attribute("aria-sort") == "ascending"
    header(page, "Model").click()
    assert models(page)[0] == "hostile"
    assert page.locator("#status").text_content() == "Sorted by Model, descending"
    assert models(page, body=1) == ["oracle"]


def test_sorts_by_keyboard_and_keeps_the_focus(page):
    header(page, "AUC").focus()
    page.keyboard.press("Enter")
    assert models(page)[0] == "beta"
    page.keyboard.press("Space")
    assert models(page)[0] == "hostile"
    assert page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"


COLUMNS = ["Rank", "Model", "AUC", "All", "Accuracy", "Balanced accuracy", "Calibration error", "n"]


@pytest.mark.parametrize("name", COLUMNS)
def test_every_sortable_column_orders_its_values(page, name):
    button = page.locator(f"{CHEST} thead button").filter(has_text=re.compile(rf"^\s*{name}(\s|$)"))
    button.click()
    cell = button.locator("xpath=..")
    index, order = cell.evaluate("cell => [cell.cellIndex, cell.getAttribute('aria-sort')]")
    values = (
        page.locator(f"{CHEST} tbody")
        .first.locator("tr")
        .evaluate_all("(rows, index) => rows.map(row => row.cells[index].dataset.value)", index)
    )
    numbers = [value if name == "Model" else float(value) for value in values]
    if name != "Model":
        assert numbers == sorted(numbers, reverse=order == "descending")
    assert order == ("ascending" if name in ("Rank", "Model") else "descending")


def test_values_that_are_missing_sort_last_in_both_directions(page):
    table = "#waiting-1-zero_shot-1"
    for name in ("AUC", "Rank"):
        for _ in range(2):
            page.locator(f"{table} thead button", has_text=name).click()
            assert models(page, table)[-1] == "one-class"


def test_search_narrows_rows_tables_and_headings(page):
    page.keyboard.press("/")
    page.keyboard.type("gamma")
    assert models(page) == ["gamma-9", "gamma-10"]
    assert page.locator("#status").text_content() == "8 rows found"
    page.keyboard.press("Control+A")
    page.keyboard.type("chest-lora adapted")
    assert page.locator(".ranking:visible").count() == 1
    assert page.locator("h3:visible").count() == 1
    page.keyboard.press("Control+A")
    page.keyboard.type("nothing like this")
    assert page.locator(".ranking:visible").count() == 0
    page.locator("#search").fill("")
    assert page.locator(".ranking:visible").count() == 4


def test_search_finds_tasks_by_title_and_shows_all_their_rows(page):
    page.locator("#search").fill("restricted radiographs")
    assert page.locator(".ranking:visible").count() == 1
    assert len(models(page, "#waiting-1-zero_shot-1")) == 5


def test_controls_can_be_hidden(page):
    page.get_by_label("Controls").uncheck()
    assert models(page, body=1) == []
    page.get_by_label("Controls").check()
    assert models(page, body=1) == ["oracle"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_follows_the_system_theme_and_switches(opened, address, scheme):
    page = opened(address, color_scheme=scheme)
    colour = "getComputedStyle(document.body).backgroundColor"
    first = page.evaluate(colour)
    page.locator("#theme").click()
    second = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate(colour) == first
    assert {first, second} == {"rgb(255, 255, 255)", "rgb(17, 22, 28)"}
    assert (first == "rgb(17, 22, 28)") == (scheme == "dark")


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_the_page_is_never_wider_than_the_screen(opened, address, width):
    page = opened(address, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_on_a_phone_rank_and_model_stay_while_the_table_scrolls(opened, address):
    page = opened(address, viewport={"width": 360, "height": 780})
    model = page.locator(f"{CHEST} th.model").nth(1)
    before = model.bounding_box()["x"]
    page.locator(f"{CHEST} .scroll").evaluate("element => { element.scrollLeft = 300 }")
    assert page.locator(f"{CHEST} .scroll").evaluate("element => element.scrollLeft") > 100
    assert abs(model.bounding_box()["x"] - before) < 20


def test_at_1440_pixels_no_table_needs_scrolling(page):
    wide = page.locator(".scroll").evaluate_all("all => all.filter(one => one.scrollWidth > one.clientWidth).length")
    assert wide == 0


def test_hostile_texts_are_shown_and_do_nothing(page):
    assert page.title() == "vlmed leaderboard"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    row = page.locator(f"{CHEST} tr", has=page.locator("th.model > bdi", has_text="hostile"))
    assert "<img src=x onerror=document.title='owned'><sc..." in row.text_content()


def test_injected_script_and_style_do_not_run(chromium, address):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(address)
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.owned = 1";
          document.body.append(script);
          const text = '<b id=x style="color: rgb(1, 2, 3)" onclick="owned = 2">x</b>';
          document.body.insertAdjacentHTML("beforeend", text);
          document.getElementById("x").click();
        }"""
    )
    assert page.evaluate("window.owned") is None
    assert page.evaluate("getComputedStyle(document.getElementById('x')).color") != "rgb(1, 2, 3)"
    context.close()


def test_without_script_the_tables_are_whole_and_no_dead_control_shows(opened, address):
    page = opened(address, java_script_enabled=False)
    assert page.locator(".tools").is_hidden()
    assert page.locator("thead button").count() == 0
    assert len(models(page)) == 6


def test_the_keyboard_reaches_everything(page):
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(at => at.id || at.textContent.trim().slice(0, 20))(document.activeElement)"))
    assert {"Skip to the results", "search", "controls", "theme", "Rank", "result", "predictions"} <= reached


def test_whiskers_have_names_and_lie_inside_their_chart(page):
    for whisker in page.locator(f"{CHEST} svg[role=img]").all():
        name = whisker.get_attribute("aria-label")
        value, low, high = map(float, re.fullmatch(r"([\d.]+), 95 % interval ([\d.]+) to ([\d.]+)", name).groups())
        assert low <= value <= high
        chart, bar = whisker.bounding_box(), whisker.locator(".bar").bounding_box()
        assert chart["x"] <= bar["x"] <= bar["x"] + bar["width"] <= chart["x"] + chart["width"]


def test_evidence_can_be_followed(opened, server):
    page = opened(server)
    link = page.locator(f"{CHEST} a", has_text="result").first.get_attribute("href")
    assert page.request.get(server + link).json()["schema_version"] == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(opened, address, scheme):
    page = opened(address, color_scheme=scheme)
    worst = page.evaluate(
        """() => {
          const parse = (text) => text.match(/[\\d.]+/g).map(Number);
          const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
          const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
          const paper = (element) => {
            for (let at = element; at; at = at.parentElement) {
              const colour = parse(getComputedStyle(at).backgroundColor);
              if (colour.length === 3 || colour[3] > 0) return colour;
            }
            return [255, 255, 255];
          };
          let worst = 21;
          for (const element of document.querySelectorAll("body *:not(script, svg, path, circle, input)")) {
            const style = getComputedStyle(element);
            const ink = light(parse(element.tagName === "text" ? style.fill : style.color));
            const back = light(paper(element));
            worst = Math.min(worst, (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05));
          }
          return worst;
        }"""
    )
    assert worst >= 4.5  # WCAG 2.2, 1.4.3


def test_prints_in_black_on_white_without_controls(opened, address):
    page = opened(address, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".tools").is_hidden()
    assert page.pdf().startswith(b"%PDF")
