"""`vlmed models`: the cards, and what each says of every task."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Vlmed

import factories
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


# vlmed models inspect


def test_inspect_fits_one_screen(vlmed: Vlmed, clip: Path) -> None:
    said = vlmed("models", "inspect", f"dir:{clip}")
    assert (said.code, said.err) == (0, "")
    assert len(said.out.splitlines()) <= 24
    for label in ("model", "kind", "parameters", "files", "card", "needs", "remote code", "safety", "memory", "time"):
        assert f"\n{label:12}" in f"\n{said.out}"
    assert "dual encoder, loaded by open_clip" in said.out
    assert "no reason to refuse it" in said.out


def test_inspect_as_json(vlmed: Vlmed, clip: Path, tmp_path: Path) -> None:
    lora = factories.lora(tmp_path / "lora", clip, targets=["c_fc"])
    value = json.loads(vlmed("models", "inspect", f"dir:{clip}", "--adapter", f"dir:{lora}", "--json").out)
    assert value["kind"] == "dual_encoder"
    assert value["model"]["files"]["open_clip_model.safetensors"] > 0
    assert value["adapter_facts"]["peft_type"] == "LORA"
    shown = vlmed("models", "inspect", f"dir:{lora}").out
    assert f"base {clip}" in shown
    assert f"{value['adapter']['parameters']:,} " in shown


def test_inspect_ends_with_1_where_loading_would_refuse(vlmed: Vlmed, clip: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip, tmp_path / "model"))
    (folder / "open_clip_model.safetensors").write_bytes(b"\x80\x02nothing")
    said = vlmed("models", "inspect", f"dir:{folder}")
    assert said.code == 1
    assert "1 reason to refuse it" in said.out
    assert "a pickle under the name of safetensors" in said.err
    assert json.loads(vlmed("models", "inspect", f"dir:{folder}", "--json").out)["model"]["problems"]


def test_inspect_shows_code_that_would_need_an_opt_in(vlmed: Vlmed, clip: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip, tmp_path / "model"))
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["own.Tokenizer", null]}}')
    said = vlmed("models", "inspect", f"dir:{folder}")
    assert "tokenizer_config.json: $.auto_map: refused without --trust-remote-code" in said.out


@pytest.mark.parametrize("ref", ["dir:/no/such/folder", "control:random", "ftp:x"])
def test_inspect_of_what_is_not_there(vlmed: Vlmed, ref: str) -> None:
    said = vlmed("models", "inspect", ref)
    assert said.code == 2
    assert ref.partition(":")[2].rpartition("/")[2] in said.err or ref.partition(":")[0] in said.err
