"""Teachers behind an HTTP API: OpenAI's embeddings protocol, Cohere, Voyage and Jina."""

from __future__ import annotations

import math
import os
import random
import re
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock

import httpx
import numpy as np

from workbench import models
from workbench._util import counted, duration, scaled
from workbench.data import Role, Text
from workbench.errors import IncompleteError, TeacherError
from workbench.passages import Reader
from workbench.teachers import Teacher, checked_prompts, checked_targets

_PATIENCE = 300  # seconds of nothing but rate limits until the server is left alone
_PROBE = "a text to see whether the server answers"


@dataclass(frozen=True)
class _Provider:
    """How a provider's embeddings endpoint takes its requests."""

    url: str
    key: str  # environment variable that holds the secret
    path: str = "/embeddings"
    texts: str = "input"  # field with the texts
    dimensions: str = "dimensions"  # field with the width
    query: Mapping[str, object] = field(default_factory=dict)  # more fields of a request
    document: Mapping[str, object] = field(default_factory=dict)


PROVIDERS = {
    "openai": _Provider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "cohere": _Provider(
        "https://api.cohere.com/v2",
        "CO_API_KEY",
        path="/embed",
        texts="texts",
        dimensions="output_dimension",
        query={"input_type": "search_query", "embedding_types": ["float"]},
        document={"input_type": "search_document", "embedding_types": ["float"]},
    ),
    "voyage": _Provider(
        "https://api.voyageai.com/v1",
        "VOYAGE_API_KEY",
        dimensions="output_dimension",
        query={"input_type": "query"},
        document={"input_type": "document"},
    ),
    "jina": _Provider(
        "https://api.jina.ai/v1",
        "JINA_API_KEY",
        query={"task": "retrieval.query", "truncate": True},
        document={"task": "retrieval.passage", "truncate": True},
    ),
}


@dataclass(frozen=True)
class Usage:
    """What an API was asked for, or what it will be asked for."""

    texts: int = 0  # with a target
    tokens: int = 0  # as the server counts them, or else an estimate
    cost: float | None = None  # None without a price
    seconds: float = 0.0  # the least that the limits allow
    requests: int = 0  # sent, including those that failed
    retries: int = 0
    failed: int = 0  # texts without a target

    def __str__(self) -> str:
        text = f"{counted(self.texts, 'text')}, {counted(self.tokens, 'token')}"
        if self.cost is not None:
            text += f", {self.cost:,.4g} at the given price"
        if self.seconds:
            text += f", at least {duration(self.seconds)} within the limits"
        if not self.requests:
            return f"to ask the API for: {text}"
        return f"the API: {text}, in {counted(self.requests, 'request')} ({self.retries:,} again)"


