"""Black-box teachers against real servers on this machine, well behaved and otherwise."""

import base64
import gzip
import json
import threading
import time
from collections import Counter
from email.utils import formatdate
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from embedding_server import Server

from tests.conftest import HashTeacher, lines, sentences
from workbench import evaluate, pipeline, quantize, student
from workbench._util import PROJECT
from workbench.cache import TargetCache
from workbench.cli.main import main
from workbench.data import RetrievalDataset, Role, Text
from workbench.errors import CacheError, IncompleteError, TeacherError
from workbench.extras import api_teachers, providers
from workbench.extras.api_teachers import PROVIDERS, ApiTeacher
from workbench.teachers import ArrayTeacher, FunctionTeacher, LocalTeacher

KNOWS = HashTeacher(16)
SECRET = "sk-this-is-secret-0123456789"
GROWING = api_teachers._growing


def vectors_of(texts):
    return np.stack([KNOWS.vector(text, "document") for text in texts])


class Unruly(Server):
    """Answers well unless `fault(number, body, texts)` names something else to do, or how to change the answer."""

    def __init__(self, fault=lambda *_: None):
        self.fault, self.bodies, self.headers, self.times = fault, [], [], []
        self.texts, self.now, self.most_at_once, self._count = Counter(), 0, 0, threading.Lock()
        self.probed = False  # the first probe is answered well and is no request that tests count
        super().__init__(vectors_of, "m")

    def answer(self, request, body, texts):
        if texts == [api_teachers._PROBE] and not self.probed:
            self.probed = True
            self.texts.update(texts)
            return self.send(request, 200, self.payload(body, texts))
        with self._count:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
            self.times.append(time.monotonic())
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
        try:
            self._answer(request, body, texts, self.fault(number, body, texts))
        finally:
            with self._count:
                self.now -= 1

    def _answer(self, request, body, texts, fault):
        if isinstance(fault, tuple):
            code, headers = fault
            said = request.headers.get("Authorization", "no key")
            return self.send(request, code, {"error": {"message": f"no: {said}"}}, **headers)
        if fault == "drop":
            request.close_connection = True
            return request.connection.close()
        if fault == "slow":
            time.sleep(1.5)
        said = self.payload(body, texts)
        data = said["data"]
        if fault == "count":
            data.pop()
        elif fault == "order":
            data.reverse()
        elif fault == "twice":
            data[-1] = data[0]
        elif fault == "nan":
            data[0]["embedding"] = [float("nan")] * 16
        elif fault == "width":
            data[0]["embedding"] = [0.5] * 8
        elif fault == "all wide":
            for item in data:
                item["embedding"] = [0.5] * 24
        elif fault == "zeros":
            data[0]["embedding"] = [0.0] * 16
        elif fault == "garbage":
            said = "<html>"
        elif callable(fault):
            said = fault(said)
        if fault in ("gzip", "bad gzip"):
            content = gzip.compress(json.dumps(said).encode())
            content = content if fault == "gzip" else content[:20] + b"?" * 20
            request.send_response(200)
            request.send_header("Content-Encoding", "gzip")
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            return request.wfile.write(content)
        self.texts.update(texts)
        return self.send(request, 200, said)


