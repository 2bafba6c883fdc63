"""The joint map, a histogram and a table of the same texts: what is selected in one is selected in all."""

from __future__ import annotations

import threading
from collections.abc import Sequence
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
from workbench.widgets._view import CATEGORIES, COLORS, Selection, View, note, same_texts, search_box, wrapped
from workbench.widgets.chart import figure, remove_outline
from workbench.widgets.table import Table

_HOVER_TEXTS = 5_000  # with more, the texts would weigh more than the map
_AT_ONCE = 5_000  # with more, neighbors are found after the map is shown
_LINES = 2_000  # lines drawn without being asked for
_LARGE = 3_000  # with more texts, points are small and round, which is several times as fast to draw
_BINS = 40
_MODEL = "model"
_OF_NEIGHBORS = ["overlap", "nearest_rank"]


class AgreementExplorer(Selection, View):
    """Show where each text lies for the teacher and for the student, and how far apart.

    Lasso or click on the map, brush the histogram, select or search in the table. A map by PCA is there at once; one by
    UMAP takes its place when it has been fitted in the background, where the neighbors of many texts are found too.

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
        map: the `projection.JointMap` that is shown.
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
        most: int = 50_000,
        folder: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        self._stop = threading.Event()
        self._background: dict[str, threading.Thread] = {}
        teacher, student = paired(teacher, student)
        texts = same_texts(texts, teacher)
        if k < 1:
            raise WorkbenchError(f"k is {k}: at least 1 neighbor is needed")
        chosen = agreement.sample(len(teacher), most, seed)
        known = _known(texts, columns, chosen)
        self._sampled = f"{len(teacher):,} texts."
        if len(chosen) < len(teacher):
            self._sampled = f"A random sample of {len(chosen):,} of {len(teacher):,} texts."
            teacher, student = teacher[chosen], student[chosen]
        self.map = projection.pca(teacher, student)  # says at once if the widths differ
        later = len(teacher) > _AT_ONCE
        measured = agreement.per_text(teacher, student, k=0 if later else k, columns=known, seed=seed)
        self.table = measured[[*(c for c in measured if c != "text"), "text"]]
        self.table.index = self._index = pd.Index(chosen)
        if later:
            self.table.attrs |= {"neighbors": "being found", "ranks": "being found"}
        self._build()
        self.observe(lambda _: self._selection_changed(), "selected")
        if later:
            self._start("neighbors are", self._measure, teacher, student, k, seed)
        if umap:
            self._fitting.layout.display = ""
            self._start("the UMAP is", self._fit, teacher, student, folder, seed)

    @property
    def selection(self) -> pd.DataFrame:
        """The selected rows of `table`."""
        return self.table.iloc[list(self.selected)]

    def wait(self, seconds: float | None = None) -> projection.JointMap:
        """Wait for the UMAP and for the neighbors, and return the map that is shown then."""
        for what, thread in self._background.items():
            thread.join(seconds)
            if thread.is_alive():
                raise WorkbenchError(f"{what} not ready after {seconds} s")
        return self.map

    def close(self) -> None:
        """End a fit that is under way, and close the view."""
        self._stop.set()
        super().close()

    def summary(self) -> str:
        """Return a few lines that say what is shown."""
        cosine = self.table["cosine"]
        return (
            f"<p>{self._sampled} Cosine of student to teacher: mean {cosine.mean():.3f}, "
            f"from {cosine.min():.3f} to {cosine.max():.3f}; {len(self.selected):,} selected. {self._about_map()}</p>"
        )

    # --- parts ---

    def _build(self) -> None:
        # One figure with WebGL a view: a page has only 8 to 16 contexts.
        self.chart = figure(height=470, dragmode="lasso", hovermode="closest", uirevision="map")
        self.chart.update_yaxes(scaleanchor="x")
        texts = [hover(text) for text in self.table["text"]] if len(self.table) <= _HOVER_TEXTS else None
        large = len(self.table) > _LARGE
        self.chart.add_scattergl(
            mode="lines", line={"width": 1, "color": "rgba(128,128,128,.45)"}, hoverinfo="skip", name="same text"
        )
        for name, symbol in (("teacher", "diamond"), ("student", "circle")):
            self.chart.add_scattergl(
                mode="markers", name=name, unselected={"marker": {"opacity": 0.06}},
                marker={"size": 3 if large else 6, "symbol": "circle" if large else symbol, "opacity": 0.8},
                text=texts, hovertemplate=f"%{{text}}<extra>{name}</extra>" if texts else f"{name}<extra></extra>",
            )  # fmt: skip
        teacher_points, student_points = self.chart.data[1:]
        # Callbacks come trace by trace, the student's last: only then is the choice complete.
        self._half: list[int] = []
        teacher_points.on_selection(lambda _, points, __: setattr(self, "_half", points.point_inds))
        student_points.on_selection(lambda _, points, __: self._drawn(self.chart, [*self._half, *points.point_inds]))
        for points in (teacher_points, student_points):
            points.on_click(lambda _, hit, __: hit.point_inds and self.select(hit.point_inds))
        student_points.on_deselect(lambda *_: self.select())

        low = float(np.floor(20 * min(self.table["cosine"].min(), 0.95)) / 20)
        self._edges = np.linspace(low, 1, _BINS + 1)
        self._bin = np.clip(np.digitize(self.table["cosine"], self._edges) - 1, 0, _BINS - 1)
        centers = (self._edges[1:] + self._edges[:-1]) / 2
        self.histogram = figure(
            height=200, x="cosine of student to teacher", y="texts", dragmode="select", selectdirection="h",
            barmode="overlay", bargap=0.05,
        )  # fmt: skip
        counts = np.bincount(self._bin, minlength=_BINS)
        self.histogram.add_bar(x=centers, y=counts, name="all", marker_color="rgba(128,128,128,.5)")
        self.histogram.add_bar(x=centers, y=np.zeros(_BINS), name="selected", marker_color=COLORS["student"])
        self.histogram.update_traces(unselected={"marker": {"opacity": 1}}, hovertemplate="%{y} texts near %{x:.3f}")
        self.histogram.data[0].on_selection(lambda _, points, __: self._brushed(points.point_inds))
        self.histogram.data[0].on_deselect(lambda *_: self.select())

        self.rows = Table(self.table)
        self.rows.observe(lambda change: self.select(change["new"]), "selected")

        names = [c for c in self.table if c != "text" and (_numeric(self.table[c]) or self.table[c].nunique() <= 50)]
        self.color = ipywidgets.Dropdown(options=[_MODEL, *names], description="Color", tooltip="color points by")
        self.lines = ipywidgets.Dropdown(
            options=["all", "selected", "none"], value="all" if len(self.table) <= _LINES else "selected",
            description="Lines", tooltip="lines from each text's teacher point to its student point",
        )  # fmt: skip
        self.search = search_box("words in the text, then Enter", self._search)
        button, auto = ipywidgets.Button, {"width": "auto"}
        page = button(description="Select page", tooltip="select the rows that the table shows", layout=auto)
        clear = button(description="Clear", tooltip="select nothing, show all texts", layout=auto)
        give_up = button(description="Stop UMAP", tooltip="keep the PCA map")
        self.progress = ipywidgets.FloatProgress(max=1, description="UMAP", layout={"width": "220px"})
        self.legend, self.status = note(), note()
        self.color.observe(lambda _: self._paint(), "value")
        self.lines.observe(lambda _: self._place(), "value")
        page.on_click(lambda _: self.rows.select([row["key"] for row in self.rows._rows]))
        clear.on_click(lambda _: self.select())
        give_up.on_click(lambda _: self._stop.set())
        self._fitting = ipywidgets.HBox([self.progress, give_up], layout={"display": "none"})
        super().__init__(
            wrapped(self.color, self.lines, self.search, page, clear, align_items="center"),
            wrapped(self._fitting, self.status, align_items="center"),
            self.chart, self.legend, self.histogram, self.rows,
        )  # fmt: skip
        self._place()
        self._paint()

    # --- in the background ---

    def _start(self, name: str, work: object, *arguments: object) -> None:
        self._background[name] = threading.Thread(target=work, args=arguments, daemon=True)
        self._background[name].start()

    def _fit(self, teacher: np.ndarray, student: np.ndarray, folder: str | Path | None, seed: int) -> None:
        """Fit a UMAP, and show it."""
        try:
            found = projection.umap(
                teacher, student, folder=folder, seed=seed, stop=self._stop,
                on_progress=lambda share: setattr(self.progress, "value", share),
            )  # fmt: skip
            if found is not None:
                self.map = found
                self._place()
        except Exception as error:
            self.status.value = f"{error_line(error)} The map is by PCA."
        self._fitting.layout.display = "none"

    def _measure(self, teacher: np.ndarray, student: np.ndarray, k: int, seed: int) -> None:
        """Find the neighbors, and show what comes of them."""
        try:
            found = agreement.per_text(teacher, student, k=k, seed=seed)
            self.table[_OF_NEIGHBORS] = found[_OF_NEIGHBORS].set_axis(self.table.index)
            self.table.attrs |= found.attrs
            self.rows.refresh()
            if self.color.value in _OF_NEIGHBORS:
                self._paint()
            self._say()
        except Exception as error:
            self.table.attrs |= {"neighbors": "none", "ranks": "none"}
            self.status.value = error_line(error, "Neighbors: ")

    # --- drawing ---

    def _place(self) -> None:
        """Put the points and the lines where the map says."""
        with self.chart.batch_update():
            for trace, points in zip(self.chart.data[1:], (self.map.teacher, self.map.student), strict=True):
                trace.x, trace.y = points.T
            self._join()
            self.chart.layout.xaxis.title.text = f"{self.map.method} 1 (no unit)"
            self.chart.layout.yaxis.title.text = f"{self.map.method} 2 (no unit)"
        self._say()

    def _join(self) -> None:
        """Draw the lines that are asked for."""
        ends = np.array(self.selected, dtype=int)
        if self.lines.value == "none":
            ends = ends[:0]
        elif self.lines.value == "selected":
            ends = ends[agreement.sample(len(ends), _LINES)]
        elif not len(ends):
            ends = np.arange(len(self.table))
        path = np.full((len(ends), 3, 2), np.nan, dtype=np.float32)  # NaN lifts the pen
        path[:, 0], path[:, 1] = self.map.teacher[ends], self.map.student[ends]
        self.chart.data[0].x, self.chart.data[0].y = path.reshape(-1, 2).T

    def _paint(self) -> None:
        """Color the points by what is chosen."""
        name, legend = self.color.value, ""
        if name == _MODEL:
            markers = [{"color": COLORS[model], "showscale": False} for model in ("teacher", "student")]
        elif _numeric(self.table[name]):
            bar = {"title": {"text": hover(name)}, "thickness": 12}
            marker = {"color": self.table[name].to_numpy(dtype=float), "colorscale": "Cividis", "colorbar": bar}
            markers = [marker | {"showscale": False}, marker | {"showscale": True}]
        else:
            codes, kinds = pd.factorize(self.table[name].astype(str))
            markers = [{"color": np.take(CATEGORIES, codes, mode="clip"), "showscale": False}] * 2
            legend = f"{shown(name)}: " + " &nbsp; ".join(
                f'<span style="color:{CATEGORIES[min(i, len(CATEGORIES) - 1)]}">■</span> {shown(kind, 40)}'
                for i, kind in enumerate(kinds[:20])
            )
        with self.chart.batch_update():
            for trace, marker in zip(self.chart.data[1:], markers, strict=True):
                trace.marker.update(marker)
        self.legend.value = legend

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
        found = self.table["text"].str.contains(words, case=False, regex=False) & bool(words)
        self.select(np.flatnonzero(found))
        if words and not found.any():
            self.status.value = f"No text contains “{shown(words, 80)}”."

    def _selection_changed(self) -> None:
        chosen = list(self.selected)
        with self.chart.batch_update():
            for trace in self.chart.data[1:]:
                trace.selectedpoints = chosen or None
            self._join()
        with self.histogram.batch_update():
            self.histogram.data[1].y = np.bincount(self._bin[chosen], minlength=_BINS)
            self.histogram.data[0].selectedpoints = None
        if set(chosen) != set(self.rows.selected):  # else selected in the table, where rows stay under the pointer
            self.rows.filter(chosen or None)
            self.rows.selected = self.selected
        self._say()

    # --- words ---

    def _say(self) -> None:
        selection = ""
        if self.selected:
            some = len(self.selected) > _LINES == len(self.chart.data[0].x) // 3
            lines = f" (lines for {_LINES:,} of them)" if some else ""
            selection = f"{len(self.selected):,} selected{lines}, mean cosine {self.selection['cosine'].mean():.3f}. "
        self.status.value = f"{selection}{self._sampled} {self._about_map()}"

    def _about_map(self) -> str:
        trusted, correlation = "", self.map.displacement_correlation
        if not np.isnan(correlation):
            trusted = f"; the length of a line follows the true distance with rank correlation {correlation:.2f}"
        about = self.table.attrs
        return f"Map: {self.map.method}{trusted}. Neighbors: {about['neighbors']}; ranks: {about['ranks']}."


def _known(texts: Sequence[Text], columns: pd.DataFrame | None, chosen: np.ndarray) -> pd.DataFrame:
    """Return what is known of the chosen texts before they are measured."""
    if columns is not None and len(columns) != len(texts):
        raise WorkbenchError(f"columns have {len(columns):,} rows and there are {len(texts):,} texts")
    texts = [texts[i] for i in chosen]
    known = pd.DataFrame({"text": [text.text for text in texts]})
    known["length"] = known["text"].str.len()
    if len({text.role for text in texts}) > 1:
        known["role"] = [text.role.value for text in texts]
    if columns is None:
        return known
    names = [*known, "cosine", "squared_distance", *_OF_NEIGHBORS, _MODEL, *columns]
    if twice := [name for name in columns if names.count(name) > 1]:
        raise WorkbenchError(f"the column {twice[0]!r} is there twice, or the view has one of that name: rename it")
    return known.join(columns.iloc[chosen].reset_index(drop=True))


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
