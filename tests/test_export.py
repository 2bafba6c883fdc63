"""A folder that searches by itself."""

import importlib.util
import json
import re
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
import venv

import numpy as np
import pytest
from conftest import HashTeacher, sentences

import workbench as wb
from workbench import data, models, pipeline, ranking, student
from workbench._util import PROJECT
from workbench.errors import DataError, ModelError, WorkbenchError
from workbench.teachers import LocalTeacher

PROMPTS = {"query": "find: ", "document": "read: "}


@pytest.fixture
def pair(tmp_path, monkeypatch, tiny_model, other_tiny_model):
    """Teacher, student and texts, some of them longer than the models read."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    teacher = LocalTeacher(
        other_tiny_model, max_length=40, prompts=PROMPTS, precision="float32", device="cpu"
    )
    model = student.build(tiny_model, 48, max_length=40, prompts=PROMPTS, device="cpu")
    texts = [wb.Text(text.text, id=f"note {i}") for i, text in enumerate(sentences(30))]
    long = " ".join(f"{text.text}." for text in sentences(12, seed=7))
    fields = {"file": str(tmp_path / "secret" / "a.txt"), "price": float("nan"), "tag": "é"}
    return teacher, model, [*texts, wb.Text(long, id="long", fields=fields)]


def serve(folder):
    """Import a folder's `serve.py`."""
    spec = importlib.util.spec_from_file_location("exported", folder / "serve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:the student finds")  # its head is random
def test_it_finds_what_the_package_finds(pair, tmp_path):
    teacher, model, texts = pair
    folder = wb.export(model, texts, tmp_path / "out", teacher=teacher)
    search = serve(folder).search
    rows = [json.loads(line) for line in (folder / "documents.jsonl").open(encoding="utf-8")]
    names = list(dict.fromkeys(row["id"] for row in rows))
    assert names == [text.id for text in texts] and len(rows) > len(texts)  # one is in passages
    assert rows[-1]["fields"] == {"tag": "é"}  # neither NaN nor a path of this machine
    documents = teacher.encode([row["text"] for row in rows], "document")
    np.testing.assert_allclose(np.load(folder / "index.npy"), documents, atol=1e-3)  # float16
    questions = [text.text for text in sentences(20, seed=5)] + ["", "stone " * 90]
    queries = models.encode(model, questions, "query", precision="float32")
    places = [names.index(row["id"]) for row in rows]
    index = np.load(folder / "index.npy")
    scores, nearest = ranking.top_k(queries, index, 10, rows=np.array(places))
    for question, expected, best in zip(questions, scores, nearest, strict=True):
        hits = search(question)
        np.testing.assert_allclose([hit["score"] for hit in hits], expected, atol=1e-5)
        # Scores that are nearly equal may change places.
        assert len({hit["id"] for hit in hits} & {names[row] for row in best}) >= 9
        assert search(question, least=hits[3]["score"]) == hits[:4]
    assert str(tmp_path) not in "".join(
        path.read_text() for path in folder.glob("*") if path.suffix in (".md", ".py", ".jsonl")
    )
    again = wb.load_model(folder / "model", device="cpu")
    np.testing.assert_allclose(again.encode_query(questions), queries, atol=1e-5)


@pytest.mark.filterwarnings("ignore:the student finds")
def test_int8_is_a_quarter_and_points_the_same_way(pair, tmp_path):
    teacher, model, texts = pair
    exact, coarse = (
        wb.export(model, texts, tmp_path / name, teacher=teacher, precision=name)
        for name in ("float32", "int8")
    )
    one, other = np.load(exact / "index.npy"), np.load(coarse / "index.npy")
    assert other.dtype == np.int8 and 4 * other.nbytes == one.nbytes
    other = other / np.linalg.norm(other.astype(float), axis=1, keepdims=True)
    assert ((one / np.linalg.norm(one, axis=1, keepdims=True)) * other).sum(axis=1).min() > 0.9995