@pytest.fixture
def served():
    """Make servers and teachers of them; close all in the end."""
    made = []

    def make(fault=lambda *_: None, **options):
        made.append(Unruly(fault))
        return ApiTeacher(
            "m", url=made[-1].url, **({"dimensions": 16, "attempts": 4} | options)
        ), made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let waits between attempts be short."""
    monkeypatch.setattr(api_teachers, "_backoff", lambda attempt: 0.01)
    monkeypatch.setattr(api_teachers, "_growing", lambda lasted: 0.01)


@pytest.mark.parametrize("encoding_format", ["base64", "float"])
def test_vectors_arrive(served, encoding_format):
    teacher, server = served(encoding_format=encoding_format, dimensions=None)
    assert teacher.dimension == 16
    texts = [f"text {i} ü 日" for i in range(150)]
    np.testing.assert_allclose(teacher.encode(texts, Role.QUERY), vectors_of(texts), atol=1e-6)
    assert [len(body["input"]) for body in server.bodies] == [64, 64, 22]
    assert {body["encoding_format"] for body in server.bodies} == {encoding_format}
    assert teacher.usage.texts == 151 and teacher.usage.retries == 0 and teacher.usage.failed == 0


@pytest.mark.parametrize(
    "fault",
    ["drop", "count", "order", "twice", "nan", "width", "zeros", "all wide", "garbage", "gzip", "bad gzip",
     (500, {}), (503, {}), (429, {}), (408, {}), (529, {})],
)  # fmt: skip
def test_a_passing_fault_costs_another_try_and_nothing_else(served, tmp_path, fault):
    teacher, _ = served(lambda number, *_: fault if number in (1, 4) else None)
    cache, texts = TargetCache(tmp_path, teacher), sentences(400)
    done = cache.fill(texts)
    assert done.encoded == 400
    np.testing.assert_allclose(
        cache.targets(texts)[:], vectors_of([t.text for t in texts]), atol=2e-3
    )
    harmless = fault in ("order", "gzip")
    assert teacher.usage.retries == (0 if harmless else 2) and teacher.usage.failed == 0
    assert cache.fill(texts).encoded == 0


def _without_index(said, but=()):
    for item in said["data"]:
        if item["index"] not in but:
            del item["index"]
    return said


@pytest.mark.parametrize("encoding_format", ["base64", "float"])
@pytest.mark.parametrize(
    "change",
    [
        lambda said: _without_index(said, but=(1, 2)),  # protobuf leaves out zeros
        lambda said: {"data": _without_index(said, but=(1, 2))["data"][::-1]},
        _without_index,
        lambda said: said["data"],
        lambda said: [item["embedding"] for item in said["data"]],
        lambda said: {"embeddings": [item["embedding"] for item in said["data"]], "model": "m"},
        lambda said: {
            "data": [item | {"index": str(item["index"]), "text": None} for item in said["data"]][
                ::-1
            ]
        },
        lambda said: said | {"usage": None, "meta": [], "data": said["data"][::-1], "error": None},
        lambda said: said | {"usage": {"total_tokens": "many"}},
    ],
)
def test_answers_of_other_shapes_are_read(served, change, encoding_format):
    teacher, server = served(lambda *_: change, encoding_format=encoding_format)
    np.testing.assert_allclose(
        teacher.encode(["a", "b", "c"]), vectors_of(["a", "b", "c"]), atol=1e-6
    )
    assert len(server.bodies) == 1 and teacher.usage.tokens == 3


@pytest.mark.parametrize(
    "indices", [[None, None, 2], [None, 0, 1], [0, None, 2, 3], [1, 2, 3], [0, 1, 1], [0, 0.5, 2], [0, "b", 2], [0, [], 2]]
)  # fmt: skip
def test_indices_that_do_not_add_up_are_refused(indices):
    data = [{"embedding": [1.0], "index": index} for index in indices]
    if indices == [0, None, 2, 3]:
        data[1].pop("index")
    with pytest.raises((ValueError, TypeError)):
        providers.read(httpx.Response(200, json={"data": data}), len(data), 0)


def test_an_answer_whose_index_is_always_zero_costs_one_request(served):
    teacher, server = served(
        lambda *_: lambda said: {"data": [item | {"index": 0} for item in said["data"]]}
    )
    with pytest.raises(
        IncompleteError, match=r"all 16 vectors of an answer have the index 0.*batch_size=1"
    ):
        teacher.encode([f"t{i}" for i in range(16)])
    assert len(server.bodies) == 1
    teacher, _ = served(server.fault, batch_size=1)
    assert teacher.encode(["a", "b"]).shape == (2, 16)


@pytest.mark.parametrize("code", [400, 422])
def test_a_server_that_refuses_the_format_is_asked_without_it(served, code):
    def refuse(_, body, texts):
        return (code, {}) if "encoding_format" in body or "poison" in texts else None

    teacher, server = served(refuse, batch_size=2)
    np.testing.assert_allclose(
        teacher.encode(["a", "b", "c"]), vectors_of(["a", "b", "c"]), atol=1e-6
    )
    assert ["encoding_format" in body for body in server.bodies] == [True, False, False]
    with pytest.raises(IncompleteError, match="1 of 1 texts"):
        teacher.encode(["poison"])
    assert len(server.bodies) == 4 and "encoding_format" not in server.bodies[3]


def test_a_timeout_is_a_passing_fault(served):
    teacher, _ = served(lambda number, *_: "slow" if number == 0 else None, timeout=0.5)
    assert teacher.encode(["a"], Role.QUERY).shape == (1, 16) and teacher.usage.retries == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_respected(served, form):
    asked = (
        {"Retry_After": "1"}
        if form == "seconds"
        else {"Retry_After": formatdate(time.time() + 2, usegmt=True)}
    )
    teacher, server = served(lambda number, *_: (429, asked) if number == 0 else None)
    teacher.encode(["a"], Role.QUERY)
    assert server.times[1] - server.times[0] >= 0.95


class Clock(threading.Event):
    """A stop event whose waits pass at once, and the time that they would have taken."""

    now = 0.0

    def wait(self, seconds):
        self.now += seconds

    def __init__(self, monkeypatch):
        super().__init__()
        for module in (api_teachers, providers):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(api_teachers, "_growing", GROWING)


@pytest.mark.parametrize(
    "headers", [{}, {"Retry_After": "0"}, {"Retry_After": "soon"}, {"Retry_After": "20s"}]
)
def test_a_limit_of_a_minute_is_waited_for(served, monkeypatch, headers):
    clock = Clock(monkeypatch)
    teacher, server = served(lambda *_: (429, headers) if clock.now < 60 else None, batch_size=1)
    with pytest.warns(
        UserWarning, match=r"the server's limit is reached: waiting \d+ s .*HTTP 429"
    ):
        np.testing.assert_allclose(
            teacher.encode(["a", "b"], stop=clock), vectors_of(["a", "b"]), atol=1e-6
        )
    assert 60 <= clock.now < 100 and len(server.bodies) < 12 and teacher.usage.failed == 0


def test_a_limit_that_never_ends_is_said(served, monkeypatch):
    clock = Clock(monkeypatch)
    teacher, server = served(lambda *_: (429, {}))
    for _ in range(2):  # and again, from a new beginning
        before = clock.now
        with (
            pytest.warns(UserWarning),
            pytest.raises(IncompleteError, match="limit is reached for .*requests_per_minute"),
        ):
            teacher.encode(["a"], stop=clock)
        assert 300 <= clock.now - before < 340
    assert len(server.bodies) < 40


def test_failures_count_beside_limits(served, monkeypatch):
    clock = Clock(monkeypatch)
    teacher, server = served(
        lambda number, *_: (429, {"Retry_After": "2"}) if number % 2 else (500, {}), attempts=3
    )
    with pytest.raises(IncompleteError, match="1 of 1 texts got no target, first 'a': HTTP 500"):
        teacher.encode(["a"], stop=clock)
    assert len(server.bodies) == 5, "three failures, and two limits between them"


@pytest.mark.parametrize(
    "headers, text, seconds",
    [
        ({}, "", None),
        ({"Retry-After": "0"}, "", None),
        ({"Retry-After": "-3"}, "", None),
        ({"Retry-After": "nan"}, "", None),
        ({"Retry-After": formatdate(0, usegmt=True)}, "", None),
        ({"Retry-After": "7"}, "", 7),
        ({"Retry-After": "5s"}, "", 5),
        ({"Retry-After": "1m30s"}, "", 90),
        ({"Retry-After": "26 seconds"}, "", 26),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, "", 1.5),
        ({"x-ratelimit-reset-requests": "40s"}, "", 40),
        ({"x-ratelimit-reset-requests": "1m30.5s"}, "", 90.5),
        ({"x-ratelimit-reset-requests": "6ms", "x-ratelimit-reset-tokens": "40s"}, "", 40),
        ({"x-ratelimit-reset-requests": "2h", "x-ratelimit-remaining-requests": "99",
          "x-ratelimit-reset-tokens": "7s", "x-ratelimit-remaining-tokens": "0"}, "", 7),
        ({"Retry-After": "0", "ratelimit-reset": "12"}, "", 12),
        ({"x-ratelimit-reset": str(time.time() + 1000)}, "", 1000),
        ({"x-ratelimit-reset": str(int(time.time() + 1000) * 1000)}, "", 1000),
        ({}, '{"error": {"details": [{"@type": "RetryInfo", "retryDelay": "34.5s"}]}}', 34.5),
        ({}, '[{"error": {"details": [{"retryDelay": "2s"}]}}]', 2),
        ({}, "Rate limit reached. Please try again in 1m12s. Visit us.", 72),
        ({}, "Please retry after 26 seconds.", 26),
        ({}, "Please try again in a while, after 5 requests", None),
    ],
)  # fmt: skip
def test_how_long_a_server_asks_to_wait(headers, text, seconds):
    found = providers.retry_after(httpx.Response(429, headers=headers, text=text))
    assert found == (
        None if seconds is None else pytest.approx(seconds, abs=600 if seconds == 1000 else 1e-6)
    )


def test_a_text_that_the_server_refuses_costs_only_itself(served, tmp_path):
    refuse = lambda _, body, texts: (400, {}) if any("poison" in text for text in texts) else None  # noqa: E731
    teacher, server = served(refuse)
    texts = [*sentences(200), Text("poison", "query"), Text("more poison", "document")]
    cache = TargetCache(tmp_path, teacher, skip=0.005)
    with pytest.raises(
        TeacherError,
        match=r"2 of 202 texts got no target, first '(more )?poison': HTTP 400.*skip=0.01 .--skip",
    ):
        cache.fill(texts)
    assert [t.text for t in cache.missing(texts)] == ["poison", "more poison"]
    assert max(server.texts.values()) == 1  # none was paid for twice
    with pytest.raises(TeacherError, match="2 of 202 texts"):
        cache.fill(texts)
    del server.texts[api_teachers._PROBE]
    assert max(server.texts.values()) == 1
    with pytest.raises(IncompleteError) as caught:
        teacher.encode(["good", "poison"], Role.QUERY)
    assert np.isfinite(caught.value.vectors[0]).all() and np.isnan(caught.value.vectors[1]).all()
    assert list(caught.value.failed) == [1] and not caught.value.final


def test_few_texts_without_a_target_stop_nothing(served, tmp_path, tiny_model, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    teacher, server = served(
        lambda _, body, texts: (400, {}) if "" in texts or "poison" in texts else None
    )
    server.handle = lambda request: (
        server.answer(  # the example's own server refuses empty texts before it is asked
            request,
            body := json.loads(request.rfile.read(int(request.headers["Content-Length"]))),
            body["input"],
        )
    )
    documents = {f"d{i}": f"{text.text} d" for i, text in enumerate(sentences(30))} | {"empty": ""}
    dataset = RetrievalDataset(
        "few", documents, {"q": documents["d3"]}, {"q": {"d3": 1, "empty": 1}}
    )
    cache = TargetCache(tmp_path, teacher, skip=0.05)
    with pytest.warns(UserWarning, match=r"1 of 32 texts got no target, first '': HTTP 400"):
        queries, found = evaluate.vectors(cache, dataset)
    assert not found[30].any() and found[:30].any(axis=1).all()
    np.testing.assert_allclose(found[4], vectors_of([documents["d4"]])[0], atol=1e-3)
    with pytest.warns(UserWarning, match="got no target"):
        table = evaluate.compare({"teacher": cache, "other": (queries, found)}, dataset)
    assert table["recall_at_100"].tolist() == [0.5] * 3, (
        "31 documents are fewer than 100, and one is never found"
    )
    assert (
        "teacher has no vector of 1 of the documents: such a document is never found, and such"
        in table.attrs["notes"][0]
    )
    swept = quantize.sweep(dataset, {"teacher": (queries, found)}, [quantize.IndexSpec()])
    assert swept["recall_at_100"].tolist() == [0.5]
    nothing = evaluate.score(dataset, 0 * queries, found)
    assert nothing["ndcg_at_10"].tolist() == [0.0]
    with pytest.raises(TeacherError, match="1 of 32 texts got no target"):
        TargetCache(tmp_path, teacher, skip=0).fill(
            dataset.query_texts() + dataset.document_texts()
        )
    texts = [*sentences(40), Text("poison", "document")]
    with pytest.warns(UserWarning, match="got no target"):
        table = evaluate.compare({"teacher": cache, "small": str(tiny_model)}, texts)
        changed = pipeline.find_recipe("tour").change(base=str(tiny_model), max_length=16)
        made = pipeline.run(texts, cache, changed, train=False, progress=False)
    assert (
        table.attrs["texts"] == 40
        and "1 of the texts: they are left out" in table.attrs["notes"][-1]
    )
    assert sum(made.provenance["texts_by_role"].values()) == 40
    for share in (-0.1, 1.1, "1", float("nan")):
        with pytest.raises(CacheError, match="from 0 to 1"):
            TargetCache(tmp_path, teacher, skip=share)


@pytest.mark.parametrize("fault", ["drop", "nan", (500, {})])
def test_a_text_that_breaks_the_server_costs_only_itself(served, fault):
    teacher, _ = served(lambda _, body, texts: fault if "poison" in texts else None, attempts=2)
    with pytest.raises(
        IncompleteError, match="1 of 9 texts got no target, first 'poison'"
    ) as caught:
        teacher.encode([*"abcdefgh", "poison"], Role.QUERY)
    assert list(caught.value.failed) == [8] and np.isfinite(caught.value.vectors[:8]).all()


def test_too_large_a_batch_is_split(served):
    teacher, server = served(lambda _, body, texts: (413, {}) if len(texts) > 10 else None)
    assert np.isfinite(teacher.encode([f"t{i}" for i in range(64)], Role.QUERY)).all()
    assert sum(server.texts.values()) == 64


@pytest.mark.parametrize(
    "code, words", [(401, "key in the environment"), (403, "key in the environment"), (404, "404"), (402, "402"), (302, "302")]
)  # fmt: skip
def test_what_no_retry_can_help_ends_it_at_once(served, tmp_path, code, words):
    teacher, server = served(lambda number, *_: (code, {}) if number >= 2 else None, concurrency=1)
    cache = TargetCache(tmp_path, teacher)
    with pytest.raises(TeacherError, match=f"{words}.*is stored, and the same call goes on"):
        cache.fill(sentences(300))
    assert len(server.bodies) == 3 and len(cache) == sum(server.texts.values()) > 0
    with pytest.raises(TeacherError, match=f"could not be asked: HTTP {code}"):
        ApiTeacher("m", url=server.url)


def test_a_server_that_is_down_ends_it(served, tmp_path):
    teacher, server = served(lambda number, *_: (500, {}) if number >= 4 else None, attempts=2)
    cache = TargetCache(tmp_path, teacher)
    with pytest.raises(TeacherError, match="failed 2 times in a row: HTTP 500"):
        cache.fill(sentences(2000))
    assert len(server.bodies) < 4 + 4 * 4 + 1  # two attempts and two probes of each thread
    assert len(cache) == sum(server.texts.values()) > 0
    server.close()
    with pytest.raises(TeacherError, match="could not be asked: ConnectError"):
        ApiTeacher("m", url=server.url, attempts=2)


def test_a_server_that_refuses_everything_is_left_alone(served, tmp_path):
    teacher, server = served(lambda *_: (400, {}))
    with pytest.raises(TeacherError, match="20 texts in a row"):
        TargetCache(tmp_path, teacher).fill(sentences(2000))
    assert len(server.bodies) < 400


def test_quota_and_long_waits_end_it(served):
    teacher, _ = served(lambda *_: (429, {"Retry_After": "7200"}))
    with pytest.raises(IncompleteError, match="left alone for 7200 s"):
        teacher.encode(["a"], Role.QUERY)


def test_stopping_ends_every_wait(served, tmp_path):
    stop = threading.Event()
    teacher, server = served(
        lambda number, *_: (429, {"Retry_After": "300"}) if number >= 3 else None
    )
    threading.Timer(1.0, stop.set).start()
    started = time.monotonic()
    done = TargetCache(tmp_path, teacher).fill(sentences(2000), stop=stop)
    assert (
        time.monotonic() - started < 60 and 0 < done.encoded == sum(server.texts.values()) - 1
    )  # the probe


def test_a_stopped_fill_can_be_taken_up_again(served, tmp_path):
    stop, (teacher, server) = threading.Event(), served()
    stop.set()
    cache, texts = TargetCache(tmp_path, teacher), sentences(300)
    assert (
        cache.fill(texts, stop=stop).encoded == 0 and not server.bodies
    )  # nor a sample for the plan
    assert cache.fill(texts).encoded == 300


def test_another_model_behind_the_name_is_noticed(served, tmp_path):
    teacher, server = served()
    texts = sentences(300)
    cache = TargetCache(tmp_path, teacher)
    cache.fill(texts[:100])
    exchanged = HashTeacher(16)
    server.encode = lambda texts: np.stack([exchanged.vector(text, "query") for text in texts])
    again = ApiTeacher("m", url=server.url, dimensions=16)
    cache = TargetCache(tmp_path, again)
    before = len(server.bodies), len(cache)
    for given in (texts, iter(texts)):
        with pytest.raises(
            CacheError,
            match=r"another model answers to the name 'm'.*cosine .*give the teacher another name",
        ):
            cache.fill(given)
    assert (len(server.bodies), len(cache)) == (before[0] + 2, before[1]), (
        "nothing but the two probes was sent"
    )
    assert cache.fill(texts[:100]).encoded == 0, "what is cached needs no server"
    fresh = ApiTeacher("m", url=server.url, dimensions=16, name="m of today")
    assert TargetCache(tmp_path, fresh).fill(texts).encoded == 300


def test_requests_run_at_once_within_the_limits(served, tmp_path):
    teacher, server = served(lambda *_: time.sleep(0.05), concurrency=6, batch_size=8)
    TargetCache(tmp_path, teacher).fill(sentences(400))
    assert 2 < server.most_at_once <= 6
    teacher, server = served(concurrency=6, batch_size=8, requests_per_minute=600)
    teacher_texts = [f"t{i}" for i in range(80)]
    TargetCache(tmp_path / "b", teacher).fill([Text(text, "query") for text in teacher_texts])
    gaps = np.diff(sorted(server.times))
    assert (
        len(server.times) == 10
        and server.times[-1] - server.times[0] >= 0.85
        and np.median(gaps) > 0.05
    )
    teacher, server = served(batch_size=8, tokens_per_minute=6000)
    assert teacher.estimate([Text("x" * 40, "query")] * 80).seconds == pytest.approx(8)


def test_a_budget_stops_it_before_it_is_exceeded(served, tmp_path):
    texts = [Text(f"{i:04} " + "word " * 20, "document") for i in range(400)]
    teacher, server = served(price=10.0, budget=0.05, batch_size=16, concurrency=3)
    estimate = teacher.estimate(texts)
    assert (
        estimate.texts == 400
        and estimate.cost == pytest.approx(estimate.tokens * 1e-5)
        and not estimate.counted
    )
    cache = TargetCache(tmp_path, teacher)
    with pytest.raises(TeacherError, match="budget of 0.05 would be exceeded"):
        cache.fill(texts)
    usage = teacher.usage
    probe = len(api_teachers._PROBE.split())
    assert (
        0.02 < usage.cost <= 0.05 and usage.tokens == (usage.texts - 1) * 21 + probe
    )  # as the server counts
    assert 0 < len(cache) == usage.texts < 400
    other = ApiTeacher("m", url=server.url, dimensions=16, batch_size=16)
    assert other.identity == teacher.identity
    assert TargetCache(tmp_path, other).fill(texts).encoded == 401 - usage.texts
    assert [text for text, count in server.texts.items() if count > 1] == [api_teachers._PROBE]


def test_long_texts_are_cut_by_the_tokenizer_and_counted(served, tiny_model):
    teacher, server = served(tokenizer=str(tiny_model), max_tokens=12, prompts={"query": "bread "})
    long = " ".join(["river"] * 40)
    teacher.encode(["short water", long], Role.QUERY)
    sent = server.bodies[-1]["input"]
    assert sent == [
        "bread short water",
        "bread " + " ".join(["river"] * 9),
    ]  # and two marks of the tokenizer's
    assert teacher.usage.truncated == 1
    assert (
        teacher.estimate([Text(long, "query")]).tokens == 12
        and teacher.estimate([Text("river", "query")]).counted
    )


def test_no_secret_is_ever_shown(served, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    teacher, server = served(lambda number, *_: (401, {}) if number > 1 else None, key="MY_KEY")
    cache = TargetCache(tmp_path, teacher)
    cache.fill(sentences(3))
    with pytest.raises(IncompleteError) as caught:
        teacher.encode(["x"], Role.QUERY)
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    seen = [
        str(caught.value),
        repr(caught.value),
        repr(teacher),
        repr(teacher._client),
        json.dumps(teacher.identity),
    ]
    seen += [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(SECRET in each for each in seen) and "***" in str(caught.value)
    teacher, server = served()  # the key of OpenAI's own server is for OpenAI's own server
    teacher.encode(["x"], Role.QUERY)
    assert "Authorization" not in server.headers[0]
    for odd in (f"{SECRET}\n{SECRET}", f"{SECRET}é", f"{SECRET} {SECRET}"):
        monkeypatch.setenv("ODD_KEY", odd)
        with pytest.raises(
            TeacherError, match="ODD_KEY holds characters that no key has"
        ) as caught:
            ApiTeacher("m", url=server.url, key="ODD_KEY", dimensions=16)
        assert SECRET not in str(caught.value)
    with pytest.raises(TeacherError, match="unencrypted"):
        ApiTeacher("m", url="http://example.org/v1", key="MY_KEY", dimensions=3)


def test_an_address_may_have_parameters(monkeypatch):
    """Azure's addresses name a version, and its keys have a header of their own."""
    monkeypatch.setenv("MY_KEY", SECRET)
    seen = []

    class Azure(Server):
        def handle(self, request):
            seen.append(
                (request.path, request.headers["api-key"], request.headers["Authorization"])
            )
            body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
            self.send(request, 200, self.payload(body, body["input"]))

    with Azure(vectors_of, "m") as server:
        root = server.url.removesuffix("/v1")
        for path in (
            "/openai/deployments/d",
            "/openai/deployments/d/",
            "/openai/deployments/d/embeddings",
        ):
            teacher = ApiTeacher(
                "m", url=f"{root}{path}?api-version=2024-10-21", key="MY_KEY", dimensions=16
            )
            assert teacher.encode(["a"]).shape == (1, 16)
    assert seen == [("/openai/deployments/d/embeddings?api-version=2024-10-21", SECRET, None)] * 3


