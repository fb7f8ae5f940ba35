"""Reports of leaks: complete, escaped, and readable without a network."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from leakage_pictures import cloud
from leaky_tables import VQA, Pictures, make_task, prepared, saved
from PIL import Image

from vlmed.data.records import Record
from vlmed.errors import InputError, VlmedError
from vlmed.files import read_json
from vlmed.leakage.find import find_leaks
from vlmed.leakage.report import Report, write_report
from vlmed.progress import Silent

EVIL = "<img src=https://example.org/x onerror=alert(1)>"


class Page(HTMLParser):
    """What a browser would load and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def pictures(self) -> list[str]:
        return [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]


def picture_of(url: str) -> Image.Image:
    kind, data = url.split(",", 1)
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture
def leaky(tmp_path: Path) -> tuple[Report, object]:
    """Three questions on one leaked image, one leaked group, and one clean sample; ids are hostile."""
    files = {name: saved(cloud(n, 200)) for n, name in enumerate("abcd")} | {"copy": saved(cloud(0, 200), "TIFF")}

    def row(name: str, image: str, group: str, split: str) -> Record:
        return Record(name, image, group, split, {"question": f"What is in {name}?", "answer": "a mass"})

    rows = [
        row("train-1", "a", "p1", "train"),
        row("val-1", "b", "p2", "val"),
        *(row(f"test-{n}", "copy", "p3", "test") for n in range(3)),
        row(EVIL, "c", "p2", "test"),
        row("test-9", "d", "p9", "test"),
    ]
    table, data = prepared(Pictures(rows, files), make_task(tmp_path, **VQA), tmp_path)
    return Report(table, find_leaks(table, data.image, Silent())), data.image


def write(folder: Path, report: Report, image_of: object) -> Page:
    write_report(folder, report, image_of)  # type: ignore[arg-type]
    return Page((folder / f"{report.task.id}.html").read_text("utf-8"))


def test_the_summary_counts_samples_by_kind(leaky: tuple[Report, object]) -> None:
    assert leaky[0].summary() == {
        "task": "leaky@1", "test": 5, "pixels": 3, "group": 1, "near": 0, "text": 0, "leaked": 4, "clean": 1,
    }  # fmt: skip


def test_the_json_holds_every_finding(leaky: tuple[Report, object], tmp_path: Path) -> None:
    write(tmp_path / "out", *leaky)
    tree = read_json(tmp_path / "out" / "leaky@1.json")
    assert tree["summary"] == leaky[0].summary()
    assert len(tree["findings"]) == 4
    assert tree["findings"][-1] == {
        "sample": "test-2", "kind": "pixels", "other": "train-1", "split": "train", "others": 1, "distance": 0,
    }  # fmt: skip


def test_every_pair_is_shown_once_with_all_its_samples(leaky: tuple[Report, object], tmp_path: Path) -> None:
    page = write(tmp_path, *leaky)
    assert sum(tag == "figure" for tag, _ in page.tags) == 2
    for finding in leaky[0].findings:
        assert f"{finding.kind}: {finding.sample} (test), {finding.other} ({finding.split})" in page.text
    assert len(page.pictures) == 4
    equal = [np.asarray(picture_of(url)) for url in page.pictures[:2]]
    assert (equal[0] == equal[1]).all()
    assert max(equal[0].shape) == 160


def test_hostile_names_stay_text(leaky: tuple[Report, object], tmp_path: Path) -> None:
    page = write(tmp_path, *leaky)
    assert EVIL in page.text
    assert "Leaks & <splits>" in page.text
    assert not any("onerror" in attributes for _, attributes in page.tags)


def test_the_page_asks_nothing_of_the_network(leaky: tuple[Report, object], tmp_path: Path) -> None:
    page = write(tmp_path, *leaky)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and "default-src 'none'" in policy
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form"} == set()
    assert all(url.startswith("data:") for url in page.pictures)
    style = re.search(r"<style>(.*?)</style>", (tmp_path / "leaky@1.html").read_text(), re.DOTALL)
    assert style and "url(" not in style[1] and "@import" not in style[1]


def test_without_images_the_pairs_are_listed(leaky: tuple[Report, object], tmp_path: Path) -> None:
    page = write(tmp_path, leaky[0], None)
    assert page.pictures == []
    assert all(finding.sample in page.text for finding in leaky[0].findings)


def test_pairs_without_pictures_are_still_listed(
    leaky: tuple[Report, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmed.leakage.report._PICTURED", 1)
    page = write(tmp_path, *leaky)
    assert len(page.pictures) == 2
    assert all(finding.sample in page.text for finding in leaky[0].findings)


def test_deep_grey_images_are_not_shown_white(tmp_path: Path) -> None:
    deep = Image.fromarray(np.asarray(cloud(1, 64)).astype(np.uint16) * 200 + 1000)
    files = {"a": saved(deep), "b": saved(deep, "TIFF")}
    rows = [Record(key, key, key, split, {"label": "normal"}) for key, split in (("a", "train"), ("b", "test"))]
    table, data = prepared(Pictures(rows, files), make_task(tmp_path), tmp_path)
    page = write(tmp_path, Report(table, find_leaks(table, data.image, Silent())), data.image)
    assert np.asarray(picture_of(page.pictures[0]).convert("L")).std() > 20


def test_a_clean_task_has_a_report_too(tmp_path: Path) -> None:
    rows = [Record("a", "a", "p", "test", {"label": "normal"})]
    table, data = prepared(Pictures(rows, {"a": saved(cloud(1, 32))}), make_task(tmp_path), tmp_path)
    page = write(tmp_path, Report(table, []), data.image)
    assert "0 of 1 test samples meet train or val; 1 are clean" in page.text


def test_a_task_without_test_samples_is_refused(tmp_path: Path) -> None:
    rows = [Record("a", "a", "p", "train", {"label": "normal"})]
    table, data = prepared(Pictures(rows, {"a": saved(cloud(1, 32))}), make_task(tmp_path), tmp_path)
    with pytest.raises(InputError, match="has no test samples"):
        write_report(tmp_path, Report(table, []), data.image)


def test_a_folder_that_is_a_file_is_refused(leaky: tuple[Report, object], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(VlmedError, match="can't be written"):
        write_report(tmp_path / "out", leaky[0], None)
