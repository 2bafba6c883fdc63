import sys

import numpy as np
import pytest

from workbench import ranking
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError
from workbench.quantize import PRECISIONS, CompressedIndex, IndexSpec, principal_rotation, sweep

RNG = np.random.default_rng(0)
TOPICS = RNG.standard_normal((30, 64))[RNG.integers(0, 30, 600)]
DOCUMENTS = (TOPICS + 0.5 * RNG.standard_normal((600, 64))).astype(np.float32)
QUERIES = (DOCUMENTS[:40] + 0.3 * RNG.standard_normal((40, 64))).astype(np.float32)
POINTS = [IndexSpec(d, p) for d in (64, 16) for p in PRECISIONS]
QRELS = {f"q{i}": {f"d{i}": 1} for i in range(40)}
CORPUS = {f"d{i}": "text" for i in range(600)}
DATA = RetrievalDataset("d", CORPUS, dict.fromkeys(QRELS, "text"), QRELS)


@pytest.mark.parametrize("point", POINTS, ids=lambda p: f"{p.dimensions}-{p.precision}")
def test_codes_have_their_size(point):
    faiss = pytest.importorskip("faiss")
    index = CompressedIndex(DOCUMENTS, point)
    bits = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}[point.precision]
    assert point.bytes_per_document == point.dimensions * bits / 8 and len(index) == 600
    is_binary = point.precision == "binary"
    stored = (faiss.serialize_index_binary if is_binary else faiss.serialize_index)(index.index)
    assert 0 < len(stored) - len(DOCUMENTS) * point.bytes_per_document < 2000


def hits(first, second):
    """Return how many results of ten two searches have in common, in the mean."""
    return np.mean([len(set(a) & set(b)) for a, b in zip(first, second, strict=True)])


def test_precision_costs_what_it_should_and_rescoring_helps():
    exact = ranking.top_k(QUERIES, DOCUMENTS, 10)[1]
    shared = {}
    for precision in PRECISIONS:
        index = CompressedIndex(DOCUMENTS, IndexSpec(precision=precision))
        shared[precision] = hits(exact, index.search(QUERIES, 10)[1])
    assert shared["float32"] == 10 and shared["float16"] > 9.9 and shared["int8"] > 9.5
    rough = hits(exact, index.search(QUERIES, 10, rescore_multiplier=1)[1])
    assert rough < shared["binary"] < shared["int8"]


def test_truncation_is_a_search_of_the_first_dimensions():
    result = CompressedIndex(DOCUMENTS, IndexSpec(16)).search(QUERIES, 10)
    scores, positions = ranking.top_k(QUERIES[:, :16], DOCUMENTS[:, :16], 10)
    np.testing.assert_array_equal(result[1], positions)
    np.testing.assert_allclose(result[0], scores, atol=1e-5)


def test_rotation_keeps_distances_and_makes_truncation_good():
    mixed = (DOCUMENTS * np.linspace(2, 0.05, 64, dtype=np.float32))[:, RNG.permutation(64)]
    rotation = principal_rotation(mixed)
    turned = mixed @ rotation
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(64), atol=1e-5)
    np.testing.assert_allclose(turned @ turned.T, mixed @ mixed.T, rtol=1e-3, atol=1e-2)
    exact = ranking.top_k(mixed[:40], mixed, 10)[1]
    as_it_is, rotated = (
        hits(exact, ranking.top_k(vectors[:40, :16], vectors[:, :16], 10)[1])
        for vectors in (mixed, turned)
    )
    assert rotated > as_it_is + 1


def test_sweep_has_a_row_for_each_mode_and_point():
    sides = {"teacher": (DOCUMENTS[:40], DOCUMENTS), "asymmetric": (QUERIES, DOCUMENTS)}
    rows = sweep(DATA, sides, POINTS)
    assert len(rows) == 16 and list(rows["mode"].unique()) == ["teacher", "asymmetric"]
    assert (rows["share_low"] <= rows["share_of_teacher"]).all() and (rows["query_ms"] > 0).all()
    rows = rows.set_index(["mode", "precision", "dimensions"])
    full = rows.loc["teacher", "float32", 64]
    assert full["share_of_teacher"] == 1 and full["bytes_per_document"] == 256
    small = rows.loc["asymmetric", "binary", 16]
    assert small["share_of_teacher"] < 0.95 and small["bytes_per_document"] == 2
    with pytest.raises(WorkbenchError, match="600 documents"):
        sweep(DATA, sides | {"short": (QUERIES, DOCUMENTS[:500])}, POINTS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IndexSpec(65).of(64), "65 dimensions"),
        (lambda: IndexSpec(0).of(64), "0 dimensions"),
        (lambda: IndexSpec(8, "int4").of(64), "int4"),
        (lambda: CompressedIndex(DOCUMENTS * np.nan), "NaN"),
        (lambda: CompressedIndex(DOCUMENTS).search(QUERIES[:, :8]), "8 wide"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(WorkbenchError, match=message):
        make()


def test_without_faiss_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(WorkbenchError, match="quantize"):
        CompressedIndex(DOCUMENTS)
    assert IndexSpec(16).of(64).bytes_per_document == 64


def test_int8_codes_the_documents_alone_and_stored_vectors_mend_the_order():
    documents = RNG.standard_normal((4000, 96)).astype(np.float32)
    queries = RNG.standard_normal((300, 96)).astype(np.float32)
    many = CompressedIndex(documents, IndexSpec(precision="int8"))
    coded = many.index.sa_decode(many.index.sa_encode(ranking.unit(queries)))
    best, both = ranking.top_k(queries, documents, 10)[1], many.index.search(coded, 10)[1]
    assert hits(best, many.search(queries, 10)[1]) > hits(best, both)
    exact = ranking.top_k(QUERIES, DOCUMENTS, 10)[1]
    for spec in (IndexSpec(precision="int8"), IndexSpec(32), IndexSpec(precision="binary")):
        index = CompressedIndex(DOCUMENTS, spec)
        rescored = index.search(QUERIES, 10, vectors=DOCUMENTS, rescore_multiplier=20)
        assert hits(exact, rescored[1]) > max(9.5, hits(exact, index.search(QUERIES, 10)[1]) - 1e-9)
