"""The small contracts between models and evaluation. Importing them costs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image


Kind = Literal["dual_encoder", "image_encoder", "generator", "control"]


@runtime_checkable
class ImageEncoder(Protocol):
    """A model that turns images into embeddings.

    Encoding never switches gradients off: whoever only infers wraps the calls in `torch.inference_mode()`, whoever
    trains gets gradients through `image_tower`.

    Attributes:
        dim: D, the length of an embedding.
        preprocessing: Names `preprocess` completely: equal strings mean equal pixels from equal images under the
            same library versions, so that it can key a cache of features.
        image_tower: Pixels float32 (B, 3, H, W) -> embeddings (B, D), in eval mode; `encode_images` calls it.
    """

    dim: int
    preprocessing: str
    image_tower: torch.nn.Module

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """The image as the model expects it, float32 (3, H, W); grey images become RGB.

        Raises:
            InputError: The image has more than 8 bits per channel.
        """
        ...

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Preprocessed pixels float32 (B, 3, H, W) -> projected embeddings float32 (B, D), not normalised."""
        ...


@runtime_checkable
class DualEncoder(ImageEncoder, Protocol):
    """An image encoder with a text encoder into the same space.

    Attributes:
        logit_scale: What cosine similarities are multiplied with, already exponentiated.
        logit_bias: SigLIP's additive bias, 0.0 elsewhere. It shifts every class alike, so a softmax over classes
            ignores it; only pairwise sigmoid scores need it.
    """

    logit_scale: float
    logit_bias: float

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """N texts -> projected embeddings float32 (N, D), not normalised; long texts are truncated."""
        ...


@dataclass(frozen=True)
class Request:
    """One question to a generator.

    Attributes:
        image: What is asked about; None asks without an image.
        prompt: The whole text of the user's turn, without image token or chat template: the generator adds its own.
        max_tokens: Where the answer is cut off at the latest.
    """

    image: Image.Image | None
    prompt: str
    max_tokens: int


@runtime_checkable
class Generator(Protocol):
    """A model that answers in free text. Decoding is greedy."""

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """One answer for each request, in their order, without prompt, special tokens and outer blanks.

        Raises:
            InputError: An image can't be shown to the model.
            VlmedError: An endpoint failed for good; what it answered before is kept by the caller's cache.
        """
        ...


@runtime_checkable
class Chooser(Protocol):
    """A generator whose token probabilities are known."""

    def choose(self, requests: Sequence[Request], choices: Sequence[str]) -> np.ndarray:
        """Log-probability float64 (N, C) of each choice as the beginning of the answer, summed over its tokens."""
        ...


@runtime_checkable
class Control(Protocol):
    """A predictor that sees no image: it can't know, or it knows everything."""

    def probabilities(
        self, train_targets: np.ndarray, test_targets: np.ndarray, n_classes: int, seed: int
    ) -> np.ndarray:
        """Class probabilities float64 (m, C), rows summing to 1.

        Args:
            train_targets: Class indices (n,) in [0, C).
            test_targets: Class indices (m,) in [0, C); only the oracle looks at more than their number.
            n_classes: C.
            seed: Seeds the draws of the random control.

        Raises:
            InputError: A target lies outside [0, C), or the control needs training targets and there are none.
        """
        ...


@dataclass(frozen=True)
class AdapterInfo:
    """PEFT weights and what they were trained on.

    Attributes:
        ref: As given.
        revision: Commit or content hash of the adapter.
        peft_type: PEFT's own name, such as `LORA`.
        parameters: Numbers in the adapter's weight file.
        base_ref: The base its config names, as written there; the model it was put on where it names none.
        changes_nothing: The adapter is exactly the identity (every B of a LoRA is zero).
    """

    ref: str
    revision: str
    peft_type: str
    parameters: int
    base_ref: str
    changes_nothing: bool


@dataclass(frozen=True)
class ModelInfo:
    """What a result says about its model.

    Attributes:
        ref: As given, or the base's reference where only an adapter was given.
        name: Short name to show.
        revision: 40-hex commit, `sha256:` and 64 hex digits over the content, or `builtin` for a control.
        family: `open_clip`, `timm`, `control`, or the transformers `model_type` (`clip`, `siglip`, `vit`).
        architecture: Class or architecture name.
        kind: What the model can do.
        parameters: Numbers in the model without its adapter.
        adapter: The adapter on top, if any.
        remote_code: The model brought Python code and the user allowed it to run.
        companions: `repository@commit` of files that the checkpoint needs and its authors published elsewhere.
        warnings: What a reader of the result should know.
    """

    ref: str
    name: str
    revision: str
    family: str
    architecture: str
    kind: Kind
    parameters: int
    adapter: AdapterInfo | None = None
    remote_code: bool = False
    companions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**asdict(self), "companions": list(self.companions), "warnings": list(self.warnings)}


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run."""

    info: ModelInfo
    predictor: ImageEncoder | DualEncoder | Generator | Control
