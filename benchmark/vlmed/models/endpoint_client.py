"""HTTP to an OpenAI-compatible server: one connection pool, a time limit, repeated attempts, and a budget."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, TypeVar

import httpx2

from vlmed.errors import VlmedError
from vlmed.models.budget import Budget

T = TypeVar("T")

# A server that sends without end must not fill the memory.
_LONGEST_BODY = 64 * 2**20
_EXCERPT_BYTES, _EXCERPT = 2000, 300
# A misspelt URL should not keep its user waiting for minutes.
_ATTEMPTS_TO_LIST = 3
_AGAIN = {408, 409, 425, 429}
_THIS_REQUEST = {400, 413, 415, 422}
_HINTS = {
    401: "set VLMED_ENDPOINT_KEY to a key that this server accepts",
    403: "set VLMED_ENDPOINT_KEY to a key that may use this model",
    404: "check the model's name and the URL, which mostly ends in /v1",
    405: "check the URL, which mostly ends in /v1",
}


class RefusedError(VlmedError):
    """The server refuses this one request as it is; others may fare better."""


class _AgainError(Exception):
    """What may go better another time, after `wait` seconds at least."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


@dataclass(frozen=True)
class _Reply:
    status: int
    retry_after: str
    content: bytes


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server that fails.

    Attributes:
        attempts: How often a request is sent at most.
        first: Seconds before the second attempt; each further wait is twice as long, and up to a half is taken off
            by chance, so that many requests do not come back at the same moment.
        longest: Seconds of the longest wait of our own choosing.
        retry_after: Seconds of the longest wait that a server may ask for.
        timeout: Seconds until a request's answer must be there.
    """

    attempts: int = 8
    first: float = 1.0
    longest: float = 60.0
    retry_after: float = 600.0
    timeout: float = 300.0

    def wait(self, attempt: int) -> float:
        """Seconds to wait after this many attempts, from 1 on."""
        return min(self.longest, self.first * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


@dataclass
class ChatClient:
    """Chat completions of one server; safe between threads.

    Attributes:
        url: Base URL, without a slash at its end.
        key: Sent as a bearer token unless empty; no error shows it.
        patience: When to give up.
        budget: What may be spent.
        connections: How many requests may be under way at once.
        stop: Set it to end all waiting for further attempts.
    """

    url: str
    key: str = field(default="", repr=False)
    patience: Patience = Patience()
    budget: Budget = field(default_factory=Budget)
    connections: int = 32
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._http = httpx2.Client(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            limits=httpx2.Limits(max_connections=self.connections, max_keepalive_connections=self.connections),
            timeout=httpx2.Timeout(self.patience.timeout, pool=None),
        )

    def models(self) -> list[dict[str, Any]] | None:
        """What the server lists under `/models`; None where it keeps no such list.

        Raises:
            VlmedError: It can't be reached or does not accept the key.
        """
        return self._persist(self._models, min(self.patience.attempts, _ATTEMPTS_TO_LIST))

    def complete(self, body: dict[str, Any], tokens: int) -> str:
        """The answer to one chat completion, an empty text where the model gave none.

        Args:
            body: The request as JSON.
            tokens: How many it may take at most, asked and answered.

        Raises:
            RefusedError: The server can't do this request.
            VlmedError: The server failed for good, or the budget is spent.
        """
        return self._persist(lambda: self._complete(body, tokens), self.patience.attempts)

    def _persist(self, attempt: Callable[[], T], attempts: int) -> T:
        """What `attempt` gives, tried anew while patience lasts."""
        for number in range(1, attempts + 1):
            try:
                return attempt()
            except _AgainError as failure:
                wait = max(self.patience.wait(number), failure.wait)
                if number == attempts or failure.wait > self.patience.retry_after or self.stop.wait(wait):
                    self._give_up(number, failure)
        raise AssertionError("patience has at least one attempt")

    def _give_up(self, attempts: int, failure: _AgainError) -> NoReturn:
        raise VlmedError(
            f"the server failed {attempts} times in a row" if attempts > 1 else "the server failed",
            file=self.url,
            got=str(failure),
            hint="see to the server and run the same command again: what was answered is kept",
        ) from failure

    def _models(self) -> list[dict[str, Any]] | None:
        reply = self._exchange("GET", "/models")
        if reply.status in (404, 405):
            return None
        self._check(reply)
        listed = self._json(reply)
        data = listed.get("data") if isinstance(listed, dict) else None
        return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else None

    def _complete(self, body: dict[str, Any], tokens: int) -> str:
        with self.budget.reserve(tokens) as used:
            reply = self._exchange("POST", "/chat/completions", body)
            if reply.status >= 300:
                used(0)
            self._check(reply)
            completion = self._json(reply)
            if (total := _total_tokens(completion)) is not None:
                used(total)
            return self._answer(completion)

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None = None) -> _Reply:
        """One request and the whole of its reply, within the time limit."""
        deadline = time.monotonic() + self.patience.timeout
        content = bytearray()
        try:
            with self._http.stream(method, self.url + path, json=body) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    if time.monotonic() > deadline or len(content) > _LONGEST_BODY:
                        raise _AgainError(f"the reply did not end within {self.patience.timeout:g} s and 64 MiB")
        except httpx2.RequestError as error:
            raise _AgainError(f"{type(error).__name__}: {error}") from error
        except httpx2.InvalidURL as error:
            raise VlmedError("this is no URL", file=self.url, got=str(error)) from error
        return _Reply(response.status_code, response.headers.get("Retry-After", ""), bytes(content))

    def _check(self, reply: _Reply) -> None:
        """Refuse whatever is no success."""
        if reply.status < 300:
            return
        got = f"status {reply.status}: {self._excerpt(reply.content)}"
        if reply.status in _AGAIN or reply.status >= 500:
            wait = _seconds(reply.retry_after)
            raise _AgainError(f"{got} (it asks to wait {wait:g} s)" if wait else got, wait)
        kind = RefusedError if reply.status in _THIS_REQUEST else VlmedError
        hint = _HINTS.get(reply.status, "")
        raise kind("the server refuses the request", file=self.url, expected="status 200", got=got, hint=hint)

    def _json(self, reply: _Reply) -> Any:
        try:
            return json.loads(reply.content)
        except (ValueError, RecursionError) as error:
            raise _AgainError(f"the reply is not JSON: {self._excerpt(reply.content)}") from error

    def _answer(self, completion: Any) -> str:
        try:
            answer = completion["choices"][0]["message"]["content"]
        except (LookupError, TypeError) as error:
            shown = self._excerpt(json.dumps(completion).encode())
            raise _AgainError(f"the reply holds no $.choices[0].message.content: {shown}") from error
        # null: the model used up its tokens before it began to answer, or called a tool.
        return answer if isinstance(answer, str) else ""

    def _excerpt(self, content: bytes) -> str:
        """The beginning of a body on one line; some servers quote the key they were given."""
        text = content[:_EXCERPT_BYTES].decode(errors="replace")
        shown = " ".join((text.replace(self.key, "[key]") if self.key else text).split())
        return f"{shown[:_EXCERPT]}..." if len(shown) > _EXCERPT else shown or "an empty body"


def _total_tokens(completion: Any) -> int | None:
    usage = completion.get("usage") if isinstance(completion, dict) else None
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and total >= 0 else None


def _seconds(retry_after: str) -> float:
    """The header `Retry-After`, a number of seconds or a date, in seconds from now; 0 where it is neither."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
