"""Why a query is served worse by one model than by another."""

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
    """Say of each judged query that the student serves worse what went wrong.

    Each of three things is given back by itself: the teacher's vector of the query, its vectors of
    the relevant documents, its vectors of all other documents. The one that restores most of the
    `nDCG@10` is the cause; "together" if none restores a fifth of the loss.

    Args:
        dataset: q queries and n documents, with judgments.
        teacher: vectors of the queries, float of shape (q, d), and of the documents, (n, d).
        student: the same of the other model, which searches its own documents.
        least: queries that lose less `nDCG@10` are left out.
        scores: `nDCG@10` of the teacher and of the student by query id; computed if None.

    Returns:
        One row a failing query (index: its id), the greatest loss first: `loss` of `nDCG@10`;
        `query`, `relevant` and `others`, what giving each back restores; `cause`, a key of
        `CAUSES`; and the `text` of the query.
    """
    teacher, student = checked_pair(teacher, dataset), checked_pair(student, dataset)
    if teacher[0].shape[1] != student[0].shape[1]:
        raise WorkbenchError(
            f"the models are {teacher[0].shape[1]} and {student[0].shape[1]} wide, in two spaces"
        )
    if scores is None:
        scores = tuple(score(dataset, *pair)["ndcg_at_10"] for pair in (teacher, student))
    loss = scores[0] - scores[1]
    failing = loss[loss >= least].sort_values(ascending=False, kind="stable")
    (tq, td), (sq, sd) = map(unit, teacher), map(unit, student)
    query_rows = {name: row for row, name in enumerate(dataset.queries)}
    places = np.arange(len(sd))[None]
    nothing = np.full((len(sq), min(10, len(sd))), -1)
    restored = {cause: nothing.copy() for cause in ("query", "relevant", "others")}
    for name in failing.index:
        row, grades = query_rows[name], dataset.qrels[name]
        relevant = np.array([grades.get(document, 0) > 0 for document in dataset.corpus])
        cosines, lent = sd @ sq[row], td @ sq[row]  # with the student's and the teacher's documents
        variants = {
            "query": sd @ tq[row],
            "relevant": np.where(relevant, lent, cosines),
            "others": np.where(relevant, cosines, lent),
        }
        for cause, scores_of_documents in variants.items():
            restored[cause][row] = ranking.order(scores_of_documents[None], places, 10)[1][0]
    table = pd.DataFrame({"loss": failing})
    for cause, positions in restored.items():
        gain = score_ranking(dataset, positions)["ndcg_at_10"] - scores[1]
        table[cause] = gain.reindex(failing.index)
    gains = table[list(restored)]
    table["cause"] = ""
    if len(table):
        enough = gains.max(axis=1) >= table["loss"] / 5
        table["cause"] = gains.idxmax(axis=1).where(enough, "together")
    table["text"] = [dataset.queries[name] for name in table.index]
    return table.rename_axis("query_id")
