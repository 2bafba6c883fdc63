"""Regions on planted damage: which kind of text comes first, and how often an innocent one is accused."""

import numpy as np
import pandas as pd
import pytest

from workbench import agreement, regions
from workbench._util import unit
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError
from workbench.failures import failures
from workbench.teachers import Teacher

WORDS = [
    "river boat",
    "bread oven",
    "engine wheel",
    "tomato seed",
    "coffee cup",
    "window glass",
    "guitar song",
    "tax law",
]


def topics(count=400, width=32, seed=0, noise=0.4):
    """Return texts on eight topics, their topics, and vectors of a teacher and of a student that is near it everywhere."""
    rng = np.random.default_rng(seed)
    topic = np.arange(count) % len(WORDS)
    teacher = unit(
        3 * rng.standard_normal((len(WORDS), width))[topic] + rng.standard_normal((count, width))
    )
    student = unit(teacher + noise * rng.standard_normal(teacher.shape) / width**0.5)
    texts = [
        f"the {WORDS[t]} number {i} is {'old' if i % 3 else 'new'}" for i, t in enumerate(topic)
    ]
    return texts, topic, teacher, student


def test_regions_are_named_by_the_words_of_their_texts():
    texts, topic, teacher, _ = topics()
    names = regions.find_regions(teacher, texts, count=8)
    assert list(names) == list(regions.find_regions(teacher, texts, count=8))
    assert len(set(names)) == 8
    for number, words in enumerate(WORDS):
        (name,) = set(names[topic == number])
        assert all(word in name for word in words.split()), name


@pytest.mark.parametrize("by", ["topic", "found"])
def test_a_damaged_topic_comes_first_and_no_other_is_accused(by):
    """Noise of half a vector's length on one topic of eight, 40 draws; as many without damage."""
    first = accused = false = 0
    draws = 40
    for seed in range(draws):
        texts, topic, teacher, student = topics(seed=seed)
        rng = np.random.default_rng(seed)
        groups = (
            topic.astype(str) if by == "topic" else regions.find_regions(teacher, texts, count=8)
        )
        table = agreement.per_text(teacher, student, k=0)
        false += (regions.compare_regions(table, groups)["cosine_high"] < 0).any()
        hurt = topic == seed % len(WORDS)
        student[hurt] = unit(
            student[hurt] + 0.5 * rng.standard_normal(student[hurt].shape) / 32**0.5
        )
        found = regions.compare_regions(agreement.per_text(teacher, student, k=0), groups)
        name = pd.Series(groups[hurt]).mode()[0]
        first += found.index[0] == name
        accused += (found["cosine_high"].drop(name) < 0).any()
    assert first == draws
    assert false <= 0.1 * draws  # 5 % expected at most, and 40 draws
    assert accused <= 0.1 * draws


def test_a_small_region_does_not_lead_by_chance():
    values = np.r_[np.full(500, 0.9), np.full(500, 0.5), 0.0, 0.1, 0.9]
    found = regions.compare_regions(
        pd.DataFrame({"overlap": values}), ["a"] * 500 + ["b"] * 500 + ["c"] * 3
    )
    assert list(found.index) == ["b", "a", "c"]
    assert np.isnan(found.loc["c", "overlap_low"])
    assert found.loc["b", "overlap_high"] < 0 < found.loc["a", "overlap_low"]


def test_columns_of_the_reader_make_regions():
    table = pd.DataFrame(
        {"overlap": np.linspace(0, 1, 100), "length": np.arange(100), "role": ["query", None] * 50}
    )
    assert len(regions.compare_regions(table, "length", bins=4)) == 4
    assert list(regions.compare_regions(table, "role")["texts"]) == [50, 50]
    with pytest.raises(WorkbenchError, match="color"):
        regions.compare_regions(table, "color")
    with pytest.raises(WorkbenchError, match="nothing to compare"):
        regions.compare_regions(table[["role"]], "role")


@pytest.mark.parametrize("text", ["7 12 3.5", "😀 🎉", "слово дерево река", "日本語のテキスト"])
def test_texts_without_english_words_have_names(text):
    vectors = np.random.default_rng(0).standard_normal((60, 8))
    names = set(regions.find_regions(vectors, [text] * 60, count=4))
    assert len(names) == 4 and all(names)


def test_what_has_no_regions_is_said():
    vectors = np.random.default_rng(0).standard_normal((60, 8))
    texts = [f"text {i}" for i in range(60)]
    for arguments, message in (
        ((vectors[:49], texts[:49]), "49 texts are too few"),
        ((np.ones((60, 8)), texts), "same vector"),
        ((vectors, texts[:59]), "60 vectors"),
    ):
        with pytest.raises(WorkbenchError, match=message):
            regions.find_regions(*arguments)


def letters(texts):
    return [[text.count(letter) + 0.01 for letter in "abcdefgh"] for text in texts]


def test_more_like_picks_what_resembles_and_no_copies(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    model = Teacher(letters)
    pool = ["aaa b", "aaab", "hhh g", "aa bb", "hhhh", "aaaaa bb", "h a", "ab ab ab c"]
    picked = regions.more_like(["aaa bb"], pool, 3, model, avoid=["aa bb"], same=0.999)
    # "aaab" is a copy of "aaa b", and "aa bb" is evaluated.
    assert [text.text for text in picked] == ["aaaaa bb", "aaa b", "ab ab ab c"]
    assert len(regions.more_like(["aaa bb"], pool, 100, model, same=0.9)) < 6


def planted(what, seed=0):
    """Return a data set, a teacher that serves it well, and a student of which one thing is damaged."""
    rng = np.random.default_rng(seed)
    documents = unit(rng.standard_normal((200, 32)))
    queries = unit(documents[:20] + 0.5 * rng.standard_normal((20, 32)) / 32**0.5)
    asked, found = queries.copy(), documents.copy()
    if what == "query":
        asked = unit(rng.standard_normal(queries.shape))
    elif what == "relevant":
        found[:20] = unit(rng.standard_normal((20, 32)))
    else:
        for row in range(20):  # eight strangers around each query
            found[20 + 8 * row : 28 + 8 * row] = unit(
                queries[row] + 0.1 * rng.standard_normal((8, 32)) / 32**0.5
            )
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(20)}
    data = RetrievalDataset(
        "planted",
        {f"d{i}": "text" for i in range(200)},
        {f"q{i}": f"query {i}" for i in range(20)},
        qrels,
    )
    return data, (queries, documents), (asked.astype(np.float32), found.astype(np.float32))


@pytest.mark.parametrize("what", ["query", "relevant", "others"])
def test_why_a_query_fails_is_what_was_planted(what):
    data, teacher, student = planted(what)
    found = failures(data, teacher, student)
    assert len(found) >= 15
    assert (found["cause"] == what).all()
    assert (found["loss"].diff().dropna() <= 0).all()
    assert not len(failures(data, teacher, teacher))
    with pytest.raises(WorkbenchError, match="32 and 16 wide"):
        failures(data, teacher, tuple(side[:, :16] for side in student))
