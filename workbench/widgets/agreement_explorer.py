"""Map, histogram, regions, neighbors and texts; what is selected in one is selected in all."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import numpy as np
import pandas as pd

from workbench import agreement, projection, regions
from workbench._util import one_of, unit
from workbench.data import Text, as_texts
from workbench.errors import WorkbenchError
from workbench.evaluate import same_models, vectors
from workbench.widgets._html import cell, cut, error_line, hover, link, shown
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
_REST = "less the rest"
_TITLES = {
    _REST: "difference from the mean of all other texts; gray where it could be chance: the 95 % "
    "interval, over all regions together, has zero in it"
}


class AgreementExplorer(Selection, View):
    """Show on which texts two models agree; select on the map, in a table or by a search.

    The map is the reference's. From a selected text a line leads to where it is for the other
    model, the middle of its neighbors there. The models may differ in width.

    Args:
        models: two or more by name: vectors, float of shape (n, d), or anything that `wb.compare`
            takes. The first is the reference; a list chooses the other one.
        texts: n texts, `str` or `Text`, or a dataframe with a column "text". Its other columns
            color, sort and group; "region" replaces the regions, "ndcg_gain" is compared by region.
        color: the column that colors the points at first.
        k: neighbors that `overlap` compares.
        most: above so many texts a random sample is shown.

    Attributes:
        table: dataframe of the texts with all measures; its index is the position in the input.
        map: the `projection.TextMap` that is shown.
        regions: `regions.compare_regions` of the categories that color the points, or else of the
            regions found.
        selected: positions of the selected rows of `table`; see `select`.
    """

    _stop = threading.Event()  # of the class: a view whose arguments were refused is closed too

    def __init__(
        self,
        models: Mapping[str, object],
        texts: Sequence[str | Text] | pd.DataFrame,
        *,
        color: str | None = None,
        k: int = 10,
        umap: bool = True,
        most: int = 50_000,
    ) -> None:
        self._stop, self._lock = threading.Event(), threading.RLock()
        self._background: list[threading.Thread] = []
        # A thread that computes while the interpreter ends would abort it.
        weakref.finalize(self, _end, self._stop, self._background)
        self._k, self._turn, self.regions = k, 0, pd.DataFrame()
        texts = as_texts(texts)
        models = same_models(models, texts)
        rows = agreement.sample(len(texts), most)
        self._index = pd.Index(rows)
        sampled = f"A random sample of {len(rows):,} of " if len(rows) < len(texts) else ""
        self._about = f"{sampled}{len(texts):,} texts."
        texts = [texts[row] for row in rows]
        self._known = _describe(texts)
        self._files = {text.id: text.fields["file"] for text in texts if "file" in text.fields}
        self._vectors = {
            name: model[rows] if isinstance(model, np.ndarray) else vectors(model, texts)
            for name, model in models.items()
        }
        self.reference = next(iter(models))
        self._base = projection.pca(self._vectors[self.reference])
        self._build()
        self._compare_models()
        if color is not None:
            one_of(color, "color", self.color.options)
            self.color.value = color
        if "region" not in self._known:
            self._start(self._find_regions)
        if umap:
            self._start(self._fit_map)
        self.observe(lambda _: self._selection_changed(), "selected")

    @property
    def selection(self) -> pd.DataFrame:
        """The selected rows of `table`."""
        return self.table.iloc[list(self.selected)]

    def wait(self) -> projection.TextMap:
        """Wait for the UMAP, the neighbors and the regions, and return the map shown then."""
        for thread in self._background:
            thread.join()
        return self.map

    def close(self) -> None:
        """End a fit that is under way, and close the view."""
        self._stop.set()
        super().close()

    def summary(self) -> str:
        """Return a few sentences that say what is shown."""
        measure, selected = self._measure, ""
        values, name = self.table[measure], shown(measure)
        if self.selected:
            mean = self.selection[measure].mean()
            selected = f"{len(self.selected):,} selected, mean {name} {mean:.3f}. "
        title = f"{values.min():.3f} to {values.max():.3f}"
        about = f'{self._about} {selected}<span title="{title}">Of all, mean {name} '
        about += f"{values.mean():.3f}.</span> Map: {self.map.method} of {shown(self.reference)}."
        return about

    def _build(self) -> None:
        names = list(self._vectors)[1:]
        narrow = {"style": {"description_width": "initial"}, "layout": {"width": "auto"}}
        pair = f"{self.reference} and"
        self.against = ipywidgets.Dropdown(options=names, description=pair, tooltip=pair, **narrow)
        self.color = ipywidgets.Dropdown(
            description="Color", tooltip="color of the points", **narrow
        )
        # Its label is its name for a screen reader too, as a placeholder is not.
        self.search = search_box("search the texts, then Enter", self._search)
        self.search.style.description_width = "initial"
        self.search.layout = {"flex": "1 1 200px", "min_width": "160px"}
        self.status, self.points = note(), Map(len(self._known))
        margin = {"l": 40, "r": 6, "t": 6, "b": 34}
        chart = figure(height=128, y="texts", showlegend=False, bargap=0.05, barmode="overlay")
        chart.update_layout(margin=margin, dragmode="select", selectdirection="h")
        self.histogram = Chart(chart, on_brush=lambda bins: self.select(self._bin.isin(bins)))
        self.text, self.near = ipywidgets.HTML(), Results(lambda row: self.select([row]))
        self.region_rows = Table(page_rows=10, label="regions", many=False, titles=_TITLES)
        side = ipywidgets.VBox([self.histogram, self.region_rows])
        side.layout = {"flex": "2 1 340px", "min_width": "300px", "overflow": "hidden auto"}
        side.add_class("workbench-side")
        main = ipywidgets.VBox([self.points], layout={"flex": "3 1 420px", "min_width": "300px"})
        self.rows = Table(page_rows=8, titles=agreement.READING)
        choices = [self.against, self.color] if len(names) > 1 else [self.color]
        middle = wrapped(main, side, align_items="stretch")
        controls = wrapped(*choices, self.search)
        super().__init__(controls, self.status, middle, self.rows, self.text, self.near)
        self.against.observe(lambda _: self._compare_models(), "value")
        self.color.observe(lambda _: self._paint(), "value")
        for part in (self.points, self.rows):
            part.observe(lambda change: self.select(change["new"]), "selected")
        self.region_rows.observe(lambda _: self._select_region(), "selected")

    def _compare_models(self) -> None:
        """Compare the reference with the model that is chosen."""
        first, second = self._vectors[self.reference], self._vectors[self.against.value]
        with self._lock:
            self._turn += 1
            self._units = {self.reference: unit(first), self.against.value: unit(second)}
            self.map, self._near = self._base, None
            table = self._known.join(agreement.per_text(first, second, k=0))
            measures = [*(_SPACE if first.shape[1] == second.shape[1] else []), *_OF_NEIGHBORS]
            others = [name for name in self._known if name not in ("id", "text")]
            self.table = table[["id", *measures, *others, "text"]].set_axis(self._index)
            varying = [name for name in others if self.table[name].nunique() > 1]
            colors = list(dict.fromkeys([*measures, *varying, "region", _MODEL]))
            before, self.color.options = self.color.value, colors
            self.color.value = before if before in colors else measures[0]
            selected = self.selected
            self.rows.show(self.table)
            if len(first) > _AT_ONCE:
                self._redraw()
                self._start(self._find_neighbors, self._turn, first, second)
            else:
                self._find_neighbors(self._turn, first, second)
            self.selected = selected
            self._selection_changed()

    def _find_neighbors(self, turn: int, first: np.ndarray, second: np.ndarray) -> None:
        """Find and show neighbors, unless another model is shown by then."""
        k = min(self._k, len(first) - 1)
        near = agreement.neighbors(first, k), agreement.neighbors(second, k)
        measures = agreement.per_text(first, second, k=k, both_neighbors=near)[_OF_NEIGHBORS]
        with self._lock:
            if turn == self._turn:
                self._near = near
                self.table[_OF_NEIGHBORS] = measures.set_axis(self._index)
                self.rows.replace(self.table)
                self._redraw()

    def _find_regions(self) -> None:
        """Divide the texts into regions by the reference."""
        names = regions.find_regions(self._vectors[self.reference], self._known["text"].tolist())
        with self._lock:
            self._known["region"] = names
            self.table.insert(len(self.table.columns) - 1, "region", names)
            self.rows.replace(self.table)
            self._redraw()

    def _fit_map(self) -> None:
        fitted = projection.umap(self._vectors[self.reference], stop=self._stop)
        if fitted is not None:
            with self._lock:
                self._base = fitted
                self._redraw()

    def _start(self, work: Callable, *arguments: object) -> None:
        """Work in the background; an error goes to the status line."""

        def run() -> None:
            try:
                work(*arguments)
            except Exception as error:
                self.status.value = f"{self.summary()} {error_line(error)}"

        self._background.append(threading.Thread(target=run, daemon=True))
        self._background[-1].start()

    @property
    def _measure(self) -> str:
        """The measure of the histogram: the one that colors the points, if it is a number."""
        column = self.table.get(self.color.value)
        return self.table.columns[1] if column is None or not is_numeric(column) else column.name

    def _redraw(self) -> None:
        """Place and color the points; the caller holds the lock."""
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
        """Color the points by what is chosen, and draw its histogram."""
        with self._lock:
            self._compare_regions()
            measure, texts = self._measure, self._known["text"].tolist()
            values = self.table[measure].to_numpy(dtype=float)
            self.points.paint(
                self.table.get(self.color.value),
                lambda row: f"{measure} {cell(values[row])}\n{cut(texts[row], 160)}",
            )
            low, high = value_range(values)
            edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
            self._bin = pd.Series(pd.cut(values, edges, labels=False, include_lowest=True))
            with self.histogram.edit() as chart:
                chart.data = ()
                for color in ("rgba(128,128,128,.5)", COLORS["student"]):
                    chart.add_bar(x=(edges[1:] + edges[:-1]) / 2, marker_color=color)
                chart.data[0].y = self._counts(range(len(values)))
                chart.data[1].y = self._counts(self.selected)
                chart.update_traces(unselected={"marker": {"opacity": 1}}, hoverinfo="x+y")
                chart.update_xaxes(title_text=hover(measure, 60))
            self.status.value = self.summary()

    def _counts(self, rows: Sequence[int]) -> np.ndarray:
        """Return the number of texts in each bin of the histogram."""
        bins = self._bin.iloc[list(rows)].dropna().astype(int)
        return np.bincount(bins, minlength=_BINS)

    def _compare_regions(self) -> None:
        """Compare the categories that color the points, or the regions found."""
        column = self.color.value
        if column not in self.table or is_numeric(self.table[column]):
            column = "region"
        with contextlib.suppress(WorkbenchError):  # no regions yet, or nothing measured
            self.regions = regions.compare_regions(self.table, column)
            self._groups = regions.labels(self.table[column])
            measure = self.regions.columns[1]
            shown_columns = ["texts", measure, f"{measure}_difference"]
            frame = self.regions[shown_columns].set_axis(["texts", measure, _REST], axis=1)
            low, high = (self.regions[f"{measure}_{end}"] for end in ("low", "high"))
            self.region_rows.faint = np.flatnonzero(~((high < 0) | (low > 0)))
            self.region_rows.show(frame.reset_index())
        self.region_rows.layout.display = "" if len(self.regions) else "none"

    def _select_region(self) -> None:
        for row in self.region_rows.selected:
            self.select(self._groups == self.regions.index[row])

    def _search(self, words: str) -> None:
        texts = self._known["text"].str
        contains = [texts.contains(word, case=False, regex=False) for word in words.split()]
        found = np.logical_and.reduce(contains) if contains else ()
        self.select(found)
        if contains and not found.any():
            self.status.value = f"No text contains “{shown(words, 80)}”."

    def _selection_changed(self) -> None:
        with self._lock:
            rows = list(self.selected)
            self.points.selected = self.selected
            for region in self.region_rows.selected:
                if rows != np.flatnonzero(self._groups == self.regions.index[region]).tolist():
                    self.region_rows.selected = ()
            if self.selected != self.rows.selected:  # else rows stay where they were clicked
                self.rows.filter(rows or None)
                self.rows.selected = self.selected
            with self.histogram.edit() as chart:
                chart.data[1].y = self._counts(rows)
            self._show_text(rows)
            self.status.value = self.summary()

    def _show_text(self, rows: Sequence[int]) -> None:
        """Show the first of these texts in full, and its neighbors."""
        if not rows:
            self.text.value = "Click on a point or a row to read its text and its neighbors here."
            self.near.show([])
            return
        row = self.table.iloc[rows[0]]
        values = row.drop(["id", "text"]).map(cell).items()
        facts = " · ".join(f"{shown(name)} {shown(value, 60)}" for name, value in values)
        facts = f"{link(row['id'], self._files.get(row['id']))} {facts}"
        text = f'<div dir="auto">{shown(row["text"], 100_000)}</div>'
        self.text.value = f'<div class="workbench-detail">{text}{facts}</div>'
        known = self._known["text"], self._known["id"]
        self.near.show(neighbor_lists(self._units, *known, rows[0], self._k))


def _end(stop: threading.Event, threads: Sequence[threading.Thread]) -> None:
    stop.set()
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join()


def _describe(texts: Sequence[Text]) -> pd.DataFrame:
    columns = pd.DataFrame([dict(text.fields) for text in texts]).drop(
        columns="file", errors="ignore"
    )
    table = pd.DataFrame({"id": [t.id for t in texts], "text": [t.text for t in texts]})
    table["length"] = table["text"].str.len()
    if len({text.role for text in texts}) > 1:
        table["role"] = [text.role.value for text in texts]
    taken = {_MODEL, "id", *_SPACE, *_OF_NEIGHBORS} & {*columns}
    if taken:
        raise WorkbenchError(f"rename the column {taken.pop()!r}: the view has one of that name")
    for name, values in columns.items():
        objects = values.astype(object)
        countable = objects.map(pd.api.types.is_hashable).all()  # lists are not
        table[name] = values if countable else objects.map(str, na_action="ignore")
    return table
