"""A task's leaks as a report: JSON for programs, HTML with the pairs side by side for people."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from vlmed.data.table import TaskTable
from vlmed.files import write_json, write_text
from vlmed.leakage.find import LEAK_KINDS, Finding, ImageOf, LeakKind
from vlmed.leakage.perceptual import grey
from vlmed.suite.types import Task

# A picture takes up to 30 kB, so that a page stays below some 60 MB; further pairs are listed without.
_PICTURED = 1000
_SIDE = 160
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Leaks of {{ task }}</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
 figure { display: inline-block; vertical-align: top; margin: 0 1rem 1rem 0; max-width: 340px; }
 img { image-rendering: pixelated; height: 160px; max-width: 165px; object-fit: contain; }
 figcaption { font-size: .8rem; overflow-wrap: anywhere; }
 ul { margin: 0; padding-left: 1rem; }
 table { border-collapse: collapse; } td, th { padding: .2rem .8rem; border-bottom: 1px solid #8886; text-align: left; }
</style>
<h1>Leaks of {{ task }}</h1>
<p>{{ title }}. {{ leaked }} of {{ test }} test samples meet train or val; {{ clean }} are clean.</p>
<table><caption>Test samples by kind of leak</caption>
<tr><th scope="col">kind</th><th scope="col">test samples</th></tr>
{% for kind in kinds %}<tr><th scope="row">{{ kind }}</th><td>{{ counts[kind] }}</td></tr>
{% endfor %}</table>
<p>Each pair stands once, under the surest of its kinds: on the left the image in test, on the right the nearest one in
train or val.</p>
{% for kind, pairs in sections.items() if pairs %}
<h2>{{ kind }}: {{ pairs | length }} pair{{ "s" if pairs | length > 1 }}</h2>
{% for pair in pairs %}<figure>
{% for name in pair.pictures %}<img src="{{ pictures[name] }}" alt="{{ loop.cycle('test', 'train or val') }}">
{% endfor %}<figcaption><ul>
{% for finding in pair.findings %}<li>{{ finding.kind }}: {{ finding.sample }} (test), {{ finding.other }} \
({{ finding.split }}){% if finding.kind == "near" %}, distance {{ finding.distance }}{% endif %}\
{% if finding.others > 1 %}, the nearest of {{ finding.others }}{% endif %}</li>
{% endfor %}</ul></figcaption></figure>
{% endfor %}{% endfor %}
</html>
"""


@dataclass(frozen=True)
class Report:
    """A task's samples and the leaks found among them."""

    table: TaskTable
    findings: Sequence[Finding]

    @property
    def task(self) -> Task:
        """The task."""
        return self.table.task

    def of_kind(self, kind: LeakKind) -> list[Finding]:
        """The findings of one kind, by test sample."""
        return [finding for finding in self.findings if finding.kind == kind]

    def summary(self) -> dict[str, Any]:
        """Numbers of test samples: all, by kind of leak, leaked in any way, clean.

        Raises:
            InputError: The task has no test samples.
        """
        test = len(self.table.split("test"))
        leaked = len({finding.sample for finding in self.findings})
        kinds: dict[str, int] = {kind: len(self.of_kind(kind)) for kind in LEAK_KINDS}
        return {"task": self.task.id, "test": test, **kinds, "leaked": leaked, "clean": test - leaked}


def write_report(folder: Path, report: Report, image_of: ImageOf | None) -> None:
    """Write `<task>.json` and `<task>.html` into `folder`. The page holds its pictures and asks nothing of the network.

    Args:
        image_of: Gives the decoded image of a pixel hash; None leaves the pictures out.

    Raises:
        InputError: The task has no test samples.
        VlmedError: The folder can't be written.
    """
    summary = report.summary()
    findings = [finding.to_json() for finding in report.findings]
    write_json(folder / f"{report.task.id}.json", {"summary": summary, "findings": findings})
    write_text(folder / f"{report.task.id}.html", _page(report, summary, image_of))


@dataclass(frozen=True)
class _Pair:
    """Two images, or samples where there are none, and all ways in which they meet, surest first."""

    findings: Sequence[Finding]
    pictures: Sequence[str] = ()


def _page(report: Report, summary: Mapping[str, Any], image_of: ImageOf | None) -> str:
    pairs = _pairs(report, pictured=_PICTURED if image_of else 0)
    names = sorted({name for pair in pairs for name in pair.pictures})
    pictures = {name: _data_url(image_of(name)) for name in names} if image_of else {}
    sections = {kind: [pair for pair in pairs if pair.findings[0].kind == kind] for kind in LEAK_KINDS}
    template = jinja2.Environment(autoescape=True).from_string(_PAGE)
    return template.render(
        **summary, title=report.task.title, kinds=LEAK_KINDS, counts=summary, sections=sections, pictures=pictures
    )


def _pairs(report: Report, pictured: int) -> list[_Pair]:
    """The pairs of images that meet, surest first; many questions may be asked about one pair."""
    image = {sample.id: sample.image or sample.id for sample in report.table.samples}
    met: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for kind in LEAK_KINDS:
        for finding in report.of_kind(kind):
            met[image[finding.sample], image[finding.other]].append(finding)
    return [_Pair(findings, names if n < pictured else ()) for n, (names, findings) in enumerate(met.items())]


def _data_url(image: Image.Image) -> str:
    small = grey(image) if image.mode.startswith(("I", "F")) else image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    data = io.BytesIO()
    small.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
