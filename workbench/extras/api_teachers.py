"""Teachers behind an HTTP API: OpenAI's embeddings protocol, Cohere, Voyage and Jina."""

from __future__ import annotations

import math
import os
import random
import re
import threading
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

from workbench import models
from workbench._util import counted, duration, scaled
from workbench.data import Role, Text
from workbench.errors import IncompleteError, TeacherError
from workbench.teachers import Teacher, checked_prompts, checked_targets

_REFUSED = {400, 413, 422}  # about the texts, or how many there are
_BUSY = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}  # worth another attempt
_PATIENCE = 300  # seconds of nothing but rate limits until the server is left alone
# What no answer raises, or one that is cut, of another shape, or a page of a gateway.
_UNUSABLE = (
    httpx.RequestError, TeacherError, ValueError, TypeError, AttributeError, LookupError,
    ArithmeticError, RecursionError,
)  # fmt: skip
_SLACK = 1.01  # at exactly the limit, a request that arrives a little early is one too many
_PROBE = "a text to see whether the server answers"


@dataclass(frozen=True)
class Provider:
    """How a provider's embeddings endpoint takes its requests."""

    url: str
    key: str  # environment variable that holds the secret
    path: str = "/embeddings"
    texts: str = "input"  # field with the texts
    dimensions: str = "dimensions"  # field with the width
    query: Mapping[str, str] = field(default_factory=dict)  # fields of a request with queries
    document: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)  # fields of every request


PROVIDERS = {
    # Spoken by OpenAI, vLLM, TEI, Ollama, LM Studio, llama.cpp and others.
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "cohere": Provider(
        "https://api.cohere.com/v2",
        "CO_API_KEY",
        path="/embed",
        texts="texts",
        dimensions="output_dimension",
        query={"input_type": "search_query"},
        document={"input_type": "search_document"},
        extra={"embedding_types": ["float"]},
    ),
    "voyage": Provider(
        "https://api.voyageai.com/v1",
        "VOYAGE_API_KEY",
        dimensions="output_dimension",
        query={"input_type": "query"},
        document={"input_type": "document"},
    ),
    "jina": Provider(
        "https://api.jina.ai/v1",
        "JINA_API_KEY",
        query={"task": "retrieval.query"},
        document={"task": "retrieval.passage"},
        extra={"truncate": True},
    ),
}


@dataclass(frozen=True)
class Usage:
    """What an API has been asked for so far."""

    requests: int = 0  # sent, including those that failed
    retries: int = 0  # requests that repeated an earlier one
    texts: int = 0  # with a target
    tokens: int = 0  # as the server counts them, or else by the estimate
    failed: int = 0  # texts without a target
    cost: float | None = None  # at the given price; None without one

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", {self.cost:,.4g} at the given price"
        return (
            f"the API: {counted(self.requests, 'request')}, {self.retries:,} of them again, for "
            f"{counted(self.texts, 'text')}; {counted(self.tokens, 'token')}{cost}"
        )


@dataclass(frozen=True)
class Estimate:
    """What encoding texts will take."""

    texts: int
    tokens: int  # by the tokenizer, or a quarter of the UTF-8 bytes without one
    cost: float | None  # at the given price; None without one
    seconds: float  # the least that the limits allow; 0 without limits

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", {self.cost:,.2f} at the given price"
        least = f", at least {duration(self.seconds)} within the limits" if self.seconds else ""
        texts, tokens = counted(self.texts, "text"), counted(self.tokens, "token")
        return f"to ask the API for: {texts}, about {tokens}{cost}{least}"


