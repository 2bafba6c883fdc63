"""One text's neighbors for two or more models, side by side."""

from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np
import pandas as pd

from workbench._util import unit
from workbench.data import Text, as_texts
from workbench.evaluate import same_models, vectors
from workbench.widgets._html import shown
from workbench.widgets._view import Selection, View, note, search_box, wrapped
from workbench.widgets.results import LINES, Results, neighbor_lists
from workbench.widgets.table import Table


class NeighborInspector(Selection, View):
    """Select a text, see what each model finds nearest to it, and follow a neighbor to its own.

    Args:
        models: two or more by name: vectors, float of shape (n, d), or anything that `wb.compare`
            takes. Widths may differ. The first is the reference.
        texts: n texts, `str` or `Text`.

    Attributes:
        position: position of the text that is shown, the first of those selected.
        neighbors: one row a neighbor: model, rank (1 is nearest), position, id, cosine, text.
    """

    def __init__(
        self, models: Mapping[str, object], texts: Sequence[str | Text], *, k: int = 10
    ) -> None:
        texts = as_texts(texts)
        models = same_models(models, texts)
        self._units = {name: unit(vectors(model, texts)) for name, model in models.items()}
        self._texts = pd.DataFrame({"id": [t.id for t in texts], "text": [t.text for t in texts]})
        self._index, self._k = self._texts.index, k
        self.position: int | None = None
        self._trail: list[int] = []
        self.search = search_box("words in the text, then Enter", self._search)
        self.back = ipywidgets.Button(description="Back", disabled=True, tooltip="the text before")
        self.rows = Table(self._texts, page_rows=6, many=False)
        self.query, self.status = ipywidgets.HTML(), note()
        self.lists = Results(lambda row: self.select([row]))
        controls = wrapped(self.search, self.back)
        super().__init__(controls, self.rows, self.query, self.status, self.lists, note(LINES))
        self.back.on_click(lambda _: self._go_back())
        self.rows.observe(lambda change: self.select(change["new"]), "selected")
        self.observe(lambda _: self._selection_changed(), "selected")
        self.select(0)

    def summary(self) -> str:
        """Return what is shown, as HTML."""
        return f"{self.query.value}<p>{self.status.value}</p>"

    def _selection_changed(self) -> None:
        self.rows.selected = self.selected
        if self.selected and self.position != self.selected[0]:
            if self.position is not None:
                self._trail.append(self.position)
            self._show(self.selected[0])

    def _go_back(self) -> None:
        if self._trail:
            self._show(self._trail.pop())
            self.select(self.position)

    def _show(self, position: int) -> None:
        self.position, texts = position, self._texts["text"]
        lists = neighbor_lists(self._units, texts, self._texts["id"], position, self._k)
        cards = [row | {"model": column["title"]} for column in lists for row in column["rows"]]
        names = {"key": "position", "id": "id", "value": "cosine", "full": "text"}
        shown_columns = ["model", "rank", *names]
        self.neighbors = pd.DataFrame(cards)[shown_columns].rename(columns=names)
        self.query.value = f'<div dir="auto"><b>{shown(texts[position], 600)}</b></div>'
        facts = ", ".join(f"{shown(column['title'])}: {column['facts']}" for column in lists[1:])
        self.status.value = f"Neighbors in common with {shown(lists[0]['title'])}: {facts}."
        self.back.disabled = not self._trail
        self.lists.show(lists)

    def _search(self, words: str) -> None:
        hits = self._texts["text"].str.contains(words.strip(), case=False, regex=False)
        self.rows.filter(np.flatnonzero(hits))
        if words.strip() and hits.any():
            self.select(int(np.argmax(hits)))
