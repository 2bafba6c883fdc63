"""One search and one distillation read, hash, tokenize and load everything about once."""

import re
from collections import Counter
from dataclasses import replace

import pytest
import sentence_transformers
from transformers import PreTrainedTokenizerBase

from tests.conftest import sentences
from workbench import models, pipeline, student, views
from workbench.cache import TargetCache
from workbench.data import Text


@pytest.fixture
def counts(monkeypatch):
    """Count hashes, `Text` objects and tokenizations of each text, and loads of each model."""
    counters = {name: Counter() for name in ("hashed", "made", "tokenized", "loaded", "weights")}

    def count(owner, name, counter, keys):
        original = getattr(owner, name)

        def counting(*args, **options):
            counters[counter].update(keys(*args, **options))
            return original(*args, **options)

        monkeypatch.setattr(owner, name, counting)

    def tokenized(tokenizer, text, *args, **options):
        return [text] if isinstance(text, str) else text

    def loaded(model, name=None, **options):
        return [str(name)] if name is not None else []

    count(TargetCache, "_key", "hashed", lambda cache, text: [text.text])
    count(Text, "__post_init__", "made", lambda text: [text.text])
    count(PreTrainedTokenizerBase, "__call__", "tokenized", tokenized)
    count(sentence_transformers.SentenceTransformer, "__init__", "loaded", loaded)
    count(models, "fingerprint", "weights", lambda model: ["a loaded model"])
    return counters


def check(counts, texts, base):
    for text in texts:
        assert counts["made"][text] <= 1
        assert counts["hashed"][text] <= 2  # and once as a member of a set, when it was read
        assert counts["tokenized"][text] <= 2
    assert counts["loaded"][str(base)] <= 1
    assert not counts["weights"]  # the hash of the base's files is enough


@pytest.fixture
def recipe(tmp_path, monkeypatch, tiny_model, other_tiny_model):
    """The recipe of a search, with tiny models."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    return replace(
        pipeline.ADAPT, teacher=str(other_tiny_model), base=str(tiny_model), max_length=40, others=0
    )


@pytest.fixture
def documents(tmp_path):
    parts = [f"The {text.text}." for text in sentences(120, seed=4)]
    texts = [" ".join(parts[start : start + 3]) for start in range(0, 120, 3)]
    (tmp_path / "notes").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "notes" / f"{number}.txt").write_text(text)
    return texts


def test_one_search(recipe, documents, counts, tmp_path, monkeypatch):
    monkeypatch.setattr(views, "ADAPT", recipe)
    view = views.search(tmp_path / "notes", progress=False)
    check(counts, documents, recipe.base)
    share = re.search(
        r"learned these documents \(.*\): its queries find (\d+)% of", view.status.value
    )
    assert int(share[1]) > 30
    again = views.search(tmp_path / "notes", progress=False)  # which finds the student made
    assert again.status.value == view.status.value
    view.ask("the river and the garden")
    assert "the river and the garden" in view.heading.value


@pytest.mark.parametrize("name", ["tour", "adapt"])
def test_one_distillation(
    documents, counts, tiny_model, other_tiny_model, tmp_path, monkeypatch, name
):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    values = {"base": str(tiny_model), "max_length": 40, "progress": False}
    values |= {"epochs": 1} if name == "tour" else {"others": 0}
    model = pipeline.distill(tmp_path / "notes", str(other_tiny_model), recipe=name, **values)
    assert student.head_of(model)
    check(counts, documents, tiny_model)
