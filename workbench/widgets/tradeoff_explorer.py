"""What shorter and coarser vectors cost: select dimensions, precision and mode, see quality, size and time."""

from __future__ import annotations

import html
from collections.abc import Mapping

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench import quantize
from workbench._util import file_size
from workbench.errors import WorkbenchError
from workbench.quantize import PRECISIONS, IndexSpec
from workbench.widgets._html import error_line, html_table, shown
from workbench.widgets._view import CATEGORIES, COLORS, MODES, Selection, View, note, wrapped
from workbench.widgets.chart import Chart, figure
from workbench.widgets.table import Table

_NUMBERS = ["dimensions", "share_of_teacher", "share_low", "share_high", "ndcg_at_10", "bytes_per_document",
            "query_ms", "documents"]  # fmt: skip
_COSTS = {"size": "bytes_per_document", "query time": "total_ms"}
_AXES = {"bytes_per_document": "bytes a document", "total_ms": "milliseconds a query"}
_SYMBOLS = dict(zip(PRECISIONS, ("circle", "diamond", "square", "triangle-up"), strict=True))
_SPACES = "name the spaces, as in {'as it is': rows, 'rotated': others}"
_SIZES = {"a million": 10**6, "a hundred million": 10**8, "ten billion": 10**10}


class TradeoffExplorer(Selection, View):
    """Choose a point on the curves of quality, size and query time.

    Args:
        curves: what `quantize.sweep` returned, or several such tables by the name of their space, such as
            {"as it is": rows, "rotated": other_rows}.
        encode_ms: mode to the milliseconds that encoding one query takes; added to the search where given.

    Attributes:
        table: one row a point: the columns of `curves`, `space`, `total_ms` (search and encoding) and `front`, whether
            no other point of its mode and space is at least as good, as small and as quick, and better in one of these.
        selected: positions of the selected points, of which the first is shown; to be set and observed, see `select`.
        position: row of the point that is shown.

    Raises:
        WorkbenchError: the rows are no curves.
    """

    def __init__(
        self,
        curves: pd.DataFrame | Mapping[str, pd.DataFrame],
        *,
        encode_ms: Mapping[str, float] | None = None,
    ) -> None:
        curves = curves if isinstance(curves, Mapping) else {"": curves}
        if not curves:
            raise WorkbenchError("there are no curves: give what quantize.sweep returned")
        for space, rows in curves.items():
            _check(space, rows)
        self.table = pd.concat(
            [rows.assign(space=str(space)) for space, rows in curves.items()], ignore_index=True
        )
        whole = ["dimensions", "bytes_per_document", "documents"]  # JSON may have made them floats
        self.table = self.table.astype(dict.fromkeys(whole, int))
        modes = self.table["mode"].unique()
        self._encode_ms = dict(encode_ms or {})
        if encode_ms is not None and set(encode_ms) != set(modes):
            given = ", ".join(map(str, encode_ms)) or "nothing"
            raise WorkbenchError(
                f"encode_ms needs a time for each mode ({', '.join(modes)}), and has {given}"
            )
        if not all(
            isinstance(t, int | float | np.number) and 0 <= t < np.inf
            for t in self._encode_ms.values()
        ):
            raise WorkbenchError("encode_ms must be milliseconds, numbers of at least 0")
        self.table["total_ms"] = self.table["query_ms"] + self.table["mode"].map(
            self._encode_ms
        ).fillna(0.0)
        self.table["front"] = False
        for _, rows in self.table.groupby(["mode", "space"]):
            self.table.loc[rows.index, "front"] = quantize.pareto_mask(rows, list(_COSTS.values()))
        self._index = self.table.index
        self.position = -1
        self._build()
        self.select(int(np.argmax(self.table["mode"] == modes[-1])))

    @property
    def choice(self) -> pd.Series:
        """The row of `table` that is shown."""
        return self.table.iloc[self.position]

    @property
    def point(self) -> IndexSpec:
        """Dimensions and precision of the choice, as `quantize.CompressedIndex` takes them."""
        return IndexSpec(int(self.choice["dimensions"]), self.choice["precision"])

    @property
    def code(self) -> str:
        """Python that builds and searches the index that is shown."""
        row, mode = self.choice, self.choice["mode"]
        asks, answers = (
            (f"the {side}" for side in MODES[mode]) if mode in MODES else (repr(mode),) * 2
        )
        where = f", in the space {row['space']!r}" if row["space"] else ""
        return (
            "from workbench.quantize import CompressedIndex, IndexSpec\n\n"
            f"# documents: vectors of {answers}, queries: of {asks}{where}\n"
            f'index = CompressedIndex(documents, IndexSpec({row["dimensions"]}, "{row["precision"]}"))\n'
            "scores, positions = index.search(queries, 10)\n"
        )

    def select(self, rows: object = (), **values: object) -> None:
        """Show a point: a row of `table`, or the one with these values of `dimensions`, `precision`, `mode` and `space`.

        Those that are not given stay as they are.

        Raises:
            WorkbenchError: it was not measured.
        """
        if not values:
            super().select(rows)
            return
        if unknown := values.keys() - self._controls:
            raise WorkbenchError(
                f"{unknown.pop()!r} is no control: give any of {', '.join(self._controls)}"
            )
        wanted = {name: self.choice[name] for name in self._controls} | values
        found = np.flatnonzero(
            np.logical_and.reduce([self.table[name] == value for name, value in wanted.items()])
        )
        if not found.size:
            raise WorkbenchError(
                f"{_name(pd.Series(wanted))} was not measured: the table has what was"
            )
        super().select(found[:1])

    def summary(self) -> str:
        """Return what is said of the point shown, and the points of its mode that no other beats."""
        best = self._alike("mode", "space").query("front").sort_values("bytes_per_document")
        best["share_of_teacher"] = best["share_of_teacher"].map("{:.1%}".format)
        columns = ["dimensions", "precision", "share_of_teacher", *_AXES]
        return self.answer.value + html_table(
            best[columns].rename(columns=_AXES | {"share_of_teacher": "share of teacher"})
        )

    # --- parts ---

    def _build(self) -> None:
        dimensions = sorted(self.table["dimensions"].unique().tolist())
        precisions = [p for p in PRECISIONS if p in set(self.table["precision"])]
        modes, spaces = (self.table[name].unique().tolist() for name in ("mode", "space"))
        label = {
            "style": {"description_width": "76px", "button_width": "max-content"},
            "layout": {"width": "auto"},
        }
        self.dimensions = ipywidgets.SelectionSlider(
            options=dimensions, description="Dimensions", **label
        )
        self.precision = ipywidgets.ToggleButtons(
            options=precisions, description="Precision", **label
        )
        self.mode = ipywidgets.ToggleButtons(options=modes, description="Mode", **label)
        names = [(s[:30] or "one", s) for s in spaces]
        self.space = ipywidgets.ToggleButtons(options=names, description="Space", **label)
        self.cost = ipywidgets.Dropdown(options=list(_COSTS), description="Against", **label)
        self._controls = {
            name: getattr(self, name) for name in ("dimensions", "precision", "mode", "space")
        }
        self.status, self.answer = note(), ipywidgets.HTML()
        legend = note(
            "● float32 &nbsp;◆ float16 &nbsp;■ int8 &nbsp;▲ binary. Lines: the Pareto front (no cheaper setting scores higher)."
        )
        front = figure(height=380, y="share of the teacher's nDCG@10")
        curves = figure(height=330, x="dimensions", y="share of the teacher's nDCG@10")
        for chart in (front, curves):
            chart.update_yaxes(tickformat=".0%")
        front.update_xaxes(
            type="log", minor_ticks="", nticks=8, exponentformat="none", tickformat=",~r"
        )
        curves.update_xaxes(
            type="log", tickvals=dimensions, ticktext=[f"{d:,}" for d in dimensions]
        )
        self.front, self.curves = Chart(front, on_click=self._clicked), Chart(curves)
        columns = [*["space"] * (len(spaces) > 1), "mode", "dimensions", "precision", *_NUMBERS[1:4],
                   "bytes_per_document", "query_ms", *["total_ms"] * bool(self._encode_ms)]  # fmt: skip
        self.rows = Table(self.table[columns], label="points", page_rows=8, many=False)
        controls = (
            self.dimensions,
            self.precision,
            self.mode,
            *([self.space] if len(spaces) > 1 else []),
            self.cost,
        )
        narrow = {"flex": "1 1 300px", "min_width": "280px", "max_width": "420px"}
        left = ipywidgets.VBox([*controls, legend, self.status], layout=narrow)
        self.answer.layout = {"flex": "1 1 380px", "min_width": "300px"}
        size = {"flex": "2 1 440px", "min_width": "300px"}
        wide = [ipywidgets.VBox([chart], layout=size) for chart in (self.front, self.curves)]
        super().__init__(wrapped(left, wide[0]), wrapped(self.answer, wide[1]), self.rows)
        self.observe(lambda _: self._selection_changed(), "selected")
        for name, control in self._controls.items():
            control.observe(
                lambda change, name=name: self._controlled(name, change["new"]), "value"
            )
        self.cost.observe(lambda _: self._draw_front(), "value")
        self.rows.observe(lambda change: self.select(change["new"]), "selected")

    # --- what happens ---

    def _controlled(self, name: str, value: object) -> None:
        if value == self.choice[name]:  # the view itself has set it
            return
        try:
            self.select(**{name: value})
        except WorkbenchError as error:
            self._set_controls()
            self.status.value = error_line(error)

    def _selection_changed(self) -> None:
        if not self.selected or self.selected[0] == self.position:
            return
        before, self.position = (
            (self.choice["space"] if self.position >= 0 else None),
            self.selected[0],
        )
        self._set_controls()
        self.status.value = ""
        self.answer.value = self._answer()
        self._draw_front() if before != self.choice["space"] else self._ring()
        self._draw_curves()

    def _set_controls(self) -> None:
        """Let controls and table say what is shown."""
        for name, control in self._controls.items():
            control.value = self.choice[name]
        self.rows.selected = self.selected
        self.rows.reveal(self.position)

    def _draw_front(self) -> None:
        """Draw every point of the space shown; the Pareto front of each mode is joined."""
        cost, traces = _COSTS[self.cost.value], []
        for mode, rows in self._alike("space").groupby("mode", sort=False):
            best = rows[quantize.pareto_mask(rows, [cost])].sort_values(cost)
            traces.append(go.Scatter(
                x=best[cost], y=best["share_of_teacher"], mode="lines", name=html.escape(mode), hoverinfo="skip",
                line={"color": self._color(mode), "width": 2, "shape": "hv"},
            ))  # fmt: skip
            traces.append(go.Scatter(
                x=rows[cost], y=rows["share_of_teacher"], mode="markers", showlegend=False,
                marker={"color": self._color(mode), "size": 8, "symbol": rows["precision"].map(_SYMBOLS).tolist(),
                        "opacity": np.where(rows.index.isin(best.index), 1, 0.4)},
                text=[_name(row) for _, row in rows.iterrows()], customdata=rows.index,
                hovertemplate="%{text}<br>%{y:.1%} at %{x}<extra></extra>",
            ))  # fmt: skip
        traces.append(go.Scatter(
            x=[], y=[], mode="markers", name="shown", hoverinfo="skip",
            marker={"size": 17, "color": "rgba(0,0,0,0)", "line": {"color": "#CC79A7", "width": 3}},
        ))  # fmt: skip
        self.front.figure.data = ()
        self.front.figure.add_traces(traces)
        self.front.figure.update_xaxes(title_text=_AXES[cost])
        self._ring()

    def _clicked(self, trace: int, point: int) -> None:
        places = self.front.figure.data[trace].customdata
        if places is not None:
            self.select([int(places[point])])

    def _ring(self) -> None:
        with self.front.edit() as chart:
            chart.data[-1].x = [self.choice[_COSTS[self.cost.value]]]
            chart.data[-1].y = [self.choice["share_of_teacher"]]

    def _draw_curves(self) -> None:
        """Draw the share by dimensions at the precision shown, the modes side by side."""
        here, traces = (
            self._alike("space", "precision").sort_values("dimensions", kind="stable"),
            [],
        )
        for mode, rows in here.groupby("mode", sort=False):
            share = rows["share_of_teacher"]
            traces.append(go.Scatter(
                x=rows["dimensions"], y=share, mode="lines+markers", name=html.escape(mode),
                line={"color": self._color(mode)},
                error_y={"type": "data", "symmetric": False, "array": rows["share_high"] - share,
                         "arrayminus": share - rows["share_low"], "thickness": 1},
                hovertemplate="%{x} dimensions: %{y:.1%}<extra></extra>",
            ))  # fmt: skip
        with self.curves.edit() as chart:
            chart.data = ()
            chart.add_traces(traces)

    def _alike(self, *names: str) -> pd.DataFrame:
        """Return the points that share these values with the one shown."""
        return self.table[(self.table[list(names)] == self.choice[list(names)]).all(axis=1)]

    def _color(self, mode: str) -> str:
        others = [m for m in self.table["mode"].unique() if m not in COLORS]
        return (
            COLORS[mode]
            if mode in COLORS
            else CATEGORIES[(3 + others.index(mode)) % len(CATEGORIES)]
        )

    def _answer(self) -> str:
        row, width = self.choice, int(self.table["dimensions"].max())
        size, whole = row["bytes_per_document"], IndexSpec(width).bytes_per_document
        less = f"{whole / size:.3g} times less than {width} dimensions in float32"
        less = less if whole > size else "the whole vector"
        spent = self._encode_ms.get(row["mode"])
        encoding = (
            f", {spent:.1f} ms to encode the query"
            if spent is not None
            else ", encoding the query not included"
        )
        sizes = [
            (words, file_size(count * size), file_size(count * whole))
            for words, count in _SIZES.items()
        ]
        table = pd.DataFrame(sizes, columns=["documents", "index", "float32 in full"])
        style = "white-space:pre-wrap;word-break:normal;line-height:1.35;font-family:monospace;margin-top:12px"
        return (
            f"<p><b>{shown(_name(row))}</b>: {row['share_of_teacher']:.1%} of the teacher's nDCG@10 in full (95 % interval "
            f"{row['share_low']:.1%} to {row['share_high']:.1%}), {size:,} bytes a document, {less}. A search among "
            f"{row['documents']:,} documents takes {row['query_ms']:.3f} ms{encoding}; a flat index takes time in "
            f"proportion to its documents.</p>{html_table(table, style='text-align:left;border-spacing:10px 0')}"
            f'<pre style="{style}">{html.escape(self.code)}</pre>'
        )