@pytest.mark.parametrize(
    "environment, words",
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, r"ALL_PROXY is socks5://127.0.0.1:9, which needs .* add 127.0.0.1 to NO_PROXY"),
        ({"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "localhost,127.0.0.1"}, None),
        ({"ALL_PROXY": "socks5://127.0.0.1:9", "HTTP_PROXY": "http://[::1", "no_proxy": "*"}, None),
        ({"no_proxy": "[::1"}, None),
        ({"no_proxy": "http://[x, ://,,", "HTTPS_PROXY": "nonsense"}, None),
        ({"http_proxy": "nonsense://x"}, "http_proxy is 'nonsense://x': expected http://HOST:PORT; correct it, unset it"),
        ({"HTTP_PROXY": "http://me:pw@127.0.0.1:x"}, "HTTP_PROXY is 'http://127.0.0.1:x': expected"),
        ({"SSL_CERT_FILE": "/nowhere/at.all"}, "SSL_CERT_FILE is '/nowhere/at.all'.*correct it or unset it"),
        ({"HTTP_PROXY": "me:pw@127.0.0.1:9"}, "refused, through the proxy http://127.0.0.1:9 of HTTP_PROXY: unset it, or add"),
    ],
)  # fmt: skip
def test_proxies_and_certificates_of_the_environment(served, monkeypatch, environment, words):
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "ssl_cert_file",
        "ssl_cert_dir",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if words is None:
        assert served(dimensions=None)[0].encode(["a"]).shape == (1, 16)
        return
    with pytest.raises(TeacherError, match=words) as caught:
        served(dimensions=None, attempts=1)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_providers(provider, monkeypatch):
    """Each provider's request, as its documentation has it, and its answer."""
    monkeypatch.setenv(PROVIDERS[provider].key, SECRET)
    seen = []

    class Provider(Server):
        def handle(self, request):
            body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
            seen.append((request.path, request.headers["Authorization"], body))
            found = vectors_of(body.get("texts") or body["input"])
            if provider == "cohere":
                said = {
                    "embeddings": {"float": found.tolist()},
                    "meta": {"billed_units": {"input_tokens": 5}},
                }
            else:
                given = [base64.b64encode(v.astype("<f4").tobytes()).decode() for v in found]
                said = {
                    "data": [{"index": i, "embedding": v} for i, v in enumerate(given)],
                    "usage": {"total_tokens": 5},
                }
            self.send(request, 200, said)

    with Provider(vectors_of, "m") as server:
        teacher = ApiTeacher(
            "m", provider=provider, url=server.url, key=PROVIDERS[provider].key, dimensions=16
        )
        np.testing.assert_allclose(
            teacher.encode(["a", "b"], Role.QUERY), vectors_of(["a", "b"]), atol=1e-6
        )
        teacher.encode(["c"], Role.DOCUMENT)
    (path, key, query), (_, _, document) = seen
    assert (
        key == f"Bearer {SECRET}"
        and path == "/v1" + PROVIDERS[provider].path
        and teacher.usage.tokens == 10
    )
    differ = {
        name: (query[name], document[name])
        for name in query
        if name not in ("input", "texts") and query[name] != document[name]
    }
    assert differ == {
        "openai": {},
        "cohere": {"input_type": ("search_query", "search_document")},
        "voyage": {"input_type": ("query", "document")},
        "jina": {"task": ("retrieval.query", "retrieval.passage")},
    }[provider]  # fmt: skip


