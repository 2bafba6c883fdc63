"""The kinds of texts on which models agree least, in a table: a click gives the texts of one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from workbench import agreement, regions
from workbench.widgets.map import is_numeric
from workbench.widgets.table import Table

_ENDS = "an end of the interval, which holds for all regions together: both below 0, and the region is surely worse"
_TITLES = dict(agreement.READING)
for _name in regions.MEASURES:
    _TITLES[f"{_name}_difference"] = "mean of the region less the mean of all other texts"
    _TITLES |= dict.fromkeys((f"{_name}_low", f"{_name}_high"), _ENDS)


class Regions(Table):
    """What `regions.compare_regions` says, the region that is surely worse first.

    Args:
        on_region: called with the positions of the texts of the region that was clicked.

    Attributes:
        found: the dataframe that is shown; empty while there are no regions.
    """

    def __init__(self, on_region: Callable[[np.ndarray], None]) -> None:
        self.found, self._groups = pd.DataFrame(), pd.Series(dtype=object)
        super().__init__(page_rows=8, label="regions", many=False, titles=_TITLES)
        self.observe(lambda change: change["new"] and on_region(self.texts(change["new"][0])), "selected")

    def compare(self, table: pd.DataFrame, column: str) -> None:
        """Compare the regions of a column, or of "region" if it holds numbers or is none."""
        if column not in table or is_numeric(table[column]):
            column = "region"
        if column in table:
            self._groups = table[column].reset_index(drop=True)
            self.found = regions.compare_regions(table, column)
            self.show(self.found.reset_index())

    def texts(self, row: int) -> np.ndarray:
        """Return the positions of the texts of a region, int64."""
        return np.flatnonzero(regions.labels(self._groups) == self.found.index[row])
