"""Whatever a server answers, a teacher raises nothing but WorkbenchError and mixes no vectors up."""

import json
import math
import threading
import warnings

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from workbench.errors import IncompleteError
from workbench.extras import api_teachers
from workbench.extras.api_teachers import ApiTeacher

TEXTS = ["a", "b", "c", "d", "e"]
fuzzed = settings(
    derandomize=True, deadline=None, database=None, max_examples=60,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
scalars = st.none() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400)
FIELDS = "data embedding embeddings float index usage meta error message".split()
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def teacher():
    """Return a teacher whose first rate limit ends a request."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api_teachers, "_PATIENCE", 0)
        yield ApiTeacher("m", url="http://localhost/v1", dimensions=len(TEXTS), attempts=2)


class Stop(threading.Event):
    """A stop event whose waits are over at once."""

    def wait(self, seconds):
        assert 0 <= seconds < math.inf


def vector(text):
    """Return a unit vector of a text's own, the same ones for the probe."""
    if text in TEXTS:
        return np.eye(len(TEXTS), dtype=np.float32)[TEXTS.index(text)]
    return np.ones(len(TEXTS), np.float32)


def encoded(teacher, answer):
    """Return the vectors of TEXTS, NaN where there are none, of a server's `answer(texts)`."""
    handler = httpx.MockTransport(lambda request: answer(json.loads(request.content)["input"]))
    teacher._client = httpx.Client(base_url="http://localhost/v1", transport=handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return teacher.encode(TEXTS, stop=Stop())
    except IncompleteError as error:
        return error.vectors


@given(data=st.data())
@fuzzed
def test_answers_that_are_nearly_right(teacher, data):
    """Items in any order, with or without an index, some of them damaged."""
    draw = data.draw

    def answer(texts):
        items = [{"index": i, "embedding": vector(text).tolist()} for i, text in enumerate(texts)]
        has_index = draw(st.booleans())
        if has_index:
            items = draw(st.permutations(items))
        else:
            items = [{"embedding": item["embedding"]} for item in items]
        damage = draw(st.sampled_from(["", "", "cut", "drop", "vector", "index", "same"]))
        item = items[draw(st.integers(0, len(items) - 1))]
        if damage == "drop":
            items.remove(item)
        elif damage == "same":
            items = [item | {"index": 0} for item in items]
        elif damage == "index" and len(items) > 1 and has_index:
            item["index"] = draw(st.integers(len(items)) | st.floats(1.1, 1.9) | st.text("xyz"))
        elif damage == "vector":
            item["embedding"] = draw(st.none() | st.text() | st.just([10**400] * 5))
        elif damage == "cut":
            item["embedding"] = item["embedding"][:-1]
        return httpx.Response(200, json={"data": items, "usage": None, "model": draw(st.text())})

    for text, row in zip(TEXTS, encoded(teacher, answer), strict=True):
        assert np.isnan(row).all() or np.allclose(row, vector(text), atol=1e-6), text


@given(anything)
@fuzzed
def test_answers_of_any_shape(teacher, answer):
    vectors = encoded(teacher, lambda texts: httpx.Response(200, content=json.dumps(answer)))
    assert vectors.shape == (5, 5) and vectors.dtype == np.float32


@given(
    st.binary(max_size=200), st.just(200) | st.integers(200, 599), st.text("0123.ens -", max_size=8)
)
@example(b"[" * 100_000, 200, "")
@example(b"", 429, "1" * 4000)
@fuzzed
def test_answers_of_any_bytes_status_and_wait(teacher, content, code, after):
    headers = {"content-type": "text/html; charset=utf-16", "retry-after": after}
    vectors = encoded(teacher, lambda texts: httpx.Response(code, content=content, headers=headers))
    assert np.isnan(vectors).all()
