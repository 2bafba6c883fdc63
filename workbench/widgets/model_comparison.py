"""Several models in one table against a reference, and the texts on which two of them differ most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np
import pandas as pd

from workbench import agreement
from workbench.data import Text, as_texts
from workbench.errors import WorkbenchError
from workbench.evaluate import bootstrap_means, interval, same_models, vectors
from workbench.widgets._html import cut, hover, html_table, shown
from workbench.widgets._view import COLORS, Selection, View, note, wrapped
from workbench.widgets.chart import Chart, figure
from workbench.widgets.table import Table


class ModelComparison(Selection, View):
    """Compare models, or a student at several stages, with a reference and with each other.

    Args:
        models: two or more names, each with a model: vectors of the same texts, float of shape (n, d), or with `texts`
            anything that `wb.compare` takes. The first is the reference. Where a width is not the reference's, what
            needs one space (cosine, distance) is empty, and overlap is what is compared.
        texts: the n texts, `str` or `Text`.
        k: neighbors for the measures of agreement.
        seed: of what is approximate and of the bootstraps.

    Attributes:
        table: one row a model but the reference (index: its name): the measures of `agreement.summary`, `cosine` and
            `overlap` with 95 % intervals (`cosine_low`, `cosine_high`, ...).
        measure: what the chart and the differences are of, "cosine" or, where no model has one, "overlap".
        selected: positions of the selected texts, a tuple of int; to be set and observed, see `select`.

    Raises:
        WorkbenchError: there are not two models of the same texts.
    """

    def __init__(
        self,
        models: Mapping[str, object],
        texts: Sequence[str | Text] | None = None,
        *,
        k: int = 10,
        seed: int = 0,
    ) -> None:
        if texts is None and isinstance(models, Mapping) and models:
            first = next(iter(models.values()))
            if not hasattr(first, "__len__"):
                raise WorkbenchError(
                    "models that embed need texts: give texts=, or vectors of the same texts"
                )
            known = [Text(str(place)) for place in range(len(first))]
        else:
            known = as_texts(texts)
        found = {name: vectors(model, known) for name, model in same_models(models, known).items()}
        self._texts = None if texts is None else [text.text for text in known]
        self._index = pd.RangeIndex(len(known))
        self._reference, *others = found
        self._seed = seed
        self._each: dict[str, pd.DataFrame] = {}
        measures, reference = {}, found[self._reference]
        for name in others:
            each = self._each[name] = agreement.per_text(reference, found[name], k=k)
            whole = agreement.summary(reference, found[name], each, k=k)["value"]
            measures[name] = dict(whole)
            for measure in ("cosine", "overlap"):
                measures[name] |= _mean(each[measure].to_numpy(), f"{measure}_", seed)
        columns = [
            "cosine",
            "cosine_low",
            "cosine_high",
            "overlap",
            "overlap_low",
            "overlap_high",
            *agreement.READING,
        ]
        table = pd.DataFrame.from_dict(measures, orient="index")[list(dict.fromkeys(columns))]
        self.table = table.rename_axis("model")
        self.measure = "cosine" if self.table["cosine"].notna().any() else "overlap"
        self._build()

    def differences(self, first: str, second: str) -> pd.DataFrame:
        """Return the texts on which two models differ, the greatest difference first.

        Returns:
            One row a text (index: its position): `difference` (the first model's cosine to the reference less the
            second's; overlap where one of them has no cosine), `first`, `second` and, where the texts are known,
            `text`. `attrs` has `mean`, `low` and `high`, the mean difference and its 95 % interval by the paired
            percentile bootstrap over texts, and `measure`.

        Raises:
            WorkbenchError: there is no such model.
        """
        for name in (first, second):
            if name not in self._each:
                raise WorkbenchError(
                    f"there is no model {name!r}: choose from {', '.join(self._each)}"
                )
        measure = (
            "cosine"
            if all(self._each[name]["cosine"].notna().all() for name in (first, second))
            else "overlap"
        )
        table = pd.DataFrame(
            {"first": self._each[first][measure], "second": self._each[second][measure]}
        )
        table.insert(0, "difference", table["first"] - table["second"])
        if self._texts is not None:
            table["text"] = self._texts
        # The mean of differences, resampled, is the paired bootstrap of the difference of means.
        attrs = _mean(table["difference"].to_numpy(), "", self._seed)
        table = table.sort_values("difference", key=np.abs, ascending=False, kind="stable")
        table.attrs |= attrs | {"measure": measure}
        return table

    def summary(self) -> str:
        """Return the main columns of the table and the difference that is shown."""
        columns = [c for c in ("cosine", "overlap", "nearest_rank", "cka") if c in self.table]
        return f"{html_table(self.table[columns].astype(float).reset_index())}<p>{self.status.value}</p>"

    def _build(self) -> None:
        shown_columns = [
            c
            for c in self.table
            if self.table[c].notna().any() and not c.endswith(("_low", "_high"))
        ]
        self.rows = Table(
            self.table[shown_columns].reset_index(),
            label="models",
            many=False,
            titles=agreement.READING,
        )
        self.chart = self._intervals()
        names = [(cut(name, 80), name) for name in self._each]
        self.first = ipywidgets.Dropdown(options=names, value=names[0][1], description="Model")
        self.second = ipywidgets.Dropdown(options=names, value=names[-1][1], description="against")
        self.status, self.texts = note(), Table(label="texts")
        pair = [wrapped(self.first, self.second), self.status, self.texts] if len(names) > 1 else []
        super().__init__(self.rows, self.chart, *pair)
        for choice in (self.first, self.second):
            choice.observe(lambda _: self._show_difference(), "value")
        self.texts.observe(
            lambda change: self._places.size and self.select(self._places[list(change["new"])]),
            "selected",
        )
        self.observe(lambda _: self._mark(), "selected")
        self._show_difference()

    def _intervals(self) -> Chart:
        names = self.measure, f"{self.measure}_low", f"{self.measure}_high"
        title = f"mean {self.measure} to {hover(self._reference, 30)}"
        rows = self.table[self.table[names[0]].notna()]
        value, low, high = (rows[name].to_numpy(dtype=float) for name in names)
        places = np.arange(len(rows))
        chart = figure(height=120 + 32 * len(rows), x=f"{title}, 95 % interval", y="model")
        chart.add_scatter(
            x=value, y=places, mode="markers", showlegend=False,
            marker={"size": 9, "color": COLORS["student"]},
            error_x={"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low},
            customdata=np.stack([low, high], axis=1), text=[hover(name) for name in rows.index],
            hovertemplate="%{text}<br>%{x:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>",
        )  # fmt: skip
        # Numbers with names beside them: two long names that are cut alike must not share a line.
        names = [hover(name, 40) for name in rows.index]
        chart.update_yaxes(tickvals=places, ticktext=names, range=[len(rows) - 0.5, -0.5])
        return Chart(chart)

    def _mark(self) -> None:
        """Select in the table, which is sorted, what is selected in the view."""
        here = np.flatnonzero(np.isin(self._places, self.selected))
        if set(here) != set(
            self.texts.selected
        ):  # else selected in the table, where rows stay under the pointer
            self.texts.select(here)
            self.texts.reveal(here[0] if here.size else 0)

    def _show_difference(self) -> None:
        first, second = self.first.value, self.second.value
        self._places = np.empty(0, dtype=int)  # text of each row of the table
        if first == second:
            self.texts.show(pd.DataFrame())
            one = f"There is one model beside {shown(self._reference)}, so there is no second to compare it with."
            several = "Select two different models to see where they differ."
            self.status.value = several if len(self._each) > 1 else one
            return
        table = self.differences(first, second)
        names = f'<b dir="auto">{shown(first, 80)}</b> less <b dir="auto">{shown(second, 80)}</b>'
        mean, low, high = (table.attrs[name] for name in ("mean", "low", "high"))
        self.status.value = f"{names}: mean {table.attrs['measure']} {mean:+.4f} (95 % interval {low:+.4f} to {high:+.4f})."
        columns = {
            "first": f"{table.attrs['measure']} of {first}",
            "second": f"{table.attrs['measure']} of {second}",
        }
        self.texts.show(table.rename(columns=columns).rename_axis("position").reset_index())
        self._places = table.index.to_numpy()
        self._mark()


def _mean(values: np.ndarray, prefix: str, seed: int) -> dict[str, float]:
    """Return a mean and its 95 % interval by the percentile bootstrap, which is NaN where there is none."""
    known = len(values) > 1 and not np.isnan(values).any()
    low, high = interval(bootstrap_means([values], seed=seed)[0]) if known else (np.nan, np.nan)
    return {f"{prefix}mean": float(np.mean(values)), f"{prefix}low": low, f"{prefix}high": high}
