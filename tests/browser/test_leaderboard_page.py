"""A built site in real Chromium; no test may leave an error, a message or a foreign request behind."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import os
import re
import threading
from pathlib import Path

import pytest

from hostile_submission import ADDRESS, TEXT, add_hostile, add_refused
from submission_factory import LORA, World, add_audit
from vlmed.leaderboard.build import build
from vlmed.results.untrusted import printable

pytestmark = pytest.mark.browser
CHROMIUM = Path(os.environ.get("VLMED_CHROMIUM", "/usr/bin/chromium"))
CHEST = "#zero_shot-1"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("browser") / "world")
    tasks = ("chest", "organ", "waiting", "minor", "phantom_side")
    for name, skill in (("alpha", 0.7), ("beta", 2.5), ("gamma-10", 0.4), ("gamma-9", 1.2)):
        run = world.add(name, skill, tasks=tasks)
        if name == "beta":
            add_audit(run)
    world.blind("blank", "beta", 0.1, tasks=("chest",))
    for share in (0.1, 1):
        world.add("beta", 2 * share, run=f"probe-{share}", tracks=("linear_probe",), fraction=share, seeds=(0, 1))
    world.add("adapted", 1.8, tasks=("chest",), adapter=LORA, seeds=(0, 1))
    add_hostile(world)
    world.add("one-class", 1.0, tasks=("waiting",), samples=slice(0, 120, 2))
    world.control("oracle", 30.0, tasks=tasks)
    add_refused(world)
    return build(world.submissions, world.root / "site", world.suite, world.manifests, intervals=False).page.parent


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
def overview(site):
    return (site / "index.html").as_uri()


@pytest.fixture(scope="session")
def address(site):
    return (site / "tasks/chest-1.html").as_uri()


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
        own = (re.split(r"/(?:tasks|models|tracks)/|/[^/]*$", address.split("#")[0])[0], "data:")
        page.on("request", lambda request: request.url.startswith(own) or faults.append(request.url))
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
    rows = page.locator(f"{table} tbody").nth(body).locator("tr:not(.group):visible th.model")
    return rows.evaluate_all("cells => cells.map(cell => cell.querySelector('bdi').textContent)")


def board(page):
    return page.locator("#board tbody th.model a bdi").all_text_contents()


def follow(page, link):
    """Clicks a link and waits for the page it leads to: a click alone returns before that is read."""
    with page.expect_navigation():
        link.click()


def header(page, name):
    return page.locator(f"{CHEST} thead button", has_text=name).first


def test_works_from_a_server_too(opened, server):
    page = opened(server + "index.html")
    page.locator("#search").fill("gamma")
    assert board(page) == ["gamma-9", "gamma-10"]
    follow(page, page.get_by_role("link", name="gamma-9"))
    assert page.locator("h1").text_content() == "gamma-9"


def test_models_stand_best_first_with_their_rank_intervals(page):
    assert models(page) == ["beta", "adapted", "gamma-9", "alpha", "gamma-10", "hostile"]
    assert models(page, body=1) == ["oracle", "blank-beta"]
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
    assert models(page, body=1) == ["oracle", "blank-beta"]


def test_sorts_by_keyboard_and_keeps_the_focus(page):
    header(page, "AUC").focus()
    page.keyboard.press("Enter")
    assert models(page)[0] == "beta"
    page.keyboard.press("Space")
    assert models(page)[0] == "hostile"
    assert page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"


COLUMNS = ["Rank", "Model", "AUC", "All", "Accuracy", "Balanced accuracy", "Calibration error"]


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


def test_values_that_are_missing_sort_last_in_both_directions(opened, site):
    page = opened((site / "tasks/waiting-1.html").as_uri())
    for name in ("AUC", "Rank"):
        for _ in range(2):
            page.locator(f"{CHEST} thead button", has_text=name).click()
            assert models(page)[-1] == "one-class"


def test_search_narrows_rows_and_tables(page):
    page.keyboard.press("/")
    page.keyboard.type("gamma")
    assert models(page) == ["gamma-9", "gamma-10"]
    assert page.locator("#status").text_content() == "2 rows found"
    page.keyboard.press("Control+A")
    page.keyboard.type("chest-lora adapted")
    assert page.locator(".ranking:visible").count() == 1
    page.keyboard.press("Control+A")
    page.keyboard.type("nothing like this")
    assert page.locator(".ranking:visible").count() == 0
    page.locator("#search").fill("")
    assert page.locator(".ranking:visible").count() == 2


def test_controls_can_be_hidden(page):
    page.get_by_label("Controls").uncheck()
    assert models(page, body=1) == []
    page.get_by_label("Controls").check()
    assert models(page, body=1) == ["oracle", "blank-beta"]


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


PAGES = [
    "index.html", "tasks/chest-1.html", "models/lab__beta.html", "models/lab__hostile.html", "compare.html",
    "answers.html", "about.html", "tracks/linear_probe-1.html",
]  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_the_screen(opened, site, name):
    page = opened((site / name).as_uri(), viewport={"width": 360, "height": 800})
    for width in (360, 768, 1440):
        page.set_viewport_size({"width": width, "height": 800})
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


HOSTILE_PAGES = [
    "index.html", "tasks/chest-1.html", "models/lab__hostile.html", "compare.html#models=lab/hostile,lab/beta",
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", HOSTILE_PAGES)
def test_hostile_texts_are_shown_and_do_nothing(opened, site, name, scheme):
    """`opened` wants no message, no error and no request but the page's."""
    page = opened(f"{site.as_uri()}/{name}", color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    shown = page.locator("main").inner_text()
    assert "hostile" in shown
    assert ("=HYPERLINK(" in shown) == (not name.startswith("compare"))
    assert page.title().endswith(" · vlmed leaderboard")
    assert page.locator("img, iframe, object, embed, base, [onload], [onerror], [href^='javascript:']").count() == 0
    assert page.locator("script").count() == (2 if name.startswith(("index", "compare")) else 1)


def test_the_hostile_models_page_shows_texts_whole_and_opens_nothing_when_clicked(opened, site):
    address = (site / "models/lab__hostile.html").as_uri()
    page = opened(address)
    texts = page.locator("dl.definition bdi").all_text_contents()
    assert texts.count(printable(TEXT)) == 10  # each stands alone, so that none turns the direction of what follows
    assert ADDRESS in texts
    for text in page.locator("dl.definition bdi").all():
        text.click(force=True)
    assert page.url == address
    assert "owned" not in page.title()


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


def test_without_script_the_tables_are_whole_and_no_dead_control_shows(opened, address, overview):
    page = opened(address, java_script_enabled=False)
    assert page.locator(".tools").is_hidden()
    assert page.locator("#theme").is_hidden()
    assert page.locator("thead button").count() == 0
    assert len(models(page)) == 6
    page = opened(overview, java_script_enabled=False)
    assert page.locator("form").is_hidden()
    assert page.locator("noscript").is_visible()
    assert page.locator(".overview a", has_text="beta").count() >= 3


def reached_by_tab(page, steps):
    reached = set()
    for _ in range(steps):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(at => at.id || at.textContent.trim().slice(0, 20))(document.activeElement)"))
    return reached


def test_the_keyboard_reaches_everything(page, opened, overview):
    wanted = {"Skip to the results", "Overview", "search", "controls", "theme", "Rank", "result", "predictions"}
    assert wanted <= reached_by_tab(page, 100)
    page = opened(overview)
    wanted = {
        "track",
        "task",
        "modality",
        "domain",
        "size",
        "seen",
        "search",
        "frozen",
        "verified",
        "reset",
        "Place",
        "beta",
    }
    assert wanted <= reached_by_tab(page, 45)


def test_the_overview_orders_by_the_worse_bound(opened, overview, site):
    page = opened(overview)
    data = json.loads((site / "data/leaderboard.json").read_text("utf-8"))
    standings = data["standings"]["zero_shot@1"]
    assert board(page) == [one["name"].split("/")[1] for one in standings]
    shown = page.locator("#board tbody td.rank").all_text_contents()
    assert shown == ["–".join(str(end) for end in sorted(set(one["place"]))) for one in standings]
    runs = page.locator("#board tbody tr").evaluate_all("rows => rows.map(row => row.cells[4].textContent)")
    assert runs == [f"{one['run']} of {one['tasks']}" for one in standings]


def test_every_choice_narrows_the_overview_and_its_link_restores_the_view(opened, overview):
    page = opened(overview)
    assert page.locator("#status").text_content() == "6 of 6 models"
    page.locator("#task").select_option("organ")
    assert set(board(page)) == {"alpha", "beta", "gamma-9", "gamma-10"}
    assert page.locator("#board svg[role=img]").count() == 4
    page.locator("#task").select_option("")
    page.locator("#frozen").check()
    assert page.locator("#board thead button", has_text="waiting").count() == 0
    page.locator("#search").fill("gamma")
    page.get_by_text("Columns").click()
    page.get_by_label("Parameters").last.uncheck()
    page.locator("#board thead button", has_text="Model").click()
    page.locator("#board thead button", has_text="Model").click()
    assert board(page) == ["gamma-10", "gamma-9"]
    table, link = page.locator("#board").inner_html(), page.evaluate("location.href")
    again = opened(link)
    assert again.locator("#board").inner_html() == table
    assert again.locator("#frozen").is_checked()
    again.locator("#reset").click()
    assert again.locator("#status").text_content() == "6 of 6 models"
    again.wait_for_url(overview)


def test_only_what_an_audit_confirmed_can_be_shown(opened, overview):
    page = opened(overview)
    page.locator("#verified").check()
    assert board(page) == ["beta", "hostile"]
    page.wait_for_url("**#verified=1")
    assert board(opened(page.url)) == ["beta", "hostile"]
    follow(page, page.get_by_role("link", name="beta").first)
    assert page.locator("#audits ~ .scroll tbody tr").count() == 5
    assert page.locator(".evidence .verified").count() == 5


def test_a_models_page_draws_confusion_and_calibration(opened, site):
    page = opened((site / "models/lab__beta.html").as_uri())
    assert page.locator(".outcome").count() == 6
    assert page.locator(".outcome[open] .confusion").is_visible()
    closed = page.locator(".outcome", has_text="Organ")
    closed.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert closed.locator(".confusion td").count() == 12
    points = closed.locator("circle").count()
    closed.get_by_text("Table", exact=True).click()
    assert closed.locator("figure tbody tr:visible").count() == points > 0
    chart = closed.locator(".reliability").bounding_box()
    for dot in closed.locator("circle").all():
        box = dot.bounding_box()
        assert chart["x"] <= box["x"] <= box["x"] + box["width"] <= chart["x"] + chart["width"]
        assert chart["y"] <= box["y"] <= box["y"] + box["height"] <= chart["y"] + chart["height"]


@pytest.mark.parametrize(
    ("field", "value", "left"),
    [
        ("domain", "medical", 0),
        ("domain", "unknown", 6),
        ("size", "0-200000000", 6),
        ("size", "8000000000-", 0),
        ("seen", "clean", 0),
    ],
)
def test_models_are_chosen_by_what_they_are(opened, overview, field, value, left):
    page = opened(overview)
    page.locator(f"#{field}").select_option(value)
    assert len(board(page)) == left
    assert page.locator("#status").text_content() == f"{left} of 6 models"


def test_the_track_switch_leads_to_its_page_and_keeps_the_view(opened, overview):
    page = opened(overview + "#search=beta")
    page.locator("#track").select_option(label="Linear probe")
    page.wait_for_url("**/tracks/linear_probe-1.html#search=beta")
    assert board(page) == ["beta"]
    assert page.locator("#track option:checked").text_content() == "Linear probe"


def test_the_overview_sorts_by_keyboard_and_keeps_the_focus(opened, overview):
    page = opened(overview)
    page.locator("#board thead button", has_text="chest").focus()
    page.keyboard.press("Enter")
    assert board(page)[0] == "beta"
    page.keyboard.press("Space")
    assert board(page)[0] == "hostile"
    assert page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"


def test_an_address_with_a_section_is_left_as_it_is(opened, overview):
    page = opened(overview + "#tasks")
    assert page.url.endswith("#tasks")
    page.locator("#search").fill("beta")
    page.wait_for_url("**/index.html#search=beta")


def compared(page):
    """Model, score, difference with its interval, and verdict of every line."""
    rows = page.locator("#differences tbody tr:not(.group)")
    return rows.evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")


def test_compare_shows_paired_differences_and_its_link_restores_them(opened, site):
    page = opened((site / "compare.html").as_uri() + "#models=lab/gamma-10,lab/beta,lab/alpha")
    rows = compared(page)
    assert [row[0] for row in rows] == ["beta", "alpha"] * 4
    for row, title in zip(rows[::2], page.locator("#differences .group").all_text_contents(), strict=True):
        value, low, high = (float(text.replace("−", "-")) for text in re.findall(r"[+−]\d\.\d{3}", row[2]))
        assert low < value < high
        base = float(re.search(r"gamma-10 (\d\.\d{3})", title)[1])
        assert value == pytest.approx(float(row[1][:5]) - base, abs=0.0011)
        assert row[4] in ("better", "no")
    page.locator("#reference").select_option(label="lab/beta")
    page.wait_for_url("**/compare.html#models=lab%2Fbeta%2Clab%2Fgamma-10%2Clab%2Falpha")
    assert compared(page)[0][2].startswith("−")
    table, link = page.locator("#differences").inner_html(), page.url
    assert opened(link).locator("#differences").inner_html() == table


def test_compare_adds_and_removes_models_by_keyboard(opened, site):
    page = opened((site / "compare.html").as_uri() + "#models=lab/beta,lab/alpha")
    page.locator("#add").focus()
    page.keyboard.type("lab/gamma-9")
    page.keyboard.press("Enter")
    page.keyboard.type("adapted")
    page.keyboard.press("Enter")
    assert page.locator("#chosen li bdi").all_text_contents() == ["lab/alpha", "lab/gamma-9", "lab/adapted"]
    assert page.locator("#sum tr").count() == 3
    assert page.locator("#sum tr", has_text="adapted").locator("td").last.text_content() == "1"
    page.get_by_role("button", name="Remove lab/alpha").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "add"
    assert page.locator("#chosen li bdi").all_text_contents() == ["lab/gamma-9", "lab/adapted"]
    page.keyboard.type("<b>nobody</b>")
    page.keyboard.press("Enter")
    assert "No ranked model is called “<b>nobody</b>”" in page.locator("#status").text_content()
    for name in ("lab/gamma-9", "lab/adapted"):
        page.get_by_role("button", name=f"Remove {name}").click()
    assert page.locator("#status").text_content() == "Add a model to compare with."
    assert page.locator("#differences").is_hidden()


def test_compare_fits_a_phone(opened, site):
    page = opened(
        (site / "compare.html").as_uri() + "#models=lab/beta,lab/alpha", viewport={"width": 360, "height": 800}
    )
    wide = page.locator(".scroll:visible").evaluate_all("all => all.map(one => one.scrollWidth - one.clientWidth)")
    assert wide == [0, 0]


def test_compare_counts_what_is_told_apart(opened, site):
    page = opened((site / "compare.html").as_uri() + "#models=lab/beta,lab/alpha,lab/gamma-10")
    rows = compared(page)
    for line in page.locator("#sum tr").all():
        name, *counts = line.locator("th, td").all_text_contents()
        verdicts = [row[4] for row in rows if row[0] == name]
        assert [int(one) for one in counts] == [*map(verdicts.count, ("better", "worse", "no")), len(verdicts)]


@pytest.mark.parametrize(
    ("view", "models"),
    [
        ("a=lab/beta&b=lab/gamma-10", ["lab/gamma-10", "lab/beta"]),
        ("models=lab/beta", ["lab/beta", "lab/gamma-9"]),
        ("models=no/such,lab/beta,lab/beta,lab/adapted", ["lab/beta", "lab/adapted"]),
    ],
)
def test_compare_takes_old_short_and_odd_links(opened, site, view, models):
    page = opened((site / "compare.html").as_uri() + "#" + view)
    assert [
        page.locator("#reference option:checked").text_content(),
        *page.locator("#chosen bdi").all_text_contents(),
    ] == models


def test_a_models_page_leads_to_its_comparison(opened, site):
    page = opened((site / "models/lab__gamma-9.html").as_uri())
    follow(page, page.get_by_role("link", name="compare it"))
    assert page.locator("#reference option:checked").text_content() == "lab/gamma-9"


def test_advice_follows_what_a_reader_has(opened, site):
    page = opened((site / "answers.html").as_uri())
    hows = page.locator("#advised tbody td:nth-child(2)")
    assert any("Linear probe" in text for text in hows.all_text_contents())
    page.locator("#effort").select_option("0")
    assert set(hows.all_text_contents()) == {"Zero-shot"}
    page.locator("#images").select_option("0")
    assert hows.count() > 0
    again = opened(page.evaluate("location.href"))
    assert again.locator("#effort").input_value() == "0"
    assert again.locator("#advised").inner_html() == page.locator("#advised").inner_html()


def test_charts_have_their_table_behind_them(opened, site):
    page = opened((site / "answers.html").as_uri())
    figures = page.locator("figure")
    assert figures.count() >= 1
    for figure in figures.all():
        points = figure.locator("svg circle").count()
        assert figure.locator("tbody tr").count() == points > 0
    assert page.locator("#papers ~ details table").count() == 11


def test_reported_numbers_are_marked(opened, site):
    page = opened((site / "answers.html").as_uri())
    cells = page.locator(".paper td.number:not(:empty)")
    assert page.locator(".paper .reported").count() == cells.count() == 546
    assert page.locator(".heat caption .mark").all_text_contents() == ["as reported by the papers"] * 3


AXE = ["index.html", "tasks/chest-1.html", "models/lab__beta.html", "answers.html", "compare.html"]


@pytest.mark.parametrize("name", AXE)
def test_axe_finds_nothing_serious(opened, site, name):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = opened((site / name).as_uri(), viewport={"width": 1280, "height": 900})
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_control_has_a_name_and_headings_step_down(opened, site, name):
    page = opened((site / name).as_uri())
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, a, input, select, [role=region], svg[role=img]")]
          .filter((one) =>
          !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.textContent.trim()
            || one.labels?.length)).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    levels = [int(tag[1]) for tag in page.locator("h1, h2, h3").evaluate_all("all => all.map(one => one.tagName)")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.locator("main").count() == 1


def test_whiskers_have_names_and_lie_inside_their_chart(page):
    for whisker in page.locator(f"{CHEST} svg[role=img]").all():
        name = whisker.get_attribute("aria-label")
        value, low, high = map(float, re.fullmatch(r"([\d.]+), 95 % interval ([\d.]+) to ([\d.]+)", name).groups())
        assert low <= value <= high
        chart, bar = whisker.bounding_box(), whisker.locator(".bar").bounding_box()
        assert chart["x"] <= bar["x"] <= bar["x"] + bar["width"] <= chart["x"] + chart["width"]


def test_evidence_can_be_followed(opened, server):
    page = opened(server + "tasks/chest-1.html")
    link = page.locator(f"{CHEST} a", has_text="result").first.evaluate("link => link.href")
    assert page.request.get(link).json()["schema_version"] == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", AXE)
def test_text_has_enough_contrast(opened, site, name, scheme):
    page = opened((site / name).as_uri(), color_scheme=scheme)
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
          const unseen = "script, svg, path, circle, input, option, noscript, title";
          for (const element of document.querySelectorAll(`body *:not(${unseen})`)) {
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
