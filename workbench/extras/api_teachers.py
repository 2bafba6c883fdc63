"""Teachers behind an HTTP API: OpenAI's protocol, which most servers speak, and those of Cohere, Voyage and Jina."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import httpx
import numpy as np

from workbench import models
from workbench._util import duration
from workbench.data import Role, Text
from workbench.errors import IncompleteError, TeacherError
from workbench.extras.providers import PROVIDERS, ProviderSpec, client, message, read, retry_after
from workbench.teachers import Teacher, checked_prompts

_BUSY = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}  # worth another try
_CONTENT = {400, 413, 422}  # about the texts, or how many there are
_HOPELESS = 20  # texts in a row that a server refuses before the rest is not even sent
_SLACK = 1.01  # at exactly the limit, a request that comes a little early is one too many
_LONGEST_WAIT = 600  # seconds; a server that asks for more is left alone
_PROBE = "a text to see whether the server answers"


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
        encoding_format: "base64" or "float" (lists of numbers), which is asked for; either is understood.
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
        encoding_format: str = "base64",
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
        numbers = dict(
            batch_size=batch_size,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            timeout=timeout,
            attempts=attempts,
            dimensions=dimensions,
            max_tokens=max_tokens,
            budget=budget,
            price=price,
        )
        for what, value in numbers.items():
            if value is not None and not 0 < value < math.inf:
                raise TeacherError(f"{what} is {value}: it must be above 0")
        if budget is not None and not price:
            raise TeacherError("a budget needs the price of a million tokens: give `price` too")
        if max_tokens is not None and tokenizer is None:
            raise TeacherError("max_tokens needs a tokenizer that counts them: give `tokenizer` too")
        if encoding_format not in ("base64", "float"):
            raise TeacherError(f"encoding_format {encoding_format!r}: it must be base64 or float")
        if isinstance(provider, str) and provider not in PROVIDERS:
            raise TeacherError(f"there is no provider {provider!r}; there are {', '.join(PROVIDERS)}")
        spec = self._provider = PROVIDERS[provider] if isinstance(provider, str) else provider
        self.model, self.prompts = model, checked_prompts(prompts)
        self.batch_size, self.concurrency = min(batch_size, spec.most), concurrency
        self._normalize, self._max_tokens, self._tokenizer = normalize, max_tokens, _tokenizer(tokenizer)
        self._price, self._budget, self._attempts = price, budget, attempts
        self._pace = _Pace(requests_per_minute, tokens_per_minute)
        self._usage, self._lock, self._reserved, self._refused_in_row = Usage(), threading.Lock(), 0, 0
        self._client, self._secret = client(spec, url, key, timeout, concurrency)
        self._fields = {"model": model, **spec.extra, **spec.formats.get(encoding_format, {})}
        if dimensions:
            self._fields[spec.dimensions] = dimensions
        self.dimension, self._probe = dimensions, None  # what an answer is checked against, and the first one
        super().__init__(
            name or model,
            dimensions or len(self.probe()[1]),
            normalize=normalize,
            prompts=prompts,
            server=None if name else str(self._client.base_url),
            roles={role.value: dict(spec.roles.get(role, {})) for role in Role},
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
        for attempt in range(1, self._attempts + 1):
            try:
                return self._request(prepared, role, stop, again=attempt > 1)
            except _BusyError as error:
                if not stop.is_set() and attempt < self._attempts:
                    stop.wait(_backoff(attempt) if error.after is None else error.after)
                if stop.is_set():
                    raise _OverError("stopped") from None
                if attempt == self._attempts:
                    raise
        raise AssertionError("attempts is at least 1")

    def _request(
        self, prepared: list[tuple[str, int, bool]], role: Role, stop: threading.Event, again: bool
    ) -> np.ndarray:
        provider = self._provider
        body = {**self._fields, provider.texts: [text for text, _, _ in prepared], **provider.roles.get(role, {})}
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
                vectors, used = read(response, len(prepared), tokens)
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
        said = f"HTTP {code} {self._safe(message(response))}".rstrip()
        if code in _CONTENT:
            raise _RefusedError(said)
        if code == 429 and "insufficient_quota" in response.text:
            raise _OverError(f"the account's quota is used up ({said})")
        if code not in _BUSY:
            hint = ": the key in the environment is not the right one" if code in (401, 403) else ""
            raise _OverError(said + hint)
        if (after := retry_after(response)) is not None:
            if after > _LONGEST_WAIT:
                raise _OverError(f"the server asks to be left alone for {after:.0f} s ({said})")
            self._pace.pause(after)
        raise _BusyError(said, after)

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


def _backoff(attempt: int) -> float:
    """Return the seconds before another try: random, so that many clients do not come back together."""
    return random.uniform(0, min(30.0, 0.5 * 2**attempt))


def _tokenizer(name: str | None):
    if name is None:
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(models.resolve(name).path, trust_remote_code=False)
