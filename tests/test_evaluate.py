import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from tests.conftest import HashTeacher
from workbench import agreement, evaluate, models, ranking
from workbench.cache import TargetCache
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError


def test_search_is_exact_and_in_order():
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((7, 12)), rng.standard_normal((300, 12)) * 5
    scores, positions = ranking.top_k(queries, documents, k=20)
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)  # noqa: E731
    full = unit(queries) @ unit(documents).T
    np.testing.assert_array_equal(positions, np.argsort(-full, axis=1)[:, :20])
    np.testing.assert_allclose(scores, np.take_along_axis(full, positions, 1), atol=1e-6)


def test_search_in_blocks_and_with_ties(monkeypatch):
    rng = np.random.default_rng(0)
    queries, documents = (
        rng.standard_normal((9, 4)),
        np.repeat(rng.standard_normal((5, 4)), 2, axis=0),
    )
    whole = ranking.top_k(queries, documents, 100)[1]
    monkeypatch.setattr(ranking, "_BLOCK_SCORES", 20)
    np.testing.assert_array_equal(ranking.top_k(queries, documents, 100)[1], whole)
    assert (whole[:, 0] % 2 == 0).all()  # of two equal documents the first one leads
    assert ranking.top_k([[1, 0]], np.tile([[1.0, 0.0]], (1000, 1)), k=5)[1].tolist() == [
        [0, 1, 2, 3, 4]
    ]


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
    rows = evaluate.summarize(
        {"teacher": teacher, "symmetric": student, "asymmetric": noisy}
    ).set_index("mode")
    assert rows.loc["teacher", "share_of_teacher"] == 1
    # Paired: a student that is 0.9 of its teacher on every query has no uncertainty in its share.
    assert rows.loc[
        "symmetric", ["share_low", "share_of_teacher", "share_high"]
    ].tolist() == pytest.approx([0.9] * 3)
    low, share, high = rows.loc["asymmetric", ["share_low", "share_of_teacher", "share_high"]]
    assert low < share < high and high - low < 0.1
    again = evaluate.summarize(
        {"teacher": teacher, "symmetric": student, "asymmetric": noisy}
    ).set_index("mode")
    pd.testing.assert_frame_equal(rows, again)


def test_a_teacher_that_finds_nothing_has_no_share():
    nothing = pd.DataFrame({m: [0.0, 0.0] for m in evaluate.MEASURES.values()})
    rows = evaluate.summarize({"teacher": nothing, "symmetric": nothing})
    assert rows["share_of_teacher"].isna().all()


@pytest.mark.parametrize(
    ("queries", "documents", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "not in one space"),
        (np.full((1, 3), np.nan), np.ones((2, 3)), "the first is row 0"),
        (np.ones((1, 3)), np.empty((0, 3)), "n and d at least 1"),
        (np.ones(3), np.ones((2, 3)), r"shape \(n, d\)"),
    ],
)
def test_search_errors(queries, documents, message):
    with pytest.raises(WorkbenchError, match=message):
        ranking.top_k(queries, documents, 100)


def test_score_errors():
    with pytest.raises(WorkbenchError, match="2 vectors were given for 1 queries"):
        evaluate.score(
            RetrievalDataset("one", {"d": "text"}, {"a": "text"}, {}),
            np.ones((2, 3)),
            np.ones((1, 3)),
        )
    one = pd.DataFrame({m: [1.0] for m in evaluate.MEASURES.values()}, index=["a"])
    with pytest.raises(WorkbenchError, match="other queries"):
        evaluate.summarize({"teacher": one, "symmetric": one.rename({"a": "b"})})


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
    table = evaluate.compare(
        {"student": NEAR, "teacher": WANTED, "narrow": WANTED[:, :8]}, TEXTS, k=5
    )
    assert list(table["model"]) == ["student", "teacher", "narrow"] and list(
        table["dimension"]
    ) == [12, 12, 8]
    assert (
        table.attrs["reference"] == "teacher"
        and table.attrs["k"] == 5
        and table.attrs["texts"] == 40
    )
    whole = agreement.summary(WANTED, NEAR, k=5)["value"]
    measures = ["cosine", "squared_distance", "overlap", "rank_correlation", "cka"]
    np.testing.assert_allclose(table.loc[0, measures].astype(float), whole[measures].astype(float))
    assert list(table.loc[1, measures]) == [1, 0, 1, 1, 1]
    assert (
        table.loc[2, ["cosine", "squared_distance"]].isna().all() and table.loc[2, "overlap"] > 0.3
    )
    (note,) = table.attrs["notes"]
    assert note == "narrow has 8 dimensions and teacher 12: cosine and squared_distance are NaN"
    assert (
        set(table.attrs["reading"]) == set(measures)
        and "Kornblith" in table.attrs["reading"]["cka"]
    )
    first = evaluate.compare({"student": NEAR, "other": WANTED}, pd.Series(TEXTS))
    assert first.attrs["reference"] == "student" and first.loc[0, "cosine"] == 1
    assert (
        evaluate.compare({"a": NEAR, "b": WANTED}, TEXTS, reference="b").attrs["reference"] == "b"
    )


