import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from tests.conftest import HashTeacher
from workbench import agreement, evaluate, models
from workbench.cache import TargetCache
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError


def test_scores_by_hand():
    documents = np.eye(4)
    queries = np.array([[1.0, 0.9, 0.1, 0.0], [0.0, 0.0, 0.9, 1.0]])
    qrels = {"a": {"d1": 2, "d2": 1}, "b": {"d0": 1}}
    corpus, asked = dict.fromkeys(["d0", "d1", "d2", "d3"], "text"), {"a": "text", "b": "text"}
    table = evaluate.score(RetrievalDataset("hand", corpus, asked, qrels), queries, documents)
    ideal = 2 / np.log2(2) + 1 / np.log2(3)
    assert table.loc["a", "ndcg_at_10"] == pytest.approx((2 / np.log2(3) + 1 / np.log2(4)) / ideal)
    assert table.loc["a", "mrr_at_10"] == pytest.approx(1 / 2)
    # d0 and d1 are equally far from b; the first of the two is ranked third.
    assert table.loc["b", "mrr_at_10"] == pytest.approx(1 / 3)
    assert (table["recall_at_100"] == 1).all()


def test_compare_shares_and_intervals():
    rng = np.random.default_rng(0)
    teacher = pd.DataFrame({m: rng.uniform(0.3, 1, 200) for m in evaluate.MEASURES.values()})
    student = teacher * 0.9
    noisy = teacher * rng.uniform(0.6, 1.2, (200, 1))
    scores = {"teacher": teacher, "symmetric": student, "asymmetric": noisy}
    rows = evaluate.summarize(scores).set_index("mode")
    assert rows.loc["teacher", "share_of_teacher"] == 1
    columns = ["share_low", "share_of_teacher", "share_high"]
    # Paired: a student that is 0.9 of its teacher on every query has no uncertainty in its share.
    assert rows.loc["symmetric", columns].tolist() == pytest.approx([0.9] * 3)
    low, share, high = rows.loc["asymmetric", columns]
    assert low < share < high and high - low < 0.1
    pd.testing.assert_frame_equal(rows, evaluate.summarize(scores).set_index("mode"))
    nothing = evaluate.summarize({"teacher": 0 * teacher, "symmetric": 0 * teacher})
    assert nothing["share_of_teacher"].isna().all()


def test_scores_of_other_texts_are_refused():
    data = RetrievalDataset("one", {"d": "text"}, {"a": "text"}, {})
    with pytest.raises(WorkbenchError, match="2 vectors of 1 queries"):
        evaluate.score(data, np.ones((2, 3)), np.ones((1, 3)))
    one = pd.DataFrame({m: [1.0] for m in evaluate.MEASURES.values()}, index=["a"])
    with pytest.raises(WorkbenchError, match="other queries"):
        evaluate.summarize({"teacher": one, "symmetric": one.rename({"a": "b"})})


