"""The real models: what is promised of them holds."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from workbench import agreement, data, evaluate, models, regions, student
from workbench._util import PROJECT, home, unit
from workbench.cache import TargetCache
from workbench.data import Role
from workbench.docstrings import docstring_corpus
from workbench.pipeline import TOUR, find_recipe
from workbench.teachers import LocalTeacher
from workbench.train import train_student, validate

pytestmark = pytest.mark.models
SHARED = PROJECT.parent / "shared" / "data" / "retrieval"


@pytest.fixture(scope="module")
def teacher():
    return LocalTeacher("all-mpnet-base-v2", max_length=TOUR.max_length)


@pytest.fixture(scope="module")
def cache(teacher):
    return TargetCache(home() / "cache", teacher)


def test_the_models_are_the_published_ones():
    for name, parameters in ((models.MINILM, 22_713_216), (models.MPNET, 109_486_464)):
        files = models.resolve(name.partition("/")[2])
        assert files.name == name and files == models.resolve(name)
        assert (
            sum(p.numel() for p in models.load_model(files, device="cpu").parameters())
            == parameters
        )


def test_the_papers_students_have_the_papers_sizes(tmp_path):
    for name, width, parameters in (("ir", 768, 22_861_056), ("mt", 1024, 22_958_592)):
        recipe = find_recipe(PROJECT / "recipes" / f"redact-{name}.toml")
        model = student.build(recipe.base, width, bias=recipe.bias, device="cpu")
        again = models.load_model(student.save(model, tmp_path / recipe.name), device="cpu")
        for one in (model, again, student.load(tmp_path / recipe.name, device="cpu")):
            assert sum(p.numel() for p in one.parameters()) == parameters
        np.testing.assert_array_equal(again.encode(["a sail"]), model.encode(["a sail"]))


@pytest.mark.slow
def test_mteb_gives_the_published_score(tmp_path):
    """MTEB's public results have 82.0 for the student's start on STSBenchmark."""
    pytest.importorskip("mteb")
    folder = SHARED.parent / "tasks" / "stsb"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    from workbench.extras import benchmark, tasks

    model = models.load_model(models.MINILM, device="cpu")
    (outcome,) = benchmark.run([benchmark.of_model(model, "base")], tasks.tasks([folder]), tmp_path)
    known = benchmark.published()
    known = known[(known["task"] == "STSBenchmark") & (known["model"] == "all-MiniLM-L6-v2")][
        "score"
    ].item()
    assert outcome.score == pytest.approx(known, abs=0.002)


@pytest.mark.slow
def test_fast_teacher_vectors_are_the_float32_vectors(teacher):
    corpus = docstring_corpus(pairs=60, held_out=1)
    texts = [t.text for t in corpus.train]
    reference = models.load_model(models.MPNET, device=str(teacher.model.device))
    reference.max_seq_length = TOUR.max_length
    exact = reference.encode(texts, show_progress_bar=False)
    cosines = (teacher.encode(texts, Role.DOCUMENT) * exact).sum(axis=1)
    assert cosines.mean() >= 0.999
    assert teacher.dtype == models.best_dtype(teacher.model.device)


def test_a_student_learns_its_teacher(cache, teacher):
    """A few hundred texts: each step of the method must already pay."""
    corpus = docstring_corpus(pairs=400, held_out=100)
    held_out = corpus.held_out.query_texts() + corpus.held_out.document_texts()
    cache.fill(corpus.train + held_out)
    targets, wanted = cache.targets(corpus.train), cache.targets(held_out)
    model = student.build(TOUR.base, cache.dimension, max_length=TOUR.max_length)
    random = validate(model, held_out, wanted)["loss"]
    student.fit_head(model, corpus.train, targets)
    warm = validate(model, held_out, wanted)["loss"]
    config = replace(TOUR.config, learning_rate=1e-4)  # so few steps want small ones
    result = train_student(model, corpus.train, targets, config, held_out=(held_out, wanted))
    assert 1.8 < random < 2.2
    assert warm < 0.9
    assert result.best_loss < 0.98 * warm
    base = models.load_model(TOUR.base)
    base.max_seq_length = TOUR.max_length
    rows = evaluate.compare(
        {"teacher": cache, "base": base, "student": model}, corpus.held_out
    ).set_index("mode")
    assert rows.loc["teacher", "ndcg_at_10"] > 0.7
    assert rows.loc["asymmetric", "share_of_teacher"] > 0.8
    assert rows.loc["symmetric", "share_of_teacher"] > 0.8


@pytest.mark.slow
def test_the_teacher_finds_its_way_through_the_tutorial(cache, teacher):
    collection = data.read_dataset("tutorial")
    cache.fill(collection.query_texts() + collection.document_texts())
    base = models.load_model(TOUR.base)
    model = student.build(TOUR.base, cache.dimension, max_length=TOUR.max_length)
    student.fit_head(model, collection.document_texts(), cache.targets(collection.document_texts()))
    rows = evaluate.compare(
        {"teacher": cache, "base": base, "student": model}, collection
    ).set_index("mode")
    assert rows.loc["teacher", "ndcg_at_10"] > 0.6
    assert rows.loc["symmetric", "ndcg_at_10"] > 0.3


@pytest.mark.slow
def test_nothing_is_lost_to_faults(tmp_path):
    """A short run of `make faults`."""
    command = [sys.executable, "-m", "bench.faults", "--runs", "2", "--seed", "1", "--no-page"]
    environment = os.environ | {"WORKBENCH_HOME": str(tmp_path), "PYTHONPATH": "examples"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "faults.json").read_text())
    assert found["lost"] == 0 and found["injected"] >= 15
    assert found["caching"]["repeated"] <= found["caching"]["explained"]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real collections are not at {SHARED}")
def test_a_real_collection_of_paragraphs(cache, teacher):
    collection = data.read_dataset(SHARED / "xquad_en")
    queries, documents = collection.query_texts()[:300], collection.document_texts()
    cache.fill(queries + documents)
    first = replace(collection, queries=dict(list(collection.queries.items())[:300]))
    scores = evaluate.score(
        first, np.asarray(cache.targets(queries)), np.asarray(cache.targets(documents))
    )
    assert scores["ndcg_at_10"].mean() > 0.85


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real collections are not at {SHARED}")
@pytest.mark.parametrize("name", ["cisi", "cranfield", "med", "npl_vaswani", "scifact", "xquad_en"])
@pytest.mark.filterwarnings("ignore:cranfield", "ignore:cisi")
def test_every_real_collection_is_read(name):
    collection = data.read_dataset(SHARED / name)
    assert collection.corpus and set(collection.queries) == set(collection.qrels)


@pytest.mark.slow
def test_a_damaged_subject_of_newsgroups_comes_first():
    """Noise of half a vector's length on one subject of twenty; the rest of the student has noise of 0.3."""
    path = SHARED.parent / "tasks" / "newsgroups20_subjects" / "test.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rng = np.random.default_rng(0)
    rows = [row for row in rng.permutation(rows) if row["text"].strip()][:1500]
    subject = np.array([row["label"] for row in rows], dtype=object)
    teacher = models.encode(
        models.load_model(models.MINILM, device="cpu"), [row["text"] for row in rows]
    )

    def noisy(vectors, size):
        return unit(vectors + size * rng.standard_normal(vectors.shape) / vectors.shape[1] ** 0.5)

    first = accused = false = 0
    for name in sorted(set(subject)):
        student = noisy(teacher, 0.3)
        table = agreement.per_text(teacher, student, k=0)
        false += (regions.compare_regions(table, subject)["cosine_high"] < 0).any()
        student[subject == name] = noisy(student[subject == name], 0.5)
        found = regions.compare_regions(agreement.per_text(teacher, student, k=0), subject)
        first += found.index[0] == name
        accused += (found["cosine_high"].drop(name) < 0).any()
    assert (first, accused) == (20, 0) and false <= 1
