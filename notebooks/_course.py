"""What the notebooks share: parts of a collection, and picking more texts like some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from workbench import agreement, evaluate, ranking
from workbench._util import unit
from workbench.data import RetrievalDataset, Text, as_texts, crop_queries, read_dataset, read_texts

SAME = 0.95  # cosine of near-duplicates


def part(dataset: RetrievalDataset, rows: Sequence[int]) -> RetrievalDataset:
    """Return some documents of a data set, by position, with the queries that are judged on one of them."""
    ids = list(dataset.corpus)
    corpus = {ids[row]: dataset.corpus[ids[row]] for row in sorted(rows)}
    judged = {
        query: {id_: grade for id_, grade in grades.items() if id_ in corpus}
        for query, grades in dataset.qrels.items()
    }
    qrels = {query: grades for query, grades in judged.items() if any(grades.values())}
    queries = {query: dataset.queries[query] for query in qrels}
    return replace(dataset, corpus=corpus, queries=queries, qrels=qrels)


def factbook(train: int = 400, held_out: int = 150) -> tuple[list[Text], RetrievalDataset]:
    """Return passages on countries with their questions to train on, and others as a data set to measure on.

    Both are drawn at random, always alike. The training texts are `train` passages and as many questions.
    """
    whole = read_dataset("factbook")
    order = np.random.default_rng(0).permutation(len(whole.corpus))
    lesson = part(whole, order[held_out : held_out + train])
    return [*lesson.document_texts(), *lesson.query_texts()], part(whole, order[:held_out])


def more_like(
    texts: Sequence[str | Text], pool: Any, count: int, model: Any, *, avoid: Sequence = ()
) -> list[Text]:
    """Pick texts from a pool by their highest cosine to others, without near-duplicates.

    `pool` and `model` are what `read_texts` and `wb.compare` take. Nothing like `avoid` is picked.
    """
    pool, others = read_texts(pool), as_texts([*texts, *avoid])
    model = evaluate.as_model(model, others)
    taken = unit(evaluate.vectors(model, others))
    candidates = unit(evaluate.vectors(model, pool))
    resemblance = ranking.top_k(candidates, taken[: len(texts)], 1, normalized=True)[0][:, 0]
    picked = []
    for row in np.argsort(-resemblance, kind="stable"):
        if len(picked) < count and (taken @ candidates[row]).max() < SAME:
            picked.append(pool[row])
            taken = np.concatenate([taken, candidates[row][None]])
    return picked


def asked(texts: Sequence[Text], held_out: Sequence[Text]) -> RetrievalDataset:
    """Return all texts as documents, and as queries a piece of each of those held out, which is judged to find its own."""
    times = Counter(text.id for text in texts)
    names = {
        text: text.id if text.id and times[text.id] == 1 else f"{row}: {text.id}"
        for row, text in enumerate(texts)
    }
    queries, qrels = {}, {}
    for text in held_out:
        name = names[text]
        queries[f"piece of {name}"] = [*crop_queries([text]), text][0].text
        qrels[f"piece of {name}"] = {name: 1}
    corpus = {name: text.text for text, name in names.items()}
    details = {name: text for text, name in names.items()}
    return RetrievalDataset("texts", corpus, queries, qrels, details)


def finds(models: Mapping[str, Any], collection: RetrievalDataset, k: int = 10) -> pd.DataFrame:
    """Say how many of the first model's k nearest documents the others find with their queries on its index.

    Returns a row a query, and a column for each model but the first.
    """
    models = evaluate.same_models(models, collection)
    collection, _ = evaluate.cut_for(models, collection)
    embedded = [evaluate.vectors(model, collection) for model in models.values()]
    k, index = min(k, len(collection.corpus)), embedded[0][1]
    nearest, *hits = (
        ranking.top_k(queries, index, k, rows=collection.rows)[1] for queries, _ in embedded
    )
    shares = [agreement.overlap(nearest, found) for found in hits]
    return (
        pd.DataFrame(dict(zip([*models][1:], shares, strict=True)), index=[*collection.queries]) * k
    )


def gained(table: pd.DataFrame, name: str, other: str) -> str:
    """Say in a sentence whether one student of `finds` finds more than another."""
    gain = table[name] - table[other]
    low, high = evaluate.interval(gain)
    if low > 0:
        verdict = "more, and chance does not explain it"
    elif high < 0:
        verdict = "fewer, and chance does not explain it"
    else:
        verdict = "gained nothing that shows"
    return f"{name} beside {other}: {gain.mean():+.2f} ({low:+.2f} to {high:+.2f}): {verdict}"


def cheapest(table: pd.DataFrame) -> str:
    """Return the first student of `finds`, in the order of their cost, that the best one does not beat beyond chance."""
    best = table.mean().idxmax()
    lows = {name: evaluate.interval(table[best] - table[name])[0] for name in table}
    return next(name for name, low in lows.items() if name == best or low <= 0)
