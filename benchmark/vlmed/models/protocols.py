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

# What the architecture of a network ends in that brings a module `fusion` over both of its towers.
WITH_FUSION = ", with fusion"


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
        model: The whole network as its checkpoint holds it; its parameters outside `image_tower` are the text side's.
    """

    logit_scale: float
    logit_bias: float
    model: torch.nn.Module

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """N texts -> projected embeddings float32 (N, D), not normalised; long texts are truncated."""
        ...


@runtime_checkable
class ManyVectorEncoder(DualEncoder, Protocol):
    """A dual encoder that may give an image several vectors, of which each is compared with a text.

    Attributes:
        n_vectors: K. An image's embedding (K * D,) is K vectors side by side, each as long as a text's embedding (D,),
            and its similarity to a text is the largest of the K cosines. 1 for all but BLIP-2.
    """

    n_vectors: int


@runtime_checkable
class TokenEncoder(DualEncoder, Protocol):
    """A dual encoder that also gives what it knows before pooling, for heads that attend over places and words."""

    def encode_image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Preprocessed pixels (B, 3, H, W) -> float32 (B, P, V): last hidden states of P patches or map positions."""
        ...

    def encode_text_tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """N texts -> last hidden states float32 (N, T, W) of T tokens, and bool (N, T), true where a token stands."""
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


@dataclass(frozen=True)
class Asked:
    """A question as a control sees it.

    Attributes:
        candidates: What may be answered; empty for an open question.
        target: The true answer. Of a test question only the oracle looks at it.
    """

    question: str
    candidates: tuple[str, ...]
    target: str


@runtime_checkable
class Control(Protocol):
    """A predictor that sees no image: it can't know, or it knows everything."""

    def answers(self, train: Sequence[Asked], test: Sequence[Asked], seed: int) -> list[str]:
        """An answer to each test question.

        Raises:
            InputError: The control needs training questions and there are none.
        """
        ...

    def vectors(self, captions: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings float64 (N, D) of N images and of their N captions, for retrieval."""
        ...

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
        changes_nothing: It moved no weight of what it was put on, as before its first training step.
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
        adapters_below: Where its base is an adapter too: what lies between it and the model, from the lowest up.
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
    adapters_below: tuple[AdapterInfo, ...] = ()
    remote_code: bool = False
    companions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def revisions(self) -> tuple[str, ...]:
        """Of the model, its companions and its adapters: together they tell which numbers it computes with."""
        adapters = (*self.adapters_below, self.adapter) if self.adapter else ()
        return (self.revision, *self.companions, *(adapter.revision for adapter in adapters))

    @property
    def has_fusion(self) -> bool:
        """Whether it brings a module of its own that fuses images and questions."""
        return self.architecture.endswith(WITH_FUSION)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run.

    Attributes:
        swaps_images: It is the control that is shown another sample's image in place of each test sample's own.
    """

    info: ModelInfo
    predictor: ImageEncoder | DualEncoder | Generator | Control
    swaps_images: bool = False
