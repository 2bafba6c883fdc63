import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from workbench import ranking
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError
from workbench.quantize import (
    PRECISIONS,
    CompressedIndex,
    IndexSpec,
    principal_rotation,
    sweep,
    truncate,
)

RNG = np.random.default_rng(0)
TOPICS = RNG.standard_normal((30, 64))
DOCUMENTS = (TOPICS[RNG.integers(0, 30, 600)] + 0.5 * RNG.standard_normal((600, 64))).astype(
    np.float32
)
QUERIES = (DOCUMENTS[:40] + 0.3 * RNG.standard_normal((40, 64))).astype(np.float32)
QRELS = {f"q{i}": {f"d{i}": 1} for i in range(40)}
POINTS = [IndexSpec(d, p) for d in (64, 16) for p in PRECISIONS]


def dataset(documents, qrels, queries=40):
    return RetrievalDataset(
        "d", {f"d{i}": "t" for i in range(documents)}, {f"q{i}": "t" for i in range(queries)}, qrels
    )


@pytest.mark.parametrize("point", POINTS, ids=lambda p: f"{p.dimensions}-{p.precision}")
def test_codes_have_their_size_and_survive_the_disk(point, tmp_path):
    index = CompressedIndex(DOCUMENTS, point, space={"teacher": "t"})
    found = index.search(QUERIES, 5)
    path = index.save(tmp_path / "index.safetensors")
    bits = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}[point.precision]
    assert point.bytes_per_document == point.dimensions * bits / 8
    assert 0 < path.stat().st_size - len(DOCUMENTS) * point.bytes_per_document < 2000
    again = CompressedIndex.load(path)
    assert again.spec == point and len(again) == 600 and again.space == {"teacher": "t"}
    for before, after in zip(found, again.search(QUERIES, 5), strict=True):
        np.testing.assert_array_equal(before, after)


def test_precision_costs_what_it_should():
    exact = ranking.top_k(QUERIES, DOCUMENTS, 10)[1]
    overlap = {}
    for precision in PRECISIONS:
        found = CompressedIndex(DOCUMENTS, IndexSpec(precision=precision)).search(QUERIES, 10)[1]
        overlap[precision] = np.mean(
            [len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)]
        )
    assert overlap["float32"] == 1 and overlap["float16"] > 0.99 and overlap["int8"] > 0.95
    assert 0.4 < overlap["binary"] < overlap["int8"]


def test_int8_uses_the_documents_ranges_for_queries():
    index = CompressedIndex(DOCUMENTS, IndexSpec(precision="int8"))
    documents, queries = truncate(DOCUMENTS, None), truncate(QUERIES, None)
    low, high = documents.min(axis=0), documents.max(axis=0)
    levels = np.clip((queries - low) / (high - low), 0, 1) * 255
    coded = index._as_documents(queries)
    step = (high - low) / 255
    assert (np.abs(coded - (low + levels * step)) <= step * 1.01).all()
    outside = np.abs(index._as_documents(10 * queries))
    assert (outside <= np.maximum(np.abs(low), np.abs(high)) + step).all()


def test_queries_are_rescored_in_blocks(monkeypatch):
    index = CompressedIndex(DOCUMENTS, IndexSpec(precision="binary"))
    at_once = index.search(QUERIES, 10)
    monkeypatch.setattr("workbench.quantize._BLOCK_VALUES", 3 * 100 * 64)
    for before, after in zip(at_once, index.search(QUERIES, 10), strict=True):
        np.testing.assert_array_equal(before, after)


def test_rescoring_helps_binary_codes():
    exact = ranking.top_k(QUERIES, DOCUMENTS, 10)[1]
    index = CompressedIndex(DOCUMENTS, IndexSpec(precision="binary"))
    kept = [
        np.mean(
            [
                len(set(a) & set(b))
                for a, b in zip(
                    exact, index.search(QUERIES, 10, rescore_multiplier=c)[1], strict=True
                )
            ]
        )
        for c in (1, 10)
    ]
    assert kept[1] > kept[0]


def test_truncation_is_a_search_of_the_first_dimensions():
    found = CompressedIndex(DOCUMENTS, IndexSpec(16)).search(QUERIES, 10)
    scores, positions = ranking.top_k(QUERIES[:, :16], DOCUMENTS[:, :16], 10)
    np.testing.assert_array_equal(found[1], positions)
    np.testing.assert_allclose(found[0], scores, atol=1e-5)