@pytest.mark.parametrize(
    "options, words",
    [
        ({"provider": "openal"}, "there are openai, cohere"),
        ({}, "OPENAI_API_KEY is not in the environment"),
        ({"provider": "cohere"}, "CO_API_KEY is not in the environment"),
        ({"url": "localhost:80"}, "expected http"),
        ({"url": "https://user:pw@host/v1"}, "no secret in it"),
        ({"url": "https://:pw@host/v1"}, "no secret in it"),
        ({"url": "https://host/v1?api_key=pw"}, "no secret in it .*--key"),
        ({"url": "https://host/v1?api-version=1&code=pw"}, "no secret in it .*--key"),
        ({"url": "http://[::1/v1"}, "expected http"),
        ({"url": "http://host:80x/v1"}, "expected http"),
        ({"url": "http://localhost", "price": float("nan"), "budget": 1}, "price is nan"),
        ({"url": "http://localhost", "price": -5}, "price is -5"),
        ({"url": "http://localhost", "batch_size": 0}, "batch_size is 0"),
        ({"url": "http://localhost", "dimensions": -1}, "dimensions is -1"),
        ({"url": "http://localhost", "encoding_format": "int8"}, "must be base64 or float"),
        ({"url": "http://localhost", "budget": 3}, "needs the price"),
        ({"url": "http://localhost", "max_tokens": 3}, "needs a tokenizer"),
        (
            {"url": "http://localhost", "prompts": {"quary": "x"}},
            "the roles are query and document",
        ),
    ],
)
def test_settings_that_make_no_sense(options, words, monkeypatch):
    for provider in PROVIDERS.values():
        monkeypatch.delenv(provider.key, raising=False)
    with pytest.raises(TeacherError, match=words) as caught:
        ApiTeacher("m", **options)
    assert "pw" not in str(caught.value)


