"""One text's neighbors for the teacher and for the student, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench import ranking
from workbench._util import paired, unit
from workbench.data import Text
from workbench.errors import WorkbenchError
from workbench.widgets._html import Markup, html_table, shown
from workbench.widgets._view import Selection, View, note, same_texts, search_box, wrapped
from workbench.widgets.chart import figure
from workbench.widgets.table import Table

_MARKS = {"both": ("=", "found by both"), "teacher": ("−", "lost by the student"), "student": ("+", "new")}


class NeighborInspector(Selection, View):
    """Select a text, and see what both models find nearest to it.

    Args:
        teacher: float of shape (n, d).
        student: float of shape (n, e), the same texts; e may differ from d.
        texts: n texts, `str` or `Text`.
        k: neighbors to show.

    Attributes:
        selected: positions of the selected texts, of which the first is shown; to be set and observed, see `select`.
        position: position of the text that is shown.
        neighbors: one row a neighbor: model, rank (1 is nearest), position, cosine, found ("both" or the model), text.

    Raises:
        WorkbenchError: the arrays are not vectors of these texts, or there are fewer than two.
    """

    def __init__(self, teacher: np.ndarray, student: np.ndarray, texts: Sequence[str | Text], *, k: int = 10) -> None:
        teacher, student = paired(teacher, student)
        texts = same_texts(texts, teacher)
        if len(texts) < 2:
            raise WorkbenchError("one text has no neighbors: at least 2 are needed")
        self._vectors = {"teacher": unit(teacher), "student": unit(student)}
        self._texts = pd.DataFrame({"text": [text.text for text in texts]})
        self._index = self._texts.index
        self.search = search_box("words in the text, then Enter", self._search)
        self.k = ipywidgets.BoundedIntText(min(k, len(texts) - 1), min=1, max=len(texts) - 1, description="k")
        self.rows = Table(self._texts, page_rows=6, many=False)
        self.status, self.query = note(), ipywidgets.HTML()
        flexible = {"flex": "1 1 380px", "min_width": "300px"}
        self._lists = ipywidgets.HTML(layout=flexible), ipywidgets.HTML(layout=flexible)
        super().__init__(wrapped(self.search, self.k), self.rows, self.query, self.status, wrapped(*self._lists))
        self.k.observe(lambda _: self._show(), "value")
        self.rows.observe(lambda change: self.select(change["new"]), "selected")
        self.observe(lambda _: self._selection_changed(), "selected")
        self.select(0)

    def summary(self) -> str:
        """Return both lists."""
        return f"{self.query.value}<p>{self.status.value}</p>" + "".join(part.value for part in self._lists)

    def figures(self) -> list[go.Figure]:
        """Return the cosines by rank for both models."""
        chart = figure(height=280, x="rank", y="cosine")
        for model, rows in self.neighbors.groupby("model", sort=False):
            chart.add_scatter(x=rows["rank"], y=rows["cosine"], mode="lines+markers", name=model)
        return [chart]

    def _selection_changed(self) -> None:
        self.rows.selected = self.selected
        if self.selected:
            self.position = self.selected[0]
            self._show()

    def _show(self) -> None:
        found = {model: self._nearest(vectors) for model, vectors in self._vectors.items()}
        shared = found["teacher"].keys() & found["student"].keys()
        self.neighbors = pd.DataFrame(
            [
                (model, rank, p, cosine, "both" if p in shared else model, self._texts["text"][p])
                for model, cosines in found.items()
                for rank, (p, cosine) in enumerate(cosines.items(), 1)
            ],
            columns=["model", "rank", "position", "cosine", "found", "text"],
        )
        self.query.value = f'<div dir="auto"><b>{shown(self._texts["text"][self.position], 600)}</b></div>'
        self.status.value = f"{len(shared)} of {self.k.value} neighbors in common (= both, − lost, + new)"
        for part, (model, rows) in zip(self._lists, self.neighbors.groupby("model", sort=False), strict=True):
            part.value = _list(model, rows)

    def _nearest(self, vectors: np.ndarray) -> dict[int, float]:
        """Return position to cosine of the k nearest texts, nearest first."""
        own = vectors[self.position][None]
        (cosines,), (positions,) = ranking.top_k(own, vectors, self.k.value + 1, normalized=True)
        found = dict(zip(positions.tolist(), cosines.tolist(), strict=True))
        found.pop(self.position, None)  # among more than k duplicates the text itself may be missing
        return dict(list(found.items())[: self.k.value])

    def _search(self, words: str) -> None:
        found = self._texts["text"].str.contains(words.strip(), case=False, regex=False)
        self.rows.filter(np.flatnonzero(found))
        if words.strip() and found.any():
            self.select(int(np.argmax(found)))


def _list(model: str, rows: pd.DataFrame) -> str:
    """Return a model's neighbors as HTML; those that the other model does not find stand out."""
    lines = []
    for row in rows.itertuples():
        (mark, title), text, opacity = _MARKS[row.found], shown(row.text, 160), 0.6
        if row.found != "both":
            text, opacity = f"<mark>{text}</mark>", 1
        mark = Markup(f'<span title="{title}" style="opacity:{opacity}">{mark}</span>')
        text = Markup(f'<div style="overflow-wrap:anywhere;line-height:1.3">{text}</div>')
        lines.append((mark, row.rank, row.cosine, text))
    # As objects, since pandas' own strings would be escaped.
    return html_table(pd.DataFrame(lines, columns=["", "rank", "cosine", "text"], dtype=object), caption=model)
