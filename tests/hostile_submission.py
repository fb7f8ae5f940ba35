"""A submission whose every free text tries to run, to load something, or to close what it stands in."""

from __future__ import annotations

from pathlib import Path

from submission_factory import LORA, World, add_audit
from vlmed.files import read_json, write_json

HOST = "evil.example"
OWN = "document.title='owned'"
# Begins as a formula; has what ends an attribute, a style, a script, a comment, CDATA and a template.
TEXT = (
    f'=HYPERLINK("http://{HOST}")\'"></title></style></script></svg>]]>--><script>{OWN}</script>'
    f"<img src=http://{HOST}/i onerror={OWN}><svg onload={OWN}><a href='javascript:{OWN}'>{{{{ 7*7 }}}}{{% raw %}}"
    "&amp;\u202egnp.exe\n- !!python/object:os.system"
)
ADDRESS = f"javascript:{OWN}"


def add_hostile(world: World, name: str = "hostile") -> Path:
    """The submission, with an audit and a description; gives its folder, which validation accepts."""
    adapter = LORA | {"ref": TEXT, "peft_type": TEXT, "base_ref": TEXT}
    texts = {"name": TEXT, "family": TEXT, "architecture": TEXT, "warnings": [TEXT], "companions": [TEXT]}
    run = world.add(name, 0.1, ref=ADDRESS, adapter=adapter, adapters_below=[adapter], **texts)
    result = read_json(run / "result.json")
    write_json(run / "result.json", result | {"environment": {TEXT[:200]: TEXT}})
    units = [{"verdict": "confirmed", "reason": TEXT, "unit": unit["unit"]} for unit in result["units"]]
    numbers = {"compared": 64, "differing": 0, "largest_difference": 0.001, "tolerance": 0.02, "allowed": 0}
    audited = [unit | numbers for unit in units]
    add_audit(run, auditor=TEXT, vlmed_version=TEXT, environment={TEXT[:200]: TEXT}, units=audited)
    said = {"licence": TEXT[:200], "contact": TEXT[:200], "training": {"corpora": None, "other": TEXT}}
    empty = {"paper": "", "code": "", "fingerprint": None, "supersedes": None}
    write_json(run / "submission.json", {"schema_version": 1, "date": "2026-11-22", **said, **empty})
    return run


def add_refused(world: World) -> Path:
    """A submission that validation refuses, since it names no suite but a text; gives its folder."""
    run = world.add("refused")
    write_json(run / "result.json", read_json(run / "result.json") | {"suite": TEXT})
    return run