def test_a_function_is_a_teacher(tmp_path):
    teacher = FunctionTeacher(
        lambda texts, role: 3 * vectors_of(texts), "mine", 16, prompts={"query": "q: "}
    )
    cache, texts = TargetCache(tmp_path, teacher), sentences(20)
    cache.fill(texts)
    wanted = vectors_of([("q: " if t.role is Role.QUERY else "") + t.text for t in texts])
    np.testing.assert_allclose(cache.targets(texts)[:], wanted, atol=1e-3)
    with pytest.raises(TeacherError, match="needs a name"):
        FunctionTeacher(lambda *_: 0, " ", 16)
    zeros = FunctionTeacher(lambda texts, _: np.zeros((len(texts), 16)), "zeros", 16)
    with pytest.raises(TeacherError, match="all zeros"):
        TargetCache(tmp_path, zeros).fill(texts)


def test_arrays_are_a_teacher(tmp_path):
    texts = sentences(20)
    np.save(tmp_path / "vectors.npy", 3 * vectors_of([t.text for t in texts]))
    teacher = ArrayTeacher(texts, np.load(tmp_path / "vectors.npy", mmap_mode="r"), "given")
    cache = TargetCache(tmp_path / "cache", teacher)
    assert teacher.texts == texts and cache.fill(texts).encoded == 20
    np.testing.assert_allclose(
        cache.targets(texts)[:], vectors_of([t.text for t in texts]), atol=1e-3
    )
    with pytest.raises(
        TeacherError, match="of .* got no target, first 'unknown': the array has no vector"
    ):
        cache.fill([*texts, Text("unknown", "query")])
    rows = [
        {"text": t.text, "emb": vectors_of([t.text])[0].tolist(), "role": t.role.value}
        for t in texts
    ]
    again = ArrayTeacher.from_rows(rows, "given", vector="emb", role="role")
    np.testing.assert_allclose(
        again.encode([texts[1].text], texts[1].role), vectors_of([texts[1].text]), atol=1e-6
    )
    named = [
        {"query": row["text"], "emb": row["emb"]} for row in rows
    ]  # a column that is called like a role
    assert {
        t.role
        for t in ArrayTeacher.from_rows(
            named, "given", text="query", vector="emb", role="query"
        ).texts
    } == {"query"}
    with pytest.raises(TeacherError, match="no field 'vector'; it has text, emb, role"):
        ArrayTeacher.from_rows(rows, "given")
    with pytest.raises(TeacherError, match="row 1 is 3 wide, most rows are 16"):
        ArrayTeacher.from_rows(
            [rows[0], rows[1] | {"emb": [1, 2, 3]}], "given", vector="emb", role="role"
        )
    for null in (None, float("nan"), []):
        for odd in (0, 1):
            some = [row | ({"emb": null} if i == odd else {}) for i, row in enumerate(rows[:4])]
            with_null = ArrayTeacher.from_rows(some, "given", vector="emb", role="role")
            with pytest.raises(
                TeacherError, match=f"of .* got no target, first {texts[odd].text[:40]!r}"[:-1]
            ):
                TargetCache(tmp_path / "cache", with_null).fill(texts[:4])
            cache = TargetCache(tmp_path / "cache", with_null, skip=0.25)
            with pytest.warns(UserWarning, match="1 of 4 texts got no target"):
                assert cache.fill(texts[:4]).failed == 1
            assert cache.missing(texts[:4]) == [texts[odd]]
    with pytest.raises(TeacherError, match="rows 0 and 1 are of the same query and differ"):
        ArrayTeacher([Text("a", "query")] * 2, np.eye(2), "given")
    for odd in (np.eye(3), np.empty((20, 0)), np.ones((20, 3), dtype=complex), np.ones(20)):
        with pytest.raises(TeacherError, match="one row of real numbers for each"):
            ArrayTeacher(texts, odd, "given")
    with pytest.raises(TeacherError, match="row 1: a document is of type NoneType"):
        ArrayTeacher.from_rows(
            [rows[0], rows[1] | {"text": None, "role": "document"}], "given", vector="emb"
        )
    vectors = np.ones((20, 4))
    vectors[3], vectors[7, 2] = 0, np.nan
    teacher = ArrayTeacher(texts, vectors, "flawed")
    cache = TargetCache(tmp_path / "cache", teacher)
    with pytest.raises(TeacherError, match="2 of .* got no target.*is zero, NaN or infinite"):
        cache.fill(texts)
    assert len(cache) == 18