def test_what_has_no_vector_is_not_found():
    documents = np.eye(4)
    documents[1] = 0
    queries = np.array([[0.1, 0.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    data = RetrievalDataset(
        "gaps",
        dict.fromkeys(["d0", "d1", "d2", "d3"], "text"),
        {"a": "text", "b": "text"},
        {"a": {"d3": 1, "d1": 1}, "b": {"d0": 1}},
    )
    table = evaluate.score(data, queries, documents)
    assert table["mrr_at_10"].tolist() == pytest.approx([1 / 3, 0])
    assert table["recall_at_100"].tolist() == pytest.approx([0.5, 0])


def test_one_bootstrap_is_that_of_scipy():
    from scipy.stats import bootstrap

    rng = np.random.default_rng(1)
    mine, theirs = rng.uniform(size=(2, 301))
    expected = bootstrap(
        (mine, theirs),
        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=500,
        method="percentile",
        rng=np.random.default_rng(3),
        batch=256,
    ).confidence_interval
    means = evaluate.bootstrap_means([mine, theirs], 500, seed=3)
    np.testing.assert_allclose(evaluate.interval(means[0] / means[1]), expected, rtol=1e-12)


# --- compare ---------------------------------------------------------------------------------------

TEXTS = [f"text number {i}" for i in range(40)]
RNG = np.random.default_rng(0)
WANTED = RNG.standard_normal((40, 12)).astype(np.float32)
NEAR = WANTED + 0.3 * RNG.standard_normal((40, 12)).astype(np.float32)
DATASET = RetrievalDataset(
    "small",
    {f"d{i}": TEXTS[i] for i in range(30)},
    {f"q{i}": TEXTS[30 + i] for i in range(10)},
    {f"q{i}": {f"d{i}": 1, f"d{i + 10}": 2} for i in range(10)},
)


def pair(vectors):
    return vectors[30:], vectors[:30]


def test_compare_on_texts_gives_the_measures_of_agreement():
    models = {"student": NEAR, "teacher": WANTED, "narrow": WANTED[:, :8]}
    table = evaluate.compare(models, TEXTS, k=5)
    assert list(table["model"]) == ["student", "teacher", "narrow"]
    assert list(table["dimension"]) == [12, 12, 8]
    assert table.attrs["reference"] == "teacher"
    assert (table.attrs["k"], table.attrs["texts"]) == (5, 40)
    whole = agreement.summary(WANTED, NEAR, k=5)["value"]
    measures = ["cosine", "squared_distance", "overlap", "rank_correlation", "cka"]
    np.testing.assert_allclose(table.loc[0, measures].astype(float), whole[measures].astype(float))
    assert list(table.loc[1, measures]) == [1, 0, 1, 1, 1]
    assert table.loc[2, measures[:2]].isna().all() and table.loc[2, "overlap"] > 0.3
    (note,) = table.attrs["notes"]
    assert note == "narrow has 8 dimensions and teacher 12: cosine and squared_distance are NaN"
    assert set(table.attrs["reading"]) == set(measures)
    first = evaluate.compare({"student": NEAR, "other": WANTED}, pd.Series(TEXTS))
    assert first.attrs["reference"] == "student" and first.loc[0, "cosine"] == 1
    named = evaluate.compare({"a": NEAR, "b": WANTED}, TEXTS, reference="b")
    assert named.attrs["reference"] == "b"


def test_compare_on_a_data_set_gives_each_mode():
    models = {
        "teacher": pair(WANTED),
        "base": pair(NEAR[:, :8]),
        "student": pair(NEAR),
        "flat": pair(NEAR[:, :4]),
    }
    rows = evaluate.compare(models, DATASET)
    assert list(rows["model"]) == ["teacher", "base", "student", "student", "flat"]
    assert list(rows["mode"]) == ["teacher", "base", "symmetric", "asymmetric", "symmetric"]
    by_hand = {
        "teacher": evaluate.score(DATASET, *pair(WANTED)),
        "asymmetric": evaluate.score(DATASET, NEAR[30:], WANTED[:30]),
    }
    expected = evaluate.summarize(by_hand).set_index("mode").loc["asymmetric"]
    assert rows.loc[3, expected.index].tolist() == pytest.approx(expected.tolist())
    assert [note.split()[0] for note in rows.attrs["notes"]] == ["base", "flat"]
    shown = evaluate.format_table(rows)
    assert all(
        name in shown for name in ("untrained base", "student, asymmetric", "flat, symmetric")
    )
    assert "student, asymmetric" in evaluate.format_table(rows.drop(columns="model"))
    assert evaluate.report(DATASET, rows)["rows"][3]["mode"] == "asymmetric"


def test_compare_takes_any_form_of_a_model(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    model = SentenceTransformer(str(tiny_model), device="cpu")
    vectors = model.encode_document(TEXTS)
    teacher = HashTeacher(dimension=32)
    cache = TargetCache(tmp_path / "other", teacher)
    given = {"array": vectors, "loaded": model, "folder": tiny_model, "path": str(tiny_model),
             "tensor": torch.tensor(vectors), "lists": vectors.tolist(), "teacher": teacher, "cache": cache}  # fmt: skip
    table = evaluate.compare(given, TEXTS, reference="array").set_index("model")
    np.testing.assert_allclose(
        table.loc[["loaded", "folder", "path", "tensor", "lists"], "cosine"], 1, atol=1e-5
    )
    assert (
        abs(table.loc["teacher", "cosine"]) < 0.5
        and table.loc["teacher", "cosine"] == table.loc["cache", "cosine"]
    )
    # A teacher is asked once for each text: what it made is in a cache, and used again.
    assert len(teacher.encoded) == 2 * len(TEXTS)
    evaluate.compare(given, TEXTS)
    assert len(teacher.encoded) == 2 * len(TEXTS) and len(cache) == len(TEXTS)
    queries, documents = evaluate.vectors(model, DATASET)
    np.testing.assert_allclose(queries, models.encode(model, TEXTS[30:], "query"), atol=1e-5)
    np.testing.assert_allclose(documents, models.encode(model, TEXTS[:30]), atol=1e-5)


def test_compare_reads_files_and_folders(tmp_path, task_folders):
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": t, "role": "document"}) + "\n" for t in TEXTS)
    )
    assert evaluate.compare({"a": WANTED, "b": NEAR}, tmp_path / "texts.jsonl").attrs["texts"] == 40
    frame = pd.DataFrame({"text": TEXTS, "length": 1})
    assert evaluate.compare({"a": WANTED, "b": NEAR}, frame).attrs["texts"] == 40
    rng = np.random.default_rng(0)
    pairs = {
        name: (rng.standard_normal((12, 4)), rng.standard_normal((30, 4)))
        for name in ("teacher", "student")
    }
    rows = evaluate.compare(pairs, str(task_folders / "search"))
    assert rows.attrs["dataset"] == "search" and list(rows["mode"]) == [
        "teacher",
        "symmetric",
        "asymmetric",
    ]


def test_compare_says_what_is_undefined():
    def notes(data, **models):
        return evaluate.compare(models, data).attrs["notes"]

    assert notes(TEXTS, a=WANTED, b=NEAR) == []
    assert len(notes(TEXTS, a=WANTED, b=0 * NEAR)) == 2
    assert len(notes(TEXTS, a=0 * WANTED + 1, b=NEAR)) == 2
    (note,) = notes(TEXTS[:2], a=WANTED[:2], b=NEAR[:2])
    assert note.startswith("b: rank_correlation is NaN")
    for qrels in ({}, {"q1": {"d1": np.int64(0)}}):
        (note,) = notes(replace(DATASET, qrels=qrels), a=pair(WANTED), b=pair(NEAR))
        assert "shares are NaN" in note


class Refusing(HashTeacher):
    def encode(self, texts, role="document", *, stop=None):
        raise AssertionError("nothing is encoded before all is checked")


@pytest.mark.parametrize(
    ("models", "data", "options", "message"),
    [
        ({"a": WANTED}, TEXTS, {}, "2 or more models"),
        ([WANTED, NEAR], TEXTS, {}, "2 or more models"),
        ({"t": Refusing(), "b": NEAR}, TEXTS, {"reference": "c"}, "'c'"),
        ({"t": Refusing(), "b": NEAR}, TEXTS, {"k": 0}, "k is 0"),
        ({"t": Refusing(), "b": NEAR[:39]}, TEXTS, {}, "model 'b': 39 vectors of 40 texts"),
        ({"t": Refusing(), "b": NEAR}, DATASET, {}, "model 'b': expected a pair"),
        ({"t": Refusing(), "b": pair(NEAR)[::-1]}, DATASET, {}, "model 'b': 30 vectors of 10 queries"),
        ({"t": Refusing(), "b": (NEAR[30:, :5], NEAR[:30])}, DATASET, {}, "5 wide"),
        ({"t": Refusing(), "b": None}, TEXTS, {}, "model 'b'"),
        ({"t": Refusing(), "b": "no/such-model"}, TEXTS, {}, "model 'b'"),
        ({"t": Refusing(), "b": NEAR * np.nan}, TEXTS, {}, "model 'b': .*NaN"),
        ({"t": Refusing(), "b": NEAR}, ["a", None], {}, "item 1"),
        ({"t": Refusing(), "b": NEAR}, [], {}, "text"),
        ({"t": Refusing(), "b": NEAR[:1]}, TEXTS[:1], {}, "2 at least"),
    ],
)  # fmt: skip
def test_compare_refuses_before_anything_is_embedded(
    models, data, options, message, tmp_path, monkeypatch
):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    with pytest.raises(WorkbenchError, match=message):
        evaluate.compare(models, data, **options)
