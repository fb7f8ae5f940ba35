"""A fusion's network on disk, with the answers that it chooses among, and put on its model again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vlmed.errors import InputError, MissingError, UsageError
from vlmed.files import new_file, read_json, write_json
from vlmed.hashing import file_hash
from vlmed.models.protocols import LoadedModel, TokenEncoder
from vlmed.tuning.fusion import FusionHead, FusionObjective, make_fusion
from vlmed.tuning.learner import device_of
from vlmed.tuning.recipe import FusionSettings

FUSION_WEIGHTS = "vlmed_fusion.safetensors"
FUSION_CONFIG = "vlmed_fusion.json"


def save_network(objective: FusionObjective, base_revision: str, folder: Path) -> None:
    """Write the network of a tuned fusion; its JSON holds the hash of its weights, its answers and its settings."""
    state = objective.head.module.state_dict()
    with new_file(folder / FUSION_WEIGHTS) as part:
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}, part)
    recipe = objective.learner.recipe
    write_json(
        folder / FUSION_CONFIG,
        {
            "answers": list(objective.answers),
            "fusion": asdict(recipe.fusion),
            "encoders": recipe.scope,
            "base_revision": base_revision,
            "sha256": file_hash(folder / FUSION_WEIGHTS),
        },
    )


@dataclass(frozen=True)
class SavedFusion:
    """A model with a fusion that answers questions.

    Attributes:
        answers: C texts, of which every question gets one.
    """

    encoder: TokenEncoder
    head: FusionHead
    answers: tuple[str, ...]

    @torch.no_grad()
    def logits(self, pixels: torch.Tensor, questions: Sequence[str]) -> torch.Tensor:
        """Logits float64 (N, C) on the CPU of N preprocessed images (N, 3, H, W) and the question about each."""
        words, mask = self.encoder.encode_text_tokens(questions)
        image = self.head.encode(pixels.to(device_of(self.encoder)))
        logits: torch.Tensor = self.head.module(image, words, mask)
        return logits.cpu().double()

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """The likeliest answer to each question about its image.

        Raises:
            InputError: An image has more than 8 bits per channel.
        """
        pixels = torch.stack([self.encoder.preprocess(image) for image in images])
        return [self.answers[place] for place in self.logits(pixels, questions).argmax(dim=1).tolist()]


def load_fusion(folder: Path, model: LoadedModel) -> SavedFusion:
    """Put a saved fusion on its model, which stays what it is.

    Args:
        folder: What `vlmed run --keep-weights` left of a unit of a `vqa_fusion` track.
        model: As `load_model` gives it: the base where the encoders stayed frozen, the base with the folder as its
            adapter where they had a LoRA, else the folder itself.

    Raises:
        MissingError: The folder holds no fusion.
        UsageError: It is another model.
        InputError: The files are damaged.
    """
    config = _read(folder)
    encoder = _checked(model, config, folder)
    with torch.random.fork_rng([]):
        head = make_fusion(encoder, FusionSettings(**config["fusion"]), len(config["answers"]))
    # A model's own fusion is its own module: the trained one must not take its place.
    module = copy.deepcopy(head.module)
    try:
        module.load_state_dict(load_file(folder / FUSION_WEIGHTS))
    except RuntimeError as error:
        got = " ".join(str(error).split())[:300]
        raise InputError("the fusion's weights don't fit the model", file=folder / FUSION_WEIGHTS, got=got) from error
    encode = (lambda pixels: encoder.encode_images(pixels)[:, None]) if head.borrowed else head.encode
    return SavedFusion(encoder, replace(head, module=module.eval(), encode=encode), tuple(config["answers"]))


def _read(folder: Path) -> Mapping[str, Any]:
    path = folder / FUSION_CONFIG
    if not path.is_file():
        hint = "give the folder of a unit of a vqa_fusion track, from weights/ of a run with --keep-weights"
        raise MissingError("no fusion was saved here", file=folder, expected=FUSION_CONFIG, hint=hint)
    config: Mapping[str, Any] = read_json(path)
    lacking = [key for key in ("answers", "fusion", "encoders", "base_revision", "sha256") if key not in config]
    if lacking:
        raise InputError("the fusion's configuration lacks keys", file=path, expected=", ".join(lacking))
    weights = folder / FUSION_WEIGHTS
    if not weights.is_file() or file_hash(weights) != config["sha256"]:
        raise InputError("the fusion's weights are absent or not those that its configuration names", file=weights,
                         expected=f"SHA-256 {config['sha256']}", hint="copy the folder again")  # fmt: skip
    return config


def _checked(model: LoadedModel, config: Mapping[str, Any], folder: Path) -> TokenEncoder:
    info, scope = model.info, config["encoders"]
    load = {"frozen": "the base alone", "lora": f"the base with the adapter dir:{folder}"}.get(scope, f"dir:{folder}")
    on_base = scope in ("frozen", "lora")
    fits = (info.revision == config["base_revision"]) == on_base and (info.adapter is not None) == (scope == "lora")
    if not isinstance(model.predictor, TokenEncoder) or not fits:
        raise UsageError(
            "the fusion was trained on another model",
            file=folder / FUSION_CONFIG,
            expected=f"{load}; the base is {config['base_revision']}",
            got=f"{info.ref} at {info.revision}" + (f" with {info.adapter.ref}" if info.adapter else ""),
        )
    return model.predictor
