"""Teachers behind an HTTP API: OpenAI's protocol, which most servers speak, and those of Cohere, Voyage and Jina."""

from __future__ import annotations

import base64
import math
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx
import numpy as np
import tenacity

from workbench import models
from workbench._util import duration
from workbench.data import Role, Text
from workbench.errors import IncompleteError, TeacherError
from workbench.teachers import Teacher, checked_prompts

_BUSY = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}  # worth another try
_CONTENT = {400, 413, 422}  # about the texts, or how many there are
_HOPELESS = 20  # texts in a row that a server refuses before the rest is not even sent
_SLACK = 1.01  # at exactly the limit, a request that comes a little early is one too many
_LONGEST_WAIT = 600  # seconds; a server that asks for more is left alone
_PROBE = "a text to see whether the server answers"


@dataclass(frozen=True)
class ProviderSpec:
    """How a provider wants its requests.

    Attributes:
        url: in front of `path`.
        key: the environment's variable with the secret.
        path: of the endpoint.
        texts: the field with the texts.
        roles: what a request has besides for queries and for documents.
        dimensions: the field with the width.
        extra: what every request has besides.
        plain: what asks for lists of numbers.
        packed: what asks for base64 of little-endian float32.
        most: texts in a request.
    """

    url: str
    key: str
    path: str = "/embeddings"
    texts: str = "input"
    roles: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    dimensions: str = "dimensions"
    extra: Mapping[str, object] = field(default_factory=dict)
    plain: Mapping[str, object] = field(default_factory=dict)
    packed: Mapping[str, object] = field(default_factory=dict)
    most: int = 2048


def _roles(name: str, query: str, document: str) -> dict[str, dict[str, str]]:
    return {"query": {name: query}, "document": {name: document}}


PROVIDERS = {
    # Spoken by OpenAI, vLLM, TEI, Ollama, LM Studio, llama.cpp and others.
    "openai": ProviderSpec(
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        plain={"encoding_format": "float"},
        packed={"encoding_format": "base64"},
    ),
    "cohere": ProviderSpec(
        "https://api.cohere.com/v2",
        "CO_API_KEY",
        path="/embed",
        texts="texts",
        roles=_roles("input_type", "search_query", "search_document"),
        dimensions="output_dimension",
        extra={"truncate": "END"},
        plain={"embedding_types": ["float"]},
        packed={"embedding_types": ["float"]},
        most=96,
    ),
    "voyage": ProviderSpec(
        "https://api.voyageai.com/v1",
        "VOYAGE_API_KEY",
        roles=_roles("input_type", "query", "document"),
        dimensions="output_dimension",
        extra={"truncation": True},
        packed={"encoding_format": "base64"},
        most=1000,
    ),
    "jina": ProviderSpec(
        "https://api.jina.ai/v1",
        "JINA_API_KEY",
        roles=_roles("task", "retrieval.query", "retrieval.passage"),
        extra={"truncate": True},
        plain={"embedding_type": "float"},
        packed={"embedding_type": "base64"},
    ),
}


@dataclass(frozen=True)
class Usage:
    """What an API has been asked for so far.

    Attributes:
        requests: sent, those that failed included.
        retries: of them, how many were another try.
        texts: with a target.
        tokens: as the server counts them, or else by the estimate.
        truncated: texts that were cut to `max_tokens`.
        failed: texts without a target.
        cost: at the given price; None without one.
    """

    requests: int = 0
    retries: int = 0
    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    failed: int = 0
    cost: float | None = None

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", {self.cost:,.4g} at the given price"
        cut = f", {self.truncated:,} of the texts cut" if self.truncated else ""
        return (
            f"the API: {self.requests:,} requests, {self.retries:,} of them again, for {self.texts:,} texts{cut}; "
            f"{self.tokens:,} tokens{cost}"
        )


@dataclass(frozen=True)
class Estimate:
    """What encoding texts will take.

    Attributes:
        texts: how many.
        tokens: counted by the tokenizer, or a quarter of the characters without one.
        counted: whether they were counted.
        cost: at the given price; None without one.
        seconds: the least that the limits allow; None without limits.
    """

    texts: int
    tokens: int
    counted: bool
    cost: float | None
    seconds: float | None

    def __str__(self) -> str:
        tokens = f"{'' if self.counted else 'about '}{self.tokens:,} tokens"
        cost = "" if self.cost is None else f", {self.cost:,.2f} at the given price"
        least = "" if self.seconds is None else f", at least {duration(self.seconds)} within the limits"
        return f"to ask the API for: {self.texts:,} texts, {tokens}{cost}{least}"


