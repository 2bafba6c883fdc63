"""A sortable, pageable, selectable table of a dataframe, which ipywidgets do not have."""

from __future__ import annotations

from collections.abc import Iterable

import anywidget
import numpy as np
import pandas as pd
import traitlets

from workbench.errors import WorkbenchError
from workbench.widgets._html import cell
from workbench.widgets._selection import Selection
from workbench.widgets._view import STATIC


class Table(Selection, anywidget.AnyWidget):
    """Rows of a dataframe, a page at a time; only the page travels to the browser, as text.

    Click or press Enter on a heading to sort. Click a row, or press Enter on it, to select it; with
    Ctrl to add, with Shift to select a range. Arrow keys move between rows.

    Attributes:
        selected: positions of the selected rows in the dataframe, a tuple of int; to be set and observed.
    """

    _esm = STATIC / "table.js"
    _css = STATIC / "table.css"
    _columns = traitlets.List().tag(sync=True)
    _rows = traitlets.List().tag(sync=True)
    _page = traitlets.Int(0).tag(sync=True)
    _pages = traitlets.Int(1).tag(sync=True)
    _order = traitlets.List([None, False]).tag(sync=True)
    _label = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self, frame: pd.DataFrame | None = None, *, label: str = "texts", page_rows: int = 15, many: bool = True
    ) -> None:
        super().__init__()
        self._what, self._page_rows, self._many = label, page_rows, many
        self._anchor: int | None = None
        self.show(pd.DataFrame() if frame is None else frame)
        self.on_msg(self._received)

    @property
    def order(self) -> tuple[str | None, bool]:
        """The column sorted by and whether it falls; (None, False) is the order of the dataframe."""
        return tuple(self._order)

    def show(self, frame: pd.DataFrame) -> None:
        """Show another dataframe from its first page, with nothing selected."""
        self._frame, self._index = frame, frame.index
        self._filter: np.ndarray | None = None
        self._columns = [
            {"name": str(name), "numeric": bool(pd.api.types.is_numeric_dtype(frame[name]))} for name in frame.columns
        ]
        self._order = [None, False] if self._order[0] not in map(str, frame.columns) else self._order
        self.selected = ()
        self._arrange()

    def refresh(self) -> None:
        """Show the values of the dataframe again, which have changed; selection and page stay where they can."""
        page = self._page
        self._arrange()
        self._page = min(page, self._pages - 1)
        self._fill()

    def reveal(self, position: int) -> None:
        """Turn to the page of a row, if it is among those shown."""
        if (place := np.flatnonzero(self._shown == position)).size:
            self._page = int(place[0]) // self._page_rows
            self._fill()

    def filter(self, positions: Iterable[int] | None) -> None:
        """Show these rows alone; None shows all."""
        self._filter = None if positions is None else np.asarray(list(positions), dtype=int)
        self._arrange()

    def sort(self, column: str | None, descending: bool = False) -> None:
        """Sort by a column, rows without a value last."""
        if column is not None and column not in [c["name"] for c in self._columns]:
            names = ", ".join(c["name"] for c in self._columns)
            raise WorkbenchError(f"there is no column {column!r}; there are {names}")
        self._order = [column, bool(descending)]
        self._arrange()

    @property
    def positions(self) -> np.ndarray:
        """Positions of the rows in the order shown, over all pages."""
        return self._shown

    def _arrange(self) -> None:
        shown = np.arange(len(self._frame)) if self._filter is None else self._filter
        column, descending = self._order
        if column is not None and len(shown):
            place = [str(name) for name in self._frame.columns].index(column)
            values = self._frame.iloc[shown, place].reset_index(drop=True)
            if not pd.api.types.is_numeric_dtype(values):
                values = values.astype(str)
            shown = shown[values.sort_values(ascending=not descending, kind="stable", na_position="last").index]
        self._shown = shown
        self._page = 0
        self._fill()

    def _fill(self) -> None:
        first = self._page * self._page_rows
        here = self._shown[first : first + self._page_rows]
        chosen = set(self.selected)
        part = self._frame.iloc[here]
        cells = [[cell(value) for value in row] for row in part.itertuples(index=False, name=None)]
        with self.hold_sync():
            self._pages = max(1, -(-len(self._shown) // self._page_rows))
            self._label = f"{len(self._shown):,} {self._what}" + (f", {len(chosen):,} selected" if chosen else "")
            self._rows = [
                {"key": int(key), "selected": int(key) in chosen, "cells": row}
                for key, row in zip(here, cells, strict=True)
            ]

    @traitlets.observe("selected")
    def _selected_changed(self, _: object) -> None:
        if hasattr(self, "_shown"):
            self._fill()

    def _received(self, _: object, message: dict, __: object) -> None:
        kind = message.get("kind")
        if kind == "sort":
            name = message.get("column")
            self.sort(name, not self._order[1] if self._order[0] == name else False)
        elif kind == "page":
            self._page = int(np.clip(message.get("page", 0), 0, self._pages - 1))
            self._fill()
        elif kind == "pick":
            self._pick(int(message["key"]), bool(message.get("add")), bool(message.get("range")))

    def _pick(self, key: int, add: bool, ranged: bool) -> None:
        if ranged and self._many and self._anchor in self._shown:
            ends = sorted(int(np.flatnonzero(self._shown == place)[0]) for place in (self._anchor, key))
            self.selected = tuple(int(p) for p in self._shown[ends[0] : ends[1] + 1])
            return
        self._anchor = key
        if add and self._many:
            self.selected = tuple(set(self.selected) ^ {key})
        else:
            self.selected = () if self.selected == (key,) and self._many else (key,)