def test_compare_on_a_data_set_gives_each_mode():
    given = {
        "teacher": pair(WANTED),
        "base": pair(NEAR[:, :8]),
        "student": pair(NEAR),
        "flat": pair(NEAR[:, :4]),
    }
    rows = evaluate.compare(given, DATASET)
    assert rows[["model", "mode"]].values.tolist() == [
        ["teacher", "teacher"], ["base", "base"], ["student", "symmetric"], ["student", "asymmetric"], ["flat", "symmetric"],
    ]  # fmt: skip
    by_hand = {
        "teacher": evaluate.score(DATASET, *pair(WANTED)),
        "asymmetric": evaluate.score(DATASET, NEAR[30:], WANTED[:30]),
    }
    expected = evaluate.summarize(by_hand).set_index("mode").loc["asymmetric"]
    pd.testing.assert_series_equal(
        rows.loc[3, expected.index], expected, check_names=False, check_dtype=False
    )
    assert [note.split()[0] for note in rows.attrs["notes"]] == ["base", "flat"]
    shown = evaluate.format_table(rows)
    assert (
        "untrained base" in shown and "student, asymmetric" in shown and "flat, symmetric" in shown
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


def test_compare_says_why_a_value_is_nan():
    def notes(data, **models):
        return evaluate.compare(models, data).attrs["notes"]

    both = "b: rank_correlation and cka are NaN, because all vectors of"
    assert notes(TEXTS, a=WANTED, b=NEAR) == []
    assert notes(TEXTS, a=WANTED, b=0 * NEAR) == [f"{both} b are zero"]
    assert notes(TEXTS, a=0 * WANTED + 1, b=NEAR) == [f"{both} a are the same"]
    assert notes(TEXTS, a=np.eye(40), b=np.eye(40)) == [
        "b: rank_correlation is NaN, because all pairs of texts are equally similar"
    ]
    assert notes(TEXTS[:2], a=WANTED[:2], b=NEAR[:2]) == [
        "b: rank_correlation is NaN, because there are fewer than 3 texts"
    ]
    given = {"a": pair(WANTED), "b": pair(NEAR)}
    assert notes(replace(DATASET, qrels={}), **given) == [
        "small has no judgments: all scores are NaN"
    ]
    irrelevant = replace(DATASET, qrels={"q1": {"d1": np.int64(0)}})
    assert notes(irrelevant, **given) == [
        "a has an nDCG@10 of 0: no model has a share of it, and shares are NaN"
    ]


class Refusing(HashTeacher):
    def encode(self, texts, role="document", *, stop=None):
        raise AssertionError("nothing is encoded before all is checked")


@pytest.mark.parametrize(
    ("given", "data", "more", "message"),
    [
        ({"a": WANTED}, TEXTS, {}, "2 or more models by name.* got 1 model$"),
        ([WANTED, NEAR], TEXTS, {}, "2 or more models by name.* got a list"),
        ({"a": WANTED, "b": NEAR}, TEXTS, {"reference": "c"}, "reference 'c' is not one of the models: choose from a, b"),
        ({"a": WANTED, "b": NEAR}, TEXTS, {"k": 0}, "k is 0; expected a whole number"),
        ({"a": WANTED, "b": NEAR}, TEXTS, {"k": "3"}, "k is '3'; expected a whole number"),
        ({"a": WANTED, "b": NEAR}, TEXTS, {"k": 2.5}, "k is 2.5; expected a whole number"),
        ({"t": Refusing(), "b": NEAR[:39]}, TEXTS, {}, "model 'b': 39 vectors were given for 40 texts"),
        ({"t": Refusing(), "b": NEAR}, DATASET, {}, "model 'b': expected a pair of arrays for a data set"),
        ({"t": Refusing(), "b": pair(NEAR)[::-1]}, DATASET, {}, "model 'b': 30 vectors were given for 10 queries"),
        ({"t": Refusing(), "b": (NEAR[30:, :5], NEAR[:30])}, DATASET, {}, "queries are 5 wide and documents 12"),
        ({"t": Refusing(), "b": None}, TEXTS, {}, "model 'b': expected a text-embedding model, got None"),
        ({"t": Refusing(), "b": "no/such-model"}, TEXTS, {}, "model 'b'"),
        ({"t": Refusing(), "b": NEAR * np.nan}, TEXTS, {}, "model 'b': .*NaN"),
        ({"t": Refusing(), "b": NEAR}, "text", {}, "text"),
        ({"t": Refusing(), "b": NEAR}, ["a", None], {}, "item 1"),
        ({"t": Refusing(), "b": NEAR}, [], {}, "no texts"),
        ({"t": Refusing(), "b": NEAR[:1]}, TEXTS[:1], {}, "1 text was given: .* at least 2"),
        ({"t": Refusing(), "b": NEAR}, 5, {}, "int"),
    ],
)  # fmt: skip
def test_compare_refuses_before_anything_is_embedded(
    given, data, more, message, tmp_path, monkeypatch
):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    with pytest.raises(WorkbenchError, match=message):
        evaluate.compare(given, data, **more)