class ApiTeacher(Teacher):
    """A model behind an HTTP API as the teacher; one instance serves many threads.

    Args:
        model: the server's name for it, also as PROVIDER:MODEL.
        provider: "openai", "cohere", "voyage" or "jina", or a `Provider`.
        url: of another server than the provider's own, such as http://localhost:8000/v1.
        key: environment variable with the secret. If None, the provider's own, which is sent to
            the provider's own server only.
        dimensions: width to ask for; if None, a first request finds the model's own.
        prompts: role to prompt, put in front of each text before it is sent.
        normalize: scale vectors to length 1, as a student's are.
        tokenizer: model whose tokenizer counts tokens: a folder, packaged or on the hub.
        max_tokens: texts are cut to so many of the tokenizer's tokens.
        batch_size: texts in a request at most.
        concurrency: requests at the same time.
        requests_per_minute, tokens_per_minute: limits, spread evenly; None for no limit.
        price: of a million tokens.
        budget: no request is sent that would make the cost of this run higher.
        timeout: seconds until a request counts as lost.
        attempts: how often a request is tried. A rate limit (HTTP 429) does not count: it is
            waited for until the server has answered nothing else for five minutes.
        name: what the cache calls the teacher; model and server if None.

    Raises:
        TeacherError: a setting makes no sense, the key is missing, or the server does not answer.
    """

    def __init__(
        self,
        model: str,
        *,
        provider: str | Provider = "openai",
        url: str | None = None,
        key: str | None = None,
        dimensions: int | None = None,
        prompts: Mapping[str, str] | None = None,
        normalize: bool = True,
        tokenizer: str | None = None,
        max_tokens: int | None = None,
        batch_size: int = 64,
        concurrency: int = 4,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        price: float | None = None,
        budget: float | None = None,
        timeout: float = 60.0,
        attempts: int = 6,
        name: str | None = None,
    ) -> None:
        limits = [requests_per_minute, tokens_per_minute, price, budget, batch_size, attempts]
        if not all(limit is None or 0 < limit < math.inf for limit in limits):
            raise TeacherError("limits, price, budget, batch_size and attempts must be above 0")
        if budget is not None and price is None:
            raise TeacherError("a budget needs the price of a million tokens: give `price` too")
        if max_tokens is not None and tokenizer is None:
            raise TeacherError("max_tokens needs a model that counts them: give `tokenizer` too")
        prefix, _, rest = model.partition(":")
        if prefix in PROVIDERS:
            provider, model = prefix, rest
        if isinstance(provider, str):
            if provider not in PROVIDERS:
                raise TeacherError(f"no provider {provider!r}; there are {', '.join(PROVIDERS)}")
            provider = PROVIDERS[provider]
        self.model, self.prompts = model, checked_prompts(prompts)
        self.batch_size, self.concurrency = batch_size, concurrency
        self._provider, self._normalize, self._attempts = provider, normalize, attempts
        self._price, self._budget, self._max_tokens = price, budget, max_tokens
        self._tokenizer = None
        if tokenizer is not None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(models.resolve(tokenizer).path)
        self._pace = _Pace(requests_per_minute or math.inf, tokens_per_minute or math.inf)
        self._counts, self._lock, self._last_answer = Counter(), threading.Lock(), 0.0
        self._client, self._secret = _client(provider, url, key, timeout, concurrency)
        self._fields = {"model": model, **provider.extra}
        if dimensions is not None:
            self._fields[provider.dimensions] = dimensions
        self.dimension, self._first_probe = dimensions, None
        if dimensions is None:
            self._first_probe = self.probe()[1]
        super().__init__(
            name or model,
            dimensions or len(self._first_probe),
            normalize=normalize,
            prompts=prompts,
            server=None if name else str(self._client.base_url),
            roles=[dict(provider.query), dict(provider.document)],
            max_length=max_tokens and [max_tokens, tokenizer],
        )
        self.name = model

    @property
    def usage(self) -> Usage:
        """What was asked of the server so far."""
        return Usage(**self._counts, cost=self._cost(self._counts["tokens"]))

    def estimate(self, texts: Sequence[Text]) -> Estimate:
        """Return what encoding texts will take; nothing is sent."""
        tokens = sum(self._prepared(text.text, text.role)[1] for text in texts)
        seconds = self._pace.least_seconds(math.ceil(len(texts) / self.batch_size), tokens)
        return Estimate(len(texts), tokens, self._cost(tokens), seconds)

    def _cost(self, tokens: int) -> float | None:
        return None if self._price is None else tokens * self._price / 1e6

    def encode(
        self,
        texts: Sequence[str],
        role: Role = Role.DOCUMENT,
        *,
        stop: threading.Event | None = None,
    ) -> np.ndarray:
        """Return the targets of texts of one role, float32 of shape (n, dimension).

        Raises:
            IncompleteError: some have none; the error holds the others.
        """
        role, stop = Role(role), stop or threading.Event()
        vectors = np.full((len(texts), self.dimension), np.nan, dtype=np.float32)
        failed: dict[int, str] = {}
        size = self.batch_size
        batches = [range(len(texts))[start : start + size] for start in range(0, len(texts), size)]
        try:
            while batches:
                rows = batches.pop(0)
                try:
                    vectors[rows] = self._answered([texts[row] for row in rows], role, stop)
                    continue
                except (_RefusedError, _BusyError) as error:
                    reason = error
                if len(rows) == 1 or isinstance(reason, _BusyError):
                    self.probe(stop=stop)  # fails if not this text but the server is at fault
                if len(rows) == 1:
                    failed[rows[0]] = str(reason)
                    self._count(failed=1)
                else:
                    half = len(rows) // 2
                    batches = [rows[:half], rows[half:], *batches]
        except (TeacherError, _FatalError) as error:
            raise IncompleteError(str(error), vectors, failed, final=True) from None
        if failed:
            message = f"{len(failed):,} of {len(texts):,} texts got no target, the last: {reason}"
            raise IncompleteError(message, vectors, failed)
        return vectors

    def probe(self, *, stop: threading.Event | None = None) -> tuple[Text, np.ndarray]:
        """Return a text and the vector that the server gives it now.

        Raises:
            TeacherError: the server does not answer or refuses.
        """
        vector, self._first_probe = self._first_probe, None  # what found the width serves once
        if vector is None:
            try:
                vector = self._answered([_PROBE], Role.DOCUMENT, stop or threading.Event())[0]
            except (_RefusedError, _BusyError, _FatalError) as error:
                server = self._client.base_url
                raise TeacherError(f"no vector from {self.model!r} at {server}: {error}") from None
        return Text(_PROBE, Role.DOCUMENT), vector

    def _answered(self, texts: Sequence[str], role: Role, stop: threading.Event) -> np.ndarray:
        """Send a request until it is answered, and return its vectors."""
        prepared = [self._prepared(text, role) for text in texts]
        body = {**self._fields, **getattr(self._provider, role)}
        body[self._provider.texts] = [text for text, _ in prepared]
        tokens = sum(count for _, count in prepared)
        failures, first_failure = 0, None
        while True:
            self._pace.wait(tokens, stop)
            if stop.is_set():
                raise _FatalError("stopped")
            self._reserve(tokens)
            try:
                vectors = self._send(body, len(texts), tokens)
                self._count(texts=len(texts))
                return vectors
            except _BusyError as error:
                failures += not error.limited
                if failures == self._attempts:
                    raise
                if first_failure is None:
                    first_failure = time.monotonic()
                self._wait(error, first_failure, stop)
                self._count(retries=1)

    def _reserve(self, tokens: int) -> None:
        """Count tokens before they are sent, so that no number of threads exceeds the budget."""
        with self._lock:
            ahead = self._cost(self._counts["tokens"] + tokens)
            if self._budget is not None and ahead > self._budget:
                raise _FatalError(f"the next request would exceed the budget of {self._budget:g}")
            self._counts.update(requests=1, tokens=tokens)

    def _wait(self, error: _BusyError, first_failure: float, stop: threading.Event) -> None:
        """Wait before another attempt; for a rate limit, let all requests wait."""
        now = time.monotonic()
        waited = now - first_failure
        seconds = error.after or _growing(waited)
        if not error.limited:
            stop.wait(min(seconds, _PATIENCE))
            return
        if now + seconds > max(first_failure, self._last_answer) + _PATIENCE:
            raise _FatalError(
                f"rate limited for longer than {duration(_PATIENCE)} ({error}): lower "
                "requests_per_minute, tokens_per_minute or concurrency, or go on later"
            )
        seconds = max(seconds, waited / 10)  # where waiting as told does not help
        self._pace.pause(seconds)
        if seconds > 5:
            warnings.warn(f"rate limit: waiting {duration(seconds)} ({error})", stacklevel=4)

    def _send(self, body: Mapping[str, object], count: int, tokens: int) -> np.ndarray:
        """Send one request, and return its vectors."""
        used = 0
        try:
            response = self._client.post(self._provider.path, json=body)
            if response.status_code != 429:
                self._last_answer = time.monotonic()
            self._raise_for(response)
            used = tokens
            answer = response.json()
            used = _used_tokens(answer) or tokens
            vectors = checked_targets(_in_order(answer, count), count, self.dimension)
        except _UNUSABLE as error:
            message = self._masked(f"{type(error).__name__}: {error}")
            raise _BusyError(f"no usable answer ({message})") from None
        finally:
            self._count(tokens=used - tokens)
        if self._normalize:
            vectors = scaled(vectors)
        if not np.isfinite(vectors).all():
            raise _BusyError("vectors that are NaN, infinite, or zero and without direction")
        return vectors

    def _raise_for(self, response: httpx.Response) -> None:
        """Raise what a failed response means for the run."""
        code = response.status_code
        message = self._masked(f"HTTP {code} {response.text}")
        if code in _REFUSED:
            raise _RefusedError(message)
        if code in _BUSY and "insufficient_quota" not in message:
            raise _BusyError(message, _retry_after(response), limited=code == 429)
        if code >= 300:
            raise _FatalError(message)

    def _count(self, **numbers: int) -> None:
        with self._lock:
            self._counts.update(numbers)

    def _masked(self, message: str) -> str:
        """Return a message on one line, short and without the secret."""
        if self._secret:
            message = message.replace(self._secret, "***")
        return " ".join(message.split())[:300]

    def _prepared(self, text: str, role: Role) -> tuple[str, int]:
        """Return what is sent for a text, and its number of tokens."""
        text, limit = self.prompts[role] + text, self._max_tokens
        if self._tokenizer is None:
            return text, math.ceil(len(text.encode()) / 4)
        encoded = self._tokenizer(
            text, truncation=limit is not None, max_length=limit, return_offsets_mapping=True
        )
        if len(encoded["input_ids"]) == limit:
            text = text[: max(end for _, end in encoded["offset_mapping"])]
        return text, len(encoded["input_ids"])


