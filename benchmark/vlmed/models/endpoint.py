"""Models behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, cloud services."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from vlmed.errors import InputError, Problem, UsageError, VlmedError, unknown
from vlmed.files import cache_root
from vlmed.hashing import digest, pixel_hash
from vlmed.models.answer_cache import AnswerCache
from vlmed.models.budget import parse_budget
from vlmed.models.encoders import to_rgb
from vlmed.models.endpoint_client import ChatClient, RefusedError
from vlmed.models.protocols import LoadedModel, ModelInfo, Request
from vlmed.models.reference import Reference

UNPINNED = "the weights behind an endpoint can't be pinned: the revision is over what the server says about the model"

# What the server says about a model and says again next time. `created` is not among it: vLLM, SGLang and others fill
# in the present time.
_IDENTITY = ("id", "owned_by", "root", "parent")
_DECODING = {"temperature": 0}
# After so many refused requests the fault lies in the model or in all of them; asking on would cost for nothing.
_MOST_REFUSALS = 32
# Reckoning of what a request may take: a token for each byte of text, as byte-level tokenizers need at most, the chat
# template, and for the image a token for each 14-pixel patch or a few thousand, whichever is more.
_TEMPLATE_TOKENS, _IMAGE_TOKENS, _PATCH = 256, 4096, 14


class EndpointGenerator:
    """A generator whose model runs elsewhere.

    Equal requests are asked once, and what was answered is kept by the cache as soon as it is there.

    Args:
        client: Speaks to the server.
        model: The name the server knows the model by.
        revision: What the cached answers belong to.
        cache: Folder for answers, one file per revision; None keeps none.
    """

    def __init__(self, client: ChatClient, model: str, revision: str, cache: Path | None = None) -> None:
        self.client = client
        self.model = model
        self.revision = revision
        self.answers = AnswerCache(cache / f"{revision.removeprefix('sha256:')}.jsonl" if cache else None)

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """See `Generator.answer`.

        Raises:
            InputError: An image has more than 8 bits per channel.
            VlmedError: Requests were refused, the server failed for good, or the budget is spent. It lists each refused
                request by its number, counted from 0, what ended the work, and how many answers are kept.
        """
        keys: list[str] = []
        failed = sorted(self._ask_all(self._new(requests, keys)), key=lambda pair: pair[0])
        if failed:
            kept = sum(key in self.answers for key in keys)
            problems = [problem for number, error in failed for problem in _at(number, error)]
            raise VlmedError([*problems, self._kept(kept, len(keys))])
        return [self.answers[key] for key in keys]

    def _new(self, requests: Sequence[Request], keys: list[str]) -> Iterator[tuple[int, str, Request]]:
        """Number, key and request of each that was neither answered nor asked before; adds all keys to `keys`."""
        asked: set[str] = set()
        for number, request in enumerate(requests):
            try:
                keys.append(self._key(request))
            except InputError as error:
                raise InputError(_at(number, error)) from error
            if keys[-1] not in self.answers and keys[-1] not in asked:
                asked.add(keys[-1])
                yield number, keys[-1], request

    def _key(self, request: Request) -> str:
        image = pixel_hash(to_rgb(request.image)) if request.image else None
        return digest([self.revision, request.prompt, image, {**_DECODING, "max_tokens": request.max_tokens}])

    def _ask_all(self, new: Iterator[tuple[int, str, Request]]) -> list[tuple[int, VlmedError]]:
        """Ask while keys of later requests are still made, and tell which failed; ends early at what befalls all."""
        stop = self.client.stop
        stop.clear()
        failed: list[tuple[int, VlmedError]] = []
        with ThreadPoolExecutor(self.client.connections) as pool:
            try:
                asked = {pool.submit(self._ask, key, request): number for number, key, request in new}
                for future in as_completed(asked):
                    if error := _failure(future):
                        failed.append((asked[future], error))
                        if len(failed) == _MOST_REFUSALS:
                            stop.set()
            finally:
                # Where this is left early, nothing more is sent; what is under way still ends and is kept.
                stop.set()
        return failed

    def _ask(self, key: str, request: Request) -> None:
        if self.client.stop.is_set():
            return
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": _content(request.prompt, request.image)}],
            "max_tokens": request.max_tokens,
            **_DECODING,
        }
        try:
            self.answers[key] = self.client.complete(body, _most_tokens(request)).strip()
        except RefusedError:
            raise
        except VlmedError:
            # What stopped the others has been told once.
            if not self.client.stop.is_set():
                self.client.stop.set()
                raise

    def _kept(self, kept: int, of: int) -> Problem:
        where = str(self.answers.file or "this process")
        hint = "run the same command again: only the others are asked for"
        return Problem(f"{kept} of {of} answers are kept", file=where, hint=hint, severity="warning")


def _at(number: int, error: VlmedError) -> list[Problem]:
    return [dataclasses.replace(problem, path=f"request {number}") for problem in error.problems]


def _failure(future: Future[None]) -> VlmedError | None:
    """How a request failed, if it did; what is no fault of server or request is raised."""
    try:
        future.result()
    except VlmedError as error:
        return error
    return None


def _content(prompt: str, image: Image.Image | None) -> str | list[dict[str, Any]]:
    """A user's turn; the image is a PNG, which loses nothing, and a grey one stays grey, which costs half the time."""
    if image is None:
        return prompt
    buffer = io.BytesIO()
    (image if image.mode == "L" else to_rgb(image)).save(buffer, "PNG", compress_level=1)
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt}]


