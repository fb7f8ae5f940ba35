"""Generators in transformers' layout: whatever `AutoModelForImageTextToText` loads and a processor speaks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig, LogitsProcessor

from vlmed.errors import InputError, Problem
from vlmed.models.chat import Chat, chat_of
from vlmed.models.companion import Companion, ModelFiles
from vlmed.models.encoders import check_tokenizer, to_rgb
from vlmed.models.hf_loading import quiet, refuse_missing
from vlmed.models.protocols import Request

T = TypeVar("T")
Tokens = tuple[int, ...]

# Of a checkpoint's generation_config.json only these are kept. Sampling, beams, penalties, forced and suppressed
# tokens would make the answers of different models incomparable.
_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")

# What the architectures call their parts, in any depth; the outermost module with such a name counts.
_PART_NAMES = {
    "vision": ("vision_tower", "vision_model", "vision_encoder", "visual", "image_tower"),
    "projector": (
        *("multi_modal_projector", "mm_projector", "projector", "mlp1", "connector", "aligner", "image_newline"),
        *("merger", "deepstack_merger_list", "embed_vision", "resampler_model"),
        *("query_tokens", "qformer", "language_projection", "vision_projection", "image_to_text_projection"),
    ),
    "language": ("language_model", "text_model", "lm_head"),
}


def companions(folder: Path) -> tuple[Companion, ...]:  # noqa: ARG001
    """None: the layout holds all that is needed."""
    return ()


def load_weights(files: ModelFiles) -> nn.Module:
    """The model, still on the CPU: in the checkpoint's own precision if it is to run on a CUDA device, else float32.

    Raises:
        InputError: The checkpoint lacks weights that the architecture needs.
    """
    with quiet():
        model, report = AutoModelForImageTextToText.from_pretrained(
            files.path, local_files_only=True, trust_remote_code=files.trust_remote_code, output_loading_info=True
        )
    refuse_missing(report["missing_keys"], files.path)
    weights: nn.Module = model if files.on_cuda else model.float()
    return weights


def family_of(model: Any) -> tuple[str, str]:
    """Family and architecture to show."""
    return str(model.config.model_type), type(model).__name__


def make_predictor(model: Any, files: ModelFiles, device: str) -> HfGenerator:  # noqa: ARG001
    """The generator with the model's own processor and chat template.

    Raises:
        InputError: The model lacks its processor or tokenizer, or can't be spoken to.
    """
    with quiet():
        processor = AutoProcessor.from_pretrained(
            files.path, local_files_only=True, trust_remote_code=files.trust_remote_code
        )
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise InputError(
            "the model lacks a processor for images and text",
            file=files.path,
            expected="processor_config.json or preprocessor_config.json, and a tokenizer",
            got=type(processor).__name__,
        )
    _check_tokenizers(processor, files.path)
    chat = chat_of(processor, model.config.model_type, files.path)
    return HfGenerator(model, processor, chat)


def _check_tokenizers(processor: Any, folder: Path) -> None:
    """All are there; in place of a second one, which lies in a folder of its own, transformers takes the first."""
    check_tokenizer(processor.tokenizer, folder)
    for name in vars(processor):
        if name.endswith("_tokenizer"):
            if not (folder / name).is_dir():
                raise InputError("the model lacks its second tokenizer", file=folder, expected=f"a folder {name}")
            check_tokenizer(getattr(processor, name), folder / name)


def parts(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Which modules are `vision`, `projector` and `language`, by their names in `model`.

    A name is that of a module, or of a lone parameter such as BLIP-2's query tokens. One may lie inside another, as
    Qwen's merger does in its vision tower: then a parameter belongs to the innermost.

    Raises:
        InputError: A part was not found.
    """
    names = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
    found = {part: _outermost(names, known) for part, known in _PART_NAMES.items()}
    children = ", ".join(name for name in names if name and name.count(".") < 2)
    problems = [
        Problem(
            f"{type(model).__name__} has no {part} part that is known here",
            expected=f"a module named {', '.join(_PART_NAMES[part])}",
            got=children,
        )
        for part, modules in found.items()
        if not modules
    ]
    if problems:
        raise InputError(problems)
    return found


