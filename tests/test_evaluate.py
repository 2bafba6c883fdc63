import json

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

TEXTS = [f"text number {i}" for i in range(40)]
RNG = np.random.default_rng(0)
TARGETS = RNG.standard_normal((40, 12)).astype(np.float32)
NEAR = TARGETS + 0.3 * RNG.standard_normal((40, 12)).astype(np.float32)
DATASET = RetrievalDataset(
    "small",
    {f"d{i}": TEXTS[i] for i in range(30)},
    {f"q{i}": TEXTS[30 + i] for i in range(10)},
    {f"q{i}": {f"d{i}": 1, f"d{i + 10}": 2} for i in range(10)},
)


def pair(vectors):
    return vectors[30:], vectors[:30]


def hand(qrels):
    """A data set of four documents and two queries."""
    corpus = dict.fromkeys(["d0", "d1", "d2", "d3"], "text")
    return RetrievalDataset("hand", corpus, {"a": "text", "b": "text"}, qrels)


def test_scores_by_hand():
    queries = np.array([[1.0, 0.9, 0.1, 0.0], [0.0, 0.0, 0.9, 1.0]])
    data = hand({"a": {"d1": 2, "d2": 1}, "b": {"d0": 1}})
    table = evaluate.score(data, queries, np.eye(4))
    ideal = 2 / np.log2(2) + 1 / np.log2(3)
    assert table.loc["a", "ndcg_at_10"] == pytest.approx((2 / np.log2(3) + 1 / np.log2(4)) / ideal)
    assert table.loc["a", "mrr_at_10"] == pytest.approx(1 / 2)
    # d0 and d1 are equally far from b; the first of the two is ranked third.
    assert table.loc["b", "mrr_at_10"] == pytest.approx(1 / 3)
    assert (table["recall_at_100"] == 1).all()


