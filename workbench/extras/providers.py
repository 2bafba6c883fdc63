"""How the embeddings endpoints of API providers are asked, and how their answers are read."""

from __future__ import annotations

import base64
import math
import os
import re
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import numpy as np

from workbench._util import need
from workbench.errors import TeacherError

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class ProviderSpec:
    """How a provider's embeddings endpoint wants its requests."""

    url: str  # base address, in front of `path`
    key: str  # the environment variable that holds the secret
    path: str = "/embeddings"  # of the endpoint
    texts: str = "input"  # the field with the texts
    roles: Mapping[str, Mapping[str, object]] = field(
        default_factory=dict
    )  # role to the fields that state it
    dimensions: str = "dimensions"  # the field with the width
    extra: Mapping[str, object] = field(default_factory=dict)  # fields of every request
    # "base64" (of little-endian float32) and "float" (lists of numbers) to the fields that ask for them.
    formats: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    most: int = 2048  # texts in a request at most


def _roles(name: str, query: str, document: str) -> dict[str, dict[str, str]]:
    return {"query": {name: query}, "document": {name: document}}


def _formats(name: str) -> dict[str, dict[str, str]]:
    return {"base64": {name: "base64"}, "float": {name: "float"}}


PROVIDERS = {
    # Spoken by OpenAI, vLLM, TEI, Ollama, LM Studio, llama.cpp and others.
    "openai": ProviderSpec(
        "https://api.openai.com/v1", "OPENAI_API_KEY", formats=_formats("encoding_format")
    ),
    "cohere": ProviderSpec(
        "https://api.cohere.com/v2",
        "CO_API_KEY",
        path="/embed",
        texts="texts",
        roles=_roles("input_type", "search_query", "search_document"),
        dimensions="output_dimension",
        extra={"truncate": "END", "embedding_types": ["float"]},
        most=96,
    ),
    "voyage": ProviderSpec(
        "https://api.voyageai.com/v1",
        "VOYAGE_API_KEY",
        roles=_roles("input_type", "query", "document"),
        dimensions="output_dimension",
        extra={"truncation": True},
        formats={"base64": {"encoding_format": "base64"}},
        most=1000,
    ),
    "jina": ProviderSpec(
        "https://api.jina.ai/v1",
        "JINA_API_KEY",
        roles=_roles("task", "retrieval.query", "retrieval.passage"),
        extra={"truncate": True},
        formats=_formats("embedding_type"),
    ),
}


_SECRETIVE = re.compile(
    "key|token|secret|sig|pass|pwd|auth|code|credential", re.I
)  # names of parameters
_UNITS = {
    "ms": 0.001,
    "millisecond": 0.001,
    "": 1,
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
}
_UNITS |= {"h": 3600, "hour": 3600, "d": 86400, "day": 86400}
_SLACK = 1.01  # at exactly the limit, a request that comes a little early is one too many


class UnorderedError(ValueError):
    """An answer that does not say which vector is whose; every answer of this server will be like it."""


class Pace:
    """Spreads requests so that no minute has more than the limits."""

    def __init__(self, requests: float | None, tokens: float | None) -> None:
        self._requests, self._tokens = requests, tokens
        self._free, self._lock = 0.0, threading.Lock()

    def least_seconds(self, requests: int, tokens: int) -> float | None:
        """Return the time that the limits ask for; None without limits."""
        if not (self._requests or self._tokens):
            return None
        return 60 * max(requests / (self._requests or np.inf), tokens / (self._tokens or np.inf))

    def wait(self, tokens: int, stop: threading.Event) -> None:
        """Wait until a request of so many tokens may be sent."""
        with self._lock:
            start = max(time.monotonic(), self._free)
            self._free = start + (self.least_seconds(1, tokens) or 0.0) * _SLACK
        stop.wait(max(0.0, start - time.monotonic()))

    def pause(self, seconds: float) -> bool:
        """Let nothing be sent for so long; say whether that is much longer than before."""
        with self._lock:
            before, self._free = self._free, max(self._free, time.monotonic() + seconds)
            return self._free > before + 1


