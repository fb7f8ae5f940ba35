"""What a tuned encoder leaves behind: an adapter or a checkpoint for `load_model`, a head, a model card draft."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from vlmed.errors import InputError, UsageError
from vlmed.files import new_file, read_json, write_json, write_text
from vlmed.hashing import file_hash
from vlmed.models.layouts import ADAPTER_CONFIG, CONFIG, files_that_matter, layout_of
from vlmed.models.reference import parse_reference
from vlmed.models.snapshot import read_config, root_files
from vlmed.tuning.fusion import TunedFusion
from vlmed.tuning.fusion_files import FUSION_WEIGHTS, save_network
from vlmed.tuning.head import LinearHead
from vlmed.tuning.tune import Tuned, TunedClassifier

if TYPE_CHECKING:
    from vlmed.tuning.generative import TunedGenerator

HEAD_WEIGHTS = "vlmed_head.safetensors"
HEAD_CONFIG = "vlmed_head.json"

_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".index.json")


def save_adapter(tuned: Tuned[Any], folder: Path, base_ref: str, base_revision: str, about: str = "") -> None:
    """Write a tuned LoRA in PEFT's layout, with a linear head or a fusion beside it and a model card draft.

    Args:
        folder: New or empty.
        base_ref: The model that was tuned, as `ModelInfo.ref` gives it; the adapter's config names it as its base.
        base_revision: The base's commit or content hash, which `load_model` compares.
        about: What it was tuned on, for the card.

    Raises:
        UsageError: Not a LoRA, the encoder has its old weights again, or the folder is in use.
    """
    tuned.check()
    if tuned.learner.wrapped is None:
        scope = tuned.learner.recipe.scope
        raise UsageError("only a LoRA is an adapter", got=f"the method {scope}", hint="save it as a checkpoint")
    name_base(tuned.learner.wrapped.peft_config["default"], base_ref, base_revision)
    with new_folder(folder) as part:
        tuned.learner.wrapped.save_pretrained(str(part), save_embedding_layers=False)
        _save_rest(tuned, part, base_ref, base_revision, about, "peft")


def save_checkpoint(
    tuned: Tuned[Any], folder: Path, base: Path, base_ref: str, base_revision: str, about: str = ""
) -> None:
    """Write the whole tuned network in its base's own layout, with a head or fusion beside it and a model card draft.

    Configurations, tokenizer and preprocessing are copied from the base; the weights are float32 safetensors.

    Args:
        folder: New or empty.
        base: The folder with the base's files, as `resolve` gives it.
        base_ref, base_revision, about: For the card.

    Raises:
        UsageError: A LoRA, a base in a layout that vlmed doesn't write, the encoder has its old weights again, or the
            folder is in use.
    """
    tuned.check()
    if tuned.learner.wrapped is not None:
        raise UsageError("a LoRA is saved as an adapter, not as a checkpoint", got="the method lora")
    layout = layout_of(root_files(base), str(base))
    if layout.name not in ("config", "open_clip"):
        raise UsageError(
            "a whole checkpoint can't be written in this layout",
            file=base,
            expected="transformers', open_clip's or timm's layout",
            got=layout.name,
            hint="tune it with the method lora, whose adapters fit every layout",
        )
    with new_folder(folder) as part:
        copy_side_files(base, part)
        library = _save_weights(tuned.learner.root, base, layout.name, part)
        _save_rest(tuned, part, base_ref, base_revision, about, library)


def save_fusion(tuned: TunedFusion, folder: Path, base_ref: str, base_revision: str, about: str = "") -> None:
    """Write the fusion on an encoder that stayed frozen, with a model card draft; `load_fusion` reads it.

    Args:
        folder: New or empty.
        base_ref, base_revision, about: As in `save_adapter`.

    Raises:
        UsageError: The encoder trained too, it has its old weights again, or the folder is in use.
    """
    tuned.check()
    if (scope := tuned.learner.recipe.scope) != "frozen":
        hint = "save it as an adapter or a checkpoint, beside which the fusion lies then"
        raise UsageError("a fusion alone doesn't hold what trained in the encoder", got=f"encoders: {scope}", hint=hint)
    with new_folder(folder) as part:
        _save_rest(tuned, part, base_ref, base_revision, about, "vlmed")


def name_base(config: Any, base_ref: str, base_revision: str) -> None:
    """Name the base in a PEFT config, and give it the same text in every process."""
    config.base_model_name_or_path, config.revision = base_name(base_ref), base_revision
    # PEFT writes a set in the order of Python's hashes, which the folder's content hash would follow.
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)


def base_name(ref: str) -> str:
    """The reference as PEFT and the Hub know it where they can: a repository's bare name, its revision apart."""
    reference = parse_reference(ref)
    return reference.location if reference.scheme == "hf" else f"{reference.scheme}:{reference.location}"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well and vanishes when it does not."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("this folder holds other files", file=folder, expected="a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        part = Path(scratch) / "new"
        part.mkdir()
        yield part
        part.replace(folder)


