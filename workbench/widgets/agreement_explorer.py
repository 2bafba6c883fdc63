"""Map, histogram, neighbors, and tables of texts and regions; what is selected in one is in all."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd

from workbench import agreement, projection, ranking, regions
from workbench._util import unit
from workbench.data import Role, Text, as_texts
from workbench.errors import WorkbenchError
from workbench.evaluate import same_models, vectors
from workbench.widgets._html import cell, cut, error_line, hover, shown
from workbench.widgets._view import COLORS, Selection, View, note, search_box, wrapped
from workbench.widgets.chart import Chart, figure
from workbench.widgets.map import Map, is_numeric, value_range
from workbench.widgets.results import Results, neighbor_lists
from workbench.widgets.table import Table

_AT_ONCE = 5_000  # with more texts, neighbors are found after the map is shown
_BINS = 40
_MODEL = "(model)"
_SPACE = ["cosine", "squared_distance"]  # measures that need one space
_OF_NEIGHBORS = ["overlap", "nearest_rank"]
_REST = "less the mean of all other texts (interval for all regions). ▼ surely worse, ▲ better"


class AgreementExplorer(Selection, View):
    """Show on which texts two models agree; select on the map, in a table or by a search.

    The map is the reference's. A line leads from a text to where its neighbors for the other model
    are, so widths may differ (without a cosine). A PCA map is there at once; regions, a UMAP and,
    above 5,000 texts, neighbors come from the background.

    Args:
        models: two or more names, each with a model: vectors, float of shape (n, d), or anything
            that `wb.compare` takes. The first is the reference; a list chooses the other one.
        texts: n texts, `str` or `Text`, or a dataframe with a column "text".
        columns: n rows of what else is known of the texts, to color, sort and group by;
            `ndcg_gain` is compared by region. By default the dataframe's other columns.
        k: neighbors that `overlap` compares.
        umap: whether to fit a UMAP.
        most: above so many texts a random sample is shown.
        folder: where maps are kept, see `projection.umap`.
        seed: of the sample and of the map.

    Attributes:
        table: dataframe of the texts with all measures; its index is the position in the input.
        map: the `projection.TextMap` that is shown.
        regions: what `regions.compare_regions` says of the categories that color the points, or of
            the regions found; empty where there is nothing to compare.
        selected: positions of the selected rows of `table`, a tuple of int; see `select`.

    Raises:
        WorkbenchError: there are not two models, they have not as many vectors as there are texts,
            or a column has the name of a measure.
    """

    _stop = threading.Event()  # of the class: a view whose arguments were refused is closed too

    def __init__(
        self,
        models: Mapping[str, object],
        texts: Sequence[str | Text] | pd.DataFrame,
        *,
        columns: pd.DataFrame | None = None,
        k: int = 10,
        umap: bool = True,
        most: int = 50_000,
        folder: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        # Regions, neighbors and the UMAP are ready in any order, while buttons are pressed.
        self._stop, self._lock = threading.Event(), threading.RLock()
        self._background: dict[str, threading.Thread] = {}
        self._problems: list[str] = []
        self._hits: list[int] = []  # texts of the latest search, nearest first
        self.regions, self._groups = pd.DataFrame(), np.empty(0, dtype=object)
        self._k, self._folder, self._seed, self._turn = k, folder, seed, 0
        if isinstance(texts, pd.DataFrame):
            columns = texts.drop(columns="text") if columns is None else columns
            texts = texts["text"]
        texts = as_texts(texts)
        models = same_models(models, texts)
        rows = agreement.sample(len(texts), most, seed)
        self._index = pd.Index(rows)
        self._about = f"{len(texts):,} texts."
        if columns is not None:
            columns = columns.set_axis(range(len(texts))).loc[rows].reset_index(drop=True)
        if len(rows) < len(texts):
            self._about = f"A random sample of {len(rows):,} of {len(texts):,} texts."
            texts = [texts[row] for row in rows]
        self._known = _describe(texts, columns)
        self._vectors, self._searchable = {}, {}
        for name, model in models.items():
            if isinstance(model, np.ndarray):
                self._vectors[name] = model[rows]
            else:
                self._vectors[name], self._searchable[name] = vectors(model, texts), model
        self.reference = next(iter(models))
        self._base = projection.pca(self._vectors[self.reference])
        self._build()
        self._compare_models()
        self._start("regions are", self._find_regions)
        if umap:
            self.give_up.layout.display = ""
            self._start("the UMAP is", self._fit_map)
        self.observe(lambda _: self._selection_changed(), "selected")

    @property
    def selection(self) -> pd.DataFrame:
        """The selected rows of `table`."""
        return self.table.iloc[list(self.selected)]

    def wait(self, seconds: float | None = None) -> projection.TextMap:
        """Wait for the UMAP, the neighbors and the regions, and return the map shown then."""
        for name, thread in list(self._background.items()):
            thread.join(seconds)
            if thread.is_alive():
                raise WorkbenchError(f"{name} not ready after {seconds} s")
        return self.map

    def close(self) -> None:
        """End a fit that is under way, and close the view."""
        self._stop.set()
        super().close()

    def summary(self) -> str:
        """Return a few lines that say what is shown."""
        measure, other = self._measure, shown(self.against.value)
        values, parts = self.table[measure], [self._about]
        if self.selected:
            mean = self.selection[measure].mean()
            parts.append(f"{len(self.selected):,} selected, mean {shown(measure)} {mean:.3f}.")
        parts.append(
            f"Of all, mean {shown(measure)} {values.mean():.3f}, {values.min():.3f} to "
            f"{values.max():.3f}. Map: {self.map.method} of {shown(self.reference)}."
        )
        if not np.isnan(self.map.line_correlation):
            parts.append(
                f"A line leads to a text's neighbors for {other}; the loss of neighbors has a rank "
                f"correlation of {self.map.line_correlation:.2f} with its length."
            )
        first, second = (unit_vectors.shape[1] for unit_vectors in self._units.values())
        if first != second:
            parts.append(f"No cosine: no common space ({first} and {second} dimensions).")
        return " ".join([*parts, *self._problems])

    def _build(self) -> None:
        names = list(self._vectors)[1:]
        style, auto = {"description_width": "initial"}, {"width": "auto"}
        self.against = ipywidgets.Dropdown(
            options=names, description=f"{self.reference} and", style=style, layout=auto
        )
        self.color = ipywidgets.Dropdown(
            options=[_MODEL], description="Color", style=style, layout=auto
        )
        by = [("words", ""), *((f"meaning, by {name}", name) for name in self._searchable)]
        self.by = ipywidgets.Dropdown(options=by, layout=auto)
        self.search = search_box("search the texts, then Enter", self._search, "")
        self.search.layout = {"flex": "1 1 160px", "min_width": "120px"}
        self.give_up = ipywidgets.Button(description="Stop UMAP", tooltip="keep the PCA map")
        self.give_up.layout.display = "none"
        self.status, self.points = note(), Map(len(self._known), height=400)
        chart = figure(height=128, dragmode="select", selectdirection="h", barmode="overlay")
        chart.update_layout(
            showlegend=False, bargap=0.05, margin={"l": 40, "r": 6, "t": 6, "b": 34}
        )
        self.histogram = Chart(chart, on_brush=self._brushed)
        self.text, self.near = ipywidgets.HTML(), Results(lambda row: self.select([row]))
        side = ipywidgets.VBox([self.histogram, self.text, self.near])
        side.layout = {"flex": "2 1 340px", "min_width": "300px", "overflow": "hidden auto"}
        side.add_class("workbench-side")
        main = ipywidgets.VBox([self.points], layout={"flex": "3 1 420px", "min_width": "300px"})
        titles = agreement.READING | {f"{name}, the rest": _REST for name in regions.MEASURES}
        self.rows = Table(page_rows=8, titles=titles)
        self.region_rows = Table(page_rows=8, titles=titles, label="regions", many=False)
        self.listing = ipywidgets.ToggleButtons(
            options=["texts", "regions"], style={"button_width": "auto"}
        )
        if len(names) == 1:
            self.against.layout.display = "none"
        super().__init__(
            wrapped(self.against, self.color, self.by, self.search, align_items="center"),
            wrapped(self.give_up, self.status, align_items="center"),
            wrapped(main, side),
            self.listing,
            self.rows,
            self.region_rows,
        )
        self._list()
        self.against.observe(lambda _: self._compare_models(), "value")
        self.color.observe(lambda _: self._paint(), "value")
        self.by.observe(lambda _: self._search(self.search.value), "value")
        self.give_up.on_click(lambda _: self._stop.set())
        self.listing.observe(lambda _: self._list(), "value")
        for part in (self.points, self.rows):
            part.observe(lambda change: self.select(change["new"]), "selected")
        self.region_rows.observe(
            lambda change: change["new"] and self.select(self._in_region(*change["new"])),
            "selected",
        )

    def _list(self) -> None:
        """Show the table of texts or that of regions."""
        for table, name in ((self.rows, "texts"), (self.region_rows, "regions")):
            table.layout.display = "" if name == self.listing.value else "none"

    # --- comparing ---

    def _compare_models(self) -> None:
        """Compare the reference with the model that is chosen."""
        first, second = self._vectors[self.reference], self._vectors[self.against.value]
        with self._lock:
            self._turn += 1
            self._units = {self.reference: unit(first), self.against.value: unit(second)}
            self.map, self._near = self._base, None
            table = self._known.join(agreement.per_text(first, second, k=0))
            measures = [*(_SPACE if first.shape[1] == second.shape[1] else []), *_OF_NEIGHBORS]
            others = [name for name in self._known if name != "text"]
            self.table = table[[*measures, *others, "text"]].set_axis(self._index)
            varying = [name for name in others if self.table[name].nunique() > 1]
            colors = tuple(dict.fromkeys([*measures, *varying, "region", _MODEL]))
            if colors != self.color.options:
                before, self.color.options = self.color.value, colors
                self.color.value = before if before in measures + varying else measures[0]
            selected = self.selected
            self.rows.show(self.table)
            if len(first) > _AT_ONCE:
                self._redraw()
                self._start("neighbors are", self._find_neighbors, self._turn, first, second)
            else:
                self._find_neighbors(self._turn, first, second)
            self.selected = selected
            self._selection_changed()

    def _find_neighbors(self, turn: int, first: np.ndarray, second: np.ndarray) -> None:
        """Find neighbors and show what comes of them, unless other vectors are shown by then."""
        k = min(self._k, len(first) - 1)
        near = measures = None
        if k:
            near = agreement.neighbors(first, k), agreement.neighbors(second, k)
            measures = agreement.per_text(first, second, k=k, both_neighbors=near)[_OF_NEIGHBORS]
        with self._lock:
            if turn != self._turn:
                return
            if near is not None:
                self._near = near
                self.table[_OF_NEIGHBORS] = measures.set_axis(self._index)
                self.rows.replace(self.table)
            self._redraw()

    def _find_regions(self) -> None:
        """Divide the texts into regions by the reference, and compare these."""
        names = self._known.get("region")  # a column of the reader's
        if names is None:
            texts = self._known["text"].tolist()
            names = regions.find_regions(self._vectors[self.reference], texts, seed=self._seed)
        with self._lock:
            self._known["region"] = names
            self.table = self.table.drop(columns="region", errors="ignore")
            self.table.insert(len(self.table.columns) - 1, "region", np.asarray(names))
            self.rows.replace(self.table)
            self._redraw()

    def _fit_map(self) -> None:
        """Fit a UMAP of the reference, and show it."""
        try:
            fitted = projection.umap(
                self._vectors[self.reference], folder=self._folder, seed=self._seed, stop=self._stop
            )
        finally:
            self.give_up.layout.display = "none"
        if fitted is not None:
            with self._lock:
                self._base = fitted
                self._redraw()

    def _start(self, name: str, work: Callable, *arguments: object) -> None:
        """Work in the background; an error goes to the status line."""

        def run() -> None:
            if sys.platform == "linux":  # where a thread has its own priority: clicks come first
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            try:
                work(*arguments)
            except Exception as error:
                self._problems.append(error_line(error))
                self.status.value = self.summary()

        self._background[name] = threading.Thread(target=run, daemon=True)
        self._background[name].start()

    # --- drawing; the caller holds the lock ---

    @property
    def _measure(self) -> str:
        """The measure of the histogram: the one that colors the points, if it is a number."""
        name = self.color.value
        return (
            name if name in self.table and is_numeric(self.table[name]) else self.table.columns[0]
        )

    def _redraw(self) -> None:
        """Put the points where the map says, and color them."""
        self.map = self._base if self._near is None else self._base.landed(*self._near)
        places = {self.reference: self.map.points}
        if self.map.landings is not None:
            places[self.against.value] = self.map.landings
        with self.points.hold_sync():  # coordinates and colors weigh megabytes: one message
            self.points.place(places)
            if "region" in self.table:
                self.points.label(regions.labels(self.table["region"]))
            self._paint()

    def _paint(self) -> None:
        """Color the points by what is chosen, and draw the histogram of it."""
        with self._lock:
            self._compare_regions()
            measure, texts = self._measure, self._known["text"].tolist()
            values = self.table[measure].to_numpy(dtype=float)
            self.points.paint(
                self.table.get(self.color.value),
                lambda row: f"{measure} {cell(values[row])}\n{cut(texts[row], 160)}",
            )
            low, high = value_range(values)
            self._edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
            bins = np.clip(np.digitize(values, self._edges) - 1, 0, _BINS - 1)
            self._bin = np.where(np.isfinite(values), bins, -1)
            with self.histogram.edit() as chart:
                chart.data = ()
                for color in ("rgba(128,128,128,.5)", COLORS["student"]):
                    chart.add_bar(x=(self._edges[1:] + self._edges[:-1]) / 2, marker_color=color)
                chart.data[0].y = self._counts(slice(None))
                chart.data[1].y = self._counts(list(self.selected))
                template = "%{y} texts near %{x:.3f}<extra></extra>"
                chart.update_traces(unselected={"marker": {"opacity": 1}}, hovertemplate=template)
                chart.update_xaxes(title_text=hover(measure, 60))
                chart.update_yaxes(title_text="texts")
            self.status.value = self.summary()

    def _compare_regions(self) -> None:
        """Compare the categories that color the points, or the regions found."""
        column = self.color.value
        if column not in self.table or is_numeric(self.table[column]):
            column = "region"
        measured = [
            self.table[name].notna().any() for name in regions.MEASURES if name in self.table
        ]
        if column in self.table and any(measured):
            self._groups = regions.labels(self.table[column])
            self.regions = regions.compare_regions(self.table, self._groups).rename_axis(column)
            self.region_rows.show(_readable(self.regions))

    def _in_region(self, row: int) -> np.ndarray:
        """Return the positions of the texts of a row of `regions`, int64."""
        return np.flatnonzero(self._groups == self.regions.index[row])

    def _counts(self, rows: slice | list[int]) -> np.ndarray:
        bins = self._bin[rows]
        return np.bincount(bins[bins >= 0], minlength=_BINS)

    # --- selection ---

    def _brushed(self, bins: Sequence[int]) -> None:
        self.select(np.flatnonzero(np.isin(self._bin, bins)))

    def _search(self, words: str) -> None:
        words, name = words.strip(), self.by.value
        if not words:
            self.select()
        elif name:
            query = unit(vectors(self._searchable[name], [Text(words, Role.QUERY)]))
            count = min(20, len(self._known))
            (cosines,), (rows,) = ranking.top_k(query, self._vectors[name], count)
            self._hits = rows.tolist()
            self.select(self._hits)
            about = f"nearest first, cosine {cosines[0]:.2f} to {cosines[-1]:.2f}"
            self.status.value = f"The {count} nearest texts for {shown(name)}, {about}."
        else:
            contains = self._known["text"].str.contains(words, case=False, regex=False)
            self.select(contains)
            if not contains.any():
                self.status.value = f"No text contains “{shown(words, 80)}”."

    def _selection_changed(self) -> None:
        with self._lock:
            rows = self._hits if sorted(self._hits) == list(self.selected) else list(self.selected)
            self.points.selected = self.selected
            region = self.region_rows.selected
            if region and list(self.selected) != self._in_region(*region).tolist():
                self.region_rows.selected = ()
            if self.selected != self.rows.selected:  # else rows stay where they were clicked
                self.rows.filter(rows or None)
                self.rows.selected = self.selected
            with self.histogram.edit() as chart:
                chart.data[1].y = self._counts(rows)
            self._show_text(rows)
            self.status.value = self.summary()

    def _show_text(self, rows: Sequence[int]) -> None:
        """Show the first of the selected texts in full, and its neighbors for both models."""
        if not rows:
            self.text.value = "Click on a point or a row to read a text here."
            self.near.show([])
            return
        facts = " · ".join(
            f"{shown(name)} {shown(cell(value), 60)}"
            for name, value in self.table.iloc[rows[0]].items()
            if name != "text" and cell(value)
        )
        text = f'<div dir="auto">{shown(self._known["text"].iloc[rows[0]], 100_000)}</div>'
        self.text.value = f'<div class="workbench-detail">{text}{facts}</div>'
        self.near.show(neighbor_lists(self._units, self._known["text"], rows[0], self._k))


def _describe(texts: Sequence[Text], columns: pd.DataFrame | None) -> pd.DataFrame:
    """Return what is known of the texts before they are measured, one row each."""
    table = pd.DataFrame({"text": [text.text for text in texts]})
    table["length"] = table["text"].str.len()
    if len({text.role for text in texts}) > 1:
        table["role"] = [text.role.value for text in texts]
    if columns is None:
        return table
    taken = {"text", _MODEL, *_SPACE, *_OF_NEIGHBORS} & {*columns}
    if taken:
        raise WorkbenchError(f"rename the column {taken.pop()!r}: the view has one of that name")
    for name in columns:  # lists, dicts and arrays cannot be counted or sorted
        values = columns[name].astype(object)
        if not values.map(pd.api.types.is_hashable).all():
            columns[name] = values.map(str, na_action="ignore")
    return table.drop(columns=[name for name in table if name in columns]).join(columns)


def _readable(comparison: pd.DataFrame) -> pd.DataFrame:
    """Return what `compare_regions` returned with each difference and its interval in one cell."""
    name = comparison.index.name if comparison.index.name not in comparison else "region"
    table = pd.DataFrame({name: comparison.index, "texts": comparison["texts"].to_numpy()})
    for measure in regions.MEASURES:
        if measure in comparison:
            table[measure] = comparison[measure].to_numpy()
            columns = [f"{measure}_{part}" for part in ("difference", "low", "high")]
            rows = comparison[columns].itertuples(index=False)
            table[f"{measure}, the rest"] = [_interval(*row) for row in rows]
    return table


def _interval(difference: float, low: float, high: float) -> str:
    if np.isnan(low):
        return ""
    mark = "▼" if high < 0 else "▲" if low > 0 else " "
    return f"{mark} {difference:+.3f} ({low:+.3f} to {high:+.3f})"
