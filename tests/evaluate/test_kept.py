"""What can't be kept is refused before anything trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import families
import own_models
from vlmed.data.load import DataLoader
from vlmed.errors import UsageError
from vlmed.evaluate.kept import check_kept
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, Unit, plan
from vlmed.models.load import load_model
from vlmed.models.own import own_model
from vlmed.models.protocols import AdapterInfo, LoadedModel, ModelInfo
from vlmed.suite.types import Suite

ADAPTER = AdapterInfo("dir:lora", "sha256:" + "1" * 64, "LORA", 1, "dir:base", changes_nothing=False)


def units(suite: Suite, *tracks: str) -> list[Unit]:
    return plan(suite, ["lesion", "report", "asked"], tracks)


@pytest.fixture(scope="module")
def clip() -> LoadedModel:
    return load_model(f"dir:{families.checkpoint('clip')}")


def with_adapter(info: ModelInfo) -> ModelInfo:
    return replace(info, adapter=ADAPTER)


TRAINED = ("lora", "partial_linear", "full", "retrieval_lora", "vqa_fusion", "vqa_fusion_lora", "vqa_fusion_full")


def test_what_can_be_kept(suite: Suite, clip: LoadedModel) -> None:
    check_kept(units(suite, "zero_shot", "linear_probe", *TRAINED), clip.info)
    check_kept(units(suite, "zero_shot", "linear_probe", "partial", "full", "vqa_fusion_full"), with_adapter(clip.info))
    check_kept(units(suite, *TRAINED), load_model("control:majority").info)


@pytest.mark.parametrize("track", ["lora_linear", "retrieval_lora", "vqa_fusion", "vqa_fusion_lora", "projector"])
def test_an_adapter_on_an_adapter(track: str, suite: Suite, clip: LoadedModel) -> None:
    with pytest.raises(UsageError, match="already carries an adapter") as caught:
        check_kept(units(suite, "zero_shot", track), with_adapter(clip.info))
    (problem,) = caught.value.problems
    assert f"{track}@1" in problem.what
    assert problem.got.endswith("with dir:lora")


@pytest.mark.parametrize("family", ["medclip_swin", "pmc_clip", "cxr_clip_swin"])
def test_a_layout_that_is_not_written(family: str, suite: Suite) -> None:
    info = load_model(f"dir:{families.checkpoint(family)}").info
    check_kept(units(suite, "lora", "retrieval_lora", "vqa_fusion", "vqa_fusion_lora"), info)
    with pytest.raises(UsageError, match="doesn't write checkpoints") as caught:
        check_kept(units(suite, "lora", "partial", "full_linear", "vqa_fusion_full"), info)
    assert [problem.what.split()[1] for problem in caught.value.problems] == [
        *("partial@1", "full_linear@1", "vqa_fusion_full@1")
    ]


def test_models_without_files(suite: Suite) -> None:
    own = own_model(own_models.OwnDual(), None, None).info
    blank = load_model(f"control:blank/dir:{families.checkpoint('clip')}").info
    for info, says in ((own, "an object of yours"), (blank, "a control")):
        check_kept(units(suite, "zero_shot", "linear_probe"), info)
        with pytest.raises(UsageError, match=says):
            check_kept(units(suite, "lora"), info)


def test_a_run_is_refused_before_it_begins(suite: Suite, clip: LoadedModel, tmp_path: Path) -> None:
    model = replace(clip, info=with_adapter(clip.info))
    runner = Runner(suite, model, DataLoader(cache=tmp_path / "cache"), keep_weights=True)
    with pytest.raises(UsageError, match="already carries an adapter"):
        runner.run(units(suite, "zero_shot", "lora"), RunFolder(tmp_path / "run"), lambda _unit, _state: None)
    assert not (tmp_path / "run").exists()