def client(
    provider: ProviderSpec, url: str | None, key: str | None, timeout: float, concurrency: int
) -> tuple[httpx.Client, str | None, str]:
    """Return a client, the secret that no message may show, and what a lost connection says of a proxy ("" if none)."""
    httpx = need("httpx", "api")
    where = (url or provider.url).rstrip("/")
    try:
        parts = httpx.URL(where)
        secretive = parts.userinfo or parts.fragment or any(map(_SECRETIVE.search, parts.params))
        if parts.scheme not in ("http", "https") or not parts.host or secretive or parts.port == 0:
            raise ValueError
    except (ValueError, httpx.InvalidURL):
        shown = re.sub(r"[?#].*", "", where.rpartition("@")[2])
        said = (
            f"url {shown!r}: expected http:// or https://, a host and a path, and no secret in it"
        )
        raise TeacherError(
            f"{said} (name the environment variable that holds it: `key`, --key)"
        ) from None
    wanted = key or (provider.key if where == provider.url else None)
    secret = os.environ.get(wanted, "").strip() if wanted else None
    if wanted and not secret:
        raise TeacherError(f"{wanted} is not in the environment: set it to the key of {parts.host}")
    if secret and not re.fullmatch(r"[!-~]+", secret):
        raise TeacherError(
            f"{wanted} holds characters that no key has, such as spaces or letters beyond ASCII"
        )
    if secret and parts.scheme == "http" and parts.host not in ("localhost", "127.0.0.1", "::1"):
        raise TeacherError(
            f"the key of {wanted} would travel to {parts.host} unencrypted: use https"
        )
    try:
        trusted = httpx.create_ssl_context()
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)] or [
            "SSL_CERT_FILE"
        ]
        said = f"{names[0]} is {os.environ.get(names[0], '')!r}, where no certificates can be read"
        raise TeacherError(f"{said} ({error.strerror or error}): correct it or unset it") from None
    name, address = _proxy(parts.scheme, parts.host, parts.port)
    shown = re.sub("//[^/]*@", "//", address or "")
    instead = f"unset it, or add {parts.host} to NO_PROXY"
    # Azure's addresses name a version, and its keys have a header of their own.
    header = (
        {"api-key": secret}
        if "api-version" in parts.params
        else {"Authorization": f"Bearer {secret}"}
    )
    try:
        made = httpx.Client(
            base_url=str(parts.copy_with(query=None)).rstrip("/").removesuffix(provider.path),
            params=parts.params,
            headers=header if secret else {},
            timeout=timeout,
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            proxy=address,
            verify=trusted,
            trust_env=False,  # it would read every proxy's variable, also those that are not for this server
        )
    except ImportError:
        needs = "which needs the package socksio (pip install 'httpx[socks]')"
        raise TeacherError(f"{name} is {shown}, {needs}: install it, {instead}") from None
    except (ValueError, httpx.InvalidURL):
        raise TeacherError(
            f"{name} is {shown!r}: expected http://HOST:PORT; correct it, {instead}"
        ) from None
    return made, secret, f", through the proxy {shown} of {name}: {instead}" if address else ""


