"""One text's neighbors for two or more models, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench._util import unit
from workbench.data import Text
from workbench.errors import WorkbenchError
from workbench.evaluate import same_models, vectors
from workbench.widgets._html import html_table, shown
from workbench.widgets._view import Selection, View, note, own_columns, search_box, wrapped
from workbench.widgets.chart import figure
from workbench.widgets.results import LINES, Results, neighbor_lists
from workbench.widgets.table import Table


class NeighborInspector(Selection, View):
    """Select a text, see what each model finds nearest to it, and follow a neighbor to its own neighbors.

    Args:
        models: two or more names, each with a model: vectors, float of shape (n, d), or anything that `wb.compare` takes.
            Widths may differ. The first is the reference.
        texts: n texts, `str` or `Text`.
        k: neighbors to show.

    Attributes:
        selected: positions of the selected texts, of which the first is shown; to be set and observed, see `select`.
        position: position of the text that is shown.
        neighbors: one row a neighbor: model, rank (1 is nearest), position, cosine, shared (with the reference), text.

    Raises:
        WorkbenchError: there are not two models of these texts, or fewer than two texts.
    """

    def __init__(
        self, models: Mapping[str, object], texts: Sequence[str | Text], *, k: int = 10
    ) -> None:
        texts, _ = own_columns(texts, None)
        found = same_models(models, texts)
        if len(texts) < 2:
            raise WorkbenchError("one text has no neighbors: at least 2 are needed")
        self._units = {name: unit(vectors(model, texts)) for name, model in found.items()}
        self._texts = pd.DataFrame({"text": [text.text for text in texts]})
        self._index = self._texts.index
        self._trail: list[int] = []
        self.search = search_box("words in the text, then Enter", self._search)
        self.k = ipywidgets.BoundedIntText(
            min(k, len(texts) - 1), min=1, max=len(texts) - 1, description="k"
        )
        self.back = ipywidgets.Button(
            description="Back", disabled=True, tooltip="the text before", layout={"width": "auto"}
        )
        self.rows = Table(self._texts, page_rows=6, many=False)
        self.status, self.query, self.lists = (
            note(),
            ipywidgets.HTML(),
            Results(lambda row: self.select([row])),
        )
        super().__init__(
            wrapped(self.search, self.k, self.back),
            self.rows,
            self.query,
            self.status,
            self.lists,
            note(LINES),
        )
        self.k.observe(lambda _: self._show(), "value")
        self.back.on_click(lambda _: self._go_back())
        self.rows.observe(lambda change: self.select(change["new"]), "selected")
        self.observe(lambda _: self._selection_changed(), "selected")
        self.select(0)

    def summary(self) -> str:
        """Return the lists."""
        lists = {}
        for model, rows in self.neighbors.groupby("model", sort=False):
            lists[model] = pd.Series(
                [f"{c:.3f} {t}" for c, t in zip(rows["cosine"], rows["text"], strict=True)]
            )
        return f"{self.query.value}<p>{self.status.value}</p>{html_table(pd.DataFrame(lists))}"

    def introduction(self) -> str:
        """Return which text's neighbors are below."""
        return f"{self.query.value}<p>{self.status.value}</p>"

    def figures(self) -> list[go.Figure]:
        """Return the cosines by rank for each model."""
        chart = figure(height=280, x="rank", y="cosine")
        for model, rows in self.neighbors.groupby("model", sort=False):
            chart.add_scatter(x=rows["rank"], y=rows["cosine"], mode="lines+markers", name=model)
        return [chart]

    def _selection_changed(self) -> None:
        self.rows.selected = self.selected
        if self.selected and getattr(self, "position", None) != self.selected[0]:
            if hasattr(self, "position"):
                self._trail.append(self.position)
            self.position = self.selected[0]
            self._show()

    def _go_back(self) -> None:
        if self._trail:
            self.select(self._trail.pop())
            self._trail.pop()  # where it came from just now
            self._show()

    def _show(self) -> None:
        columns = neighbor_lists(self._units, self._texts["text"], self.position, self.k.value)
        first = {row["key"] for row in columns[0]["rows"]}
        self.neighbors = pd.DataFrame(
            [
                (column["title"], row["rank"], row["key"], row["value"], row["key"] in first)
                for column in columns
                for row in column["rows"]
            ],
            columns=["model", "rank", "position", "cosine", "shared"],
        )
        self.neighbors["text"] = self._texts["text"].to_numpy()[self.neighbors["position"]]
        self.query.value = (
            f'<div dir="auto"><b>{shown(self._texts["text"][self.position], 600)}</b></div>'
        )
        shared = ", ".join(f"{shown(c['title'])}: {c['facts']}" for c in columns[1:])
        self.status.value = f"Neighbors in common with {shown(columns[0]['title'])}: {shared}."
        self.back.disabled = not self._trail
        self.lists.show(columns)

    def _search(self, words: str) -> None:
        found = self._texts["text"].str.contains(words.strip(), case=False, regex=False)
        self.rows.filter(np.flatnonzero(found))
        if words.strip() and found.any():
            self.select(int(np.argmax(found)))
