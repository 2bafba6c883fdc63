"""Regions on planted damage: which kind of text comes first, and how often an innocent one is accused."""

import numpy as np
import pandas as pd
import pytest

from workbench import agreement, regions
from workbench._util import unit
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError
from workbench.evaluate import failures

WORDS = ["river boat", "bread oven", "engine wheel", "tomato seed",
         "coffee cup", "window glass", "guitar song", "tax law"]  # fmt: skip
WIDTH = 32


def noise(rng, count, size):
    """Vectors of a mean length of `size`."""
    return size * rng.standard_normal((count, WIDTH)) / WIDTH**0.5


def topics(count=400, seed=0):
    """Return texts on eight topics, their topics, and vectors of a teacher and of a near student."""
    rng = np.random.default_rng(seed)
    topic = np.arange(count) % len(WORDS)
    centers = 3 * rng.standard_normal((len(WORDS), WIDTH))
    teacher = unit(centers[topic] + rng.standard_normal((count, WIDTH)))
    student = unit(teacher + noise(rng, count, 0.4))
    ages = ["old" if i % 3 else "new" for i in range(count)]
    texts = [f"the {WORDS[t]} number {i} is {ages[i]}" for i, t in enumerate(topic)]
    return texts, topic, teacher, student


def test_regions_are_named_by_the_words_of_their_texts():
    texts, topic, teacher, _ = topics()
    names = regions.find_regions(teacher, texts, count=8)
    assert list(names) == list(regions.find_regions(teacher, texts, count=8))
    assert len(set(names)) == 8
    for number, words in enumerate(WORDS):
        (name,) = set(names[topic == number])
        assert all(word in name for word in words.split()), name


@pytest.mark.parametrize("by", ["topic", "region"])
def test_a_damaged_topic_comes_first_and_no_other_is_accused(by):
    """Noise of half a vector's length on one topic of eight, 40 draws; as many without damage."""
    first = accused = false = 0
    draws = 40
    for seed in range(draws):
        texts, topic, teacher, student = topics(seed=seed)
        rng, groups = np.random.default_rng(seed), topic.astype(str)
        if by == "region":
            groups = regions.find_regions(teacher, texts, count=8)
        table = agreement.per_text(teacher, student, k=0)
        false += (regions.compare_regions(table, groups)["cosine_high"] < 0).any()
        hurt = topic == seed % len(WORDS)
        student[hurt] = unit(student[hurt] + noise(rng, hurt.sum(), 0.5))
        table = regions.compare_regions(agreement.per_text(teacher, student, k=0), groups)
        name = pd.Series(groups[hurt]).mode()[0]
        first += table.index[0] == name
        accused += (table["cosine_high"].drop(name) < 0).any()
    assert first == draws
    assert false <= 0.1 * draws  # 5 % expected at most, and 40 draws
    assert accused <= 0.1 * draws


def test_a_small_region_does_not_lead_by_chance():
    values = np.r_[np.full(500, 0.9), np.full(500, 0.5), 0.0, 0.1, 0.9]
    groups = ["a"] * 500 + ["b"] * 500 + ["c"] * 3
    table = regions.compare_regions(pd.DataFrame({"overlap": values}), groups)
    assert list(table.index) == ["b", "a", "c"]
    assert np.isnan(table.loc["c", "overlap_low"])
    assert table.loc["b", "overlap_high"] < 0 < table.loc["a", "overlap_low"]


def test_columns_of_the_reader_make_regions():
    table = pd.DataFrame({"overlap": np.linspace(0, 1, 100), "length": np.arange(100)})
    table["role"] = ["query", None] * 50
    assert list(regions.compare_regions(table, "role")["texts"]) == [50, 50]
    for frame, column in ((table, "color"), (table[["role"]], "role")):
        with pytest.raises(WorkbenchError, match=column):
            regions.compare_regions(frame, column)


@pytest.mark.parametrize("text", ["7 12 3.5", "日本語のテキスト"])
def test_texts_without_english_words_have_names(text):
    vectors = np.random.default_rng(0).standard_normal((60, 8))
    names = set(regions.find_regions(vectors, [text] * 60, count=4))
    assert len(names) == 4 and all(names)
    for rows, count, message in ((49, 49, "49 texts are too few"), (60, 59, "60 vectors")):
        with pytest.raises(WorkbenchError, match=message):
            regions.find_regions(vectors[:rows], [text] * count)


@pytest.mark.parametrize("what", ["query", "relevant", "others"])
def test_why_a_query_fails_is_what_was_planted(what):
    rng = np.random.default_rng(0)
    documents = unit(rng.standard_normal((200, WIDTH)))
    queries = unit(documents[:20] + noise(rng, 20, 0.5))
    teacher, (asked, answers) = (queries, documents), (queries.copy(), documents.copy())
    if what == "query":
        asked = unit(rng.standard_normal(queries.shape))
    elif what == "relevant":
        answers[:20] = unit(rng.standard_normal((20, WIDTH)))
    else:  # eight strangers around each query
        answers[20:180] = unit(np.repeat(queries, 8, axis=0) + noise(rng, 160, 0.1))
    ids = {f"d{i}": "text" for i in range(200)}
    judgments = {f"q{i}": {f"d{i}": 1} for i in range(20)}
    data = RetrievalDataset("planted", ids, {f"q{i}": f"query {i}" for i in range(20)}, judgments)
    table = failures(data, teacher, (asked, answers))
    assert len(table) >= 15
    assert (table["cause"] == what).all()
    assert (table["loss"].diff().dropna() <= 0).all()
    assert not len(failures(data, teacher, teacher))