class ApiTeacher(Teacher):
    """A model behind an HTTP API as the teacher; one instance serves many threads.

    Args:
        model: the server's name for it.
        provider: "openai", "cohere", "voyage" or "jina", or a `ProviderSpec`.
        url: of another server than the provider's own, such as http://localhost:8000/v1.
        key: the environment's variable with the secret. If None, the provider's own, which is sent to the provider's
            own server only.
        dimensions: width of the vectors. If given it is asked for; else a first request finds it out.
        packed: ask for base64 rather than lists of numbers; both are understood whatever comes.
        prompts: role to prompt, put in front of each text before it is sent.
        normalize: scale vectors to length 1, as a student's are.
        tokenizer: counts tokens: a folder, a packaged model or one on the hub.
        max_tokens: texts are cut to so many of the tokenizer's tokens; those cut are counted.
        batch_size: texts in a request at most.
        concurrency: requests at the same time.
        requests_per_minute: spread evenly; no limit if None.
        tokens_per_minute: the same for tokens.
        price: of a million tokens.
        budget: no request is sent that would make the cost of this teacher's requests, in one run, higher than this.
        timeout: seconds until a request counts as lost.
        attempts: how often a request is tried.
        name: what the cache calls the teacher. If None, model and server; give one where a server moves.

    Raises:
        TeacherError: a setting that makes no sense, a missing key, a server that does not answer or refuses.
    """

    def __init__(
        self,
        model: str,
        *,
        provider: str | ProviderSpec = "openai",
        url: str | None = None,
        key: str | None = None,
        dimensions: int | None = None,
        packed: bool = True,
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
        self._dialect = _dialect(provider)
        above_zero = {
            "batch_size": batch_size,
            "concurrency": concurrency,
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "timeout": timeout,
            "attempts": attempts,
            "dimensions": dimensions,
            "max_tokens": max_tokens,
            "budget": budget,
            "price": price,
        }
        for what, value in above_zero.items():
            if value is not None and not 0 < value < math.inf:
                raise TeacherError(f"{what} is {value}: it must be above 0")
        if budget is not None and not price:
            raise TeacherError("a budget needs the price of a million tokens: give `price` too")
        if max_tokens is not None and tokenizer is None:
            raise TeacherError("max_tokens needs a tokenizer that counts them: give `tokenizer` too")
        self.model, self.prompts = model, checked_prompts(prompts)
        self.batch_size = min(batch_size, self._dialect.most)
        self.concurrency = concurrency
        self._normalize, self._dimensions, self._packed = normalize, dimensions, packed
        self._max_tokens, self._tokenizer = max_tokens, _tokenizer(tokenizer)
        self._price, self._budget, self._attempts = price, budget, attempts
        self._probe = None
        self._pace = _Pace(requests_per_minute, tokens_per_minute)
        self._usage, self._lock, self._reserved, self._refused_in_row = Usage(), threading.Lock(), 0, 0
        self._client, self._secret = _client(self._dialect, url, key, timeout, concurrency)
        self.dimension = dimensions  # what an answer is checked against
        super().__init__(
            name or model,
            dimensions or len(self.probe()[1]),
            normalize=normalize,
            prompts=prompts,
            server=None if name else str(self._client.base_url),
            roles={role.value: dict(self._dialect.roles.get(role, {})) for role in Role},
            max_length=max_tokens and [max_tokens, tokenizer],
        )
        self.name = model

    @property
    def usage(self) -> Usage:
        """What was asked of the server so far."""
        return replace(self._usage, cost=self._cost(self._usage.tokens))

    def estimate(self, texts: Sequence[Text]) -> Estimate:
        """Say what encoding texts will take; nothing is sent."""
        tokens = sum(self._prepared(text.text, text.role)[1] for text in texts)
        seconds = self._pace.least_seconds(-(-len(texts) // self.batch_size), tokens)
        return Estimate(len(texts), tokens, self._tokenizer is not None, self._cost(tokens), seconds)

    def _cost(self, tokens: int) -> float | None:
        return None if self._price is None else tokens * self._price / 1e6

    def encode(
        self, texts: Sequence[str], role: Role = Role.DOCUMENT, *, stop: threading.Event | None = None
    ) -> np.ndarray:
        """Return the targets of texts of one role, float32 of shape (n, dimension).

        Raises:
            IncompleteError: some have none; the error holds the others.
        """
        stop = stop or threading.Event()
        vectors = np.full((len(texts), self.dimension), np.nan, dtype=np.float32)
        failed: dict[int, str] = {}
        for start in range(0, len(texts), self.batch_size):
            rows = list(range(start, min(start + self.batch_size, len(texts))))
            try:
                self._encode_rows([texts[i] for i in rows], rows, role, vectors, failed, stop)
            except _OverError as error:
                raise IncompleteError(str(error), vectors, failed, final=True) from None
        if failed:
            row, why = next(iter(failed.items()))
            raise IncompleteError(
                f"{len(failed):,} of {len(texts):,} texts got no target, first {texts[row][:60]!r}: {why}",
                vectors,
                failed,
            )
        return vectors

    def _encode_rows(self, texts, rows, role, vectors, failed, stop) -> None:
        """Fill in the vectors of a request's texts; where it fails for good, those of its halves."""
        try:
            vectors[rows] = self._retried(texts, role, stop)
            with self._lock:
                self._refused_in_row = 0
            return
        except _RefusedError as error:
            why = str(error)
        except _BusyError as error:
            why = str(error)
            self._see_that_it_answers(why, stop)
        if len(texts) == 1:
            failed[rows[0]] = why
            with self._lock:
                self._count(failed=1)
                self._refused_in_row += 1
                hopeless = self._refused_in_row >= _HOPELESS
            if hopeless:
                raise _OverError(f"{_HOPELESS} texts in a row failed, the last one: {why}")
            return
        half = len(texts) // 2
        self._encode_rows(texts[:half], rows[:half], role, vectors, failed, stop)
        self._encode_rows(texts[half:], rows[half:], role, vectors, failed, stop)

    def _see_that_it_answers(self, why: str, stop: threading.Event) -> None:
        """Tell a server that is down from one that a certain text brings down."""
        try:
            self._retried([_PROBE], Role.DOCUMENT, stop)
        except (_BusyError, _RefusedError):
            raise _OverError(f"the server has failed {self._attempts} times in a row: {why}") from None

    def _retried(self, texts: Sequence[str], role: Role, stop: threading.Event) -> np.ndarray:
        prepared = [self._prepared(text, role) for text in texts]
        try:
            for attempt in tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(_BusyError),
                wait=_wait,
                stop=tenacity.stop_after_attempt(self._attempts) | tenacity.stop_when_event_set(stop),
                sleep=tenacity.sleep_using_event(stop),
                reraise=True,
            ):
                with attempt:
                    return self._request(prepared, role, stop, again=attempt.retry_state.attempt_number > 1)
        except _BusyError:
            if stop.is_set():
                raise _OverError("stopped") from None
            raise

    def _request(
        self, prepared: list[tuple[str, int, bool]], role: Role, stop: threading.Event, again: bool
    ) -> np.ndarray:
        provider = self._dialect
        body = {"model": self.model, provider.texts: [text for text, _, _ in prepared]}
        body |= (
            dict(provider.roles.get(role, {}))
            | dict(provider.extra)
            | (provider.packed if self._packed else provider.plain)
        )
        if self._dimensions:
            body[provider.dimensions] = self._dimensions
        tokens = sum(count for _, count, _ in prepared)
        self._reserve(tokens, again)
        used = made = cut = 0
        try:
            self._pace.wait(tokens, stop)
            if stop.is_set():
                raise _OverError("stopped")
            try:
                response = self._client.post(provider.path, json=body)
            except httpx.RequestError as error:
                raise _BusyError(f"{type(error).__name__} {self._safe(str(error))}".rstrip()) from None
            self._raise_for(response)
            used = tokens
            try:
                vectors, used = _read(response, len(prepared), tokens)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _BusyError(f"an answer that cannot be read ({self._safe(str(error))[:200]})") from None
            if self.dimension and vectors.shape[1] != self.dimension:
                raise _BusyError(f"vectors of width {vectors.shape[1]}, not {self.dimension}")
            if not np.isfinite(vectors).all():
                raise _BusyError("NaN or infinite vectors")
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            if self._normalize and not lengths.all():
                raise _BusyError("a vector of zeros, which has no direction")
            made, cut = len(prepared), sum(was_cut for _, _, was_cut in prepared)
        finally:
            with self._lock:
                self._reserved -= tokens
                self._count(tokens=used, texts=made, truncated=cut)
        return vectors / lengths if self._normalize else vectors

    def _reserve(self, tokens: int, again: bool) -> None:
        """Count a request before it is sent, so that no number of threads goes over the budget."""
        with self._lock:
            ahead = self._usage.tokens + self._reserved + tokens
            if self._budget is not None and self._cost(ahead) > self._budget:
                raise _OverError(
                    f"the budget of {self._budget:g} would be exceeded ({self.usage.cost:.6g} spent): raise it and "
                    "run again"
                )
            self._reserved += tokens
            self._count(requests=1, retries=int(again))

    def _count(self, **more: int) -> None:
        """Add to the usage; the lock must be held."""
        self._usage = replace(self._usage, **{name: getattr(self._usage, name) + n for name, n in more.items()})

    def _raise_for(self, response: httpx.Response) -> None:
        code = response.status_code
        if code < 300:
            return
        message = f"HTTP {code} {self._safe(_message(response))}".rstrip()
        if code == 429 and "insufficient_quota" in response.text:
            raise _OverError(f"the account's quota is used up ({message})")
        if code in _BUSY:
            after = _retry_after(response)
            if after is not None:
                if after > _LONGEST_WAIT:
                    raise _OverError(f"the server asks to be left alone for {after:.0f} s ({message})")
                self._pace.pause(after)
            raise _BusyError(message, after)
        if code in _CONTENT:
            raise _RefusedError(message)
        if code in (401, 403):
            raise _OverError(f"{message}: the key in the environment is not the right one")
        raise _OverError(message)

    def _prepared(self, text: str, role: Role) -> tuple[str, int, bool]:
        """Return what is sent for a text, how many tokens that is, and whether it was cut."""
        whole = self.prompts[role] + text
        if self._tokenizer is None:
            return whole, -(-len(whole.encode()) // 4), False
        if self._max_tokens is None:
            return whole, len(self._tokenizer(whole, verbose=False)["input_ids"]), False
        encoded = self._tokenizer(
            whole,
            truncation=True,
            max_length=self._max_tokens,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        if len(encoded["input_ids"]) == 1:
            return whole, len(encoded["input_ids"][0]), False
        end = max(end for _, end in encoded["offset_mapping"][0])
        return whole[:end], len(encoded["input_ids"][0]), True

    def probe(self, *, stop: threading.Event | None = None) -> tuple[Text, np.ndarray]:
        """Return a text and the vector that the server gives it, asked for once.

        Raises:
            TeacherError: the server does not answer or refuses.
        """
        try:
            if self._probe is None:
                self._probe = self._retried([_PROBE], Role.DOCUMENT, stop or threading.Event())[0]
            return Text(_PROBE, Role.DOCUMENT), self._probe
        except (_BusyError, _RefusedError, _OverError) as error:
            where = self._client.base_url
            raise TeacherError(f"model {self.model!r} at {where} could not be asked: {error}") from None

    def _safe(self, message: str) -> str:
        return message.replace(self._secret, "***") if self._secret else message


class _BusyError(Exception):
    """Worth another try, after so many seconds if the server says so."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class _RefusedError(Exception):
    """About the texts: another try will not help, fewer of them might."""


class _OverError(Exception):
    """Nothing more is to be sent."""


class _Pace:
    """Spreads requests so that no minute has more than the limits."""

    def __init__(self, requests: float | None, tokens: float | None) -> None:
        self._requests, self._tokens = requests, tokens
        self._free, self._lock = 0.0, threading.Lock()

    def least_seconds(self, requests: int, tokens: int) -> float | None:
        if not (self._requests or self._tokens):
            return None
        return 60 * max(requests / (self._requests or np.inf), tokens / (self._tokens or np.inf))

    def wait(self, tokens: int, stop: threading.Event) -> None:
        with self._lock:
            start = max(time.monotonic(), self._free)
            self._free = start + (self.least_seconds(1, tokens) or 0.0) * _SLACK
        stop.wait(max(0.0, start - time.monotonic()))

    def pause(self, seconds: float) -> None:
        with self._lock:
            self._free = max(self._free, time.monotonic() + seconds)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception()
    if getattr(error, "after", None) is not None:
        return error.after
    return tenacity.wait_random_exponential(multiplier=0.5, max=30)(state)


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _message(response: httpx.Response) -> str:
    """Return what a server says of a failure, on one line."""
    try:
        said = response.json()
        said = said.get("error", said.get("detail", said.get("message", said))) if isinstance(said, dict) else said
        said = said.get("message", said) if isinstance(said, dict) else said
    except ValueError:
        said = response.text
    return " ".join(str(said).split())[:300]


def _read(response: httpx.Response, count: int, tokens: int) -> tuple[np.ndarray, int]:
    """Return the vectors of an answer in the order of its texts, and the tokens that it says were used."""
    answer = response.json()
    if "data" in answer:
        items = {int(item["index"]): item["embedding"] for item in answer["data"]}
        if len(answer["data"]) != count or set(items) != set(range(count)):
            raise ValueError(f"{len(answer['data'])} vectors for {count} texts, or not one for each")
        vectors = [items[i] for i in range(count)]
    else:
        vectors = answer["embeddings"]["float"]
        if len(vectors) != count:
            raise ValueError(f"{len(vectors)} vectors for {count} texts")
    rows = [
        np.frombuffer(base64.b64decode(v, validate=True), dtype="<f4")
        if isinstance(v, str)
        else np.asarray(v, np.float32)
        for v in vectors
    ]
    if len({row.shape for row in rows}) != 1 or rows[0].ndim != 1 or not rows[0].size:
        raise ValueError("vectors of different widths")
    billed = (answer.get("meta") or {}).get("billed_units") or {}
    usage = answer.get("usage") or {}
    used = usage.get("total_tokens") or usage.get("prompt_tokens") or billed.get("input_tokens") or tokens
    return np.stack(rows).astype(np.float32), int(used)


def _dialect(provider: str | ProviderSpec) -> ProviderSpec:
    if isinstance(provider, ProviderSpec):
        return provider
    if provider not in PROVIDERS:
        raise TeacherError(f"there is no provider {provider!r}; there are {', '.join(PROVIDERS)}")
    return PROVIDERS[provider]


def _tokenizer(name: str | None):
    if name is None:
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(models.resolve(name).path, trust_remote_code=False)


def _client(
    provider: ProviderSpec, url: str | None, key: str | None, timeout: float, concurrency: int
) -> tuple[httpx.Client, str | None]:
    """Return a client, and the secret that no message may show."""
    where = (url or provider.url).rstrip("/")
    try:
        parts = urlsplit(where)
        secretive = parts.username or parts.password or parts.query or parts.fragment
        if parts.scheme not in ("http", "https") or not parts.hostname or secretive or parts.port == 0:
            raise ValueError
        httpx.URL(where)
    except (ValueError, httpx.InvalidURL):
        shown = re.sub(r"[?#].*", "", where.rpartition("@")[2])
        raise TeacherError(
            f"url {shown!r}: expected http:// or https://, a host and a path, and no secret in it"
        ) from None
    wanted = key or (provider.key if where == provider.url else None)
    secret = os.environ.get(wanted, "").strip() if wanted else None
    if wanted and not secret:
        raise TeacherError(f"{wanted} is not in the environment: set it to the key of {parts.hostname}")
    if secret and not re.fullmatch(r"[!-~]+", secret):
        raise TeacherError(
            f"{wanted} holds characters that no key has, such as spaces, line ends or letters beyond ASCII"
        )
    if secret and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise TeacherError(f"the key of {wanted} would travel to {parts.hostname} unencrypted: use https")
    client = httpx.Client(
        base_url=where,
        headers={"Authorization": f"Bearer {secret}"} if secret else {},
        timeout=timeout,
        limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
    )
    return client, secret