def test_what_has_no_vector_is_not_found():
    documents = np.eye(4)
    documents[1] = 0
    queries = np.array([[0.1, 0.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    table = evaluate.score(hand({"a": {"d3": 1, "d1": 1}, "b": {"d0": 1}}), queries, documents)
    assert table["mrr_at_10"].tolist() == pytest.approx([1 / 3, 0])
    assert table["recall_at_100"].tolist() == pytest.approx([0.5, 0])


def test_summarize_shares_and_intervals():
    rng = np.random.default_rng(0)
    teacher = pd.DataFrame({m: rng.uniform(0.3, 1, 200) for m in evaluate.MEASURES.values()})
    noisy = teacher * rng.uniform(0.6, 1.2, (200, 1))
    scores = {"teacher": teacher, "symmetric": teacher * 0.9, "asymmetric": noisy}
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


def test_an_interval_covers_what_it_promises_with_few_queries():
    """Of 30 queries with a few failures, as of a collection with one relevant document each."""
    rng = np.random.default_rng(0)
    values = np.array([1, 0.63, 0.5, 0.43, 0.39, 0.3, 0])
    shares = [0.6, 0.12, 0.07, 0.05, 0.05, 0.04, 0.07]
    teacher = rng.choice(values, 50_000, p=shares)
    student = np.where(rng.random(50_000) < 0.8, teacher, rng.choice(values, 50_000, p=shares))
    true, covered = student.mean() / teacher.mean(), []
    for _ in range(1000):
        rows = rng.integers(0, 50_000, 30)
        low, high = evaluate.interval(student[rows], teacher[rows])
        covered.append(low <= true <= high)
    assert 0.93 <= np.mean(covered) <= 0.98


def test_an_interval_of_many_queries_is_that_of_the_bootstrap():
    from scipy.stats import bootstrap, ttest_1samp

    mine, theirs = np.random.default_rng(1).uniform(size=(2, 600))
    expected = bootstrap(
        (mine, theirs),
        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
        paired=True,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    np.testing.assert_allclose(evaluate.interval(mine, theirs), expected, atol=0.004)
    exact = ttest_1samp(mine, 0).confidence_interval()
    np.testing.assert_allclose(evaluate.interval(mine), exact, rtol=1e-9)
    assert (
        np.isnan(evaluate.interval([1.0])).all() and np.isnan(evaluate.interval([1, np.nan])).all()
    )


def test_a_query_does_not_find_the_document_of_its_own_id():
    """As in ArguAna, where a query is an argument of the collection."""
    vectors = np.eye(4)
    ids = [f"a{i}" for i in range(4)]
    texts = {name: name for name in ids}
    counter = vectors + 0.5 * np.roll(vectors, 1, axis=1)
    data = RetrievalDataset(
        "arguments", texts, texts, {f"a{i}": {f"a{(i + 1) % 4}": 1} for i in range(4)}
    )
    assert evaluate.score(data, counter, vectors)["ndcg_at_10"].tolist() == [1.0] * 4


def test_compare_on_texts_gives_the_measures_of_agreement():
    models = {"student": NEAR, "teacher": TARGETS, "narrow": TARGETS[:, :8]}
    table = evaluate.compare(models, TEXTS, k=5)
    assert list(table["model"]) == ["student", "teacher", "narrow"]
    assert list(table["dimension"]) == [12, 12, 8]
    assert (table.attrs["reference"], table.attrs["k"], table.attrs["texts"]) == ("teacher", 5, 40)
    whole = agreement.summary(TARGETS, NEAR, k=5)["value"]
    measures = ["cosine", "squared_distance", "overlap", "rank_correlation", "cka"]
    np.testing.assert_allclose(table.loc[0, measures].astype(float), whole[measures].astype(float))
    assert list(table.loc[1, measures]) == [1, 0, 1, 1, 1]
    assert table.loc[2, measures[:2]].isna().all() and table.loc[2, "overlap"] > 0.3
    (note,) = table.attrs["notes"]
    assert note == "narrow has 8 dimensions and teacher 12: cosine and squared_distance are NaN"
    first = evaluate.compare({"student": NEAR, "other": TARGETS}, pd.Series(TEXTS))
    assert first.attrs["reference"] == "student" and first.loc[0, "cosine"] == 1


def test_compare_on_a_data_set_gives_each_mode():
    vectors = {"teacher": TARGETS, "base": NEAR[:, :8], "student": NEAR, "flat": NEAR[:, :4]}
    rows = evaluate.compare({name: pair(array) for name, array in vectors.items()}, DATASET)
    assert list(rows["model"]) == ["teacher", "base", "student", "student", "flat"]
    assert list(rows["mode"]) == ["teacher", "base", "symmetric", "asymmetric", "symmetric"]
    by_hand = {
        "teacher": evaluate.score(DATASET, *pair(TARGETS)),
        "asymmetric": evaluate.score(DATASET, NEAR[30:], TARGETS[:30]),
    }
    expected = evaluate.summarize(by_hand).set_index("mode").loc["asymmetric"]
    assert rows.loc[3, expected.index].tolist() == pytest.approx(expected.tolist())
    assert [note.split()[0] for note in rows.attrs["notes"]] == ["base", "flat"]
    shown = evaluate.format_table(rows)
    for label in ("teacher", "base", "student, asymmetric", "flat, symmetric"):
        assert label in shown
    assert evaluate.report(DATASET, rows)["rows"][3]["mode"] == "asymmetric"


def test_compare_takes_any_form_of_a_model(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    model = SentenceTransformer(str(tiny_model), device="cpu")
    vectors = model.encode_document(TEXTS)
    hashing = HashTeacher(dimension=32)
    cache = TargetCache(tmp_path / "other", hashing)
    same = {"loaded": model, "folder": tiny_model, "path": str(tiny_model),
            "tensor": torch.tensor(vectors), "lists": vectors.tolist()}  # fmt: skip
    compared = {"array": vectors, **same, "hashing": hashing, "cache": cache}
    table = evaluate.compare(compared, TEXTS).set_index("model")
    np.testing.assert_allclose(table.loc[list(same), "cosine"], 1, atol=1e-5)
    cosines = table.loc[["hashing", "cache"], "cosine"]
    assert abs(cosines.iloc[0]) < 0.5 and cosines.iloc[0] == cosines.iloc[1]
    # A teacher is asked once for each text: what it made is in a cache, and used again.
    assert len(hashing.encoded) == 2 * len(TEXTS)
    evaluate.compare(compared, TEXTS)
    assert len(hashing.encoded) == 2 * len(TEXTS) and len(cache) == len(TEXTS)
    queries, documents = evaluate.vectors(model, DATASET)
    np.testing.assert_allclose(queries, models.encode(model, TEXTS[30:], "query"), atol=1e-5)
    np.testing.assert_allclose(documents, models.encode(model, TEXTS[:30]), atol=1e-5)


def test_compare_reads_files_and_folders(tmp_path, task_folders):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for data in (path, pd.DataFrame({"text": TEXTS, "length": 1})):
        assert evaluate.compare({"a": TARGETS, "b": NEAR}, data).attrs["texts"] == 40
    sides = RNG.standard_normal((12, 4)), RNG.standard_normal((30, 4))
    rows = evaluate.compare({"teacher": sides, "student": sides}, str(task_folders / "search"))
    assert list(rows["mode"]) == ["teacher", "symmetric", "asymmetric"]


@pytest.mark.parametrize(
    ("other", "data", "message"),
    [
        (NEAR[:39], TEXTS, "model 'b': 39 vectors of 40 texts"),
        (NEAR, DATASET, "model 'b': expected a pair"),
        (pair(NEAR)[::-1], DATASET, "10 queries and 30 documents"),
        ((NEAR[30:, :5], NEAR[:30]), DATASET, "one width"),
        ("no/such-model", TEXTS, "model 'b'"),
        (NEAR * np.nan, TEXTS, "model 'b': .*NaN"),
        (NEAR, ["a", None], "texts, 1: expected a string"),
    ],
)
def test_compare_refuses_before_anything_is_embedded(other, data, message, tmp_path, monkeypatch):
    class Refusing(HashTeacher):
        def encode(self, texts, role="document", *, stop=None):
            raise AssertionError("nothing is encoded before all is checked")

    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    with pytest.raises(WorkbenchError, match=message):
        evaluate.compare({"t": Refusing(), "b": other}, data)
    with pytest.raises(WorkbenchError, match="2 or more models"):
        evaluate.compare({"t": Refusing()}, TEXTS)


def test_two_students_are_compared_in_one_space_with_a_paired_interval():
    models = {"student": NEAR, "teacher": TARGETS, "worse": NEAR + RNG.normal(0, 0.5, NEAR.shape)}
    table = evaluate.compare(models, TEXTS, k=5, baseline="worse").set_index("model")
    assert table.loc["worse", "gain"] == 0 and table.loc["student", "gain"] > 0
    overlaps = [
        agreement.per_text(TARGETS, models[name], k=5)["overlap"] for name in ("student", "worse")
    ]
    from scipy.stats import ttest_rel

    low, high = ttest_rel(*overlaps).confidence_interval()
    assert table.loc["student", ["gain_low", "gain_high"]].tolist() == pytest.approx([low, high])
    pairs = {name: pair(array) for name, array in models.items()}
    rows = evaluate.compare(pairs, DATASET, baseline="worse").set_index(["model", "mode"])
    by_hand = [evaluate.score(DATASET, pairs[name][0], TARGETS[:30])["ndcg_at_10"].mean()
               for name in ("student", "worse")]  # fmt: skip
    gain = rows.loc[("student", "asymmetric"), "gain"]
    assert gain == pytest.approx(by_hand[0] - by_hand[1])
    assert rows.loc[("teacher", "teacher"), "overlap"] == 1
    other = evaluate.compare(models, TEXTS, reference="student")
    assert other.attrs["reference"] == "student"
    for option in ("reference", "baseline"):
        with pytest.raises(WorkbenchError, match=f"{option} 'x': expected one of"):
            evaluate.compare(models, TEXTS, **{option: "x"})
