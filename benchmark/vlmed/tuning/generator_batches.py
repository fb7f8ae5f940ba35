"""Questions with their answers as batches to learn from: a prompt as it is at inference, then answer and end token."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature

from vlmed.errors import InputError, Problem
from vlmed.models.chat import Template, _user
from vlmed.models.generators import HfGenerator, Tokens, _is_encoder_decoder
from vlmed.models.protocols import Request
from vlmed.tuning.batches import Rows

# The label of a token that carries no loss, as transformers and PyTorch have it.
IGNORED = -100

_AHEAD = 2


@dataclass(frozen=True)
class Pairs:
    """Questions about images with their answers.

    Attributes:
        image: Position in [0, N) -> what is shown. Two threads call it at once.
        prompts: N user's turns, as a `Request` has them.
        answers: N answers.
    """

    image: Callable[[int], Image.Image]
    prompts: Sequence[str]
    answers: Sequence[str]

    def __len__(self) -> int:
        return len(self.answers)


def check_pairs(train: Pairs, val: Pairs) -> None:
    """Refuse sets that nothing can be learnt or chosen from.

    Raises:
        InputError: A set is empty, or an answer is; lists all.
    """
    problems = []
    for name, pairs in (("train", train), ("val", val)):
        if not len(pairs):
            expected = "questions to learn from" if name == "train" else "questions to stop and choose by"
            problems.append(Problem(f"the {name} set is empty", expected=expected))
        problems += [
            Problem("an answer is empty", path=f"{name} sample {row}", expected="a text to learn")
            for row, answer in enumerate(pairs.answers)
            if not answer.strip()
        ]
    if problems:
        raise InputError(problems)


@dataclass(frozen=True)
class Batch:
    """What a model takes, on the CPU, and what it shall say.

    Attributes:
        inputs: Prompt and answer in one text (B, T), padded on the right: so every token has the position that it has
            alone, and no attention reaches the padding. For an encoder with a decoder, the prompt as at inference, and
            `decoder_input_ids` (B, A).
        labels: int64 (B, T), or (B, A): tokens of answers and ends in their own places, `IGNORED` elsewhere.
    """

    inputs: BatchFeature
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def tokens(self) -> int:
        """How many tokens carry loss."""
        return int((self.labels != IGNORED).sum())


class Teacher:
    """Makes batches for one generator.

    Raises:
        InputError: The model has no token that ends an answer.
    """

    def __init__(self, generator: HfGenerator) -> None:
        self._generator = generator
        self._end = end_token(generator)
        self.encoder_decoder = _is_encoder_decoder(generator.model.config)
        # What the parts of a text that a model tells apart are called; PaliGemma's answers are a kind of their own.
        suffix = int(generator.model.config.model_type == "paligemma")
        self._fill = {"attention_mask": 1, "token_type_ids": suffix, "mm_token_type_ids": 0}

    def batch(self, requests: Sequence[Request], answers: Sequence[str]) -> Batch:
        """Requests, all with an image or all without, and their answers.

        Raises:
            InputError: A request can't be shown to the model.
        """
        inputs = self._generator._inputs(requests)
        # Tokenizers may not be used by two threads at once.
        with self._generator._alone:
            tokens = [self._generator._continuation(answer.strip()) for answer in answers]
        said = [torch.tensor([*answer, self._end]) for answer in tokens]
        return self._decoded(inputs, said) if self.encoder_decoder else self._continued(inputs, said)

    def chunks(self, pairs: Pairs, rows: Rows, size: int) -> list[Batch]:
        """The pairs at some positions in batches of at most `size`."""
        requests = [Request(pairs.image(int(row)), pairs.prompts[row], 1) for row in rows]
        answers = [pairs.answers[row] for row in rows]
        starts = range(0, len(rows), size)
        return [self.batch(requests[start : start + size], answers[start : start + size]) for start in starts]

    def _continued(self, inputs: BatchFeature, said: Sequence[torch.Tensor]) -> Batch:
        real = inputs["attention_mask"].bool()
        prompts = [ids[here] for ids, here in zip(inputs["input_ids"], real, strict=True)]
        rows = [torch.cat(pair) for pair in zip(prompts, said, strict=True)]
        masked = [torch.full_like(prompt, IGNORED) for prompt in prompts]
        labels = [torch.cat(pair) for pair in zip(masked, said, strict=True)]
        longer = {"input_ids": pad_sequence(rows, True, self._generator.processor.tokenizer.pad_token_id)}
        for name in self._fill.keys() & inputs.keys():
            kinds = [
                torch.cat([kind[here], torch.full_like(answer, self._fill[name], dtype=kind.dtype)])
                for kind, here, answer in zip(inputs[name], real, said, strict=True)
            ]
            longer[name] = pad_sequence(kinds, True, 0)
        return Batch(BatchFeature({**inputs, **longer}), pad_sequence(labels, True, IGNORED))

    def _decoded(self, inputs: BatchFeature, said: Sequence[torch.Tensor]) -> Batch:
        config = self._generator.model.config
        starts = [getattr(each, "decoder_start_token_id", None) for each in (config, config.get_text_config())]
        start = torch.tensor([next(token for token in starts if token is not None)])
        pad = self._generator.processor.tokenizer.pad_token_id
        before = pad_sequence([torch.cat([start, answer[:-1]]) for answer in said], True, pad)
        labels = pad_sequence(list(said), True, IGNORED)
        return Batch(BatchFeature({**inputs, "decoder_input_ids": before}), labels)


def end_token(generator: HfGenerator) -> int:
    """What the model shall say after an answer: the token that ends its turn in the chat template, where generation
    stops at it, else the tokenizer's end, else the first token that generation stops at.

    Raises:
        InputError: There is none.
    """
    tokenizer = generator.processor.tokenizer
    stops = generator.model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [tokenizer.eos_token_id if stops is None else stops]
    candidates = [*_after_answer(generator), tokenizer.eos_token_id, *stops]
    ends = [token for token in candidates if token is not None and token in stops]
    if not ends:
        raise InputError("the model has no token that ends an answer", expected="an eos_token_id", got="none")
    return int(ends[0])


def _after_answer(generator: HfGenerator) -> Tokens:
    if not isinstance(generator.chat, Template):
        return ()
    answer = {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}
    finished = generator.chat.processor.apply_chat_template([_user("?", with_image=False), answer])
    return generator._tokens(str(finished).rpartition("yes")[2])


class Feed:
    """Batches one after another, the next ones made meanwhile.

    Attributes:
        waited: Seconds for which the loop had to wait for data.
    """

    def __init__(self, teacher: Teacher, pairs: Pairs, batches: Sequence[Rows], size: Callable[[], int]) -> None:
        self.waited = 0.0
        self._teacher, self._pairs, self._batches, self._size = teacher, pairs, batches, size

    def __iter__(self) -> Iterator[tuple[Rows, list[Batch]]]:
        """Positions, and their pairs in chunks of at most `size()`, which is asked when they are made."""
        with ThreadPoolExecutor(_AHEAD) as pool:
            waiting: deque[Future[list[Batch]]] = deque()
            waiting.extend(pool.submit(self._make, rows) for rows in self._batches[:_AHEAD])
            for number, rows in enumerate(self._batches):
                start = time.perf_counter()
                ready = waiting.popleft().result()
                self.waited += time.perf_counter() - start
                waiting.extend(pool.submit(self._make, later) for later in self._batches[number + _AHEAD :][:1])
                yield rows, ready

    def _make(self, rows: Rows) -> list[Batch]:
        return self._teacher.chunks(self._pairs, rows, self._size())
