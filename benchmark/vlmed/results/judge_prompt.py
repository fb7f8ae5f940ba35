"""The judge's prompt: frozen, versioned, and named by its hash in every judgement.

A prompt is a text file in `vlmed/prompts` of three parts: what the judge is told once, the turn with the texts in it,
and what is added where a reply was no JSON. `ledger.jsonl` beside it holds the hash of every version; no line of it
ever changes or goes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from vlmed.errors import InputError, unknown

FOLDER = Path(__file__).parents[1] / "prompts"
CURRENT = "judge@1"
_PARTS = re.compile(r"\[system\]\n(.*?)\n\[user\]\n(.*?)\n\[repair\]\n(.*?)\n", re.DOTALL)


@dataclass(frozen=True)
class JudgePrompt:
    """One version of the prompt.

    Attributes:
        id: `judge@VERSION`.
        sha256: Of the file's bytes.
        system: The system turn.
        user: A `string.Template` of `$fence` and `$blocks`.
        repair: Added to the user's turn where a reply was no JSON.
    """

    id: str
    sha256: str
    system: str
    user: str
    repair: str


def frozen_prompts(folder: Path = FOLDER) -> dict[str, str]:
    """The id of every version -> its hash, oldest first."""
    lines = (folder / "ledger.jsonl").read_text("utf-8").splitlines()
    return {line["id"]: line["sha256"] for line in map(json.loads, lines)}


def read_prompt(name: str = CURRENT, folder: Path = FOLDER) -> JudgePrompt:
    """A version of the prompt, proved to be the frozen one.

    Raises:
        UsageError: There is no such version.
        InputError: The file is not the frozen one, or lacks a part.
    """
    frozen = frozen_prompts(folder)
    if name not in frozen:
        raise unknown("judge's prompt", name, frozen)
    path = folder / f"{name.replace('@', '-v')}.txt"
    content = path.read_bytes()
    if (got := sha256(content).hexdigest()) != frozen[name]:
        hint = "undo the change, or add a new version beside it"
        raise InputError("this prompt is not the frozen one", file=path, expected=frozen[name], got=got, hint=hint)
    parts = _PARTS.fullmatch(content.decode())
    if not parts:
        raise InputError(
            "this is no judge's prompt", file=path, expected="[system], [user] and [repair], in this order"
        )
    return JudgePrompt(name, got, *parts.groups())
