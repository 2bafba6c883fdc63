"""Whatever a server answers, nothing but a WorkbenchError leaves a teacher, and no text gets another text's vector."""

import base64
import json
import math
import random
import threading
import warnings

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from workbench.errors import IncompleteError, WorkbenchError
from workbench.extras import api_teachers, providers
from workbench.extras.api_teachers import ApiTeacher

TEXTS = ["a", "b", "c", "d", "e"]
fuzzed = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=200,
    suppress_health_check=list(HealthCheck),
)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400)
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(
            st.sampled_from(
                "data embedding embeddings float index usage meta error message".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Read the certificates once, and let no wait be long; the first limit ends a request."""
    patched, context = pytest.MonkeyPatch(), httpx.create_ssl_context()
    patched.setattr(httpx, "create_ssl_context", lambda *_, **__: context)
    patched.setattr(api_teachers, "_backoff", lambda attempt: 0.0)
    patched.setattr(api_teachers, "_growing", lambda lasted: 0.0)
    patched.setattr(api_teachers, "_PATIENCE", -1)
    yield
    patched.undo()


class Stop(threading.Event):
    """A stop event whose waits are over at once."""

    def wait(self, seconds):
        assert 0 <= seconds < math.inf


def vector(text):
    return (
        np.eye(len(TEXTS), dtype=np.float32)[TEXTS.index(text)]
        if text in TEXTS
        else np.ones(len(TEXTS), np.float32)
    )


def asked(answer, **options):
    """Return what a teacher gives for TEXTS, NaN where it gives nothing, whose server's `answer(texts)` is a response."""
    handler = httpx.MockTransport(lambda request: answer(json.loads(request.content)["input"]))
    made = ApiTeacher(
        "m", url="http://localhost/v1", **{"dimensions": len(TEXTS), "attempts": 2} | options
    )
    made._client = httpx.Client(base_url="http://localhost/v1", transport=handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return made.encode(TEXTS, stop=Stop())
    except IncompleteError as error:
        return error.vectors


def none_is_anothers(found):
    for text, row in zip(TEXTS, found, strict=True):
        assert np.isnan(row).all() or np.allclose(row, vector(text), atol=1e-6), text


@given(st.data())
@fuzzed
def test_answers_that_are_nearly_right(data):
    """Items in any order, some without an index of 0 or any, in either format, some damaged, and fields beside them."""
    draw = data.draw

    def answer(texts):
        packed, damaged = draw(st.booleans()), draw(st.integers(0, 3)) == 0
        given = [
            base64.b64encode(vector(text).astype("<f4").tobytes()).decode()
            if packed
            else vector(text).tolist()
            for text in texts
        ]
        items = [
            {"object": "embedding", "index": i, "embedding": each} for i, each in enumerate(given)
        ]
        leave_out = draw(st.sampled_from(["none", "zero", "all", "null"]))
        for item in items:
            if leave_out == "all" or (leave_out == "zero" and item["index"] == 0):
                del item["index"]
            elif leave_out == "null" and item["index"] == 0:
                item["index"] = None
        if leave_out != "all":
            items = draw(st.permutations(items))
        if damaged:  # what it says of whose a vector is stays true, or cannot be read
            item = items[draw(st.integers(0, len(items) - 1))]
            how = draw(st.sampled_from(["cut", "drop", "vector", "index", "same"]))
            if how == "drop":
                items.remove(item)
            elif how == "same":
                items = [each | {"index": 0} for each in items]
            elif how == "index" and len(items) > 1:
                item["index"] = draw(
                    st.integers(len(items))
                    | st.floats(1.1, 1.9)
                    | st.text(alphabet="xyz")
                    | st.lists(st.none())
                )
            elif how == "vector":
                item["embedding"] = draw(
                    st.none()
                    | st.text()
                    | st.lists(st.just(math.nan), max_size=5)
                    | st.just([10**400] * 5)
                )
            else:
                item["embedding"] = item["embedding"][:-1]
        said = {
            "data": items,
            "usage": draw(anything),
            "meta": draw(anything),
            "model": draw(scalars),
        }
        return httpx.Response(
            200, content=json.dumps(items if draw(st.integers(0, 4)) == 0 else said)
        )

    none_is_anothers(asked(answer))


@given(
    anything | st.fixed_dictionaries({"data": st.lists(anything, min_size=5, max_size=5)}),
    st.sampled_from([None, 1, 5]),
)
@fuzzed
def test_answers_of_any_shape(said, dimensions):
    content = json.dumps(said)
    try:
        found = asked(
            lambda texts: httpx.Response(200, content=content), dimensions=dimensions or 5
        )
    except WorkbenchError:
        return
    assert found.shape == (5, dimensions or 5) and found.dtype == np.float32


@given(st.binary(max_size=200), st.just(200) | st.integers(200, 599))
@example(b"[" * 100_000, 200)
@example(b"[" * 100_000, 500)
@example(b'{"data":' * 50_000, 200)
@example(b"1" * 5000, 200)
@fuzzed
def test_answers_of_any_bytes_and_status(content, code):
    kind = random.Random(len(content)).choice(
        ["application/json", "text/html; charset=utf-16", "x; charset=nothing"]
    )
    found = asked(
        lambda texts: httpx.Response(code, content=content, headers={"content-type": kind})
    )
    assert np.isnan(found).all()


durations = st.lists(
    st.tuples(st.floats(0, 1e6, allow_nan=False).map(lambda n: f"{n:.3f}") | st.integers(0, 10**30).map(str),
              st.sampled_from(["", "s", "ms", "m", "h", "d", " seconds", " min", "x", " "])).map("".join),
    max_size=4,
).map("".join)  # fmt: skip
headers = st.dictionaries(
    st.sampled_from("retry-after retry-after-ms x-ratelimit-reset-requests x-ratelimit-reset x-ratelimit-remaining".split()),
    durations | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40) | st.just("1" * 4000)
    | st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT")),
)  # fmt: skip


@given(
    headers,
    durations.map(
        lambda d: f'{{"error": {{"retryDelay": "{d}", "message": "try again in {d}. Bye"}}}}'
    )
    | st.text(),
)
@fuzzed
def test_rate_limits_of_any_form(headers, text):
    response = httpx.Response(429, headers=headers, content=text.encode("utf-8", "replace"))
    seconds = providers.retry_after(response)
    assert seconds is None or 0 < seconds < math.inf
    assert np.isnan(asked(lambda texts: response)).all()


@given(st.text(max_size=60))
@fuzzed
def test_addresses_of_any_form(address):
    for url in (
        address,
        f"http://{address}",
        f"https://host/{address}",
        f"http://host/v1?{address}",
    ):
        try:
            ApiTeacher("m", url=url or "x", dimensions=3)
        except WorkbenchError:
            continue