class _FatalError(Exception):
    """No further request will succeed."""


class _RefusedError(Exception):
    """The same request will fail again, one with fewer texts may not."""


class _BusyError(Exception):
    """The request is worth another attempt, after so many seconds if the server says so."""

    def __init__(self, message: str, after: float | None = None, limited: bool = False) -> None:
        super().__init__(message)
        self.after, self.limited = after, limited


@dataclass
class _Pace:
    """Spreads requests so that no minute has more than the limits."""

    requests: float
    tokens: float
    free: float = 0.0  # when the next request may be sent
    lock: threading.Lock = field(default_factory=threading.Lock)

    def least_seconds(self, requests: int, tokens: int) -> float:
        return 60 * max(requests / self.requests, tokens / self.tokens)

    def wait(self, tokens: int, stop: threading.Event) -> None:
        """Wait until a request of so many tokens may be sent."""
        with self.lock:
            start = max(time.monotonic(), self.free)
            self.free = start + self.least_seconds(1, tokens) * _SLACK
        stop.wait(max(0.0, start - time.monotonic()))

    def pause(self, seconds: float) -> None:
        """Send nothing for so long."""
        with self.lock:
            self.free = max(self.free, time.monotonic() + seconds)


def _client(
    provider: Provider, url: str | None, key: str | None, timeout: float, concurrency: int
) -> tuple[httpx.Client, str | None]:
    """Return a client for the server, and the secret that no message may show."""
    try:
        address = httpx.URL((url or provider.url).rstrip("/"))
    except httpx.InvalidURL:
        address = httpx.URL("")
    # The address is stored with the cache and may be logged, so no secret may be in it.
    secretive = address.userinfo or address.query or address.fragment
    if address.scheme not in ("http", "https") or not address.host or secretive:
        raise TeacherError(
            "url: expected http(s)://HOST/PATH without a user or parameters; `key` names the "
            "environment variable with the secret"
        )
    variable = key or (provider.key if address == provider.url else None)
    secret = os.environ.get(variable, "").strip() if variable else None
    if variable and not re.fullmatch("[!-~]+", secret):
        raise TeacherError(
            f"the environment variable {variable} must hold the key of {address.host}, without "
            "spaces or letters beyond ASCII"
        )
    local = address.host in ("localhost", "127.0.0.1", "::1")
    if secret and address.scheme == "http" and not local:
        raise TeacherError(f"{variable} would travel to {address.host} unencrypted: use https")
    client = httpx.Client(
        base_url=str(address).removesuffix(provider.path),
        headers={"Authorization": f"Bearer {secret}"} if secret else {},
        timeout=timeout,
        limits=httpx.Limits(max_connections=concurrency),
    )
    return client, secret


def _in_order(answer: Mapping, count: int) -> list:
    """Return the vectors of an answer in the order of its texts."""
    if "embeddings" in answer:  # Cohere
        return answer["embeddings"]["float"]
    items, vectors = answer["data"], {}
    for row, item in enumerate(items):
        index = item.get("index")  # some servers leave it out where it is 0, or everywhere
        vectors[row if index is None else index] = item["embedding"]
    if len(items) != count:
        raise ValueError(f"{len(items)} vectors for {count} texts")
    return [vectors[row] for row in range(count)]


def _used_tokens(answer: Mapping) -> int:
    """Return the tokens that an answer says were used; 0 if it does not say."""
    usage = answer.get("usage") or answer.get("meta", {}).get("billed_units") or {}
    return int(usage.get("total_tokens") or usage.get("input_tokens") or 0)


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that a server asks to wait; None if it does not say."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:  # also a date, which no API is known to send
        return None
    return seconds if 0 < seconds < math.inf else None


def _growing(waited: float) -> float:
    """Return seconds until the next attempt: about as long again, so that waits double."""
    return random.uniform(0.7, 1.3) * min(30.0, max(0.5, waited))