def test_rotation_keeps_distances_and_makes_truncation_good():
    mixed = (DOCUMENTS * np.linspace(2, 0.05, 64, dtype=np.float32))[:, RNG.permutation(64)]
    rotation = principal_rotation(mixed)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(64), atol=1e-5)
    np.testing.assert_allclose(
        (mixed @ rotation) @ (mixed @ rotation).T, mixed @ mixed.T, rtol=1e-3, atol=1e-2
    )
    exact = ranking.top_k(mixed[:40], mixed, 10)[1]
    kept = [
        np.mean(
            [
                len(set(a) & set(b))
                for a, b in zip(exact, ranking.top_k(v[:40, :16], v[:, :16], 10)[1], strict=True)
            ]
        )
        for v in (mixed, mixed @ rotation)
    ]
    assert kept[1] > kept[0] + 1


def test_equal_scores_are_in_the_order_of_the_documents():
    twice = np.repeat(DOCUMENTS[:50], 4, axis=0)
    for precision in PRECISIONS:
        index = CompressedIndex(twice, IndexSpec(16, precision))
        positions = index.search(DOCUMENTS[:5], 6)[1]
        for query, found in enumerate(positions):
            assert list(found[:4]) == [4 * query + i for i in range(4)]
    data = dataset(200, {f"q{i}": {f"d{4 * i}": 1} for i in range(50)}, 50)
    rows = sweep(data, {"teacher": (DOCUMENTS[:50], twice)}, [IndexSpec()])
    assert rows["share_of_teacher"].iloc[0] == 1


def test_scale_does_not_matter():
    for scale in (1e-25, 1e25):
        scores = CompressedIndex(scale * DOCUMENTS).search(QUERIES, 5)[0]
        np.testing.assert_allclose(
            scores, CompressedIndex(DOCUMENTS).search(QUERIES, 5)[0], atol=1e-5
        )


def test_the_space_is_the_same_after_the_disk(tmp_path):
    space = {"pooling": ("mean", 2), 1: None}
    index = CompressedIndex(DOCUMENTS, IndexSpec(16), space=space)
    CompressedIndex.load(index.save(tmp_path / "index")).search(QUERIES, 1, space=space)
    with pytest.raises(WorkbenchError, match="JSON values"):
        CompressedIndex(DOCUMENTS, space={"a": np.int64(3)})
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_curve_refuses_what_would_mislead():
    data, pair = dataset(600, QRELS), (QUERIES, DOCUMENTS)
    once = sweep(
        data, {"teacher": pair, "again": pair}, iter([IndexSpec(), IndexSpec(64), IndexSpec(8)])
    )
    assert once[["mode", "dimensions"]].values.tolist() == [
        [m, d] for m in ("teacher", "again") for d in (64, 8)
    ]
    for sides, points, more, words in (
        ({"teacher": pair}, [], {}, "no specs"),
        (
            {"teacher": pair, "short": (QUERIES, DOCUMENTS[:500])},
            [IndexSpec()],
            {},
            "500 vectors were given for 600 documents of short",
        ),
        ({"teacher": pair}, [IndexSpec()], {"timed": 0}, "at least 1"),
        ({"teacher": pair}, [IndexSpec()], {"timed": 10**13}, "do not fit into memory"),
    ):
        with pytest.raises(WorkbenchError, match=words):
            sweep(data, sides, points, **more)
    with pytest.raises(WorkbenchError, match="finds nothing that was judged"):
        sweep(dataset(600, {"q0": {"d0": 0}}), {"teacher": pair}, [IndexSpec()])


