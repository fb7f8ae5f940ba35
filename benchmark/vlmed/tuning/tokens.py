"""Tokens of a frozen encoder, made once for a question set: of images on disk or in memory, of texts in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from vlmed.errors import VlmedError
from vlmed.progress import Advance
from vlmed.tuning.batches import Pixels, Rows, Stream, in_order, rgb
from vlmed.tuning.learner import Learner

EncodeWords = Callable[[list[str]], tuple[torch.Tensor, torch.Tensor]]
Words = Callable[[Rows], tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def held_images(
    learner: Learner,
    encode: Callable[[torch.Tensor], torch.Tensor],
    pixels: Pixels,
    images: Sequence[str],
    folder: Path | None,
    advance: Advance,
) -> Pixels:
    """Positions (B,) -> image tokens float32 (B, P, V) on the CPU; each distinct image is encoded once, in eval mode.

    Args:
        encode: Preprocessed pixels -> tokens.
        images: N names; equal names show one image.
        folder: Where the tokens lie while they are needed; in memory without one.
        advance: Told the number of distinct images after every batch.

    Raises:
        InputError: `pixels` gives something else than RGB images.
        VlmedError: Not even one image fits into memory, or the disk is full.
    """
    learner.set_training(False)
    distinct, first, place = np.unique(np.asarray(images), return_index=True, return_inverse=True)
    batches = [first[rows] for rows in in_order(len(distinct), learner.recipe.batch_size)]

    def blocks() -> Iterable[NDArray[np.float32]]:
        for rows, batch in Stream(rgb(pixels), batches, learner.device):
            yield learner.fitting(lambda batch=batch: _encoded(learner, encode, batch))  # type: ignore[misc]
            advance(len(rows))

    tokens = _together(blocks(), folder)
    return lambda rows: torch.from_numpy(np.asarray(tokens[place[rows]]))


def _encoded(
    learner: Learner, encode: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor
) -> NDArray[np.float32]:
    parts = [encode(part).float().cpu() for part in torch.split(pixels, learner.at_once)]
    return torch.cat(parts).numpy()


def _together(blocks: Iterable[NDArray[np.float32]], folder: Path | None) -> NDArray[np.float32]:
    """Blocks of rows as one array: in memory, or mapped from a file without a name, which ends with the process."""
    if folder is None:
        return np.concatenate(list(blocks))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            shape: tuple[int, ...] = (0,)
            for block in blocks:
                # Written and not mapped: on a full disk a write fails, where touching a map would kill the process.
                file.write(np.ascontiguousarray(block, "<f4").tobytes())
                shape = (shape[0] + len(block), *block.shape[1:])
            file.flush()
            return np.memmap(file, "<f4", "r", shape=shape)
    except OSError as error:
        hint = "make room, or choose an output folder on another disk, and run again"
        got = error.strerror or str(error)
        raise VlmedError("the image tokens can't be kept", file=folder, got=got, hint=hint) from error


@torch.no_grad()
def held_words(encode: EncodeWords, questions: Sequence[str], batch_size: int) -> Words:
    """Positions (B,) -> text tokens (B, T, W) and mask (B, T) on the CPU; each distinct question is encoded once.

    Questions of like length are encoded together, and T is the longest of a batch as it was encoded; beyond a shorter
    one's own end tokens are zero and masked. The text tower has to be in eval mode.
    """
    distinct = sorted(set(questions), key=lambda text: (len(text), text))
    known: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for rows in in_order(len(distinct), batch_size):
        texts = [distinct[row] for row in rows]
        tokens, mask = (each.cpu() for each in encode(texts))
        known |= {text: (tokens[row], mask[row]) for row, text in enumerate(texts)}

    def words(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, masks = zip(*(known[questions[row]] for row in rows), strict=True)
        return pad_sequence(list(tokens), batch_first=True), pad_sequence(list(masks), batch_first=True)

    return words