def test_scores_that_correspond_let_the_same_number_through(tmp_path, monkeypatch, tiny_model):
    """A model is its own teacher: the scores are equal, and it finds all."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    texts = [text.text for text in sentences(60)]
    folder = wb.export(str(tiny_model), texts, tmp_path / "out", teacher=str(tiny_model))
    readme = (folder / "README.md").read_text()
    assert float(re.search(r"finds ([\d.]+) of the ten", readme)[1]) > 9
    assert "60 pieces of the documents" in readme
    rows = [line.split("|")[1:4] for line in readme.splitlines() if line[:4] in ("| 1 ", "| 3 ")]
    assert len(rows) == 2
    for _, teacher, small in rows:
        assert abs(float(teacher) - float(small)) < 0.003
    count, score = (float(value) for value in rows[1][:2])
    search = serve(folder).search
    pieces = pipeline.with_new_queries(data.as_dataset(texts)[0]).queries.values()
    passed = sum(len(search(piece, k=60, least=score)) for piece in pieces)
    assert abs(passed / len(pieces) - count) < 0.3


@pytest.mark.filterwarnings("ignore:the student finds")
def test_stored_vectors_are_the_index(pair, tmp_path):
    _, model, texts = pair
    vectors = np.random.default_rng(0).standard_normal((len(texts), 48)).astype(np.float32)
    folder = wb.export(model, texts, tmp_path / "out", teacher=vectors)
    index = np.load(folder / "index.npy")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(index, vectors, atol=1e-3)
    assert "What to expect" not in (folder / "README.md").read_text()  # no vectors of queries


def test_what_cannot_be_exported_is_refused_before_anything_is_embedded(pair, tmp_path, tiny_model):
    teacher, model, texts = pair
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    narrow = HashTeacher(16)
    saved = student.save(model, tmp_path / "student", {"teacher_name": "lab/x", "teacher": {"teacher": "x"}, "base": "b"})  # fmt: skip
    new = tmp_path / "new"
    for words, error, arguments in (
        ("not empty", ModelError, (model, texts, tmp_path / "full", teacher)),
        ("name the teacher", ModelError, (model, texts, new, None)),
        ("16 dimensions, not 48", ModelError, (model, texts, new, narrow)),
        ("lab/x, and not", ModelError, (saved, texts, new, teacher)),
        ("no file nowhere", DataError, (model, "nowhere", new, teacher)),
        ("got int", ModelError, (3, texts, new, teacher)),
        ("torch.float16", ModelError, (models.load_model(tiny_model).half(), texts, new, teacher)),
    ):
        with pytest.raises(error, match=words):
            wb.export(*arguments[:3], teacher=arguments[3])
    for options in ({"precision": "int4"}, {"colum": "a"}):
        with pytest.raises(WorkbenchError, match=next(iter(options))):
            wb.export(model, texts, new, teacher=teacher, **options)
    assert not new.exists() and not narrow.encoded and not (tmp_path / "home").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_student_of_another_teacher_is_told(pair, tmp_path):
    teacher, model, texts = pair
    with pytest.warns(UserWarning, match="is it a student of"):
        wb.export(model, texts, tmp_path / "out", teacher=teacher)


@pytest.mark.filterwarnings("ignore:the student finds")
def test_the_port_answers_json(pair, tmp_path):
    teacher, model, texts = pair
    module = serve(wb.export(model, texts, tmp_path / "out", teacher=teacher))
    server = module.HTTPServer(("127.0.0.1", 0), module.Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    try:
        query = urllib.parse.quote("stone & bread é")
        hits = json.load(urllib.request.urlopen(f"{address}?q={query}", timeout=30))
        assert hits == module.search("stone & bread é")
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(address, timeout=30)
    finally:
        server.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the student finds")
def test_it_runs_where_nothing_else_is_installed(pair, tmp_path):
    teacher, model, texts = pair
    folder = wb.export(model, texts, tmp_path / "out", teacher=teacher)
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    packages = ["onnxruntime", "tokenizers", "numpy"]
    pins = PROJECT / "constraints.txt"
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", "-c", pins, *packages],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"no package index: {done.stderr.strip()[-200:]}")
    moved = folder.rename(tmp_path / "elsewhere")
    options = {"capture_output": True, "text": True, "cwd": tmp_path, "env": {"PYTHONPATH": ""}}
    command = [python, "-I", moved / "serve.py"]
    asked = subprocess.run([*command, "stone", "bread"], **options)
    assert asked.returncode == 0, asked.stderr
    hits = serve(moved).search("stone bread")
    expected = "".join(
        f"{hit['score']:.3f}  {hit['id']}  {' '.join(hit['text'].split())[:80]}\n" for hit in hits
    )
    assert asked.stdout == expected and len(hits) == 10
    piped = subprocess.run(command, input="stone bread\n", **options)
    assert piped.stdout == expected
    absent = "import importlib.util as u; print(u.find_spec('workbench'), u.find_spec('torch'))"
    assert subprocess.run([python, "-I", "-c", absent], **options).stdout == "None None\n"
