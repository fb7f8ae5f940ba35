"""`vlmed models`: the cards, and what each says of every task."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from command_line import Vlmed

from vlmed.models.cards import load_cards
from vlmed.suite.load import load_suite


def contamination(vlmed: Vlmed, name: str) -> dict[str, tuple[str, list[str]]]:
    facts = json.loads(vlmed("models", "show", name, "--json").out)
    return {row["task"]: (row["verdict"], row["path"]) for row in facts["contamination"]}


def test_every_card_is_listed(vlmed: Vlmed) -> None:
    said = vlmed("models")
    assert (said.code, said.err) == (0, "")
    assert all(name in said.out for name in load_cards())
    assert "151 M" in said.out


def test_the_list_as_json(vlmed: Vlmed) -> None:
    rows = {row["name"]: row for row in json.loads(vlmed("models", "--json").out)}
    assert rows.keys() == load_cards().keys()
    assert rows["pubmedclip"]["parameters"] == 151_000_000
    assert "mri" in rows["pubmedclip"]["modalities"]


def test_one_model_with_its_corpora_and_a_verdict_for_every_task(vlmed: Vlmed) -> None:
    said = vlmed("models", "show", "pubmedclip")
    assert said.code == 0
    assert "corpora:\n- roco\n" in said.out
    assert "clip_vit_b32_openai:\n  - wit_400m" in said.out
    assert "roco → roco_radiology" in said.out
    assert all(task.id in said.out for task in load_suite().current_tasks())


def test_verdicts_have_their_paths(vlmed: Vlmed) -> None:
    pubmedclip = contamination(vlmed, "pubmedclip")
    assert pubmedclip["roco_radiology@1"] == ("exposed", ["roco", "roco_radiology"])
    assert pubmedclip["breastmnist@1"] == ("unknown", ["clip_vit_b32_openai", "wit_400m"])
    assert contamination(vlmed, "resnet_50")["breastmnist@1"] == ("clean", [])


@pytest.mark.parametrize("ref", ["hf:flaviagiammarino/pubmed-clip-vit-base-patch32", "vinid/plip@main"])
def test_a_reference_shows_its_card(vlmed: Vlmed, ref: str) -> None:
    facts = json.loads(vlmed("models", "show", ref, "--json").out)
    assert any(pattern in ref for pattern in facts["references"])


@pytest.mark.parametrize(("name", "near"), [("pubmedclp", "'pubmedclip'"), ("someone/plip", "'plip'")])
def test_a_stranger_gets_the_nearest_names(vlmed: Vlmed, name: str, near: str) -> None:
    said = vlmed("models", "show", name)
    assert said.code == 2
    assert near in said.err


def test_neither_list_nor_show_imports_torch() -> None:
    code = (
        "import sys\n"
        "from vlmed.cli import app\n"
        "app(['models'], standalone_mode=False)\n"
        "app(['models', 'show', 'biomedclip'], standalone_mode=False)\n"
        "sys.exit(bool({'torch', 'transformers', 'open_clip'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
