"""A map, a histogram, a text with its neighbors, and tables of texts and regions: what is selected in one is in all."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd

from workbench import agreement, projection, ranking, regions
from workbench._util import unit, whole
from workbench.data import Role, Text
from workbench.errors import WorkbenchError
from workbench.evaluate import same_models, vectors
from workbench.widgets._html import cell, cut, error_line, hover, shown
from workbench.widgets._view import (
    COLORS,
    Selection,
    View,
    known,
    note,
    own_columns,
    search_box,
    wrapped,
)
from workbench.widgets.chart import Chart, figure
from workbench.widgets.map import Map, is_numeric
from workbench.widgets.regions import Regions
from workbench.widgets.results import Results, neighbor_lists
from workbench.widgets.table import Table

_AT_ONCE = 5_000  # with more, neighbors are found after the map is shown
_BINS = 40
_MODEL = "(model)"
_OF_NEIGHBORS = ["overlap", "nearest_rank"]
_SPACE = ["cosine", "squared_distance"]  # measures that need one space
_FITS = "not fitted", "orthogonal", "linear"


class AgreementExplorer(Selection, View):
    """Show on which texts two models agree: select on the map, in the histogram, in the table or by a search.

    The map is the reference's. A line leads from a text to where its neighbors for the other model are, so the two need
    no common space. The PCA map is there at once; regions, a UMAP in its place and, above 5,000 texts, neighbors come from
    the background. Models of different widths have no cosine; `fit` maps the second model's vectors onto the first's.

    Args:
        models: two or more names, each with a model: vectors, float of shape (n, d), or anything that `wb.compare` takes.
            The first is the reference; a list chooses which other one is shown.
        texts: n texts, `str` or `Text`, or a dataframe with the texts in one of its columns.
        columns: n rows of what else is known of the texts, to color and sort by; `ndcg_gain` is compared by region.
        k: neighbors that `overlap` compares.
        fit: "orthogonal" or "linear": show the other model's vectors where a map fitted on half of the texts puts the
            other half (and the reverse), in the first model's space.
        umap: whether to fit a UMAP.
        most: above so many texts a random sample is shown, and the view says so.
        folder: where maps are kept, see `projection.umap`.
        seed: of the sample and of the map.

    Attributes:
        table: dataframe of the texts shown with all measures; its index is the position in the input.
        map: the `projection.TextMap` that is shown.
        selected: positions of the selected rows of `table`, a tuple of int; to be set and observed, see `select`.

    Raises:
        WorkbenchError: there are not two models, or they have not as many vectors as there are texts.
    """

    _comparing = False
    _stop = threading.Event()  # nobody's: a view whose arguments were refused is closed too

    def __init__(
        self,
        models: Mapping[str, object],
        texts: Sequence[str | Text] | pd.DataFrame,
        *,
        columns: pd.DataFrame | None = None,
        k: int = 10,
        fit: str | None = None,
        umap: bool = True,
        most: int = 50_000,
        folder: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        self._stop = threading.Event()
        self._about_regions, self._nearest, self._lock = "", [], threading.RLock()
        self._background: dict[str, threading.Thread] = {}
        for name, value, least in (("k", k, 1), ("most", most, 2), ("seed", seed, 0)):
            whole(value, name, least)
        if fit not in (None, *_FITS[1:]):
            raise WorkbenchError(f'fit is {fit!r}: expected "orthogonal", "linear" or None')
        texts, columns = own_columns(texts, columns)
        found = same_models(models, texts)
        chosen = agreement.sample(len(texts), most, seed)
        self._sampled = f"{len(texts):,} texts."
        if len(chosen) < len(texts):
            self._sampled = f"A random sample of {len(chosen):,} of {len(texts):,} texts."
        self._known = known(texts, columns, chosen, taken=(*_SPACE, *_OF_NEIGHBORS, _MODEL))
        drawn = [texts[i] for i in chosen] if len(chosen) < len(texts) else texts
        self._vectors = {
            name: model[chosen] if isinstance(model, np.ndarray) else vectors(model, drawn)
            for name, model in found.items()
        }
        self.reference = next(iter(found))
        self._askable = {
            name: model for name, model in found.items() if not isinstance(model, np.ndarray)
        }
        self._index = pd.Index(chosen)
        self._k, self._folder, self._seed, self._turn = k, folder, seed, 0
        self._base = projection.pca(self._vectors[self.reference])
        self._build(fit)
        self._compare_models()
        self._start("regions are", self._find_regions)
        if umap:
            self._fitting.layout.display = ""
            self._start("the UMAP is", self._fit_map)
        self.observe(lambda _: self._selection_changed(), "selected")

    @property
    def selection(self) -> pd.DataFrame:
        """The selected rows of `table`."""
        return self.table.iloc[list(self.selected)]

    @property
    def regions(self) -> pd.DataFrame:
        """What `regions.compare_regions` says of the categories that color the points, or of the regions found."""
        return self.region_rows.found

    def wait(self, seconds: float | None = None) -> projection.TextMap:
        """Wait for the UMAP, the neighbors and the regions, and return the map that is shown then."""
        for what, thread in list(self._background.items()):
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
        values = self.table[self._measure]
        return (
            f"<p>{self._sampled} {shown(self._measure)} of {shown(self.other)} to {shown(self.reference)}: "
            f"mean {values.mean():.3f}, from {values.min():.3f} to {values.max():.3f}; {len(self.selected):,} selected. "
            f"{self._about_map()}</p>"
        )

    @property
    def other(self) -> str:
        """Name of the model that is compared with the reference."""
        return self.against.value

    # --- parts ---

    def _build(self, fit: str | None) -> None:
        names = list(self._vectors)[1:]
        small, auto = {"description_width": "initial"}, {"width": "auto"}
        self.against = ipywidgets.Dropdown(
            options=names, description=f"{self.reference} and", style=small, layout=auto
        )
        self.fit = ipywidgets.Dropdown(
            options=_FITS, value=fit or _FITS[0], description="Space", style=small, layout=auto, tooltip="map the other model's vectors onto the first's, fitted on half of the texts at a time",
        )  # fmt: skip
        self.color = ipywidgets.Dropdown(
            options=[_MODEL], description="Color", style=small, layout={"width": "190px"}
        )
        self.lines = ipywidgets.Dropdown(
            options=["all", "selected", "none"], value="selected", description="Lines", style=small,
            layout={"width": "130px"}, tooltip="from each text to where its neighbors for the other model are",
        )  # fmt: skip
        by = [("words", ""), *((f"meaning, by {name}", name) for name in self._askable)]
        self.by = ipywidgets.Dropdown(
            options=by, layout=auto, tooltip="search by words, or by a model"
        )
        self.search = search_box("search the texts, then Enter", self._search, "")
        self.by.observe(lambda _: self.search.value and self._search(self.search.value), "value")
        self.search.layout = {"flex": "1 1 160px", "min_width": "120px"}
        give_up = ipywidgets.Button(
            description="Stop UMAP", tooltip="keep the PCA map", layout=auto
        )
        give_up.on_click(lambda _: self._stop.set())
        self.progress = ipywidgets.Label("UMAP is being fitted")
        self._fitting = ipywidgets.HBox([self.progress, give_up], layout={"display": "none"})
        self.status = note()
        self.points = Map(len(self._known), height=400)
        self.histogram = Chart(
            figure(height=128, dragmode="select", selectdirection="h", barmode="overlay", bargap=0.05, showlegend=False,
                   margin={"l": 40, "r": 6, "t": 6, "b": 34}),
            on_brush=self._brushed, on_clear=self.select,
        )  # fmt: skip
        self.text, self.near = ipywidgets.HTML(), Results(lambda row: self.select([row]))
        side = ipywidgets.VBox(
            [self.histogram, self.text, self.near],
            layout={"flex": "2 1 340px", "min_width": "300px", "overflow": "hidden auto"},
        )
        side.add_class("workbench-side")
        self.rows = Table(page_rows=8, titles=agreement.READING)
        self.rows.observe(lambda change: self.select(change["new"]), "selected")
        self.region_rows = Regions(self.select)
        self.listing = ipywidgets.ToggleButtons(
            options=["texts", "regions"], style={"button_width": "auto"}
        )
        self.listing.observe(lambda change: self._list(change["new"]), "value")
        self.points.observe(lambda change: self.select(change["new"]), "selected")
        self.color.observe(lambda _: self._paint(), "value")
        self.lines.observe(lambda change: self.points.join(change["new"]), "value")
        self.points.join(self.lines.value)
        for control in (self.against, self.fit):
            control.observe(lambda _: self._compare_models(), "value")
        controls = [
            *[self.against] * (len(names) > 1),
            self.color,
            self.lines,
            self.fit,
            self.by,
            self.search,
        ]
        super().__init__(
            wrapped(*controls, align_items="center"),
            wrapped(self._fitting, self.status, align_items="center"),
            wrapped(
                ipywidgets.VBox([self.points], layout={"flex": "3 1 420px", "min_width": "300px"}),
                side,
            ),
            self.listing,
            self.rows,
            self.region_rows,
        )
        self._list("texts")

    # --- comparing ---

    def _compare_models(self) -> None:
        """Compare the reference with the model that is chosen."""
        first, second = self._vectors[self.reference], self._vectors[self.other]
        if self.fit.value != _FITS[0]:
            try:
                second = agreement.fitted(second, first, self.fit.value, seed=self._seed)
            except WorkbenchError as error:
                self.fit.value = _FITS[0]
                self.status.value = error_line(error)
                return
        with self._lock:  # regions, neighbors and UMAP are ready in any order
            self._turn += 1
            self._units = {self.reference: unit(first), self.other: unit(second)}
            later = len(first) > _AT_ONCE
            self._near = None if later else self._neighbors(first, second)
            k = 0 if later else self._k
            measured = agreement.per_text(
                first, second, k=k, columns=self._known, both_neighbors=self._near
            )
            together = first.shape[1] == second.shape[1]
            measures = [c for c in (*_SPACE, *_OF_NEIGHBORS) if together or c in _OF_NEIGHBORS]
            self.table = measured[[*measures, *(c for c in self._known if c != "text"), "text"]]
            self.table.index = self._index
            self.table.attrs = measured.attrs | dict.fromkeys(
                ("neighbors", "ranks") if later else (), "being found"
            )
            self._offer_colors()
            kept = self.selected
            self.rows.show(self.table)
            with (
                self.points.hold_sync()
            ):  # one message: coordinates and colors of many points weigh megabytes
                self._place()
                self._paint()
            self.selected = kept
            self._selection_changed()
            if later:
                self._start("neighbors are", self._find_neighbors, self._turn, first, second)

    def _neighbors(self, first: np.ndarray, second: np.ndarray) -> tuple | None:
        k = min(self._k, len(first) - 1)
        return tuple(agreement.neighbors(own, k) for own in (first, second)) if k else None

    def _offer_colors(self) -> None:
        """Offer what the table has as colors, and keep the one that is chosen."""
        measures = {*_SPACE, *_OF_NEIGHBORS}  # also while they are being found
        colors = [
            c for c in self.table if c in measures or (c != "text" and self.table[c].nunique() > 1)
        ]
        self._comparing, before = True, self.color.value
        self.color.options = [*colors, _MODEL]
        self.color.value = before if before in colors else colors[0]
        self._comparing = False

    def _start(self, name: str, work: object, *arguments: object) -> None:
        def run() -> None:
            if (
                sys.platform == "linux"
            ):  # threads have priorities there, which theirs inherit: clicks come first
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            work(*arguments)

        self._background[name] = threading.Thread(target=run, daemon=True)
        self._background[name].start()

    def _fit_map(self) -> None:
        """Fit a UMAP of the reference, and show it."""
        try:
            found = projection.umap(
                self._vectors[self.reference], folder=self._folder, seed=self._seed, stop=self._stop,
            )  # fmt: skip
            if found is not None:
                with self._lock:
                    self._base = found
                    self._place()
        except Exception as error:
            self.status.value = f"{error_line(error)} The map is by PCA."
        self._fitting.layout.display = "none"

    def _find_neighbors(self, turn: int, first: np.ndarray, second: np.ndarray) -> None:
        """Find the neighbors, and show what comes of them, unless other vectors are shown by then."""
        try:
            near = self._neighbors(first, second)
            found = agreement.per_text(first, second, k=self._k, both_neighbors=near)
            with self._lock:
                if turn != self._turn:
                    return
                self._near = near
                self.table[_OF_NEIGHBORS] = found[_OF_NEIGHBORS].set_axis(self.table.index)
                self.table.attrs |= found.attrs
                self.rows.refresh()
                self._place()
                self._paint()  # which compares the regions too
        except Exception as error:
            self.table.attrs |= {"neighbors": "none", "ranks": "none"}
            self.status.value = error_line(error, "Neighbors: ")

    def _find_regions(self) -> None:
        """Divide the texts into regions by the reference, and compare these."""
        try:
            names = self._known.get("region")  # a column of the reader's
            if names is None:
                texts = self._known["text"].tolist()
                names = regions.find_regions(self._vectors[self.reference], texts, seed=self._seed)
            with self._lock:
                self._known["region"] = names
                self.table = self.table.drop(columns="region", errors="ignore")
                self.table.insert(len(self.table.columns) - 1, "region", np.asarray(names))
                self._offer_colors()
                self.rows.replace(self.table)
                self.region_rows.compare(self.table, self.color.value)
                self.points.label(
                    regions.labels(self.table["region"])
                )  # the points stay where they are
        except WorkbenchError as error:
            self._about_regions = str(error)
            self._say()
        except Exception as error:
            self.status.value = error_line(error, "Regions: ")

    @property
    def _measure(self) -> str:
        """The measure of the histogram: the one that colors the points, if it is a number."""
        chosen = self.color.value
        return (
            chosen
            if chosen in self.table and is_numeric(self.table[chosen])
            else self.table.columns[0]
        )

    def _place(self) -> None:
        """Put the points where the map says; the caller holds the lock."""
        self.map = self._base
        if self._near is not None:
            self.map = self._base.landed(*(near.positions for near in self._near))
        landed = {} if self.map.landings is None else {self.other: self.map.landings}
        self.points.place({self.reference: self.map.points} | landed)
        if "region" in self.table:
            self.points.label(regions.labels(self.table["region"]))
        self._say()

    def _paint(self) -> None:
        """Color the points by what is chosen, and draw the histogram of it."""
        if self._comparing:  # painted when all is there
            return
        self.region_rows.compare(self.table, self.color.value)
        measure, values = self._measure, self.table[self._measure].to_numpy(dtype=float)
        told, texts = values.tolist(), self._known["text"].tolist()
        self.points.paint(
            None if self.color.value == _MODEL else self.table[self.color.value],
            lambda row: f"{measure} {cell(told[row])}\n{cut(texts[row], 160)}",
        )
        known = values[np.isfinite(values)]
        low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
        self._edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
        self._bin = np.where(
            np.isfinite(values), np.clip(np.digitize(values, self._edges) - 1, 0, _BINS - 1), -1
        )
        centers = (self._edges[1:] + self._edges[:-1]) / 2
        with self.histogram.edit() as chart:
            chart.data = ()
            chart.add_bar(
                x=centers,
                y=self._counted(slice(None)),
                name="all",
                marker_color="rgba(128,128,128,.5)",
            )
            chart.add_bar(
                x=centers,
                y=self._counted(list(self.selected)),
                name="selected",
                marker_color=COLORS["student"],
            )
            chart.update_traces(
                unselected={"marker": {"opacity": 1}}, hovertemplate="%{y} texts near %{x:.3f}"
            )
            chart.update_xaxes(title_text=hover(measure, 60))
            chart.update_yaxes(title_text="texts")
        self._say()

    def _counted(self, rows: object) -> np.ndarray:
        bins = self._bin[rows]
        return np.bincount(bins[bins >= 0], minlength=_BINS)

    # --- selection ---

    def _brushed(self, bins: Sequence[int]) -> None:
        if len(bins):
            self.select(np.flatnonzero(np.isin(self._bin, bins)))

    def _list(self, what: str) -> None:
        """Show the table of texts or that of regions."""
        for table, name in ((self.rows, "texts"), (self.region_rows, "regions")):
            table.layout.display = "" if name == what else "none"

    def _search(self, words: str) -> None:
        words = words.strip()
        if words and self.by.value:
            try:
                vector = unit(vectors(self._askable[self.by.value], [Text(words, Role.QUERY)]))
            except WorkbenchError as error:
                self.status.value = error_line(error)
                return
            own = self._vectors[self.by.value]
            cosines, places = ranking.top_k(vector, own, min(20, len(own)))
            self._nearest = places[0].tolist()
            self.select(self._nearest)
            near = f"cosine {cosines[0, 0]:.2f} to {cosines[0, -1]:.2f}"
            self.status.value = f"The {places.size} nearest texts for {shown(self.by.value)}, nearest first, {near}."
            return
        found = self._known["text"].str.contains(words, case=False, regex=False) & bool(words)
        self.select(np.flatnonzero(found))
        if words and not found.any():
            self.status.value = f"No text contains “{shown(words, 80)}”."

    def _selection_changed(self) -> None:
        chosen = (
            self._nearest if sorted(self._nearest) == list(self.selected) else list(self.selected)
        )
        self.points.selected = self.selected
        self.region_rows.follow(self.selected)
        if (
            self.selected != self.rows.selected
        ):  # else selected in the table, where rows stay under the pointer
            self.rows.filter(chosen or None)
            self.rows.selected = self.selected
        with self.histogram.edit() as chart:
            chart.data[1].y = self._counted(chosen)
        self._detail(chosen)
        self._say()

    def _detail(self, chosen: Sequence[int]) -> None:
        """Show the first of the selected texts in full, and its neighbors for both models."""
        if not chosen:
            self.text.value = (
                '<div class="workbench-detail">Click on a point or a row to read a text here.</div>'
            )
            self.near.show([])
            return
        row = chosen[0]
        measures = " · ".join(
            f"{shown(name)} {shown(cell(self.table[name].iloc[row]), 60)}"
            for name in self.table
            if name != "text" and cell(self.table[name].iloc[row])
        )
        self.text.value = (
            f'<div class="workbench-detail"><div class="full" dir="auto">{shown(self._known["text"].iloc[row], 100_000)}'
            f"</div>{f'1 of {len(chosen):,} selected · ' * (len(chosen) > 1)}{measures}</div>"
        )
        self.near.show(neighbor_lists(self._units, self._known["text"], row, self._k))

    def _say(self) -> None:
        selection = ""
        if self.selected:
            measure = self._measure
            selection = f"{len(self.selected):,} selected, mean {shown(measure)} {self.selection[measure].mean():.3f}. "
        self.status.value = f"{selection}{self._sampled} {self._about_map()}"

    def _about_map(self) -> str:
        trusted = ""
        if not np.isnan(self.map.line_correlation):
            trusted = (
                f" of {shown(self.reference)}; a line leads to a text's neighbors for {shown(self.other)}, and its length "
                f"follows the loss of neighbors with rank correlation {self.map.line_correlation:.2f}"
            )
        fitted = (
            f" {shown(self.other)} is fitted ({self.fit.value})."
            if self.fit.value != _FITS[0]
            else ""
        )
        widths = [own.shape[1] for own in self._units.values()]
        if widths[0] != widths[1]:
            fitted += f" No cosine: no common space ({widths[0]} and {widths[1]} dimensions)."
        return f"Map: {self.map.method}{trusted}.{fitted} {shown(self._about_regions)}"
