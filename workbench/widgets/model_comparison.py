"""Several models in one table, and the texts on which two of them differ most."""

from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np
import pandas as pd
import traitlets

from workbench import agreement
from workbench.data import Text, as_texts
from workbench.evaluate import interval, same_models, vectors
from workbench.widgets._html import cut, hover, html_table, shown
from workbench.widgets._view import COLORS, Selection, View, note, wrapped
from workbench.widgets.chart import Chart, figure
from workbench.widgets.table import Table


class ModelComparison(Selection, View):
    """Compare models, or a student at several stages, with a reference and with each other.

    Args:
        models: two or more by name: vectors, float of shape (n, d), or anything that `wb.compare`
            takes. The first is the reference. Models of other widths are compared by overlap.
        texts: n texts, `str` or `Text`.

    Attributes:
        table: one row a model but the reference (index: its name): the measures of
            `agreement.summary`, `cosine` and `overlap` with 95 % intervals (`cosine_low`, ...).
        differences: one row a text: the cosine to the reference (or overlap) of the `first` and the
            `second` of the models chosen, and its `difference`.
    """

    def __init__(
        self, models: Mapping[str, object], texts: Sequence[str | Text], *, k: int = 10
    ) -> None:
        texts = as_texts(texts)
        models = same_models(models, texts)
        embedded = {name: vectors(model, texts) for name, model in models.items()}
        self._texts = {"id": [t.id for t in texts], "text": [t.text for t in texts]}
        self._index = pd.RangeIndex(len(texts))
        self._reference, *others = embedded
        self._per_text: dict[str, pd.DataFrame] = {}
        reference, rows = embedded[self._reference], {}
        for name in others:
            measures = agreement.per_text(reference, embedded[name], k=k)
            summary = agreement.summary(reference, embedded[name], measures, k=k)
            rows[name] = summary["value"].to_dict()
            for measure in ("cosine", "overlap"):
                low, high = interval(measures[measure])
                rows[name] |= {f"{measure}_low": low, f"{measure}_high": high}
            self._per_text[name] = measures
        self.table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
        columns = [name for name in self.table if not name.endswith(("_low", "_high"))]
        rows = self.table[columns].dropna(axis="columns", how="all").reset_index()
        self.rows = Table(rows, label="models", many=False, titles=agreement.READING)
        self.chart = self._interval_chart()
        names = [(cut(name, 80), name) for name in others]
        self.first = ipywidgets.Dropdown(options=names, value=others[0], description="Model")
        self.second = ipywidgets.Dropdown(options=names, value=others[-1], description="against")
        self.status, self.texts = note(), Table(label="texts")
        self._pair = wrapped(self.first, self.second)
        pair = [self._pair, self.status, self.texts]
        super().__init__(self.rows, self.chart, *(pair if len(others) > 1 else []))
        for choice in (self.first, self.second):
            choice.observe(lambda _: self._show_difference(), "value")
        self._show_difference()
        self.texts.sort("difference", descending=True)
        traitlets.link((self, "selected"), (self.texts, "selected"))

    def summary(self) -> str:
        """Return what is shown, as HTML."""
        columns = ["cosine", "overlap", "nearest_rank", "cka"]
        return f"{html_table(self.table[columns].reset_index())}<p>{self.status.value}</p>"

    def _interval_chart(self) -> Chart:
        measure = "cosine" if self.table["cosine"].notna().any() else "overlap"
        rows = self.table[self.table[measure].notna()]
        value, low, high = (rows[f"{measure}{end}"] for end in ("", "_low", "_high"))
        places = np.arange(len(rows))
        title = f"mean {measure} to {hover(self._reference, 30)}, 95 % interval"
        chart = figure(height=120 + 32 * len(rows), x=title, y="model")
        errors = {"symmetric": False, "array": high - value, "arrayminus": value - low}
        style = {"mode": "markers", "marker_size": 9, "marker_color": COLORS["student"]}
        chart.add_scatter(x=value, y=places, error_x=errors, showlegend=False, **style)
        # Two long names that are cut alike must not share a line, so names are labels of numbers.
        labels = [hover(name, 40) for name in rows.index]
        chart.update_yaxes(tickvals=places, ticktext=labels, range=[len(rows) - 0.5, -0.5])
        return Chart(chart)

    def _show_difference(self) -> None:
        names = [self.first.value, self.second.value]
        has_cosine = self.table.loc[names, "cosine"].notna().all()
        measure = "cosine" if has_cosine else "overlap"
        first, second = (self._per_text[name][measure] for name in names)
        columns = {"difference": first - second, "first": first, "second": second}
        self.differences = pd.DataFrame(columns | self._texts)
        low, high = interval(self.differences["difference"])
        shown_names = [f'<b dir="auto">{shown(name, 80)}</b>' for name in names]
        mean = self.differences["difference"].mean()
        self.status.value = (
            f"{' less '.join(shown_names)}: mean {measure} {mean:+.4f} "
            f"(95 % interval {low:+.4f} to {high:+.4f})."
        )
        titles = {"first": f"{measure} of {names[0]}", "second": f"{measure} of {names[1]}"}
        selected = self.selected  # showing another table clears it
        self.texts.show(self.differences.rename(columns=titles).reset_index(names="position"))
        self.select(selected)