def _outermost(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    named = dict.fromkeys(name for name in names if name.rpartition(".")[2] in known)
    return tuple(name for name in named if not any(name.startswith(f"{other}.") for other in named))


@dataclass
class HfGenerator:
    """A `Generator` and `Chooser`: greedy, in batches of alike requests, the longest first.

    A batch that doesn't fit the memory of a CUDA device is halved until it does, and so are those after it.

    Args:
        model: The whole network, in eval mode where it is to run. Its generation settings are replaced by greedy ones;
            only which tokens begin, end and pad a text is kept.
        processor: Its image processor and tokenizer.
        chat: How it is spoken to.
        batch_size: Requests that are answered together at most.

    Raises:
        InputError: Processor and chat template don't fit each other (found by preparing two blank images).
    """

    model: Any
    processor: Any
    chat: Chat
    batch_size: int = 8

    def __post_init__(self) -> None:
        tokenizer = self.processor.tokenizer
        # T5 counts places from its prompt's first token on, so padding there would move BLIP-2's image away.
        tokenizer.padding_side = "right" if _is_encoder_decoder(self.model.config) else "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        _make_greedy(self.model, tokenizer.pad_token_id)
        # Tokenizers may not be used by two threads at once.
        self._alone = Lock()
        self._pixels_per_token = self._measure_images()

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """See `parts`."""
        return parts(self.model)

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """See `Generator.answer`.

        Raises:
            InputError: An image can't be shown to the model, it needs one and there is none, a prompt holds the
                model's image token, or one request alone exceeds the device's memory.
        """
        return self._in_batches(requests, self._answers)

    def choose(self, requests: Sequence[Request], choices: Sequence[str]) -> np.ndarray:
        """See `Chooser.choose`. A choice is written after the prompt as the chat template writes an answer.

        Raises:
            InputError: As in `answer`, or a choice is empty.
        """
        continuations = [self._continuation(choice) for choice in choices]
        if not all(continuations):
            raise InputError("a choice has no tokens", path=f"choices[{continuations.index(())}]", expected="a text")
        # How long an answer may be doesn't matter here, so it must not part the batches.
        alike = [replace(request, max_tokens=1) for request in requests]
        rows = self._in_batches(alike, lambda inputs, _: self._log_probabilities(inputs, continuations))
        return np.array(rows, dtype=np.float64).reshape(len(requests), len(choices))

    def _in_batches(
        self, requests: Sequence[Request], work: Callable[[Any, Sequence[Request]], Sequence[T]]
    ) -> list[T]:
        """What `work` gives for the prepared requests of each batch, in the order of the requests."""
        results: dict[int, T] = {}
        with torch.inference_mode():
            for batch, inputs in self._prepared(requests):
                results |= zip(batch, self._halving([requests[i] for i in batch], inputs, work), strict=True)
        return [results[index] for index in range(len(requests))]

    def _prepared(self, requests: Sequence[Request]) -> Iterator[tuple[list[int], Any]]:
        """Each batch with its inputs, which are made while the one before is answered."""
        waiting = None
        with ThreadPoolExecutor(1) as thread:
            for batch in self._batches(requests):
                coming = batch, thread.submit(self._inputs, [requests[index] for index in batch])
                if waiting:
                    yield waiting[0], waiting[1].result()
                waiting = coming
            if waiting:
                yield waiting[0], waiting[1].result()

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """Indices of requests that go together: all with an image or all without, and with one length of answer."""
        kinds = [(request.image is None, request.max_tokens) for request in requests]
        lengths = self._lengths(requests)
        order = sorted(range(len(requests)), key=lambda index: (*kinds[index], -lengths[index]))
        for _, alike in groupby(order, key=kinds.__getitem__):
            group = list(alike)
            while group:
                batch, group = group[: self.batch_size], group[self.batch_size :]
                yield batch

    def _lengths(self, requests: Sequence[Request]) -> list[float]:
        """About how many tokens each becomes."""
        if not requests:
            return []
        texts = self.processor.tokenizer([request.prompt for request in requests])["input_ids"]
        areas = [request.image.width * request.image.height if request.image else 0 for request in requests]
        return [len(text) + area / self._pixels_per_token for text, area in zip(texts, areas, strict=True)]

    def _measure_images(self) -> float:
        """How many pixels make one more token; infinite where every image becomes equally many."""
        sides = 56, 896
        small, large = (
            self._inputs([Request(Image.new("RGB", (side, side)), "?", 1)])["input_ids"].shape[1] for side in sides
        )
        return (sides[1] ** 2 - sides[0] ** 2) / (large - small) if large > small else float("inf")

    def _inputs(self, requests: Sequence[Request]) -> Any:
        """What the model takes, on the CPU; padded on the left where an answer continues the prompt."""
        texts = [self._text(request) for request in requests]
        images = [[to_rgb(request.image)] for request in requests if request.image]
        begin = self.processor.tokenizer.bos_token
        # A template that writes the first token itself must not get a second one.
        once = {"add_special_tokens": False} if begin and texts[0].startswith(begin) else {}
        with self._alone:
            inputs = self.processor(text=texts, images=images or None, padding=True, return_tensors="pt", **once)
        # PaliGemma's processor always adds those.
        inputs.pop("labels", None)
        return inputs

    def _text(self, request: Request) -> str:
        holders = self.processor, self.processor.tokenizer
        marks = {str(mark) for holder in holders if (mark := getattr(holder, "image_token", None))}
        for mark in marks:
            if mark in request.prompt:
                raise InputError("the prompt holds the model's image token", expected=f"no {mark}", got=request.prompt)
        return self.chat.render(request.prompt, request.image is not None)

    def _halving(
        self, requests: Sequence[Request], inputs: Any, work: Callable[[Any, Sequence[Request]], Sequence[T]]
    ) -> list[T]:
        """`work` on a batch, or on its halves where there is not enough memory for it at once."""
        try:
            return list(work(self._on_device(inputs), requests))
        except torch.cuda.OutOfMemoryError as error:
            if len(requests) == 1:
                raise InputError(
                    "one request alone doesn't fit the memory of the device",
                    got=str(error).splitlines()[0],
                    hint="free the device, take a larger one, or a smaller model",
                ) from error
        # Outside the handler, whose traceback would keep the failed batch alive.
        torch.cuda.empty_cache()
        middle = len(requests) // 2
        self.batch_size = min(self.batch_size, middle)
        halves = requests[:middle], requests[middle:]
        return [result for half in halves for result in self._halving(half, self._inputs(half), work)]

    def _on_device(self, inputs: Any) -> Any:
        # The embeddings' precision is the language model's; some architectures keep smaller parts in float32.
        return inputs.to(self.model.device, self.model.get_input_embeddings().weight.dtype)

    def _answers(self, inputs: Any, requests: Sequence[Request]) -> list[str]:
        written = self.model.generate(**inputs, max_new_tokens=requests[0].max_tokens)
        prompt = inputs["input_ids"]
        # Encoder-decoder models write the answer alone.
        if torch.equal(written[:, : prompt.shape[1]], prompt):
            written = written[:, prompt.shape[1] :]
        with self._alone:
            texts = self.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _continuation(self, choice: str) -> Tokens:
        """The tokens that a choice adds to a prompt, where the choice would not change the prompt's own."""
        before = self._tokens(self.chat.anchor)
        whole = self._tokens(self.chat.anchor + self.chat.lead + choice)
        return whole[len(before) :] if choice and whole[: len(before)] == before else self._tokens(choice)

    def _tokens(self, text: str) -> Tokens:
        return tuple(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _log_probabilities(self, inputs: Any, continuations: Sequence[Tokens]) -> list[list[float]]:
        """B rows of C. Choices that begin alike share one run of the model, so one-token choices need only one."""
        table = torch.zeros(len(inputs["input_ids"]), len(continuations), dtype=torch.float64)
        for head in _heads(continuations):
            steps = self._steps(inputs, head)
            for column, tokens in enumerate(continuations):
                if head[: len(tokens) - 1] == tokens[:-1]:
                    each = [step[:, token] for step, token in zip(steps, tokens, strict=False)]
                    table[:, column] = torch.stack(each).cpu().double().sum(0)
        rows: list[list[float]] = table.tolist()
        return rows

    def _steps(self, inputs: Any, head: Tokens) -> list[torch.Tensor]:
        """Log-probabilities float32 (B, V) of each next token while `head` is written, and after it."""
        output = self.model.generate(
            **inputs,
            max_new_tokens=len(head) + 1,
            logits_processor=[_Dictation(head)],
            return_dict_in_generate=True,
            output_logits=True,
        )
        return [logits.float().log_softmax(-1) for logits in output.logits]


class _Dictation(LogitsProcessor):  # type: ignore[misc]
    """Lets a model write given tokens, whatever it thinks of them; then it is free."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = iter(tokens)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        token = next(self.tokens, None)
        if token is None:
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, token] = 0
        return forced


def _heads(continuations: Sequence[Tokens]) -> list[Tokens]:
    """The fewest beginnings among which every continuation has all but its last token."""
    longest_first = sorted({tokens[:-1] for tokens in continuations}, key=len, reverse=True)
    heads: list[Tokens] = []
    for tokens in longest_first:
        if not any(head[: len(tokens)] == tokens for head in heads):
            heads.append(tokens)
    return heads


def _is_encoder_decoder(config: Any) -> bool:
    return bool(config.is_encoder_decoder or getattr(config.get_text_config(), "is_encoder_decoder", False))


def _make_greedy(model: nn.Module, pad: int) -> None:
    """Neutralise what the checkpoint says about generation, in the model and in a language model within."""
    for module in model.modules():
        settings: Any = getattr(module, "generation_config", None)
        if settings is not None:
            kept = {name: getattr(settings, name, None) for name in _KEPT}
            kept["pad_token_id"] = pad if kept["pad_token_id"] is None else kept["pad_token_id"]
            module.generation_config = GenerationConfig(do_sample=False, num_beams=1, **kept)