def test_curve_has_a_row_for_each_mode_and_point():
    data = dataset(600, QRELS)
    sides = {"teacher": (DOCUMENTS[:40], DOCUMENTS), "asymmetric": (QUERIES, DOCUMENTS)}
    rows = sweep(data, sides, POINTS)
    assert len(rows) == 16 and list(rows["mode"].unique()) == ["teacher", "asymmetric"]
    whole = rows[
        (rows["mode"] == "teacher") & (rows["precision"] == "float32") & (rows["dimensions"] == 64)
    ].iloc[0]
    assert whole["share_of_teacher"] == 1 and whole["bytes_per_document"] == 256
    small = rows[(rows["precision"] == "binary") & (rows["dimensions"] == 16)]
    assert small["share_of_teacher"].iloc[1] < 0.95 and (small["bytes_per_document"] == 2).all()
    assert (rows["share_low"] <= rows["share_of_teacher"]).all() and (rows["query_ms"] > 0).all()
    with pytest.raises(WorkbenchError, match='no "teacher"'):
        sweep(data, {"student": sides["teacher"]}, POINTS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IndexSpec(65).of(64), "65 dimensions are asked for and the vectors have 64"),
        (
            lambda: CompressedIndex(DOCUMENTS, IndexSpec(20, "binary")),
            "not a multiple of 8, take 16",
        ),
        (lambda: IndexSpec(0), "at least 1"),
        (lambda: IndexSpec(16.5), "expected a whole number"),
        (lambda: truncate(DOCUMENTS, -1), "at least 1"),
        (lambda: CompressedIndex(DOCUMENTS).search(QUERIES, 1.5), "expected a whole number"),
        (lambda: IndexSpec(8, "int4"), "choose from float32, float16, int8, binary"),
        (lambda: CompressedIndex(DOCUMENTS * np.nan), "NaN"),
        (
            lambda: CompressedIndex(DOCUMENTS).search(QUERIES[:, :8]),
            "8 wide and the index is of vectors 64 wide",
        ),
        (lambda: CompressedIndex(DOCUMENTS).search(QUERIES, 0), "at least 1"),
        (
            lambda: CompressedIndex(DOCUMENTS, space={"a": 1}).search(QUERIES, space={"a": 2}),
            "another space",
        ),
    ],
)
def test_refuses(make, words):
    with pytest.raises(WorkbenchError, match=words):
        make()


def test_refuses_what_is_no_index(tmp_path):
    path = tmp_path / "index"
    with pytest.raises(WorkbenchError, match="no index that can be read"):
        CompressedIndex.load(path)
    path.write_bytes(b"nonsense nonsense")
    with pytest.raises(WorkbenchError, match="no index that can be read"):
        CompressedIndex.load(path)
    whole = CompressedIndex(DOCUMENTS, IndexSpec(16, "int8")).save(path).read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(WorkbenchError, match="no index that can be read"):
        CompressedIndex.load(path)
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(WorkbenchError, match="its checksum is another"):
        CompressedIndex.load(path)
    for about in (b"[1]", b"null", b"{}"):
        save_file({"codes": np.zeros((2, 2), np.uint8)}, path, {"about": about.decode()})
        with pytest.raises(WorkbenchError, match="no index of this workbench"):
            CompressedIndex.load(path)


def test_more_results_than_documents():
    for precision in PRECISIONS:
        scores, positions = CompressedIndex(DOCUMENTS[:3], IndexSpec(precision=precision)).search(
            QUERIES, 10
        )
        assert scores.shape == (40, 3) and all(set(row) == {0, 1, 2} for row in positions)


def test_ties_go_on_beyond_what_was_searched_at_first():
    many = np.repeat(DOCUMENTS[:3], 50, axis=0)[np.random.default_rng(2).permutation(150)]
    for precision in PRECISIONS:
        for queries in (
            DOCUMENTS[:3],
            DOCUMENTS[np.arange(60) % 3],
        ):  # faiss multiplies few and many differently
            found = CompressedIndex(many, IndexSpec(64, precision)).search(queries, 4)[1]
            for query, row in zip(queries, found, strict=True):
                assert list(row) == list(np.flatnonzero((many == query).all(axis=1))[:4])


@pytest.mark.parametrize(
    ("name", "spec", "expected"),
    [
        ("int8", IndexSpec(8, "int8"), [[28, 31, 3, 18], [15, 24, 1, 7], [0, 29, 37, 4]]),
        ("binary", IndexSpec(16, "binary"), [[14, 30, 21, 15], [14, 30, 9, 24], [7, 38, 27, 29]]),
    ],
)
def test_an_index_of_version_0_1_is_read(name, spec, expected):
    index = CompressedIndex.load(Path(__file__).parent / "v0.1" / f"index-{name}.safetensors")
    assert (len(index), index.width, index.spec, index.space["teacher"]) == (
        40,
        16,
        spec,
        "teacher",
    )
    queries = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    assert index.search(queries, 4)[1].tolist() == expected  # as version 0.1 searched it


def test_without_faiss_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(WorkbenchError, match=r"faiss needs the package .*\[quantize\]"):
        CompressedIndex(DOCUMENTS)
    assert IndexSpec(16).of(64).bytes_per_document == 64 and truncate(DOCUMENTS, 16).shape == (
        600,
        16,
    )


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(WorkbenchError, match="cannot be written"):
        CompressedIndex(DOCUMENTS).save(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
