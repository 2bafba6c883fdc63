"""A sortable, pageable, selectable table of a dataframe, which ipywidgets do not have."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pandas as pd
import traitlets

from workbench.widgets._html import cell, cut
from workbench.widgets._view import Part, Selection, module

_MOST_ALONE = 5_000  # rows of a page without a kernel


class Table(Selection, Part):
    """Rows of a dataframe, a page at a time; only the page travels to the browser, as text.

    Click a heading to sort. Click a row to select it, with Ctrl to add it, with Shift to select a
    range. Enter is a click, and arrow keys move between rows. `positions` are those of the rows in
    the order shown, int64; `order` is the column and whether it falls; `titles` are tooltips.
    """

    _esm = module("table")
    _content = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        frame: pd.DataFrame | None = None,
        *,
        label: str = "texts",
        page_rows: int = 15,
        many: bool = True,
        titles: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._label, self._page_rows, self._many = label, page_rows, many
        self._titles = titles or {}
        self._anchor, self.order = -1, (None, False)
        self.faint: Collection[int] = ()  # rows that are shown in gray
        self.show(pd.DataFrame() if frame is None else frame)
        self.observe(lambda _: self._fill(self._page), "selected")

    def show(self, frame: pd.DataFrame) -> None:
        """Show another dataframe, with nothing selected."""
        self._frame, self._index = frame.rename(columns=str), frame.index
        self.positions, self._page, self.selected = np.arange(0), 0, ()
        if self.order[0] not in self._frame:
            self.order = (None, False)
        self.filter(None)

    def replace(self, frame: pd.DataFrame) -> None:
        """Show a dataframe of the same rows; selection and page stay."""
        self._frame = frame.rename(columns=str)
        self._arrange(self._page)

    def reveal(self, position: int) -> None:
        """Turn to the page of a row, if it is among those shown."""
        for place in np.flatnonzero(self.positions == position):
            self._fill(place // self._page_rows)

    def filter(self, positions: Iterable[int] | None) -> None:
        """Show these rows alone; None shows all."""
        rows = range(len(self._frame)) if positions is None else positions
        self._filter = np.array(list(rows), dtype=int)
        self._arrange()

    def sort(self, column: str | None, descending: bool = False) -> None:
        """Sort by a column, rows without a value last; values of mixed types go as text."""
        self.order = (column, descending)
        self._arrange()

    def _arrange(self, page: int = 0) -> None:
        column, descending = self.order
        self.positions = self._filter
        if column is not None:
            values = self._frame[column].iloc[self._filter].reset_index(drop=True)
            options = {"ascending": not descending, "kind": "stable"}
            try:
                values = values.sort_values(**options)
            except (TypeError, NotImplementedError):
                values = values.astype(object).map(str, na_action="ignore").sort_values(**options)
            self.positions = self._filter[values.index]
        self._fill(page)

    def _fill(self, page: int) -> None:
        """Send a page."""
        pages = max(1, -(-len(self.positions) // self._page_rows))
        self._page = int(np.clip(page, 0, pages - 1))
        here = self.positions[self._page * self._page_rows :][: self._page_rows]
        self._rows = self._cells(here)
        is_number = pd.api.types.is_numeric_dtype
        columns = [
            {"name": name, "numeric": is_number(kind), "title": self._titles.get(name, "")}
            for name, kind in self._frame.dtypes.items()
        ]
        label = f"{len(self.positions):,} {self._label}"
        content = {"columns": columns, "rows": self._rows, "order": self.order, "label": label}
        content |= {"noun": self._label, "count": len(self._frame), "chosen": len(self.selected)}
        self.put(_content=content | {"page": self._page, "pages": pages, "many": self._many})

    def _cells(self, rows: np.ndarray) -> list[dict]:
        values = self._frame.iloc[rows].itertuples(index=False, name=None)
        return [
            {
                "key": key,
                "selected": key in self.selected,
                "faint": key in self.faint,
                "cells": [cell(value) for value in row],
            }
            for key, row in zip(rows.tolist(), values, strict=True)
        ]

    def _alone(self) -> dict:
        """Return the rows in one page, with whole texts: nobody sends another one."""
        rows = self._cells(self.positions[:_MOST_ALONE])
        if "text" in self._frame:
            for row in rows:
                row["full"] = cut(self._frame["text"].iloc[row["key"]], 5000)
        return {"_content": self._content | {"rows": rows, "page": 0, "pages": 1}}

    def _received(self, message: dict, buffers: list) -> None:
        match message:
            case {"kind": "sort", "column": name}:
                self.sort(name, self.order == (name, False))
            case {"kind": "page", "page": page}:
                self._fill(page)
            case {"kind": "pick", "key": key, "range": True} if self._many:
                places = np.flatnonzero(np.isin(self.positions, [self._anchor, key]))
                self.selected = tuple(self.positions[places[0] : places[-1] + 1])
            case {"kind": "pick", "key": key, "add": True} if self._many:
                self.selected = tuple(set(self.selected) ^ {key})
            case {"kind": "pick", "key": key}:
                self._anchor = key  # where a range begins
                self.selected = () if self.selected == (key,) and self._many else (key,)
