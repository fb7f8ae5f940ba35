"""Every family of models through `vlmed run`, from the Hub by commit and from a folder, on all tracks it can follow."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from endpoint_server import EndpointServer
from families import FAMILIES, GENERATORS, IMAGE, TRACKS, checkpoint, publish
from hub_server import HubServer, local_hub
from vlmed.cli import main
from vlmed.data.load import DataLoader
from vlmed.data.questions import questions
from vlmed.results.predictions import ClassificationPredictions, read_predictions
from vlmed.results.validate import validate_run
from vlmed.suite.load import load_suite
from vlmed.suite.types import Suite

# transformers' PaliGemma processor meets NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def tiny_suite(small_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small suite on fewer patients, with one penalty and short answers: these tests are about models."""
    tree: dict[str, Any] = yaml.safe_load(small_suite.read_text())
    for dataset in tree["datasets"].values():
        dataset["options"] |= {"patients": 30, "images_per_patient": 1}
    tree["tracks"]["linear_probe@1"]["recipe"]["penalties"] = [1.0]
    tree["tracks"]["zero_shot_vqa@1"]["recipe"]["max_tokens"] = 4
    path = tmp_path_factory.mktemp("suite") / "tasks.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with local_hub(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture
def vlmed(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        monkeypatch.setenv("VLMED_CACHE", str(cache))
        monkeypatch.setattr(sys, "argv", ["vlmed", "run", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code

    return run


def units(run: Path, suite: Suite) -> dict[str, Any]:
    """The tracks of a validated run -> the predictions on each."""
    report = validate_run(run, suite)
    assert report.accepted, report.problems
    listed = json.loads((run / "result.json").read_text())["units"]
    return {
        unit["track"].partition("@")[0]: read_predictions(run / unit["predictions"]["file"], suite.task(unit["task"]))
        for unit in listed
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_from_the_hub_by_commit_on_phantoms(name: str, hub, vlmed, tiny_suite: Path, tmp_path: Path) -> None:
    repository, commit = publish(hub, name)
    ref, out = f"hf:{repository}@{commit}", tmp_path / "run"
    vlmed("--model", ref, "--tasks", "lesion,report,asked", "--tracks", ",".join(TRACKS[name]), "--suite", tiny_suite,
          "--out", out)  # fmt: skip
    found = units(out, load_suite(tiny_suite))
    assert set(found) == set(TRACKS[name])
    model = json.loads((out / "result.json").read_text())["model"]
    assert (model["ref"], model["revision"], model["remote_code"]) == (ref, commit, False)
    # Else the model would not see.
    rows = [each.probabilities for each in found.values() if isinstance(each, ClassificationPredictions)]
    assert all(np.ptp(probabilities, axis=0).max() > 1e-6 for probabilities in rows)


# The systems that medicine uses; of MedCLIP and CXR-CLIP with Swin, since ResNet-50 at 224 px takes ten seconds.
ON_BREASTMNIST = (
    *("clip", "siglip_gemma", "siglip_sentencepiece", "blip2_retrieval", "open_clip", "modified_resnet"),
    *("open_clip_siglip", "biomedclip", "medclip_swin", "pmc_clip", "cxr_clip_swin", *IMAGE, *GENERATORS),
)


@pytest.mark.parametrize("name", ON_BREASTMNIST)
def test_from_a_folder_on_breastmnist(name: str, vlmed, shared_data: Path, tmp_path: Path) -> None:
    track = TRACKS[name][0]
    vlmed("--model", f"dir:{checkpoint(name)}", "--tasks", "breastmnist", "--tracks", track, "--data-root", shared_data,
          "--out", tmp_path / "run")  # fmt: skip
    found = units(tmp_path / "run", load_suite())[track]
    assert found.probabilities.shape == (156, 2)
    assert np.ptp(found.probabilities[:, 0]) > 1e-7


@torch.inference_mode()
def test_blip_2_is_judged_by_the_largest_cosine(tiny_suite: Path, cache: Path, tmp_path: Path, vlmed) -> None:
    """Against transformers' own similarities, in every track of a dual encoder."""
    from transformers import AutoImageProcessor, AutoTokenizer, Blip2ForImageTextRetrieval

    home, suite = checkpoint("blip2_retrieval"), load_suite(tiny_suite)
    tracks = "zero_shot,zero_shot_retrieval,zero_shot_vqa"
    vlmed("--model", f"dir:{home}", "--tasks", "lesion,report,asked", "--tracks", tracks, "--suite", tiny_suite,
          "--out", tmp_path / "run")  # fmt: skip
    found = units(tmp_path / "run", suite)
    model, processor = Blip2ForImageTextRetrieval.from_pretrained(home).eval(), AutoImageProcessor.from_pretrained(home)
    tokenizer, loader = AutoTokenizer.from_pretrained(home), DataLoader(cache=cache)

    def similarities(task: str, texts: list[str]) -> np.ndarray:
        samples, images = loader.table(suite.task(task)).split("test"), loader.dataset(suite.task(task).dataset)
        shown = [images.image(sample.image).convert("RGB") for sample in samples]
        limit = {"max_length": model.config.qformer_config.max_position_embeddings, "truncation": True}
        tokens = tokenizer(texts, padding=True, return_tensors="pt", **limit)
        tokens.pop("token_type_ids")
        pixels = processor(images=shown, return_tensors="pt")["pixel_values"]
        return model(pixel_values=pixels, use_image_text_matching_head=False, **tokens).logits_per_image.numpy()

    classes = suite.task("lesion").classes
    prompts = [suite.task("lesion").prompts["vlmed"][spec.name] for spec in classes]
    by_template = np.stack([similarities("lesion", list(texts)) for texts in zip(*prompts, strict=True)], axis=1)
    expected = np.exp(by_template) / np.exp(by_template).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found["zero_shot"].by_template, expected, atol=1e-6)

    captions = [sample.target for sample in loader.table(suite.task("report")).split("test")]
    scores = similarities("report", captions)
    for row, caption in enumerate(captions):
        wrong = np.array([other != caption for other in captions])
        best = scores[row][~wrong].max()
        above, near = (scores[row][wrong] > best + 1e-6).sum(), (abs(scores[row][wrong] - best) <= 1e-6).sum()
        assert 1 + above <= found["zero_shot_retrieval"].image_to_text.ranks[row] <= 1 + above + near

    table = loader.table(suite.task("asked"))
    asked = questions(table, table.split("test"))
    for row, sample in enumerate(table.split("test")):
        question = asked[sample.id]
        if question.candidates:
            scores = similarities("asked", [f"{question.text} {candidate}" for candidate in question.candidates])[row]
            chosen = question.candidates.index(found["zero_shot_vqa"].answers[row])
            assert scores[chosen] >= scores.max() - 1e-6


def test_behind_an_endpoint(vlmed, tiny_suite: Path, tmp_path: Path) -> None:
    with EndpointServer(models=["org/tiny"]) as server:
        vlmed("--model", f"endpoint:{server.url}#org/tiny", "--tasks", "lesion,asked", "--tracks",
              "zero_shot_choice,zero_shot_vqa", "--suite", tiny_suite, "--out", tmp_path / "run")  # fmt: skip
    assert set(units(tmp_path / "run", load_suite(tiny_suite))) == {"zero_shot_choice", "zero_shot_vqa"}
