"""Takes the README's picture of the leaderboard: `.venv/bin/python .ci/leaderboard_picture.py` after a build."""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "leaderboard" / "tasks" / "phantom_lesion-1.html"
PICTURE = ROOT / "docs" / "img" / "leaderboard.png"

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1380, "height": 900}, color_scheme="light")
    page.goto(PAGE.as_uri())
    top = page.get_by_role("heading", name="Rankings").bounding_box()
    table = page.locator("table").nth(1).bounding_box()
    if not top or not table:
        raise SystemExit(f"{PAGE} has no rankings")
    bottom = table["y"] + table["height"]
    area = {"x": 0, "y": top["y"] - 16, "width": 1380, "height": bottom - top["y"] + 32}
    PICTURE.parent.mkdir(exist_ok=True)
    page.screenshot(path=PICTURE, full_page=True, clip=area)
    browser.close()
