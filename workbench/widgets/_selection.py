"""One selection for all views: positions in a traitlet, and one method that sets it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import traitlets

from workbench.errors import WorkbenchError


class Selection(traitlets.HasTraits):
    """What a view has whose rows can be selected.

    Views of the same rows are linked by `traitlets.link((one, "selected"), (other, "selected"))`. A view that shows one
    row at a time shows the first that is selected, and goes on showing it when nothing is selected.

    Attributes:
        selected: positions of the selected rows, a tuple of int; to be set and observed.
    """

    selected = traitlets.Tuple()
    _index = pd.RangeIndex(0)  # labels of the rows; the view sets it before anything is selected

    def select(self, rows: int | str | Iterable | pd.DataFrame | pd.Series = ()) -> None:
        """Select rows: positions, labels (ids), a boolean mask, or rows of a dataframe by their index; none to clear.

        Raises:
            WorkbenchError: there are no such rows.
        """
        self.selected = tuple(np.unique(_positions(rows, self._index)).tolist())

    @traitlets.validate("selected")
    def _valid(self, proposal: dict) -> tuple[int, ...]:
        return tuple(_positions(proposal["value"], self._index).tolist())


def _positions(rows: object, index: pd.Index) -> np.ndarray:
    """Return the positions of rows in an index, int64, in the order given."""
    if isinstance(rows, pd.DataFrame | pd.Series) and not (isinstance(rows, pd.Series) and rows.dtype == bool):
        rows = rows.index
    elif isinstance(rows, str | int | np.integer):
        rows = [rows]
    try:
        array = rows if isinstance(rows, pd.Index) else np.asarray(list(rows))
    except TypeError:
        raise WorkbenchError(f"a selection is a list of positions, not {rows!r}") from None
    if not len(array):
        return np.empty(0, dtype=int)
    if isinstance(array, pd.Index) or (array.dtype.kind in "OU" and not pd.api.types.is_numeric_dtype(index)):
        positions = index.get_indexer_for(array)
        if (positions < 0).any():
            unknown, known = pd.Index(array).difference(index).tolist()[0], next(iter(index.tolist()), "none")
            what = index.name or "row"
            raise WorkbenchError(f"there is no {what} {unknown!r}; there are {len(index):,}, such as {known!r}")
    elif array.dtype == bool:
        if len(array) != len(index):
            raise WorkbenchError(f"the mask has {len(array):,} values, and there are {len(index):,} rows")
        positions = np.flatnonzero(array)
    elif array.dtype.kind in "iu" and array.ndim == 1:
        positions = array.astype(int)
    else:
        raise WorkbenchError(f"a selection is of positions, whole numbers, not {str(array.flat[0])[:40]!r}")
    if positions.min() < 0 or positions.max() >= len(index):
        raise WorkbenchError(f"a selection is of positions 0 to {len(index) - 1:,}")
    return positions