class ApiTeacher(Teacher):
    """A model behind an HTTP API as the teacher; one instance serves many threads.

    Args:
        model: "cohere:embed-v4.0"; no provider in front is OpenAI's protocol.
        url: of another server than the provider's own, such as http://localhost:8000/v1.
        key: environment variable with the secret; the provider's own by default, for its server.
        dimensions: width to ask for; the model's own if None.
        tokenizer: of this model, to cut texts to `max_tokens`; without it, 4 bytes are a token.
        price, budget: of a million tokens, and the most that this run may cost.
        attempts: how often a request is tried; a rate limit (HTTP 429) does not count.
        name: for the cache; model and server if None.
    """

    probes = (Text(_PROBE),)

    def __init__(
        self,
        model: str,
        *,
        url: str | None = None,
        key: str | None = None,
        dimensions: int | None = None,
        prompts: Mapping[str, str] | None = None,
        tokenizer: str | None = None,
        max_tokens: int | None = None,
        batch_size: int = 64,
        concurrency: int = 4,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        price: float | None = None,
        budget: float | None = None,
        attempts: int = 6,
        name: str | None = None,
    ) -> None:
        limits = [requests_per_minute, tokens_per_minute, price, budget, batch_size, attempts]
        if not all(limit is None or limit > 0 for limit in limits):
            raise TeacherError("limits, price, budget, batch_size and attempts must be above 0")
        if (budget and not price) or (max_tokens and not tokenizer):
            raise TeacherError("a budget needs the price, and max_tokens a tokenizer")
        self._provider = PROVIDERS["openai"]
        prefix, _, rest = model.partition(":")
        if prefix in PROVIDERS:
            self._provider, model = PROVIDERS[prefix], rest
        self.prompts = checked_prompts(prompts)
        self.batch_size, self.concurrency, self._attempts = batch_size, concurrency, attempts
        self._price, self._budget, self._max_tokens = price, budget, max_tokens
        self._tokenizer = None
        if tokenizer is not None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(models.resolve(tokenizer).path)
        self._limits = requests_per_minute or math.inf, tokens_per_minute or math.inf
        self._counts, self._lock = Counter(), Lock()
        self._free = self._last_answer = 0.0  # times: from when the next request may be sent
        self._connect(url, key)
        self._fields = {"model": model}
        if dimensions is not None:
            self._fields[self._provider.dimensions] = dimensions
        self.dimension = dimensions
        super().__init__(
            name or model,
            dimensions or self.probe().shape[1],
            normalize=True,
            prompts=prompts,
            server=None if name else str(self._client.base_url),
            roles=[dict(self._provider.query), dict(self._provider.document)],
            max_length=max_tokens and [max_tokens, tokenizer],
        )
        self.name = model

    def _connect(self, url: str | None, key: str | None) -> None:
        """Make the client, and set the secret that no message may show."""
        provider, server = self._provider, (url or self._provider.url).rstrip("/")
        # The address is stored with the cache and may be logged, so no secret may be in it.
        if not re.fullmatch(r"https?://[\w.:\[\]-]+(/[^\s?#@]*)?", server, re.ASCII):
            raise TeacherError("url: expected http(s)://HOST/PATH, without a secret")
        variable = key or (provider.key if server == provider.url else None)
        secret = os.environ.get(variable, "").strip() if variable else None
        if variable and not re.fullmatch("[!-~]+", secret):
            raise TeacherError(f"the environment variable {variable} has no key")
        local = r"http://(localhost|127\.0\.0\.1|\[::1\])([:/]|$)"
        if secret and not re.match(f"https:|{local}", server):
            raise TeacherError(f"{variable} would travel to {server} unencrypted: use https")
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        server = server.removesuffix(provider.path)
        self._client = httpx.Client(base_url=server, headers=headers, timeout=60)
        self._secret = secret

    @property
    def reader(self) -> Reader | None:
        """How it reads documents, if `max_tokens` says so."""
        limit = self._max_tokens
        return limit and Reader(self._tokenizer, limit, self.prompts["document"])

    @property
    def usage(self) -> Usage:
        """What was asked of the server so far."""
        return Usage(**self._counts, cost=self._cost(self._counts["tokens"]))

    def estimate(self, texts: Sequence[Text]) -> Usage:
        """Return what encoding texts will take; nothing is sent."""
        tokens = sum(self._prepared(text.text, text.role)[1] for text in texts)
        seconds = self._least_seconds(math.ceil(len(texts) / self.batch_size), tokens)
        return Usage(len(texts), tokens, self._cost(tokens), seconds)

    def _least_seconds(self, requests: int, tokens: int) -> float:
        return 60 * max(requests / self._limits[0], tokens / self._limits[1])

    def _cost(self, tokens: int) -> float | None:
        return None if self._price is None else tokens * self._price / 1e6

    def encode(
        self, texts: Sequence[str], role: Role = Role.DOCUMENT, *, stop: Event | None = None
    ) -> np.ndarray:
        """Return the targets of texts of one role; IncompleteError if some have none."""
        role, stop, size = Role(role), stop or Event(), self.batch_size
        vectors = np.full((len(texts), self.dimension), np.nan, dtype=np.float32)
        failed: dict[int, str] = {}
        batches = [range(len(texts))[start : start + size] for start in range(0, len(texts), size)]
        try:
            while batches:
                rows = batches.pop(0)
                try:
                    vectors[rows] = self._answered([texts[row] for row in rows], role, stop)
                except _FailedError as error:
                    if error.remedy == "none":
                        raise
                    half = len(rows) // 2
                    if not half or error.remedy == "retry":
                        self.probe(stop=stop)  # fails if not this text but the server is at fault
                    if half:
                        batches = [rows[:half], rows[half:], *batches]
                    else:
                        failed[rows[0]] = str(error)
                        self._count(failed=1)
        except TeacherError as error:
            raise IncompleteError(str(error), vectors, failed, final=True) from None
        if failed:
            message = f"{len(failed):,} of {len(texts):,} texts failed: {failed[max(failed)]}"
            raise IncompleteError(message, vectors, failed)
        return vectors

    def probe(self, *, stop: Event | None = None) -> np.ndarray:
        """Return the vector that the server gives a text now; TeacherError without one."""
        try:
            return self._answered([_PROBE], Role.DOCUMENT, stop or Event())
        except _FailedError as error:
            model, server = self._fields["model"], self._client.base_url
            raise TeacherError(f"no vector from {model!r} at {server}: {error}") from None

    def _answered(self, texts: Sequence[str], role: Role, stop: Event) -> np.ndarray:
        """Send a request until it is answered, and return its vectors."""
        prepared, counts = zip(*[self._prepared(text, role) for text in texts], strict=True)
        body = {**self._fields, **getattr(self._provider, role), self._provider.texts: prepared}
        tokens = sum(counts)
        failures, first_failure = 0, math.inf
        while True:
            with self._lock:
                start = max(time.monotonic(), self._free)
                # At exactly the limit, a request that arrives a little early is one too many.
                self._free = start + 1.01 * self._least_seconds(1, tokens)
            stop.wait(max(0.0, start - time.monotonic()))
            if stop.is_set():
                raise _FailedError("stopped", "none")
            with self._lock:  # counted before it is sent: all threads together keep to the budget
                if self._budget and self._cost(self._counts["tokens"] + tokens) > self._budget:
                    raise _FailedError(f"it would exceed the budget of {self._budget:g}", "none")
                self._counts.update(requests=1, tokens=tokens)
            try:
                return self._send(body, len(texts), tokens)
            except _FailedError as error:
                failures += error.remedy == "retry"
                if error.remedy in ("split", "none") or failures == self._attempts:
                    raise
                first_failure = min(first_failure, time.monotonic())
                self._count(retries=1)
                self._wait(error, first_failure, stop)

    def _wait(self, error: _FailedError, first_failure: float, stop: Event) -> None:
        """Wait before another attempt; for a rate limit, let all requests wait."""
        now, waited = time.monotonic(), time.monotonic() - first_failure
        seconds = error.after or _growing(waited)
        if error.remedy == "retry":
            stop.wait(min(seconds, _PATIENCE))
            return
        if now + seconds > max(first_failure, self._last_answer) + _PATIENCE:
            raise _FailedError(f"set a lower requests_per_minute: {error}", "none")
        seconds = max(seconds, waited / 10)  # where waiting as told does not help
        with self._lock:
            self._free = max(self._free, now + seconds)
        if seconds > 5:
            warnings.warn(f"rate limit: waiting {duration(seconds)} ({error})", stacklevel=4)

    def _send(self, body: Mapping[str, object], count: int, tokens: int) -> np.ndarray:
        """Send one request, and return its vectors."""
        used = 0
        try:
            response = self._client.post(self._provider.path, json=body)
            self._raise_for(response)
            used = tokens
            answer = response.json()
            usage = answer.get("usage") or answer.get("meta", {}).get("billed_units") or {}
            used = int(usage.get("total_tokens") or usage.get("input_tokens") or tokens)
            vectors = scaled(checked_targets(_in_order(answer), count, self.dimension))
            if not np.isfinite(vectors).all():
                raise ValueError("a vector is NaN, infinite or zero")
        except _FailedError:
            raise
        except Exception as error:  # no answer, one that is cut or of another shape
            message = self._masked(f"{type(error).__name__}: {error}")
            raise _FailedError(f"no usable answer ({message})", "retry") from None
        finally:
            self._count(tokens=used - tokens)
        self._count(texts=count)
        return vectors

    def _raise_for(self, response: httpx.Response) -> None:
        """Raise what a failed response means for the run."""
        code = response.status_code
        if code != 429:
            self._last_answer = time.monotonic()
        if code < 300:
            return
        message, remedy = self._masked(f"HTTP {code} {response.text}"), "none"
        if code in (400, 413, 422):  # about the texts, or how many there are
            remedy = "split"
        elif code == 429 and "insufficient_quota" not in message:
            remedy = "wait"
        elif code in (408, 409, 425) or code >= 500:
            remedy = "retry"
        after = response.headers.get("retry-after", "")  # no API is known to send a date
        seconds = float(after) if re.fullmatch(r"\d+(\.\d+)?", after) else 0.0
        raise _FailedError(message, remedy, seconds)

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


class _FailedError(TeacherError):
    """A failed request. Its remedy: "split" the texts, "retry", "wait" for a limit, or "none"."""

    def __init__(self, message: str, remedy: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.remedy, self.after = remedy, after  # in seconds, if the server says so


def _in_order(answer: Mapping) -> list:
    """Return the vectors of an answer in the order of its texts."""
    if "embeddings" in answer:  # Cohere
        return answer["embeddings"]["float"]
    # Some servers leave the index out where it is 0, or everywhere.
    rows = {item.get("index", row): item["embedding"] for row, item in enumerate(answer["data"])}
    return [rows[row] for row in range(len(answer["data"]))]


def _growing(waited: float) -> float:
    """Return seconds until the next attempt: about as long again, so that waits double."""
    return random.uniform(0.7, 1.3) * min(30.0, max(0.5, waited))
