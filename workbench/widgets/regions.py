"""The kinds of texts on which models agree least, in a table: a click gives the texts of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from workbench import agreement, regions
from workbench.widgets.map import is_numeric
from workbench.widgets.table import Table

_DIFFERENCE = "mean of the region less the mean of all other texts, with an interval that holds for all regions together"
_MARKS = "▼ surely worse than the rest, ▲ surely better"


class Regions(Table):
    """What `regions.compare_regions` says, sorted as it does.

    Args:
        on_region: called with the positions of the texts of the region that was clicked.

    Attributes:
        found: the dataframe of `compare_regions`; empty while there are no regions or nothing to compare.
    """

    def __init__(self, on_region: Callable[[np.ndarray], None]) -> None:
        self.found, self._groups = pd.DataFrame(), np.empty(0, dtype=object)
        titles = agreement.READING | {
            f"{name}, the rest": f"{_DIFFERENCE}. {_MARKS}" for name in regions.MEASURES
        }
        super().__init__(page_rows=8, label="regions", many=False, titles=titles)
        self.observe(
            lambda change: change["new"] and on_region(self.texts(change["new"][0])), "selected"
        )

    def compare(self, table: pd.DataFrame, column: str) -> None:
        """Compare the regions of a column, or of "region" if it holds numbers or is none."""
        if column not in table or is_numeric(table[column]):
            column = "region"
        if column in table and any(
            table[name].notna().any() for name in regions.MEASURES if name in table
        ):
            self._groups = regions.labels(table[column])
            self.found = regions.compare_regions(table, self._groups).rename_axis(column)
            self.show(self._shown())

    def texts(self, row: int) -> np.ndarray:
        """Return the positions of the texts of a region, int64."""
        return np.flatnonzero(self._groups == self.found.index[row])

    def follow(self, selected: Sequence[int]) -> None:
        """Select no region where the texts that are selected are not those of the one that is."""
        if self.selected and list(selected) != self.texts(self.selected[0]).tolist():
            self.selected = ()

    def _shown(self) -> pd.DataFrame:
        """Return the table as it is read: a difference and its interval in one cell."""
        name = "region" if self.found.index.name in self.found else self.found.index.name
        shown = pd.DataFrame({name: self.found.index, "texts": self.found["texts"].to_numpy()})
        for name in (each for each in regions.MEASURES if each in self.found):
            shown[name] = self.found[name].to_numpy()
            parts = self.found[[f"{name}_difference", f"{name}_low", f"{name}_high"]]
            shown[f"{name}, the rest"] = [
                ""
                if np.isnan(low)
                else f"{'▼' if high < 0 else '▲' if low > 0 else ' '} {d:+.3f} ({low:+.3f} to {high:+.3f})"
                for d, low, high in parts.itertuples(index=False)
            ]
        return shown