def copy_side_files(base: Path, folder: Path) -> None:
    """Copy configurations, tokenizer and preprocessing, but no weights."""
    for name in files_that_matter(root_files(base), str(base)):
        if not name.endswith(_WEIGHTS) and name != ADAPTER_CONFIG:
            shutil.copyfile(base / name, folder / name)


def _save_weights(model: Any, base: Path, layout: str, folder: Path) -> str:
    """Write the weights as the library with that layout does; gives the library's name."""
    if layout == "config" and "model_type" in read_config(base / CONFIG):
        logging.disable_progress_bar()
        try:
            model.save_pretrained(folder)
        finally:
            logging.enable_progress_bar()
        return "transformers"
    # Copies, since safetensors refuses tensors that share memory.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    library, name = ("open_clip", "open_clip_model") if layout == "open_clip" else ("timm", "model")
    save_file(state, folder / f"{name}.safetensors")
    return library


def _save_rest(tuned: Tuned[Any], folder: Path, base_ref: str, base_revision: str, about: str, library: str) -> None:
    head = tuned.learner.head
    if isinstance(head, LinearHead) and isinstance(tuned, TunedClassifier):
        save_head(head, tuned.classes, folder)
    if isinstance(tuned, TunedFusion):
        save_network(tuned.objective, base_revision, folder)
    write_text(folder / "README.md", card(tuned, base_ref, base_revision, about, library))


def save_head(head: LinearHead, classes: tuple[str, ...], folder: Path) -> None:
    """Write a linear head beside an adapter or a checkpoint.

    Its JSON holds the hash of its weights, so that the folder's content hash covers them.
    """
    weights = {name: parameter.detach().cpu().contiguous() for name, parameter in head.parameters().items()}
    with new_file(folder / HEAD_WEIGHTS) as part:
        save_file(weights, part)
    write_json(
        folder / HEAD_CONFIG,
        {
            "classes": list(classes),
            "dim": head.weight.shape[1],
            "features": "projected, not normalised",
            "sha256": file_hash(folder / HEAD_WEIGHTS),
        },
    )


def load_head(folder: Path, classes: tuple[str, ...], device: str = "cpu") -> LinearHead:
    """The linear head in the folder of an adapter or a checkpoint.

    Args:
        classes: The task's classes in order, which must be the head's.

    Raises:
        MissingError: There is none.
        UsageError: It is for other classes.
        InputError: It is damaged.
    """
    config = read_json(folder / HEAD_CONFIG)
    if not isinstance(config, Mapping) or config.get("classes") != list(classes):
        got = config.get("classes") if isinstance(config, Mapping) else config
        raise UsageError("the head is for other classes", file=folder / HEAD_CONFIG, path="$.classes",
                         expected=str(list(classes)), got=str(got))  # fmt: skip
    path = folder / HEAD_WEIGHTS
    if not path.is_file() or file_hash(path) != config.get("sha256"):
        hint = "download the folder again"
        raise InputError("the head's weights are absent or not those that its configuration names", file=path,
                         expected=f"SHA-256 {config.get('sha256')}", hint=hint)  # fmt: skip
    weights = load_file(path, device=device)
    expected = {"vlmed_head.weight": (len(classes), config.get("dim")), "vlmed_head.bias": (len(classes),)}
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if shapes != expected:
        raise InputError("the head has the wrong shape", file=path, expected=str(expected), got=str(shapes))
    return LinearHead(weights["vlmed_head.weight"], weights["vlmed_head.bias"])


