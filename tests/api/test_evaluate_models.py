"""`vlmed.evaluate`: own objects, references, own suites, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import vlmed
from own_models import OwnDual, OwnGenerator, OwnImages
from vlmed.models.load import load_model
from vlmed.models.own import own_model
from vlmed.results.validate import validate_run

pytestmark = pytest.mark.usefixtures("cache")


def evaluated(model: Any, phantom: Path, tasks: str = "lesion", **options: Any) -> vlmed.Result:
    return vlmed.evaluate(model, tasks, suite=phantom, **options)


def test_an_own_dual_encoder_on_classes_and_captions(phantom: Path, tmp_path: Path) -> None:
    tracks = "zero_shot, linear_probe, zero_shot_retrieval"
    result = evaluated(OwnDual(), phantom, "lesion,report", tracks=tracks, out=tmp_path / "run")
    assert list(result.metrics) == [
        "lesion-v1.linear_probe-v1.s0.f100",
        "lesion-v1.zero_shot-v1.s0.f100",
        "report-v1.zero_shot_retrieval-v1.s0.f100",
    ]
    assert result.path == tmp_path / "run" / "result.json"
    model = result.data["model"]
    assert (model["family"], model["kind"], model["name"]) == ("object", "dual_encoder", "OwnDual")
    assert model["parameters"] == sum(each.numel() for each in OwnDual().parameters())
    report = validate_run(result.path.parent, vlmed.load_suite(phantom))
    assert report.accepted, report.problems


def test_an_image_encoder_and_a_generator(phantom: Path) -> None:
    probe = evaluated(OwnImages(), phantom, tracks="linear_probe")
    assert probe.data["model"]["kind"] == "image_encoder"
    answers = evaluated(OwnGenerator(), phantom, "asked", tracks="zero_shot_vqa", name="yes", revision="v1")
    assert answers.data["model"]["revision"].startswith("sha256:")
    assert answers.data["model"]["ref"] == "object:yes"
    assert answers.data["units"][0]["scores"]["n"]["unparsed"] == 0


def test_a_control_by_reference_and_a_loaded_model(phantom: Path) -> None:
    by_reference = evaluated("control:majority", phantom)
    loaded = evaluated(load_model("control:majority"), phantom)
    assert by_reference.metrics == loaded.metrics
    assert by_reference.path != loaded.path
    vlmed.assert_no_regression(loaded, by_reference, suite=phantom)


def test_changed_code_is_never_answered_from_kept_features(phantom: Path) -> None:
    """The weights, so the revision, and the named preprocessing are the same."""

    class Other(OwnDual):
        def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
            return -super().encode_images(pixels)

    before, after = (evaluated(kind(), phantom, name="mine") for kind in (OwnDual, Other))
    assert before.data["model"]["revision"] == after.data["model"]["revision"]
    assert before.metrics != after.metrics


def test_finished_units_in_out_are_kept(phantom: Path, tmp_path: Path) -> None:
    first = evaluated("control:random", phantom, out=tmp_path / "run")
    stamps = [path.stat().st_mtime_ns for path in (tmp_path / "run" / "units").iterdir()]
    second = evaluated("control:random", phantom, out=str(tmp_path / "run"))
    assert stamps == [path.stat().st_mtime_ns for path in (tmp_path / "run" / "units").iterdir()]
    assert first.data == second.data


def test_progress_goes_to_standard_error_alone(phantom: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated("control:random", phantom, progress=True)
    evaluated(OwnImages(), phantom, tracks="linear_probe")
    assert capsys.readouterr().out == ""


def test_load_task(phantom: Path) -> None:
    table = vlmed.load_task("lesion", suite=phantom)
    assert {sample.split for sample in table.samples} == {"train", "val", "test"}
    with pytest.raises(vlmed.UsageError, match="lesion"):
        vlmed.load_task("leson", suite=phantom)
    with pytest.raises(vlmed.MissingError, match=r"(?i)chexpert"):
        vlmed.load_task("chexpert", suite=str(phantom))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": "leson"}, "lesion"),
        ({"tasks": []}, "no name"),
        ({"tracks": "zeroshot"}, "zero_shot"),
        ({"fractions": [0]}, "fraction 0"),
        ({"seeds": [-1]}, "seed -1"),
        ({"model": "control:majorty"}, "majority"),
        ({"model": OwnGenerator(), "revision": "x"}, "can't follow zero_shot"),
        ({"model": OwnGenerator()}, "revision"),
        ({"model": OwnDual(), "device": "cuda"}, "device"),
        ({"model": OwnDual(), "adapter": "a/b", "trust_remote_code": True}, "adapter and trust_remote_code"),
        ({"name": "mine"}, "name"),
        ({"model": object()}, "follows none of the protocols"),
        ({"model": None}, "follows none of the protocols"),
    ],
)
def test_wrong_use(phantom: Path, options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"model": "control:majority", "tasks": "lesion", **options}
    with pytest.raises(vlmed.UsageError, match=words):
        vlmed.evaluate(suite=phantom, **given)


def test_absent_data(phantom: Path) -> None:
    with pytest.raises(vlmed.MissingError):
        evaluated("control:majority", phantom, "chexpert")


def test_what_an_incomplete_object_lacks_is_named() -> None:
    members = ("dim", "preprocessing", "image_tower", "preprocess", "encode_images", "encode_texts", "model")
    with pytest.raises(vlmed.UsageError, match="no logit_scale, logit_bias"):
        own_model(SimpleNamespace(**dict.fromkeys(members)))


def test_training_mode_is_refused() -> None:
    with pytest.raises(vlmed.InputError, match="training mode") as caught:
        own_model(OwnDual().train())
    assert [problem.path for problem in caught.value.problems] == ["", "model", "image_tower"]


def test_revisions_tell_weights_and_names_apart() -> None:
    same, other = own_model(OwnDual(1)).info, own_model(OwnDual(2)).info
    assert own_model(OwnDual(1)).info == same
    assert len({same.revision, other.revision, own_model(OwnDual(1), "b").info.revision}) == 3
    commit, content = "a" * 40, "sha256:" + "b" * 64
    assert own_model(OwnGenerator(), revision=commit).info.revision == commit
    assert own_model(OwnGenerator(), revision=content).info.revision == content
    texts = {own_model(OwnGenerator(), name, text).info.revision for name in "ab" for text in ("v1", "v2")}
    assert len(texts) == 4


def test_every_weight_counts() -> None:
    """Also half precision, numbers without dimension, and buffers."""
    encoder = OwnImages()
    encoder.image_tower.register_buffer("scale", torch.tensor(1.0))
    encoder.image_tower.register_buffer("brief", torch.ones(3, dtype=torch.bfloat16))
    seen = {own_model(encoder).info.revision}
    for name in ("scale", "brief"):
        getattr(encoder.image_tower, name).add_(1)
        seen.add(own_model(encoder).info.revision)
    assert len(seen) == 3


def test_a_result_is_json(phantom: Path) -> None:
    result = evaluated("control:oracle", phantom)
    assert json.loads(result.path.read_text()) == result.data
    assert next(iter(result.metrics.values()))["auc"] == 1.0
