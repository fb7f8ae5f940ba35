"""An upgrade that moves a family's outputs is caught here, with its name and by how much."""

from __future__ import annotations

import copy
import math

import golden_outputs
import pytest

import families


@pytest.mark.parametrize("name", families.FAMILIES)
def test_outputs_are_where_they_were(name: str) -> None:
    stored = golden_outputs.read(name)
    found = golden_outputs.record(name)
    changed = {
        library: f"{stored['versions'][library]} -> {version}"
        for library, version in found["versions"].items()
        if stored["versions"][library] != version
    }
    assert stored["weights"] == found["weights"], f"{name}: the tensors of its checkpoint have other names or shapes"
    told = golden_outputs.moved(name, stored["outputs"], found["outputs"])
    assert not told, f"{'; '.join(told)}; changed libraries: {changed or 'none'}"


def test_every_family_is_stored_and_nothing_else() -> None:
    assert {path.stem for path in golden_outputs.FOLDER.glob("*.json")} == set(families.FAMILIES)


@pytest.mark.parametrize(("size", "caught"), [(1e-6, False), (1e-3, True), (math.nan, True)])
def test_a_move_is_told_with_its_family_and_its_size(size: float, caught: bool) -> None:
    stored = golden_outputs.read("clip")["outputs"]
    found = copy.deepcopy(stored)
    found["images"][0][0] += size * max(abs(number) for row in stored["images"] for number in row)
    told = golden_outputs.moved("clip", stored, found)
    assert bool(told) == caught
    if caught:
        assert told[0].startswith("clip: images moved by ")


def test_another_answer_and_a_lost_output_are_told() -> None:
    stored = golden_outputs.read("llava_original")["outputs"]
    found = copy.deepcopy(stored)
    found["answers"][1] += "!"
    del found["choices"]
    told = golden_outputs.moved("llava_original", stored, found)
    assert len(told) == 2
    assert "choices came or went" in told[0]
    assert "became" in told[1]


def test_weights_do_not_depend_on_how_a_library_starts() -> None:
    assert all(math.isfinite(number) for row in golden_outputs.read("vit")["outputs"]["images"] for number in row)
    clip = golden_outputs.read("clip")["outputs"]["images"]
    assert max(abs(one - other) for one, other in zip(clip[0], clip[1], strict=True)) > 1e-3
