import _course
import numpy as np
import pandas as pd
import pytest

from workbench.data import Role, Text, read_dataset
from workbench.evaluate import interval
from workbench.teachers import FunctionTeacher


def test_the_factbook_is_divided_without_overlap():
    train, collection = _course.factbook(train=300, held_out=100)
    assert [text.role for text in train] == [Role.DOCUMENT] * 300 + [Role.QUERY] * 300
    assert len(collection.queries) == len(collection.corpus) == 100
    assert not {text.text for text in train} & set(collection.corpus.values())
    # Question i belongs to passage i, which notebook 1 relies on; BEIR's rule wants other ids.
    assert [*collection.queries] == [f"{id_}?" for id_ in collection.corpus]
    assert len(_course.part(read_dataset("factbook"), [3, 1]).queries) == 2


def test_what_is_found_is_counted_on_the_first_models_index():
    texts = [
        Text(f"{word} number {i}", id=f"t{i}") for i, word in enumerate(["stone"] * 5 + ["sea"] * 5)
    ]
    collection = _course.asked(texts, texts[::2])
    assert [*collection.qrels["piece of t2"]] == ["t2"] and len(collection.queries) == 5
    index = np.eye(10, dtype=np.float32)
    pairs = {"all": (index[::2], index), "one off": (index[1::2], index)}
    found = _course.finds({"teacher": (index[::2], index), **pairs}, collection, k=1)
    assert found["all"].eq(1).all() and found["one off"].eq(0).all()


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ([1, 2, 1, 2], "more, and"),
        ([-1, -2, -1, -2], "fewer, and"),
        ([1, -1, 1, -1], "gained nothing"),
    ],
)
def test_a_gain_that_chance_may_have_made_is_called_none(gains, words):
    table = pd.DataFrame({"new": np.array(gains) + 5.0, "old": 5.0})
    low, high = interval(table["new"] - table["old"])
    said = _course.gained(table, "new", "old")
    assert words in said and f"({low:+.2f} to {high:+.2f})" in said
    # The dearer one, which stands last, is taken where it finds more.
    assert _course.cheapest(table[["old", "new"]]) == ("new" if low > 0 else "old")


def letters(texts):
    return [[text.count(letter) + 0.01 for letter in "abcdefgh"] for text in texts]


def test_more_like_picks_what_resembles_and_no_copies(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    monkeypatch.setattr(_course, "SAME", 0.999)
    model = FunctionTeacher(letters)
    pool = ["aaa b", "aaab", "hhh g", "aa bb", "hhhh", "aaaaa bb", "h a", "ab ab ab c"]
    picked = _course.more_like(["aaa bb"], pool, 3, model, avoid=["aa bb"])
    # "aaab" is a copy of "aaa b", and "aa bb" is evaluated.
    assert [text.text for text in picked] == ["aaaaa bb", "aaa b", "ab ab ab c"]
    monkeypatch.setattr(_course, "SAME", 0.9)
    assert len(_course.more_like(["aaa bb"], pool, 100, model)) < 6
