"""The kinds of texts on which models agree least, in a table: a click gives the texts of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from workbench import agreement, regions
from workbench.widgets.map import is_numeric
from workbench.widgets.table import Table

_DIFFERENCE = (
    "mean of the region less the mean of all other texts, with an interval that holds for all "
    "regions together. ▼ surely worse than the rest, ▲ surely better"
)


class Regions(Table):
    """What `regions.compare_regions` returns, in its order.

    Args:
        on_region: called with the positions of the texts of the region that was clicked.

    Attributes:
        comparison: the dataframe of `compare_regions`; empty where there is nothing to compare.
    """

    def __init__(self, on_region: Callable[[np.ndarray], None]) -> None:
        self.comparison, self._groups = pd.DataFrame(), np.empty(0, dtype=object)
        titles = {f"{name}, the rest": _DIFFERENCE for name in regions.MEASURES}
        titles |= agreement.READING
        super().__init__(page_rows=8, label="regions", many=False, titles=titles)
        self.observe(
            lambda change: change["new"] and on_region(self.texts(change["new"][0])), "selected"
        )

    def compare(self, table: pd.DataFrame, column: str) -> None:
        """Compare the regions of a column, or of "region" if the column holds numbers."""
        if column not in table or is_numeric(table[column]):
            column = "region"
        measured = [
            name for name in regions.MEASURES if name in table and table[name].notna().any()
        ]
        if column in table and measured:
            self._groups = regions.labels(table[column])
            self.comparison = regions.compare_regions(table, self._groups).rename_axis(column)
            self.show(self._readable())

    def texts(self, row: int) -> np.ndarray:
        """Return the positions of the texts of a region, int64."""
        return np.flatnonzero(self._groups == self.comparison.index[row])

    def follow(self, selected: Sequence[int]) -> None:
        """Clear the selection where the selected texts are not those of its region."""
        if self.selected and list(selected) != self.texts(self.selected[0]).tolist():
            self.selected = ()

    def _readable(self) -> pd.DataFrame:
        """Return the table with each difference and its interval in one cell."""
        table = self.comparison
        name = "region" if table.index.name in table else table.index.name
        readable = pd.DataFrame({name: table.index, "texts": table["texts"].to_numpy()})
        for name in [name for name in regions.MEASURES if name in table]:
            readable[name] = table[name].to_numpy()
            columns = [f"{name}_difference", f"{name}_low", f"{name}_high"]
            readable[f"{name}, the rest"] = [
                _interval(*row) for row in table[columns].itertuples(index=False)
            ]
        return readable


def _interval(difference: float, low: float, high: float) -> str:
    if np.isnan(low):
        return ""
    mark = "▼" if high < 0 else "▲" if low > 0 else " "
    return f"{mark} {difference:+.3f} ({low:+.3f} to {high:+.3f})"