def test_the_student_of_an_api_is_the_models_own(
    tiny_model, other_tiny_model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    local = LocalTeacher(str(tiny_model), max_length=32, precision="float32")
    lines(tmp_path / "texts.jsonl", [{"text": t.text, "role": t.role.value} for t in sentences(80)])
    command = [
        "distill",
        "--texts",
        str(tmp_path / "texts.jsonl"),
        "--base",
        str(other_tiny_model),
        "--epochs",
        "1",
    ]
    command += [
        "--max-length",
        "32",
        "--recipe",
        str(PROJECT / "recipes" / "redact-ir-fast.toml"),
        "--batch-size",
        "8",
        "--precision",
        "float32",
    ]

    class Counting(Server):
        asked = 0

        def answer(self, *request):
            self.asked += 1
            super().answer(*request)

    with Counting(lambda texts: local.encode(texts, Role.DOCUMENT), "tiny") as server:
        through = [
            "--teacher",
            "openai:tiny",
            "--url",
            server.url,
            "--price",
            "2",
            "--tokenizer",
            str(tiny_model),
        ]
        assert (
            main([*command, *through, "--output", str(tmp_path / "through"), "--budget", "0.001"])
            == 1
        )
        said = capsys.readouterr().err
        assert (
            "80 texts" in said and "0.00 at the given price" in said and "budget of 0.001" in said
        )
        assert main([*command, *through, "--output", str(tmp_path / "through")]) == 0
        assert "the API: " in capsys.readouterr().err
        asked = server.asked
        assert main([*command, *through, "--output", str(tmp_path / "plan"), "--dry-run"]) == 0
        assert (
            "to ask the API for: 0 texts" in capsys.readouterr().out and server.asked <= asked + 1
        )
        assert (
            main(
                [
                    "evaluate",
                    "--student",
                    str(tmp_path / "through"),
                    "--base",
                    str(other_tiny_model),
                    *through,
                ]
            )
            == 0
        )
        monkeypatch.setenv("WORLD_SIZE", "2")
        alone = [*command, *through, "--output", str(tmp_path / "two"), "--name", "another"]
        assert main(alone) == 1
        assert "run workbench cache with these texts first" in capsys.readouterr().err
        monkeypatch.delenv("WORLD_SIZE")
    # The recipe's prompts are of another teacher, so that both commands have the same.
    assert main([*command, "--teacher", str(tiny_model), "--output", str(tmp_path / "direct")]) == 0
    texts = [t.text for t in sentences(20, seed=1)]
    one, other = (
        student.load(tmp_path / name, device="cpu").encode(texts) for name in ("through", "direct")
    )
    assert (one * other).sum(axis=1).min() > 0.9999
    assert main(["cache", "--teacher", str(tiny_model), "--price", "3"]) == 1
    assert "--price is for a teacher behind an API" in capsys.readouterr().err
