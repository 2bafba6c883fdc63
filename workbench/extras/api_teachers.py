"""Teachers behind an HTTP API: OpenAI's protocol, which most servers speak, and those of Cohere, Voyage and Jina."""

from __future__ import annotations

import math
import random
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import httpx
import numpy as np

from workbench import models
from workbench._util import counted, duration, scaled
from workbench.data import Role, Text
from workbench.errors import IncompleteError, TeacherError
from workbench.extras.providers import (
    PROVIDERS,
    Pace,
    ProviderSpec,
    UnorderedError,
    client,
    message,
    read,
    retry_after,
)
from workbench.teachers import Teacher, checked_prompts, checked_targets

_LIMITED = 429  # no failure: the server is there, and says when to come again
_BUSY = {408, 409, 425, 500, 502, 503, 504, 520, 522, 524, 529}  # worth another try
_PROXYS = {407, 502, 503, 504}  # what a proxy answers in the place of a server that it cannot reach
_CONTENT = {400, 413, 422}  # about the texts, or how many there are
_UNREADABLE = (
    TeacherError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_HOPELESS = 20  # texts in a row that a server refuses before the rest is not even sent
_ABOVE_ZERO = (
    "batch_size concurrency requests_per_minute tokens_per_minute timeout attempts dimensions max_tokens budget price"
).split()
_LONGEST_WAIT = 600  # seconds; a server that asks for more is left alone
_PATIENCE = 300  # seconds; a server that answers nothing but that its limit is reached for longer is left alone
_WORTH_SAYING = 5  # seconds; a wait that is longer is explained
_PROBE = "a text to see whether the server answers"


@dataclass(frozen=True)
class Usage:
    """What an API has been asked for so far."""

    requests: int = 0  # sent, those that failed included
    retries: int = 0  # of them, how many were another try
    texts: int = 0  # with a target
    tokens: int = 0  # as the server counts them, or else by the estimate
    truncated: int = 0  # texts that were cut to `max_tokens`
    failed: int = 0  # texts without a target
    cost: float | None = None  # at the given price; None without one

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", {self.cost:,.4g} at the given price"
        cut = f", {self.truncated:,} of the texts cut" if self.truncated else ""
        return (
            f"the API: {counted(self.requests, 'request')}, {self.retries:,} of them again, for "
            f"{counted(self.texts, 'text')}{cut}; {counted(self.tokens, 'token')}{cost}"
        )


@dataclass(frozen=True)
class Estimate:
    """What encoding texts will take."""

    texts: int  # how many
    tokens: int  # counted by the tokenizer, or a quarter of the UTF-8 bytes without one
    counted: bool  # whether they were counted
    cost: float | None  # at the given price; None without one
    seconds: float | None  # the least that the limits allow; None without limits

    def __str__(self) -> str:
        tokens = f"{'' if self.counted else 'about '}{counted(self.tokens, 'token')}"
        cost = "" if self.cost is None else f", {self.cost:,.2f} at the given price"
        least = (
            "" if self.seconds is None else f", at least {duration(self.seconds)} within the limits"
        )
        return f"to ask the API for: {counted(self.texts, 'text')}, {tokens}{cost}{least}"


class ApiTeacher(Teacher):
    """A model behind an HTTP API as the teacher; one instance serves many threads.

    Args:
        model: the server's name for it.
        provider: "openai", "cohere", "voyage" or "jina", or a `ProviderSpec`.
        url: of another server than the provider's own, such as http://localhost:8000/v1; parameters in it, such as
            `?api-version=` of Azure, go with each request.
        key: the environment's variable with the secret. If None, the provider's own, which is sent to the provider's
            own server only.
        dimensions: width of the vectors. If given it is asked for; else a first request finds it out.
        encoding_format: "base64" or "float" (lists of numbers), which is asked for; either is understood. A server that
            refuses to be asked gets the request without it, and is not asked again.
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
        attempts: how often a request is tried. A limit of the server (HTTP 429) is no failure: it is waited for as long as
            the answer says, or else longer each time, until the server has answered nothing else for five minutes.
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
        given = locals()
        for what in _ABOVE_ZERO:
            if given[what] is not None and not 0 < given[what] < math.inf:
                raise TeacherError(f"{what} is {given[what]}: it must be above 0")
        if budget is not None and not price:
            raise TeacherError("a budget needs the price of a million tokens: give `price` too")
        if max_tokens is not None and tokenizer is None:
            raise TeacherError(
                "max_tokens needs a tokenizer that counts them: give `tokenizer` too"
            )
        if encoding_format not in ("base64", "float"):
            raise TeacherError(f"encoding_format {encoding_format!r}: it must be base64 or float")
        if isinstance(provider, str) and provider not in PROVIDERS:
            raise TeacherError(
                f"there is no provider {provider!r}; there are {', '.join(PROVIDERS)}"
            )
        spec = self._provider = PROVIDERS[provider] if isinstance(provider, str) else provider
        self.model, self.prompts = model, checked_prompts(prompts)
        self.batch_size, self.concurrency = min(batch_size, spec.most), concurrency
        self._normalize, self._max_tokens, self._tokenizer = normalize, max_tokens, None
        if tokenizer is not None:
            from transformers import AutoTokenizer

            files = models.resolve(tokenizer)
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(files.path, trust_remote_code=False)
            except (OSError, ValueError, ImportError) as error:
                raise TeacherError(f"tokenizer {tokenizer!r} cannot be loaded: {error}") from None
            models.check_vocabulary(self._tokenizer, files)
            if not self._tokenizer.is_fast:
                raise TeacherError(
                    f"tokenizer {tokenizer!r} does not say where its tokens begin: name a model with tokenizer.json"
                )
        self._price, self._budget, self._attempts = price, budget, attempts
        self._pace = Pace(requests_per_minute, tokens_per_minute)
        self._usage, self._lock, self._reserved, self._refused_in_row = (
            Usage(),
            threading.Lock(),
            0,
            0,
        )
        self._limited_since: float | None = None  # nothing but limits was answered since
        self._client, self._secret, self._proxy = client(spec, url, key, timeout, concurrency)
        self._fields, self._format = (
            {"model": model, **spec.extra},
            spec.formats.get(encoding_format, {}),
        )
        self._format_works = (
            not self._format
        )  # whether the server has answered a request with these fields
        if dimensions:
            self._fields[spec.dimensions] = dimensions
        self.dimension, self._probe = (
            dimensions,
            None,
        )  # what an answer is checked against, and the first one
        if not dimensions:
            self._probe = self.probe()[1]
        super().__init__(
            name or model,
            dimensions or len(self._probe),
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
        return Estimate(
            len(texts), tokens, self._tokenizer is not None, self._cost(tokens), seconds
        )

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
        requests = [
            range(len(texts))[i : i + self.batch_size]
            for i in range(0, len(texts), self.batch_size)
        ]
        try:
            while requests:
                rows = requests.pop(0)
                try:
                    vectors[rows] = self._retried([texts[i] for i in rows], role, stop)
                    self._refused_in_row = 0
                    continue
                except _RefusedError as error:
                    why = str(error)
                except _BusyError as error:
                    why = str(error)
                    self._see_that_it_answers(why, stop)
                if half := len(rows) // 2:
                    requests[:0] = rows[:half], rows[half:]
                    continue
                failed[rows[0]] = why
                with self._lock:
                    self._count(failed=1)
                    self._refused_in_row += 1
                    if self._refused_in_row >= _HOPELESS:
                        raise _OverError(f"{_HOPELESS} texts in a row failed, the last one: {why}")
        except _OverError as error:
            raise IncompleteError(str(error), vectors, failed, final=True) from None
        if failed:
            row, why = next(iter(failed.items()))
            said = f"{len(failed):,} of {len(texts):,} texts got no target, first {texts[row][:60]!r}: {why}"
            raise IncompleteError(said, vectors, failed)
        return vectors

    def _see_that_it_answers(self, why: str, stop: threading.Event) -> None:
        """Tell a server that is down from one that a certain text brings down."""
        try:
            self._retried([_PROBE], Role.DOCUMENT, stop)
        except (_BusyError, _RefusedError):
            raise _OverError(
                f"the server has failed {self._attempts} times in a row: {why}"
            ) from None

    def _retried(self, texts: Sequence[str], role: Role, stop: threading.Event) -> np.ndarray:
        prepared = [self._prepared(text, role) for text in texts]
        try:
            return self._tried(prepared, role, stop, self._format)
        except _RefusedError:
            if self._format_works:
                raise
        vectors = self._tried(
            prepared, role, stop, {}, again=True
        )  # the texts may be fine, and the format refused
        self._format, self._format_works = {}, True
        return vectors

    def _tried(
        self, prepared: list, role: Role, stop: threading.Event, form: Mapping, again: bool = False
    ) -> np.ndarray:
        """Send a request until it is answered: so many attempts, and as many more as the server's limits ask for."""
        attempt = 1
        while True:
            try:
                vectors = self._request(prepared, role, stop, form, again)
                self._format_works = self._format_works or form is self._format
                return vectors
            except _LimitedError as error:
                self._wait_for_limit(error)
            except _BusyError as error:
                if attempt >= self._attempts:
                    raise
                stop.wait(_backoff(attempt) if error.after is None else error.after)
                attempt += 1
            again = True

    def _wait_for_limit(self, error: _LimitedError) -> None:
        """Let all requests wait for as long as the server says, or else as long again as its limit has lasted."""
        with self._lock:
            now = time.monotonic()
            self._limited_since = now if self._limited_since is None else self._limited_since
            lasted = now - self._limited_since
        if lasted > _PATIENCE:
            self._limited_since = None
            raise _OverError(
                f"the server has answered nothing but that its limit is reached for {duration(lasted)} ({error}): ask for "
                "less at a time (requests_per_minute, tokens_per_minute or concurrency, also as options), or go on later"
            )
        # A server whose word does not help is asked less and less often.
        seconds = _growing(lasted) if error.after is None else max(error.after, lasted / 10)
        if self._pace.pause(seconds) and seconds > _WORTH_SAYING:
            asked = "and then trying again" if error.after is None else "as it asks"
            so_far = f", after {duration(lasted)} of waiting" if lasted else ""
            said = f"the server's limit is reached: waiting {duration(seconds)} {asked}{so_far} ({error})"
            warnings.warn(said, stacklevel=5)

    def _request(
        self,
        prepared: list[tuple[str, int, bool]],
        role: Role,
        stop: threading.Event,
        form: Mapping,
        again: bool,
    ):
        provider = self._provider
        body = {
            **self._fields,
            **form,
            provider.texts: [text for text, _, _ in prepared],
            **provider.roles.get(role, {}),
        }
        tokens = sum(count for _, count, _ in prepared)
        self._pace.wait(tokens, stop)
        if stop.is_set():
            self._limited_since = None
            raise _OverError("stopped")
        self._reserve(tokens, again)
        used = made = cut = 0
        try:
            response = self._client.post(provider.path, json=body)
            if response.status_code != _LIMITED:
                self._limited_since = None
            self._raise_for(response)
            used = tokens
            returned, used = read(response, len(prepared), tokens)
            vectors = checked_targets(returned, len(prepared), self.dimension)
            if self._normalize:
                vectors = scaled(vectors)
            if not np.isfinite(vectors).all() or (
                self._normalize and not vectors.any(axis=1).all()
            ):
                raise _BusyError("vectors that are NaN, infinite, or zero and without direction")
            made, cut = len(prepared), sum(was_cut for _, _, was_cut in prepared)
            return vectors
        except httpx.RequestError as error:
            raise _BusyError(
                f"{type(error).__name__} {self._safe(str(error))}".rstrip() + self._proxy
            ) from None
        except UnorderedError as error:
            raise _OverError(str(error)) from None
        except _UNREADABLE as error:
            raise _BusyError(
                f"an answer that cannot be read ({self._safe(str(error))[:200]})"
            ) from None
        finally:
            with self._lock:
                self._reserved -= tokens
                self._count(tokens=used, texts=made, truncated=cut)

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
        self._usage = replace(
            self._usage, **{name: getattr(self._usage, name) + n for name, n in more.items()}
        )

    def _raise_for(self, response: httpx.Response) -> None:
        code = response.status_code
        if code < 300:
            return
        said = f"HTTP {code} {self._safe(message(response))}".rstrip() + (
            self._proxy if code in _PROXYS else ""
        )
        if code in _CONTENT:
            raise _RefusedError(said)
        if code == _LIMITED and "insufficient_quota" in response.text:
            raise _OverError(f"the account's quota is used up ({said})")
        if code != _LIMITED and code not in _BUSY:
            hint = ": the key in the environment is not the right one" if code in (401, 403) else ""
            raise _OverError(said + hint)
        if (after := retry_after(response) or 0.0) > _LONGEST_WAIT:
            raise _OverError(f"the server asks to be left alone for {after:.0f} s ({said})")
        if code == _LIMITED:
            raise _LimitedError(said, after or None)
        self._pace.pause(after)
        raise _BusyError(said, after or None)

    def _prepared(self, text: str, role: Role) -> tuple[str, int, bool]:
        """Return what is sent for a text, how many tokens that is, and whether it was cut."""
        whole, limit = self.prompts[role] + text, self._max_tokens
        if self._tokenizer is None:
            return whole, -(-len(whole.encode()) // 4), False
        cutting = {
            "truncation": limit is not None,
            "max_length": limit,
            "return_overflowing_tokens": True,
        }
        encoded = self._tokenizer(whole, return_offsets_mapping=True, verbose=False, **cutting)
        cut = len(encoded["input_ids"]) > 1
        end = max(end for _, end in encoded["offset_mapping"][0]) if cut else None
        return whole[:end], len(encoded["input_ids"][0]), cut

    def probe(self, *, stop: threading.Event | None = None) -> tuple[Text, np.ndarray]:
        """Return a text and the vector that the server gives it now; what finding the width has asked for serves once.

        Raises:
            TeacherError: the server does not answer or refuses.
        """
        try:
            vector, self._probe = self._probe, None
            if vector is None:
                vector = self._retried([_PROBE], Role.DOCUMENT, stop or threading.Event())[0]
            return Text(_PROBE, Role.DOCUMENT), vector
        except (_BusyError, _RefusedError, _OverError) as error:
            where = self._client.base_url
            raise TeacherError(
                f"model {self.model!r} at {where} could not be asked: {error}"
            ) from None

    def _safe(self, message: str) -> str:
        return message.replace(self._secret, "***") if self._secret else message


class _BusyError(Exception):
    """Worth another try, after so many seconds if the server says so."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class _LimitedError(_BusyError):
    """The server's limit is reached: the same request will be answered later."""


class _RefusedError(Exception):
    """About the texts: another try will not help, fewer of them might."""


class _OverError(Exception):
    """Nothing more is to be sent."""


def _backoff(attempt: int) -> float:
    """Return the seconds before another try: random, so that many clients do not come back together."""
    return random.uniform(0, min(30.0, 0.5 * 2**attempt))


def _growing(lasted: float) -> float:
    """Return the seconds to wait for a limit that has lasted so long and names no end."""
    return random.uniform(1, 1.2) * min(30.0, max(1.0, lasted))
