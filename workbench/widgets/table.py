"""A sortable, pageable, selectable table of a dataframe, which ipywidgets do not have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import traitlets

from workbench.errors import WorkbenchError
from workbench.widgets._html import cell
from workbench.widgets._view import Part, Selection, module

_LONG = "text", "query"  # columns that are read


class Table(Selection, Part):
    """Rows of a dataframe, a page at a time; only the page travels to the browser, as text.

    Click or press Enter on a heading to sort. Click a row, or press Enter on it, to select it;
    with Ctrl to add, with Shift to select a range. Arrow keys move between rows.

    Args:
        frame: what is shown.
        label: what a row is, in the plural.
        page_rows: rows of a page.
        many: whether several rows can be selected.
        titles: what appears when the pointer is on a heading, by name of the column.

    Attributes:
        selected: positions of the selected rows in the dataframe, a tuple of int.
        positions: positions of the rows in the order shown, over all pages, int64.
        order: column and whether it falls; (None, False) is the order of the dataframe.
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
        self._anchor: int | None = None  # where a range begins
        self.order: tuple[str | None, bool] = (None, False)
        self.show(pd.DataFrame() if frame is None else frame)
        self.observe(lambda _: self._fill(), "selected")

    def show(self, frame: pd.DataFrame) -> None:
        """Show another dataframe from its first page, with nothing selected."""
        self._frame, self._index = frame.rename(columns=str), frame.index
        self.positions, self.selected = np.arange(0), ()
        if self.order[0] not in self._frame:
            self.order = (None, False)
        self.filter(None)

    def replace(self, frame: pd.DataFrame) -> None:
        """Show a dataframe of the same rows; selection and page stay."""
        self._frame = frame.rename(columns=str)
        self._arrange(self._page)

    def reveal(self, position: int) -> None:
        """Turn to the page of a row, if it is among those shown."""
        places = np.flatnonzero(self.positions == position)
        if places.size:
            self._fill(int(places[0]) // self._page_rows)

    def filter(self, positions: Iterable[int] | None) -> None:
        """Show these rows alone; None shows all."""
        rows = range(len(self._frame)) if positions is None else positions
        self._filter = np.array(list(rows), dtype=int)
        self._arrange()

    def sort(self, column: str | None, descending: bool = False) -> None:
        """Sort by a column, by value (lists and mixed values as text), rows without a value last.

        Raises:
            WorkbenchError: there is no such column.
        """
        if column is not None and column not in self._frame:
            raise WorkbenchError(f"no column {column!r}: choose from {', '.join(self._frame)}")
        self.order = (column, descending)
        self._arrange()

    def _arrange(self, page: int = 0) -> None:
        column, descending = self.order
        self.positions = self._filter
        if column is not None:
            values = self._frame[column].iloc[self._filter].reset_index(drop=True)
            self.positions = self._filter[_order(values, descending)]
        self._fill(page)

    def _fill(self, page: int | None = None) -> None:
        """Send a page, by default the one that is shown."""
        pages = max(1, -(-len(self.positions) // self._page_rows))
        self._page = int(np.clip(self._page if page is None else page, 0, pages - 1))
        here = self.positions[self._page * self._page_rows :][: self._page_rows]
        values = self._frame.iloc[here].itertuples(index=False, name=None)
        selected = set(self.selected)
        self._rows = [
            {"key": key, "selected": key in selected, "cells": [cell(value) for value in row]}
            for key, row in zip(here.tolist(), values, strict=True)
        ]
        columns = [
            {
                "name": name,
                "numeric": pd.api.types.is_numeric_dtype(kind),
                "title": self._titles.get(name, ""),
                "long": name in _LONG,
            }
            for name, kind in self._frame.dtypes.items()
        ]
        label = f"{len(self.positions):,} {self._label}"
        if selected:
            label += f", {len(selected):,} selected"
        content = {"columns": columns, "rows": self._rows, "order": self.order, "label": label}
        self.put(_content=content | {"page": self._page, "pages": pages})

    def _received(self, message: dict, buffers: list) -> None:
        match message:
            case {"kind": "sort", "column": name}:
                self.sort(name, self.order == (name, False))
            case {"kind": "page", "page": page}:
                self._fill(page)
            case {"kind": "pick", "key": key}:
                self._pick(key, message.get("add", False), message.get("range", False))

    def _pick(self, key: int, add: bool, ranged: bool) -> None:
        if ranged and self._many and self._anchor in self.positions:
            places = np.flatnonzero(np.isin(self.positions, [self._anchor, key]))
            self.selected = tuple(self.positions[places[0] : places[-1] + 1])
            return
        self._anchor = key
        if add and self._many:
            self.selected = tuple(set(self.selected) ^ {key})
        else:
            self.selected = () if self.selected == (key,) and self._many else (key,)


def _order(values: pd.Series, descending: bool) -> pd.Index:
    """Return positions in the order of values; what has no order, such as lists, goes as text."""
    with contextlib.suppress(TypeError, ValueError, ArithmeticError, NotImplementedError):
        return values.sort_values(ascending=not descending, kind="stable").index
    text = values.astype(object).map(str, na_action="ignore")
    return text.sort_values(ascending=not descending, kind="stable").index