def _check(space: object, rows: pd.DataFrame) -> None:
    where = f"curves of {space!r}" if space else "curves"
    if not isinstance(rows, pd.DataFrame) or rows.empty:
        raise WorkbenchError(f"{where}: a table from quantize.sweep is needed, with a row at least")
    if missing := [name for name in ("mode", "precision", *_NUMBERS) if name not in rows]:
        raise WorkbenchError(
            f"{where} have no column {missing[0]!r}: give what quantize.sweep returned"
        )
    numbers = rows[_NUMBERS].apply(pd.to_numeric, errors="coerce")
    unknown = sorted(map(str, set(rows["precision"]) - set(PRECISIONS)))
    for wrong, problem in (
        (
            unknown,
            f"the precision {', '.join(map(repr, unknown))}: known are {', '.join(PRECISIONS)}",
        ),
        (
            not np.isfinite(numbers).all(axis=None),
            "figures that are no numbers: was the teacher's nDCG@10 zero?",
        ),
        (not all(isinstance(mode, str) for mode in rows["mode"]), "modes without a name"),
        (rows.duplicated(["mode", "dimensions", "precision"]).any(), f"a point twice: {_SPACES}"),
    ):
        if wrong:
            raise WorkbenchError(f"{where} have {problem}")


def _name(row: pd.Series) -> str:
    space = f", {row['space']}" if row["space"] else ""
    return f"{row['dimensions']} dimensions, {row['precision']}, {row['mode']}{space}"