@torch.no_grad()
def head_probabilities(head: LinearHead, features: torch.Tensor) -> torch.Tensor:
    """Class probabilities float64 (N, C) of projected features (N, D), not normalised."""
    return head.logits(features.double(), head.vectors()).softmax(dim=-1)


def card(tuned: Tuned[Any], base_ref: str, base_revision: str, about: str, library: str) -> str:
    """The draft of a model card: what is known is filled in, the rest is left to a person."""
    recipe = tuned.learner.recipe
    classifier = {
        "prompts": "the prompts of the task's classes",
        "linear": f"a linear layer ({HEAD_WEIGHTS})",
        "captions": "none: images and captions were drawn together",
        "fusion": f"a fusion of image and question ({FUSION_WEIGHTS}): `vlmed.tuning.fusion_files.load_fusion`",
    }[recipe.head]
    classes = [f"- Classes: {', '.join(tuned.classes)}"] if isinstance(tuned, TunedClassifier) else []
    rate = f"learning rate {tuned.chosen['lr']:g}"
    base = Base(base_ref, base_revision, about)
    return draft(
        tuned, base, recipe.scope, [f"library_name: {library}"], [*classes, f"- Classifier: {classifier}"], rate
    )


@dataclass(frozen=True)
class Base:
    """What was tuned: the model's reference and revision, and on what."""

    ref: str
    revision: str
    about: str


def draft(
    tuned: Tuned[Any] | TunedGenerator, base: Base, scope: str, front: list[str], details: list[str], rate: str
) -> str:
    """A model card of an encoder or a generator.

    Args:
        scope: What trained, for the title.
        front: Lines of the card's metadata.
        details: Lines on what is special to the kind of model.
        rate: The learning rate in words.
    """
    recipe, cost, proof, name = tuned.learner.recipe, tuned.cost, tuned.proof.to_json(), base_name(base.ref)
    library, *more = front
    changed, meant = proof["parameters_changed"], proof["parameters"]
    lines = [
        "---",
        library,
        "tags: [medical, vlmed]",
        *more,
        # The Hub takes only a repository's name here.
        *([f"base_model: {name}"] if ":" not in name else []),
        "---",
        "",
        f"# {base.ref} tuned with vlmed: {scope}",
        "",
        f"- Base: `{base.ref}` at `{base.revision}`",
        f"- Tuned on: {base.about or 'TODO: name the data set and its licence'}",
        *details,
        f"- Recipe: {recipe.optimiser}, {rate}, batches of {recipe.batch_size}, weight decay {recipe.weight_decay:g}; "
        f"epoch {tuned.chosen['epoch']} of at most {recipe.epochs} had the least validation loss, "
        f"{tuned.chosen['val_loss']:.4g}",
        f"- Trained: {changed:,} of {meant:,} parameters meant to train changed; {proof['frozen_tensors']} frozen "
        "tensors did not",
        f"- Cost: {cost.samples_seen:,} samples seen, {cost.flops:.3g} floating-point operations",
        *(f"- Note: {note}" for note in tuned.notes),
        "",
        "## Intended use",
        "",
        "Research only: not a medical device. TODO: say for what images and questions it was made.",
        "",
        "## Limitations",
        "",
        "TODO: say for whom and for what it was not tested.",
        "",
    ]
    return "\n".join(lines)
