"""Several students of one teacher in one table, and the texts on which two of them differ most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench import agreement
from workbench._util import paired
from workbench.data import Text
from workbench.errors import WorkbenchError
from workbench.evaluate import bootstrap_means, interval, summarize
from workbench.widgets._html import cut, hover, html_table, shown
from workbench.widgets._view import COLORS, Selection, View, note, same_texts, wrapped
from workbench.widgets.chart import figure
from workbench.widgets.table import Table

_RETRIEVAL = ("ndcg_at_10", "share_of_teacher", "share_low", "share_high")


class ModelComparison(Selection, View):
    """Compare students, or a student at several stages, with their teacher and with each other.

    Args:
        teacher: float of shape (n, d).
        students: name to its vectors of the same texts, float of shape (n, e). Where e is not d, what needs one space
            (cosine, distance) is NaN and shown empty.
        texts: the n texts, `str` or `Text`.
        retrieval: what `evaluate.summarize` returned; a mode named as a student stands in its row, any other mode gets
            a row of its own.
        scores: instead, mode to what `evaluate.score` returned, with "teacher" among them.
        k: neighbors for the measures of agreement.
        seed: of what is approximate and of the bootstraps.

    Attributes:
        table: one row a model (index: its name): first what is known of retrieval (`ndcg_at_10` and `share_of_teacher`
            with its 95 % interval `share_low` to `share_high`), then the measures of `agreement.summary`, `cosine` with
            its 95 % interval `cosine_low` to `cosine_high`.
        selected: positions of the selected texts, a tuple of int; to be set and observed, see `select`.

    Raises:
        WorkbenchError: there are no students, their rows are not the teacher's texts, or retrieval is something else.
    """

    def __init__(
        self,
        teacher: np.ndarray,
        students: Mapping[str, np.ndarray],
        *,
        texts: Sequence[str | Text] | None = None,
        retrieval: pd.DataFrame | None = None,
        scores: Mapping[str, pd.DataFrame] | None = None,
        k: int = 10,
        seed: int = 0,
    ) -> None:
        if not isinstance(students, Mapping) or not students:
            raise WorkbenchError('there are no students: give their vectors by name, as in {"mine": vectors}')
        if "teacher" in students:
            raise WorkbenchError('a student cannot be named "teacher": rename it')
        if retrieval is not None and scores is not None:
            raise WorkbenchError("give retrieval or scores, not both: the one is computed from the other")
        self._texts = None if texts is None else [text.text for text in same_texts(texts, teacher)]
        self._index = pd.RangeIndex(len(teacher))
        vectors = {}
        for name, student in students.items():
            try:
                teacher, vectors[str(name)] = paired(teacher, student)
            except WorkbenchError as error:
                raise WorkbenchError(f"student {name!r}: {error}") from None
        found = _retrieval(retrieval, scores, seed)
        self._seed = seed
        self._ndcg = {mode: rows["ndcg_at_10"].to_numpy() for mode, rows in (scores or {}).items()}
        self._cosines: dict[str, np.ndarray] = {}
        measures = {}
        for name, student in vectors.items():
            each = agreement.per_text(teacher, student, k=k, seed=seed)
            self._cosines[name] = each["cosine"].to_numpy()
            whole = agreement.summary(teacher, student, each, k=k, seed=seed)["value"]
            measures[name] = {**whole, **_mean(self._cosines[name], "cosine_", seed)}
        columns = dict.fromkeys(["cosine", "cosine_low", "cosine_high", *agreement.MEASURES])
        table = pd.concat([found, pd.DataFrame.from_dict(measures, orient="index")[list(columns)]], axis=1, sort=True)
        self.table = table.loc[list(dict.fromkeys([*vectors, *table.index]))].rename_axis("model")
        self._build()

    def differences(self, first: str, second: str) -> pd.DataFrame:
        """Return the texts on which two students differ, the greatest difference first.

        Returns:
            One row a text (index: its position): `difference` (cosine of the first student to the teacher less the
            second's), `first`, `second` and, where the texts are known, `text`. `attrs` has `mean`, `low` and `high`,
            the mean difference and its 95 % interval by the paired percentile bootstrap over texts; with the scores of
            both also `ndcg_mean`, `ndcg_low` and `ndcg_high`, the same of nDCG@10 over queries. All are NaN where a
            width differs from the teacher's.

        Raises:
            WorkbenchError: there is no such student.
        """
        for name in (first, second):
            if name not in self._cosines:
                raise WorkbenchError(f"there is no student {name!r}: choose from {', '.join(self._cosines)}")
        table = pd.DataFrame({"first": self._cosines[first], "second": self._cosines[second]})
        table.insert(0, "difference", table["first"] - table["second"])
        if self._texts is not None:
            table["text"] = self._texts
        # The mean of differences, resampled, is the paired bootstrap of the difference of means.
        attrs = _mean(table["difference"].to_numpy(), "", self._seed)
        if first in self._ndcg and second in self._ndcg:
            attrs |= _mean(self._ndcg[first] - self._ndcg[second], "ndcg_", self._seed)
        table = table.sort_values("difference", key=np.abs, ascending=False, kind="stable")
        table.attrs |= attrs
        return table

    def summary(self) -> str:
        """Return the main columns of the table and the difference that is shown."""
        columns = [c for c in (*_RETRIEVAL, "cosine", "overlap", "nearest_rank", "cka") if c in self.table]
        return f"{html_table(self.table[columns].astype(float).reset_index())}<p>{self.status.value}</p>"

    def _build(self) -> None:
        self.rows = Table(self.table.reset_index(), label="models", many=False)
        self.chart = self._intervals()
        names = [(cut(name, 80), name) for name in self._cosines]
        self.first = ipywidgets.Dropdown(options=names, value=names[0][1], description="Model")
        self.second = ipywidgets.Dropdown(options=names, value=names[-1][1], description="against")
        self.status, self.texts = note(), Table(label="texts")
        super().__init__(self.rows, self.chart, wrapped(self.first, self.second), self.status, self.texts)
        for choice in (self.first, self.second):
            choice.observe(lambda _: self._show_difference(), "value")
        self.texts.observe(
            lambda change: self._places.size and self.select(self._places[list(change["new"])]), "selected"
        )
        self.observe(lambda _: self._mark(), "selected")
        self._show_difference()

    def _intervals(self) -> go.FigureWidget:
        known = "share_of_teacher" in self.table
        names = _RETRIEVAL[1:] if known else ("cosine", "cosine_low", "cosine_high")
        title = "share of the teacher's nDCG@10" if known else "mean cosine of student to teacher"
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
        return chart

    def _mark(self) -> None:
        """Select in the table, which is sorted, what is selected in the view."""
        here = np.flatnonzero(np.isin(self._places, self.selected))
        if set(here) != set(self.texts.selected):  # else selected in the table, where rows stay under the pointer
            self.texts.select(here)
            self.texts.reveal(here[0] if here.size else 0)

    def _show_difference(self) -> None:
        first, second = self.first.value, self.second.value
        self._places = np.empty(0, dtype=int)  # text of each row of the table
        if first == second:
            self.texts.show(pd.DataFrame())
            one = "There is one student, so there is nothing to compare it with."
            several = "Select two different models to see where they differ."
            self.status.value = several if len(self._cosines) > 1 else one
            return
        table = self.differences(first, second)
        names = f'<b dir="auto">{shown(first, 80)}</b> less <b dir="auto">{shown(second, 80)}</b>'
        words = "no cosine, since the width of one is not the teacher's"
        if not np.isnan(table.attrs["mean"]):
            words = f"mean cosine {_signed(table.attrs, '')}"
        if "ndcg_mean" in table.attrs:
            words += f"; mean nDCG@10 {_signed(table.attrs, 'ndcg_')}"
        self.status.value = f"{names}: {words}."
        columns = {"first": "cosine of the first", "second": "cosine of the second"}
        self.texts.show(table.rename(columns=columns).rename_axis("position").reset_index())
        self._places = table.index.to_numpy()
        self._mark()


def _retrieval(rows: pd.DataFrame | None, scores: Mapping[str, pd.DataFrame] | None, seed: int) -> pd.DataFrame | None:
    """Return what is known of retrieval, a row a mode."""
    if scores is not None:
        if "teacher" not in scores:
            raise WorkbenchError(f'scores has no "teacher", only {", ".join(map(str, scores)) or "nothing"}')
        rows = summarize(scores, seed=seed)
    if rows is None:
        return None
    if missing := [name for name in ("mode", *_RETRIEVAL) if name not in rows]:
        raise WorkbenchError(f"retrieval has no column {missing[0]!r}: give what evaluate.summarize returned")
    return rows.set_index("mode", verify_integrity=True)[list(_RETRIEVAL)]


def _mean(values: np.ndarray, prefix: str, seed: int) -> dict[str, float]:
    """Return a mean and its 95 % interval by the percentile bootstrap, which is NaN where there is none."""
    known = len(values) > 1 and not np.isnan(values).any()
    low, high = interval(bootstrap_means([values], seed=seed)[0]) if known else (np.nan, np.nan)
    return {f"{prefix}mean": float(np.mean(values)), f"{prefix}low": low, f"{prefix}high": high}


def _signed(attrs: Mapping[str, float], prefix: str) -> str:
    mean, low, high = (attrs[prefix + name] for name in ("mean", "low", "high"))
    return f"{mean:+.4f} (95 % interval {low:+.4f} to {high:+.4f})"
