"""Why a query is served worse by one model than by another: which of the other's vectors restore its `nDCG@10`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from workbench import ranking
from workbench._util import unit
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError
from workbench.evaluate import checked_pair, score, score_ranking

CAUSES = {
    "query": "the query moved",
    "relevant": "the relevant documents moved away",
    "others": "other documents moved closer",
    "together": "no single cause",
}


def failures(
    dataset: RetrievalDataset,
    teacher: tuple[np.ndarray, np.ndarray],
    student: tuple[np.ndarray, np.ndarray],
    *,
    least: float = 0.05,
    scores: tuple[pd.Series, pd.Series] | None = None,
) -> pd.DataFrame:
    """Say of each judged query that the student serves worse what went wrong, from the vectors alone.

    Each of three things is given back by itself: the teacher's vector of the query, its vectors of the relevant
    documents, its vectors of all other documents. The one that restores most of the `nDCG@10` is the cause, the first of them
    if they are equal; "together" if none restores a fifth of the loss.

    Args:
        dataset: q queries and n documents, with judgments.
        teacher: vectors of the queries, float of shape (q, d), and of the documents, float of shape (n, d).
        student: the same of the other model, which searches its own documents.
        least: queries that lose less `nDCG@10` are left out.
        scores: `nDCG@10` of the teacher and of the student by query id, where they are known already.

    Returns:
        One row a failing query (index: its id), the greatest loss first: `loss` of `nDCG@10`; `query`, `relevant` and
        `others`, what giving each back restores; `cause`, a key of `CAUSES`; and the `text` of the query.

    Raises:
        WorkbenchError: the vectors are not of this data set, or the two models do not share a width.
    """
    teacher, student = (
        checked_pair(pair, dataset, f" of the {name}")
        for name, pair in (("teacher", teacher), ("student", student))
    )
    if teacher[0].shape[1] != student[0].shape[1]:
        raise WorkbenchError(
            f"the models are {teacher[0].shape[1]} and {student[0].shape[1]} wide: a vector of the one can stand in for "
            "the other's in one space only"
        )
    best, own = scores or (score(dataset, *pair)["ndcg_at_10"] for pair in (teacher, student))
    loss = best - own
    failing = loss[loss >= least].sort_values(ascending=False, kind="stable")
    (tq, td), (sq, sd) = map(unit, teacher), map(unit, student)
    place, at = (
        {name: i for i, name in enumerate(dataset.corpus)},
        {name: i for i, name in enumerate(dataset.queries)},
    )
    with_relevant, with_others = sd.copy(), td.copy()
    found = {
        name: np.zeros((len(dataset.queries), min(10, len(td))), dtype=np.int64)
        for name in ("query", "relevant", "others")
    }
    for name in failing.index:
        row, rows = at[name], [place[d] for d, grade in dataset.qrels[name].items() if grade > 0]
        with_relevant[rows], with_others[rows] = td[rows], sd[rows]
        for what, query, documents in (
            ("query", tq, sd), ("relevant", sq, with_relevant), ("others", sq, with_others),
        ):  # fmt: skip
            found[what][row] = ranking.top_k(query[row][None], documents, 10, normalized=True)[1][0]
        with_relevant[rows], with_others[rows] = sd[rows], td[rows]
    table = pd.DataFrame({"loss": failing})
    for what, positions in found.items():
        table[what] = (score_ranking(dataset, positions)["ndcg_at_10"] - own).reindex(failing.index)
    given = table[[*found]]
    table["cause"] = (
        given.idxmax(axis=1).where(given.max(axis=1) >= table["loss"] / 5, "together")
        if len(table)
        else ""
    )
    table["text"] = [dataset.queries[name] for name in table.index]
    return table.rename_axis("query_id")
