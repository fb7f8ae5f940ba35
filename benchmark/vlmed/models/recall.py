"""An encoder that was loaded before, without its weights: what it says of itself is kept, they come when needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from vlmed import __version__
from vlmed.errors import InputError, VlmedError
from vlmed.files import read_json, write_json
from vlmed.hashing import digest
from vlmed.models.companion import Companion, model_files
from vlmed.models.later import LaterDualEncoder, LaterImageEncoder
from vlmed.models.numerics import Numerics
from vlmed.models.protocols import AdapterInfo, ImageEncoder, LoadedModel, ModelInfo
from vlmed.models.resolve import Resolved
from vlmed.models.snapshot import root_files

_FORMAT = 1
# What reads checkpoints and builds preprocessings from them.
_LIBRARIES = ("torch", "torchvision", "transformers", "tokenizers", "open_clip_torch", "timm", "peft", "safetensors",
              "numpy", "pillow")  # fmt: skip
# What an encoder of each kind says of itself.
_IMAGE: Mapping[str, type] = {"dim": int, "preprocessing": str}
_FACTS: Mapping[str, Mapping[str, type]] = {
    "image_encoder": _IMAGE,
    "dual_encoder": {**_IMAGE, "logit_scale": float, "logit_bias": float, "n_vectors": int},
}


@dataclass(frozen=True)
class Asked:
    """All that decides what is loaded.

    Attributes:
        base, adapters: The model's files, and its adapters' from the lowest up.
        how: What else was asked for, as JSON values.
    """

    base: Resolved
    adapters: Sequence[Resolved]
    device: str
    numerics: Numerics
    how: Sequence[Any]

    def key(self) -> str:
        """Equal keys mean equal models, but for the companions."""
        files = [
            [str(each.reference), each.revision, str(each.path.resolve()), root_files(each.path), str(each.stamps)]
            for each in (self.base, *self.adapters)
        ]
        versions = {name: metadata.version(name) for name in _LIBRARIES}
        how = [self.device, str(self.numerics), *self.how]
        return digest([_FORMAT, __version__, _own_code(), versions, how, files])


def recalled(
    folder: Path, asked: Asked, load: Callable[[], LoadedModel], companions: Callable[[], Sequence[Companion]]
) -> LoadedModel:
    """What `load` gives; of an encoder that `folder` remembers, without its weights until something needs them.

    A memory that is damaged or can't be written costs time and nothing else. Generators and models with code of their
    own are not remembered.

    Args:
        companions: What the checkpoint needs from elsewhere; asked only after it was loaded.

    Raises:
        VlmedError: As `load`.
    """
    file = folder / f"{asked.key()}.json"
    held = _read(file)
    if held and _has_companions(held, asked):
        return _later(file, held, asked, load)
    loaded = load()
    if loaded.info.kind in _FACTS and not loaded.info.remote_code:
        # A number that is none has no place in JSON.
        with suppress(VlmedError, ValueError):
            told = _told(loaded) | {"companions": [asdict(each) for each in companions()]}
            write_json(file, {"told": told, "sha256": digest(told)})
    return loaded


def _own_code() -> list[list[Any]]:
    """Name, size and time of change of the modules that load models, of which a checkout has many versions."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [[file.name, file.stat().st_size, str(file.stat().st_mtime_ns)] for file in files]


def _told(loaded: LoadedModel) -> dict[str, Any]:
    facts = {name: getattr(loaded.predictor, name) for name in _FACTS.get(loaded.info.kind, ())}
    return {"info": loaded.info.to_json(), "swaps_images": loaded.swaps_images, "facts": facts}


def _read(file: Path) -> dict[str, Any] | None:
    """What was told, of the right form and as it was written; None where there is nothing such."""
    try:
        held = read_json(file)
        told: dict[str, Any] = held["told"]
        types = _FACTS[told["info"]["kind"]]
        whole = digest(told) == held["sha256"] and _info(told["info"]).to_json() == told["info"]
        fits = {name: type(value) for name, value in told["facts"].items()} == dict(types)
        return told if whole and fits else None
    except (VlmedError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _has_companions(held: Mapping[str, Any], asked: Asked) -> bool:
    """Whether the companions still are those that it was loaded with."""
    try:
        wanted = [Companion(each["repository"], tuple(each["files"]), each["apart"]) for each in held["companions"]]
        found: list[str] = list(model_files(asked.base.path, wanted, False, asked.device).revisions)
        return found == list(held["info"]["companions"])
    except (VlmedError, KeyError, TypeError):
        return False


def _info(told: Mapping[str, Any]) -> ModelInfo:
    adapter, below = told["adapter"], told["adapters_below"]
    return ModelInfo(**{
        **told,
        "adapter": AdapterInfo(**adapter) if adapter else None,
        "adapters_below": tuple(AdapterInfo(**each) for each in below),
        "companions": tuple(told["companions"]),
        "warnings": tuple(told["warnings"]),
    })  # fmt: skip


def _later(file: Path, held: Mapping[str, Any], asked: Asked, load: Callable[[], LoadedModel]) -> LoadedModel:
    kind = LaterDualEncoder if held["info"]["kind"] == "dual_encoder" else LaterImageEncoder
    encoder = kind(partial(_loaded, file, held, load), asked.device, asked.numerics, **held["facts"])
    return LoadedModel(_info(held["info"]), cast(ImageEncoder, encoder), held["swaps_images"])


def _loaded(file: Path, held: Mapping[str, Any], load: Callable[[], LoadedModel]) -> ImageEncoder:
    """The encoder itself, which must be what was remembered: results may already speak of that."""
    loaded = load()
    told = _told(loaded)
    if wrong := [name for name, value in told.items() if held[name] != value]:
        file.unlink(missing_ok=True)
        what, hint = "the model is not what an earlier run remembered of it", "run it again: the memory is gone now"
        raise InputError(what, file=file, path=", ".join(wrong), expected=str(held), got=str(told), hint=hint)
    return cast(ImageEncoder, loaded.predictor)