def _most_tokens(request: Request) -> int:
    tokens = len(request.prompt.encode()) + _TEMPLATE_TOKENS + request.max_tokens
    if request.image:
        patches = math.prod(math.ceil(side / _PATCH) for side in request.image.size)
        tokens += max(_IMAGE_TOKENS, patches)
    return tokens


def load_endpoint(reference: Reference, adapter: str | None, cache: Path | None = None) -> LoadedModel:
    """The model behind an `endpoint:URL#MODEL` reference.

    `VLMED_ENDPOINT_KEY` holds the key, `OPENAI_API_KEY` the one for OpenAI's own servers; `VLMED_ENDPOINT_BUDGET`
    limits what may be spent (see `parse_budget`).

    Args:
        reference: Its revision, if given, is what the server has to say.
        adapter: None: a server puts adapters on its models by itself.
        cache: Folder for answers; by default `answers` in vlmed's cache folder.

    Raises:
        UsageError: The server has no such model or another revision of it; an adapter was given; the key or the
            budget is malformed.
        VlmedError: The server can't be reached or does not accept the key.
    """
    url, _, model = reference.location.partition("#")
    if adapter:
        hint = "serve it together with its base, and name it after '#'"
        raise UsageError("an endpoint takes no adapter", got=adapter, hint=hint)
    client = ChatClient(url.rstrip("/"), key_for(url), budget=parse_budget(os.environ.get("VLMED_ENDPOINT_BUDGET", "")))
    said = _about(model, client)
    revision = "sha256:" + digest({"model": model, **said})
    if reference.revision not in ("", revision):
        what = "the server says something else about the model than at the revision asked for"
        raise UsageError(what, file=client.url, expected=reference.revision, got=revision)
    info = ModelInfo(str(reference), model, revision, "endpoint", str(said.get("root") or model), "generator", 0)
    generator = EndpointGenerator(client, model, revision, cache or cache_root() / "answers")
    return LoadedModel(dataclasses.replace(info, warnings=(UNPINNED,)), generator)


def _about(model: str, client: ChatClient) -> dict[str, Any]:
    """What the server says about the model; nothing where it lists no models."""
    listed = client.models()
    if listed is None:
        return {}
    entries = {str(entry.get("id")): entry for entry in listed}
    if model not in entries:
        raise unknown(f"model at {client.url}", model, entries, hint="the model's name stands after '#'")
    return {name: entries[model].get(name) for name in _IDENTITY}


def key_for(url: str) -> str:
    """The key for a server; OpenAI's is shown to nobody else."""
    key = os.environ.get("VLMED_ENDPOINT_KEY", "").strip()
    host = urlsplit(url).hostname or ""
    if not key and (host == "openai.com" or host.endswith(".openai.com")):
        key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise UsageError("the key in the environment holds blanks or letters that a key can't have")
    return key
