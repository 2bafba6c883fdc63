"""The joint map, a histogram and a table of the same texts: what is selected in one is selected in all."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench import agreement, projection
from workbench._util import paired
from workbench.data import Text
from workbench.errors import WorkbenchError
from workbench.widgets._html import error_line, hover, shown
from workbench.widgets._selection import Selection
from workbench.widgets._view import CATEGORIES, COLORS, View, note, same_texts, search_box, wrapped
from workbench.widgets.chart import figure, remove_outline
from workbench.widgets.table import Table

MOST_TEXTS = 50_000
_HOVER_TEXTS = 5_000  # with more, the texts would weigh more than the map
_AT_ONCE = 5_000  # with more, neighbors are found after the map is shown
_LINES = 2_000  # lines drawn without being asked for
_LARGE = 3_000  # with more texts, points are small and round, which is several times as fast to draw
_BINS = 40
_MODEL = "model"


class AgreementExplorer(Selection, View):
    """Show where each text lies for the teacher and for the student, and how far apart.

    Lasso or click on the map, brush the histogram, select or search in the table. A map by PCA is there
    at once; one by UMAP takes its place when it has been fitted in the background, where the neighbors
    of many texts are found too. `wait` waits for both.

    Args:
        teacher: float of shape (n, d).
        student: float of shape (n, d), the same texts.
        texts: n texts, `str` or `Text`; where they have several roles, `table` has a column `role`.
        columns: n rows of anything else that is known of the texts, to color and to sort by.
        k: neighbors that `overlap` compares.
        umap: whether to fit a UMAP.
        most: above so many texts a random sample is shown, and the view says so.
        folder: where maps are kept, see `projection.umap`.
        seed: of the sample and of the map.

    Attributes:
        table: dataframe of the texts shown with all measures; its index is the position in the input.
        selected: positions of the selected rows of `table`, a tuple of int; to be set and observed, see `select`.

    Raises:
        WorkbenchError: the arrays are not vectors of these texts in one space.
    """

    _stop = threading.Event()  # nobody's: a view whose arguments were refused is closed too

    def __init__(
        self,
        teacher: np.ndarray,
        student: np.ndarray,
        texts: Sequence[str | Text],
        *,
        columns: pd.DataFrame | None = None,
        k: int = 10,
        umap: bool = True,
        most: int = MOST_TEXTS,
        folder: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        self._stop = threading.Event()
        teacher, student = paired(teacher, student)
        texts = same_texts(texts, teacher)
        if k < 1:
            raise WorkbenchError(f"k is {k}: at least 1 neighbor is needed")
        if columns is not None and len(columns) != len(teacher):
            raise WorkbenchError(f"columns have {len(columns):,} rows and there are {len(teacher):,} texts")
        chosen = agreement.sample(len(teacher), most, seed)
        self._all = len(teacher)
        if len(chosen) < len(teacher):
            teacher, student = teacher[chosen], student[chosen]
        self._map = projection.pca(teacher, student)  # says at once if the widths differ
        known = _known([texts[i] for i in chosen], None if columns is None else columns.iloc[chosen])
        later = len(teacher) > _AT_ONCE
        measured = agreement.per_text(teacher, student, k=0 if later else k, columns=known, seed=seed)
        self.table = measured[[*(c for c in measured if c != "text"), "text"]]
        self.table.index = self._index = pd.Index(chosen)
        self._build()
        self.observe(self._selection_changed, "selected")
        if later:
            self._measured.clear()
            self._say()
            threading.Thread(target=self._measure, args=(teacher, student, k, seed), daemon=True).start()
        if umap:
            self._fit(teacher, student, folder=folder, seed=seed)

    # --- what code can do ---

    @property
    def selection(self) -> pd.DataFrame:
        """The selected rows of `table`."""
        return self.table.iloc[list(self.selected)]

    @property
    def map(self) -> projection.JointMap:
        """The map that is shown."""
        return self._map

    def wait(self, seconds: float | None = None) -> projection.JointMap:
        """Wait for the UMAP and for the neighbors, and return the map that is shown then."""
        for what, ready in (("the UMAP is", self._settled), ("neighbors are", self._measured)):
            if not ready.wait(seconds):
                raise WorkbenchError(f"{what} not ready after {seconds} s")
        return self._map

    def close(self) -> None:
        """End a fit that is under way, and close the view."""
        self._stop.set()
        super().close()

    def summary(self) -> str:
        """Return a few lines that say what is shown."""
        cosine = self.table["cosine"]
        return (
            f"<p>{self._sampled()} Cosine of student to teacher: mean {cosine.mean():.3f}, "
            f"from {cosine.min():.3f} to {cosine.max():.3f}; {len(self.selected):,} selected. {self._about_map()}</p>"
        )

    def figures(self) -> list[go.Figure]:
        """Return the map and the histogram."""
        return [self.chart, self.histogram]

    # --- parts ---

    def _build(self) -> None:
        # One figure with WebGL a view: a page has only 8 to 16 contexts.
        self.chart = figure(
            height=470, x="component 1", y="component 2", dragmode="lasso", hovermode="closest", uirevision="map"
        )
        self.chart.update_yaxes(scaleanchor="x")
        texts = [hover(text) for text in self.table["text"]] if len(self.table) <= _HOVER_TEXTS else None
        large = len(self.table) > _LARGE
        faint = {"marker": {"opacity": 0.06}}
        self.chart.add_scattergl(
            mode="lines", line={"width": 1, "color": "rgba(128,128,128,.45)"}, hoverinfo="skip", name="same text"
        )
        for name, symbol in (("teacher", "diamond"), ("student", "circle")):
            self.chart.add_scattergl(
                mode="markers", name=name, unselected=faint,
                marker={"size": 3 if large else 6, "symbol": "circle" if large else symbol, "opacity": 0.8},
                text=texts, hovertemplate=f"%{{text}}<extra>{name}</extra>" if texts else f"{name}<extra></extra>",
            )  # fmt: skip
        teacher_points, student_points = self.chart.data[1:]
        # Callbacks come trace by trace, the student's last: only then is the choice complete.
        teacher_points.on_selection(lambda _, points, __: setattr(self, "_half", points.point_inds))
        student_points.on_selection(lambda _, points, __: self._drawn(self.chart, [*self._half, *points.point_inds]))
        for points in (teacher_points, student_points):
            points.on_click(lambda _, hit, __: hit.point_inds and self.select(hit.point_inds))
        student_points.on_deselect(lambda *_: self.select())
        self._half: list[int] = []

        low = float(np.floor(20 * min(self.table["cosine"].min(), 0.95)) / 20)
        self._edges = np.linspace(low, 1, _BINS + 1)
        self._bin = np.clip(np.digitize(self.table["cosine"], self._edges) - 1, 0, _BINS - 1)
        centers = (self._edges[1:] + self._edges[:-1]) / 2
        self.histogram = figure(
            height=200, x="cosine of student to teacher", y="texts", dragmode="select", selectdirection="h",
            barmode="overlay", bargap=0.05,
        )  # fmt: skip
        self.histogram.add_bar(x=centers, y=self._counts(), name="all", marker_color="rgba(128,128,128,.5)")
        self.histogram.add_bar(x=centers, y=np.zeros(_BINS), name="selected", marker_color=COLORS["student"])
        self.histogram.update_traces(unselected={"marker": {"opacity": 1}}, hovertemplate="%{y} texts near %{x:.3f}")
        self.histogram.data[0].on_selection(lambda _, points, __: self._brushed(points.point_inds))
        self.histogram.data[0].on_deselect(lambda *_: self.select())

        self.rows = Table(self.table)
        self.rows.observe(lambda change: self.select(change["new"]), "selected")

        names = [c for c in self.table if c != "text" and (_numeric(self.table[c]) or self.table[c].nunique() <= 50)]
        self.color = ipywidgets.Dropdown(options=[_MODEL, *names], description="Color", tooltip="color points by")
        self.lines = ipywidgets.Dropdown(
            options=["all", "selected", "none"],
            value="all" if len(self.table) <= _LINES else "selected",
            description="Lines",
            tooltip="lines from each text's teacher point to its student point",
        )
        self.search = search_box("words in the text, then Enter", self._search)
        button, auto = ipywidgets.Button, {"width": "auto"}
        self.page = button(description="Select page", tooltip="select the rows that the table shows", layout=auto)
        self.clear = button(description="Clear", tooltip="select nothing, show all texts", layout=auto)
        self.give_up = button(description="Stop UMAP", tooltip="keep the PCA map")
        self.progress = ipywidgets.FloatProgress(max=1, description="UMAP", layout={"width": "220px"})
        self.legend, self.status = note(), note()
        self.color.observe(lambda _: self._paint(), "value")
        self.lines.observe(lambda _: self._place(), "value")
        self.page.on_click(lambda _: self.rows.select([row["key"] for row in self.rows._rows]))
        self.clear.on_click(lambda _: self.select())
        self.give_up.on_click(lambda _: self._stop.set())
        self._settled, self._measured = threading.Event(), threading.Event()
        self._settled.set()
        self._measured.set()
        self._fitting = ipywidgets.HBox([self.progress, self.give_up], layout={"display": "none"})
        super().__init__(
            wrapped(self.color, self.lines, self.search, self.page, self.clear, align_items="center"),
            wrapped(self._fitting, self.status, align_items="center"),
            self.chart, self.legend, self.histogram, self.rows,
        )  # fmt: skip
        self._place()
        self._paint()

    def _fit(self, teacher: np.ndarray, student: np.ndarray, **options: object) -> None:
        self._fitting.layout.display = ""
        self._settled.clear()
        options |= {"stop": self._stop, "on_progress": lambda share: setattr(self.progress, "value", share)}
        projection.umap_in_background(teacher, student, **options).add_done_callback(self._fitted)

    def _fitted(self, future: Future) -> None:
        self._fitting.layout.display = "none"
        if error := future.exception():
            self.status.value = error_line(error, after=" The map is by PCA.")
        elif (found := future.result()) is not None:
            self._map = found
            self._place()
        self._settled.set()

    def _measure(self, teacher: np.ndarray, student: np.ndarray, k: int, seed: int) -> None:
        """Find the neighbors, and show what comes of them."""
        try:
            found = agreement.per_text(teacher, student, k=k, seed=seed)
            for name in _OF_NEIGHBORS:
                self.table[name] = found[name].to_numpy()
            self.table.attrs |= found.attrs
            self.rows.refresh()
            if self.color.value in _OF_NEIGHBORS:
                self._paint()
            self._say()
        except Exception as error:
            self.status.value = error_line(error, "Neighbors: ")
        finally:
            self._measured.set()

    def _place(self) -> None:
        """Put the points and the lines where the map says."""
        with self.chart.batch_update():
            for trace, points in zip(self.chart.data[1:], (self._map.teacher, self._map.student), strict=True):
                trace.x, trace.y = points[:, 0], points[:, 1]
            self._join()
            self.chart.layout.xaxis.title.text = f"{self._map.method} 1 (no unit)"
            self.chart.layout.yaxis.title.text = f"{self._map.method} 2 (no unit)"
        self._say()

    def _join(self) -> None:
        """Draw the lines that are asked for."""
        ends = np.array(self.selected or (), dtype=int)
        if self.lines.value == "none":
            ends = ends[:0]
        elif self.lines.value == "selected":
            ends = ends[agreement.sample(len(ends), _LINES)]
        elif not len(ends):
            ends = np.arange(len(self.table))
        path = np.full((len(ends), 3, 2), np.nan, dtype=np.float32)  # NaN lifts the pen
        path[:, 0], path[:, 1] = self._map.teacher[ends], self._map.student[ends]
        path = path.reshape(-1, 2)
        self.chart.data[0].x, self.chart.data[0].y = path[:, 0], path[:, 1]

    def _paint(self) -> None:
        teacher_points, student_points = self.chart.data[1:]
        name, legend = self.color.value, ""
        with self.chart.batch_update():
            for trace, model in ((teacher_points, "teacher"), (student_points, "student")):
                if name == _MODEL:
                    trace.marker.update(color=COLORS[model], showscale=False)
                elif _numeric(self.table[name]):
                    trace.marker.update(
                        color=self.table[name].to_numpy(dtype=float),
                        colorscale="Cividis",
                        showscale=model == "student",
                        colorbar={"title": {"text": hover(name)}, "thickness": 12},
                    )
                else:
                    codes, kinds = pd.factorize(self.table[name].astype(str))
                    palette = np.array(CATEGORIES)
                    trace.marker.update(color=palette[np.minimum(codes, len(palette) - 1)], showscale=False)
                    legend = " &nbsp; ".join(
                        f'<span style="color:{CATEGORIES[min(i, len(CATEGORIES) - 1)]}">■</span> {shown(kind, 40)}'
                        for i, kind in enumerate(kinds[:20])
                    )
        self.legend.value = f"{shown(name)}: {legend}" if legend else ""

    # --- selection ---

    def _drawn(self, chart: go.FigureWidget, positions: Sequence[int]) -> None:
        """Take over a lasso or a brush, and remove its outline.

        An empty selection means nothing, since the browser reports one when the outline is gone (a double click clears).
        """
        if len(positions):
            remove_outline(chart)
            self.select(positions)

    def _brushed(self, bins: Sequence[int]) -> None:
        self._drawn(self.histogram, np.flatnonzero(np.isin(self._bin, bins)))

    def _search(self, words: str) -> None:
        words = words.strip()
        found = self.table["text"].str.contains(words, case=False, regex=False) if words else pd.Series(dtype=bool)
        self.select(np.flatnonzero(found))
        if words and not found.any():
            self.status.value = f"No text contains “{shown(words, 80)}”."

    def _selection_changed(self, _: object) -> None:
        chosen = list(self.selected)
        with self.chart.batch_update():
            for trace in self.chart.data[1:]:
                trace.selectedpoints = chosen or None
            self._join()
        with self.histogram.batch_update():
            self.histogram.data[1].y = self._counts(chosen)
            self.histogram.data[0].selectedpoints = None
        if set(chosen) != set(self.rows.selected):  # else selected in the table, where rows stay under the pointer
            self.rows.filter(chosen or None)
            self.rows.selected = self.selected
        self._say()

    def _counts(self, chosen: list[int] | None = None) -> np.ndarray:
        return np.bincount(self._bin if chosen is None else self._bin[chosen], minlength=_BINS)

    # --- words ---

    def _say(self) -> None:
        selection = ""
        if self.selected:
            some = len(self.selected) > _LINES == len(self.chart.data[0].x) // 3
            lines = f" (lines for {_LINES:,} of them)" if some else ""
            selection = f"{len(self.selected):,} selected{lines}, mean cosine {self.selection['cosine'].mean():.3f}. "
        self.status.value = f"{selection}{self._sampled()} {self._about_map()}"

    def _sampled(self) -> str:
        count = len(self.table)
        return f"{count:,} texts." if count == self._all else f"A random sample of {count:,} of {self._all:,} texts."

    def _about_map(self) -> str:
        ranks = f"Neighbors: {self.table.attrs['neighbors']}; ranks: {self.table.attrs['ranks']}."
        if not self._measured.is_set() and not self.table.attrs["k"]:
            ranks = "Neighbors are being found."
        if np.isnan(self._map.displacement_correlation):
            return f"Map: {self._map.method}. {ranks}"
        return (
            f"Map: {self._map.method}; the length of a line follows the true distance with rank correlation "
            f"{self._map.displacement_correlation:.2f}. {ranks}"
        )


def _known(texts: Sequence[Text], columns: pd.DataFrame | None) -> pd.DataFrame:
    known = pd.DataFrame({"text": [text.text for text in texts]})
    known["length"] = known["text"].str.len()
    if len({text.role for text in texts}) > 1:
        known["role"] = [text.role.value for text in texts]
    for name in () if columns is None else columns.columns:
        if name in (*known, *_MEASURED, _MODEL) or list(columns.columns).count(name) > 1:
            raise WorkbenchError(f"the column {name!r} is there twice, or the view has one of that name: rename it")
        known[name] = columns[name].to_numpy()
    return known


_OF_NEIGHBORS = ("overlap", "nearest_rank")
_MEASURED = ("cosine", "squared_distance", *_OF_NEIGHBORS)


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
