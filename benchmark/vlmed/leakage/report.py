"""A task's leaks as a report: JSON for programs, HTML with the pairs side by side for people."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from vlmed.data.table import TaskTable
from vlmed.files import write_json, write_text
from vlmed.leakage.find import LEAK_KINDS, Finding, ImageOf, LeakKind
from vlmed.suite.types import Task

_SHOWN = 60
_SIDE = 160
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Leaks of {{ task }}</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
 figure { display: inline-block; margin: 0 1rem 1rem 0; } img { image-rendering: pixelated; height: 160px; }
 figcaption { font-size: .8rem; max-width: 340px; overflow-wrap: anywhere; }
 table { border-collapse: collapse; } td, th { padding: .2rem .8rem; border-bottom: 1px solid #ccc; text-align: left; }
</style>
<h1>Leaks of {{ task }}</h1>
<p>{{ report.task.title }}. {{ leaked }} of {{ test }} test samples meet train or val; {{ clean }} are clean.</p>
<table><caption>Test samples by kind of leak</caption>
<tr><th scope="col">kind</th><th scope="col">test samples</th></tr>
{% for kind, found in kinds.items() %}<tr><th scope="row">{{ kind }}</th><td>{{ found | length }}</td></tr>
{% endfor %}</table>
{% for kind, found in kinds.items() if found %}
<h2>{{ kind }}: {{ found | length }}{% if found | length > shown %}, the first {{ shown }} shown{% endif %}</h2>
{% for finding in found[:shown] %}<figure>
{% if pictures %}<img src="{{ pictures[finding.sample] }}" alt="test sample {{ finding.sample }}">
<img src="{{ pictures[finding.other] }}" alt="{{ finding.split }} sample {{ finding.other }}">{% endif %}
<figcaption>{{ finding.sample }} (test), {{ finding.other }} ({{ finding.split }}){% if kind == "near" %},
distance {{ finding.distance }}{% endif %}{% if finding.others > 1 %}, {{ finding.others }} in all{% endif %}
</figcaption></figure>
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
        """Numbers of test samples: all, by kind of leak, leaked in any way, clean."""
        test = len(self.table.split("test"))
        leaked = len({finding.sample for finding in self.findings})
        kinds = {kind: len(self.of_kind(kind)) for kind in LEAK_KINDS}
        return {"task": self.task.id, "test": test, **kinds, "leaked": leaked, "clean": test - leaked}


def write_report(folder: Path, report: Report, image_of: ImageOf | None) -> None:
    """Write `<task>.json` and `<task>.html` into `folder`.

    Args:
        image_of: Gives the decoded image of a pixel hash; None leaves the pictures out.
    """
    name = report.task.id
    findings = [finding.to_json() for finding in report.findings]
    write_json(folder / f"{name}.json", {"summary": report.summary(), "findings": findings})
    kinds = {kind: report.of_kind(kind) for kind in LEAK_KINDS}
    shown = [finding for found in kinds.values() for finding in found[:_SHOWN]]
    images = {sample.id: sample.image for sample in report.table.samples}
    names = {name for finding in shown for name in (finding.sample, finding.other)} if image_of else set()
    pictures = {name: _data_url(image_of(images[name])) for name in sorted(names)} if image_of else {}
    template = jinja2.Environment(autoescape=True).from_string(_PAGE)
    page = template.render(report=report, **report.summary(), kinds=kinds, shown=_SHOWN, pictures=pictures)
    write_text(folder / f"{name}.html", page)


def _data_url(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    data = io.BytesIO()
    image.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