def _proxy(scheme: str, host: str, port: int | None) -> tuple[str, str | None]:
    """Return the proxy for a server, and the environment variable that names it; None without one."""
    known = urllib.request.getproxies()
    asked = f"[{host}]" if ":" in host else host
    address = known.get(scheme) or known.get("all")
    if (
        not address
        or urllib.request.proxy_bypass(host)
        or urllib.request.proxy_bypass(f"{asked}:{port}")
    ):
        return "", None
    kind = f"{scheme if known.get(scheme) else 'all'}_proxy"
    name = next(
        (name for name in (kind, kind.upper()) if os.environ.get(name)),
        "the system's proxy setting",
    )
    return name, address if "://" in address else f"http://{address}"


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that a server asks to wait, in a header or in its words; None if it names none above 0."""
    headers, text = response.headers, response.text[:10_000]
    found = [
        _seconds(headers.get("retry-after-ms", "") + "ms"),
        _seconds(headers.get("retry-after", "")),
    ]
    with suppress(TypeError, ValueError, OverflowError):  # a date (RFC 9110, 10.2.3)
        at = parsedate_to_datetime(headers.get("retry-after", ""))
        found.append((at - datetime.now(UTC)).total_seconds())
    found += map(_seconds, re.findall(r'"retryDelay"\s*:\s*"([^"]*)"', text))
    found += map(
        _seconds, re.findall(r"(?:again|retry) (?:in|after) ((?:\d[\d.]*\s?[a-z]*)+)", text)
    )
    return next((seconds for seconds in found if seconds and seconds > 0), None) or _reset(headers)


def _reset(headers: httpx.Headers) -> float | None:
    """Return the seconds until the limits are reset that are used up, or all of them if none is said to be."""
    found, used_up = [], []
    for name, value in headers.items():
        if "ratelimit" in name and "reset" in name and (seconds := _seconds(value)):
            seconds = seconds / 1000 if seconds > 1e11 else seconds  # a time in milliseconds
            seconds -= datetime.now(UTC).timestamp() if seconds > 1e9 else 0
            found.append(seconds)
            used_up += [seconds] if headers.get(name.replace("reset", "remaining")) == "0" else []
    return max([each for each in used_up or found if each > 0], default=None)


def _seconds(said: str) -> float | None:
    """Return the seconds of a duration: 40, 40s, 1m30s, 250ms, 26 seconds; None for anything else."""
    said, part = said.strip().lower().rstrip("."), r"(\d+(?:\.\d+)?)\s*([a-z]*)"
    parts = [
        (float(number), unit if unit in _UNITS else unit.removesuffix("s"))
        for number, unit in re.findall(part, said)
    ]
    if re.sub(part, "", said).strip() or not parts or any(unit not in _UNITS for _, unit in parts):
        return None
    seconds = sum(number * _UNITS[unit] for number, unit in parts)
    return (
        seconds
        if math.isfinite(seconds) and (len(parts) == 1 or all(unit for _, unit in parts))
        else None
    )


def message(response: httpx.Response) -> str:
    """Return what a server says of a failure, on one line."""
    try:
        said = response.json()
        said = said[0] if isinstance(said, list) and said else said
        said = (
            said.get("error", said.get("detail", said.get("message", said)))
            if isinstance(said, dict)
            else said
        )
        said = said.get("message", said) if isinstance(said, dict) else said
        said = str(said)
    except (ValueError, RecursionError):
        said = response.text
    return " ".join(said.split())[:300]


def read(response: httpx.Response, count: int, tokens: int) -> tuple[list[object], int]:
    """Return the vectors of an answer in the order of its texts, and the tokens that it says were used.

    Raises:
        UnorderedError: all vectors have the index 0.
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError: it is no answer for so many texts.
    """
    answer = response.json()
    answer = {"data": answer} if isinstance(answer, list) else answer
    items = answer["data"] if "data" in answer else answer["embeddings"]
    items = items["float"] if isinstance(items, dict) else items
    if len(items) != count:
        raise ValueError(f"{len(items)} vectors for {count} texts")
    given = [item["embedding"] if isinstance(item, dict) else item for item in items]
    places = _places([item.get("index") if isinstance(item, dict) else None for item in items])
    vectors = [
        np.frombuffer(base64.b64decode(v, validate=True), "<f4") if isinstance(v, str) else v
        for v in given
    ]
    return [vectors[row] for row in np.argsort(places)], _tokens(answer, tokens)


def _places(indices: list[object]) -> list[int]:
    """Return the row of each vector. Some servers leave out an index of 0, as protobuf does, and some every one."""
    count, absent = len(indices), indices.count(None)
    if absent == count:
        return list(range(count))
    places = [
        0 if index is None else int(index) for index in indices
    ]  # two without one are 0 twice
    if count > 1 and not absent and not any(places):
        raise UnorderedError(
            f"all {count} vectors of an answer have the index 0, which does not say whose they are: correct the server, or "
            "ask it for one text at a time (batch_size=1)"
        )
    if sorted(places) != list(range(count)) or any(float(index or 0) % 1 for index in indices):
        raise ValueError(
            f"{count} vectors whose index is {str(indices)[:60]}, not each of 0 to {count - 1} once"
        )
    return places


def _tokens(answer: dict, tokens: int) -> int:
    """Return the tokens that an answer says were used, or else those that were counted here."""
    meta, usage = answer.get("meta"), answer.get("usage")
    billed = meta.get("billed_units") if isinstance(meta, dict) else None
    said = (
        [usage.get("total_tokens"), usage.get("prompt_tokens")] if isinstance(usage, dict) else []
    )
    said += [billed.get("input_tokens")] if isinstance(billed, dict) else []
    return next(
        (int(each) for each in said if isinstance(each, int | float) and 0 < each < math.inf),
        tokens,
    )
