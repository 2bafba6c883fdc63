"""How the embeddings endpoints of API providers are asked, and how their answers are read."""

from __future__ import annotations

import base64
import os
import re
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
    roles: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # role to the fields that state it
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
    "openai": ProviderSpec("https://api.openai.com/v1", "OPENAI_API_KEY", formats=_formats("encoding_format")),
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


def client(
    provider: ProviderSpec, url: str | None, key: str | None, timeout: float, concurrency: int
) -> tuple[httpx.Client, str | None]:
    """Return a client, and the secret that no message may show."""
    httpx = need("httpx", "api")
    where = (url or provider.url).rstrip("/")
    try:
        parts = httpx.URL(where)
        secretive = parts.userinfo or parts.query or parts.fragment
        if parts.scheme not in ("http", "https") or not parts.host or secretive or parts.port == 0:
            raise ValueError
    except (ValueError, httpx.InvalidURL):
        shown = re.sub(r"[?#].*", "", where.rpartition("@")[2])
        said = f"url {shown!r}: expected http:// or https://, a host and a path, and no secret in it"
        raise TeacherError(said) from None
    wanted = key or (provider.key if where == provider.url else None)
    secret = os.environ.get(wanted, "").strip() if wanted else None
    if wanted and not secret:
        raise TeacherError(f"{wanted} is not in the environment: set it to the key of {parts.host}")
    if secret and not re.fullmatch(r"[!-~]+", secret):
        raise TeacherError(f"{wanted} holds characters that no key has, such as spaces or letters beyond ASCII")
    if secret and parts.scheme == "http" and parts.host not in ("localhost", "127.0.0.1", "::1"):
        raise TeacherError(f"the key of {wanted} would travel to {parts.host} unencrypted: use https")
    return httpx.Client(
        base_url=where,
        headers={"Authorization": f"Bearer {secret}"} if secret else {},
        timeout=timeout,
        limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
    ), secret


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(TypeError, ValueError):
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    return None


def message(response: httpx.Response) -> str:
    """Return what a server says of a failure, on one line."""
    try:
        said = response.json()
        said = said.get("error", said.get("detail", said.get("message", said))) if isinstance(said, dict) else said
        said = said.get("message", said) if isinstance(said, dict) else said
    except ValueError:
        said = response.text
    return " ".join(str(said).split())[:300]


def read(response: httpx.Response, count: int, tokens: int) -> tuple[list[object], int]:
    """Return the vectors of an answer in the order of its texts, and the tokens that it says were used."""
    answer = response.json()
    if "data" in answer:
        items = sorted((int(item["index"]), item["embedding"]) for item in answer["data"])
    else:
        items = list(enumerate(answer["embeddings"]["float"]))
    if [index for index, _ in items] != list(range(count)):
        raise ValueError(f"{len(items)} vectors for {count} texts, or not one for each")
    vectors = [np.frombuffer(base64.b64decode(v, validate=True), "<f4") if isinstance(v, str) else v for _, v in items]
    billed = (answer.get("meta") or {}).get("billed_units") or {}
    usage = answer.get("usage") or {}
    used = usage.get("total_tokens") or usage.get("prompt_tokens") or billed.get("input_tokens") or tokens
    return vectors, int(used)
