"""What shorter and coarser vectors cost: select dimensions, precision and mode, see quality, size and time."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from tqdm import tqdm

from workbench import quantize
from workbench.errors import WorkbenchError
from workbench.quantize import PRECISIONS, IndexSpec
from workbench.widgets._html import error_line, html_table, shown
from workbench.widgets._selection import Selection
from workbench.widgets._view import CATEGORIES, COLORS, MODES, View, note, wrapped
from workbench.widgets.chart import figure
from workbench.widgets.table import Table

_NEEDED = ("mode", "dimensions", "precision", "share_of_teacher", "share_low", "share_high", "ndcg_at_10",
           "bytes_per_document", "query_ms", "documents")  # fmt: skip
_COSTS = {"size": "bytes_per_document", "query time": "total_ms"}
_AXES = {"bytes_per_document": "bytes a document", "total_ms": "milliseconds a query"}
_SYMBOLS = dict(zip(PRECISIONS, ("circle", "diamond", "square", "triangle-up"), strict=True))
_SIZES = {"a million": 10**6, "a hundred million": 10**8, "ten billion": 10**10}


class TradeoffExplorer(Selection, View):
    """Choose a point on the curves of quality, size and query time.

    Args:
        curves: what `quantize.sweep` returned, or several such tables by the name of their space, such as
            {"as it is": rows, "rotated": other_rows}.
        encode_ms: mode to the milliseconds that encoding one query takes; added to the search where given.

    Attributes:
        table: one row a point: the columns of `curves`, `space`, `total_ms` (search and encoding) and
            `front`, whether no other point of its mode and space is at least as good, as small and as
            quick, and better in one of these.
        selected: positions of the selected points, of which the first is shown; to be set and observed, see `select`.
        position: row of the point that is shown.

    Raises:
        WorkbenchError: the rows are no curves.
    """

    def __init__(
        self, curves: pd.DataFrame | Mapping[str, pd.DataFrame], *, encode_ms: Mapping[str, float] | None = None
    ) -> None:
        curves = curves if isinstance(curves, Mapping) else {"": curves}
        if not curves:
            raise WorkbenchError("there are no curves: give what quantize.sweep returned")
        for space, rows in curves.items():
            _check(space, rows)
        whole = {"dimensions": int, "bytes_per_document": int, "documents": int}  # JSON may have made them floats
        self.table = pd.concat([rows.assign(space=str(space)) for space, rows in curves.items()], ignore_index=True)
        self.table = self.table.astype(whole)
        modes = self.table["mode"].unique()
        if encode_ms is not None and set(encode_ms) != set(modes):
            other = sorted(map(str, set(encode_ms) ^ set(modes)))
            raise WorkbenchError(
                f"encode_ms must have a time for each mode ({', '.join(modes)}) and no other: {other[0]!r}"
            )
        if not all(
            isinstance(t, int | float | np.number) and np.isfinite(t) and t >= 0 for t in (encode_ms or {}).values()
        ):
            raise WorkbenchError("encode_ms must be milliseconds, numbers of at least 0")
        self._encode_ms = dict(encode_ms or {})
        spent = self.table["mode"].map(self._encode_ms).fillna(0.0)
        self.table["total_ms"] = self.table["query_ms"] + spent
        self.table["front"] = False
        for _, rows in self.table.groupby(["mode", "space"]):
            self.table.loc[rows.index, "front"] = quantize.pareto_mask(rows, list(_COSTS.values()))
        self._index = self.table.index
        self.position = -1
        self._busy = False
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
        row = self.choice
        asks, answers = MODES.get(row["mode"], (row["mode"],) * 2)
        where = f", in the space {row['space']!r}" if row["space"] else ""
        return (
            "from workbench.quantize import CompressedIndex, IndexSpec\n\n"
            f"# documents: vectors of {_whose(answers)}, queries: of {_whose(asks)}{where}\n"
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
            raise WorkbenchError(f"{unknown.pop()!r} is no control: give any of {', '.join(self._controls)}")
        wanted = {name: self.choice[name] for name in self._controls} | values
        found = np.flatnonzero(np.logical_and.reduce([self.table[name] == value for name, value in wanted.items()]))
        if not found.size:
            raise WorkbenchError(f"{_name(pd.Series(wanted))} was not measured: the table has what was")
        super().select(found[:1])

    def summary(self) -> str:
        """Return what is said of the point shown, and the points of its mode that no other beats."""
        best = self._alike("mode", "space")
        best = best[best["front"]].sort_values("bytes_per_document")
        names = {
            "share_of_teacher": "share of teacher",
            "bytes_per_document": "bytes a document",
            "total_ms": "ms a query",
        }
        table = best[["dimensions", "precision", *names]].rename(columns=names)
        return self.answer.value + html_table(
            table.assign(**{"share of teacher": best["share_of_teacher"].map("{:.1%}".format)})
        )

    def figures(self) -> list[go.Figure]:
        """Return both charts."""
        return [self.front, self.curves]

    # --- parts ---

    def _build(self) -> None:
        dimensions = sorted(self.table["dimensions"].unique().tolist())
        precisions = [p for p in PRECISIONS if p in set(self.table["precision"])]
        modes = self.table["mode"].unique().tolist()
        spaces = self.table["space"].unique().tolist()
        label = {"style": {"description_width": "76px", "button_width": "max-content"}, "layout": {"width": "auto"}}
        self.dimensions = ipywidgets.SelectionSlider(options=dimensions, description="Dimensions", **label)
        self.precision = ipywidgets.ToggleButtons(options=precisions, description="Precision", **label)
        self.mode = ipywidgets.ToggleButtons(options=modes, description="Mode", **label)
        self.space = ipywidgets.ToggleButtons(
            options=[(s[:30] or "one", s) for s in spaces], description="Space", **label
        )
        self.cost = ipywidgets.Dropdown(options=list(_COSTS), description="Against", **label)
        self._controls = {name: getattr(self, name) for name in ("dimensions", "precision", "mode", "space")}
        self.status, self.answer = note(), ipywidgets.HTML()
        legend = note("● float32 &nbsp;◆ float16 &nbsp;■ int8 &nbsp;▲ binary. Lines join what nothing cheaper beats.")
        self.front = figure(height=380, y="share of the teacher's nDCG@10")
        self.curves = figure(height=330, x="dimensions", y="share of the teacher's nDCG@10")
        for chart in (self.front, self.curves):
            chart.update_yaxes(tickformat=".0%")
        self.front.update_xaxes(type="log", minor_ticks="", nticks=8, exponentformat="none", tickformat=",~r")
        self.curves.update_xaxes(type="log", tickvals=dimensions, ticktext=[f"{d:,}" for d in dimensions])
        self.rows = Table(self._shown_columns(), label="points", page_rows=8, many=False)
        controls = self.dimensions, self.precision, self.mode, *([self.space] if len(spaces) > 1 else []), self.cost
        narrow = {"flex": "1 1 300px", "min_width": "280px", "max_width": "420px"}
        left = ipywidgets.VBox([*controls, legend, self.status], layout=narrow)
        self.answer.layout = {"flex": "1 1 380px", "min_width": "300px"}
        # The height is said again, for a chart that fits its place would else shrink with it when the row is laid out anew.
        size = {"flex": "2 1 440px", "min_width": "300px"}
        wide = [ipywidgets.Box([c], layout=size | {"min_height": f"{c.layout.height}px"}) for c in self.figures()]
        super().__init__(wrapped(left, wide[0]), wrapped(self.answer, wide[1]), self.rows)
        self.observe(lambda _: self._selection_changed(), "selected")
        for control in self._controls.values():
            control.observe(lambda _: self._controlled(), "value")
        self.cost.observe(lambda _: self._draw_front(), "value")
        self.rows.observe(lambda change: self._busy or self.select(change["new"]), "selected")

    def _shown_columns(self) -> pd.DataFrame:
        columns = ["space", "mode", "dimensions", "precision", "share_of_teacher", "share_low", "share_high",
                   "bytes_per_document", "query_ms", "total_ms", "front"]  # fmt: skip
        hidden = [] if self.table["space"].nunique() > 1 else ["space"]
        hidden += [] if self._encode_ms else ["total_ms"]
        return self.table[columns].drop(columns=hidden)

    # --- what happens ---

    def _controlled(self) -> None:
        if self._busy:
            return
        try:
            self.select(**{name: control.value for name, control in self._controls.items()})
        except WorkbenchError as error:
            self._set_controls()
            self.status.value = error_line(error)

    def _selection_changed(self) -> None:
        if not self.selected or self.selected[0] == self.position:
            return
        before, self.position = (self.choice["space"] if self.position >= 0 else None), self.selected[0]
        self._set_controls()
        self.status.value = ""
        self.answer.value = self._answer()
        self._draw_front() if before != self.choice["space"] else self._ring()
        self._draw_curves()

    def _set_controls(self) -> None:
        """Let controls and table say what is shown."""
        self._busy = True  # what is set here must not come back as a choice of its own
        try:
            for name, control in self._controls.items():
                value = self.choice[name]
                control.value = value.item() if isinstance(value, np.generic) else value
            self.rows.selected = self.selected
            self.rows.reveal(self.position)
        finally:
            self._busy = False

    def _draw_front(self) -> None:
        """Every point of the space shown; the points of a mode that nothing cheaper beats are joined."""
        cost = _COSTS[self.cost.value]
        here = self._alike("space")
        traces, self._points = [], []
        for mode, rows in here.groupby("mode", sort=False):
            best = rows[quantize.pareto_mask(rows, [cost])].sort_values(cost)
            traces.append(go.Scatter(
                x=best[cost], y=best["share_of_teacher"], mode="lines", name=html.escape(mode), hoverinfo="skip",
                line={"color": self._color(mode), "width": 2, "shape": "hv"},
            ))  # fmt: skip
            traces.append(go.Scatter(
                x=rows[cost], y=rows["share_of_teacher"], mode="markers", showlegend=False,
                marker={"color": self._color(mode), "size": 8, "symbol": rows["precision"].map(_SYMBOLS).tolist(),
                        "opacity": np.where(rows.index.isin(best.index), 1, 0.4)},
                text=[_name(row) for _, row in rows.iterrows()],
                hovertemplate="%{text}<br>%{y:.1%} at %{x}<extra></extra>",
            ))  # fmt: skip
            self._points.append(rows.index.to_numpy())
        traces.append(go.Scatter(
            x=[], y=[], mode="markers", name="shown", hoverinfo="skip",
            marker={"size": 17, "color": "rgba(0,0,0,0)", "line": {"color": "#CC79A7", "width": 3}},
        ))  # fmt: skip
        with self.front.batch_update():
            self.front.data = ()
            self.front.add_traces(traces)
            self.front.update_xaxes(title_text=_AXES[cost])
        for trace, positions in zip(self.front.data[1:-1:2], self._points, strict=True):
            trace.on_click(lambda _, hit, __, p=positions: hit.point_inds and self.select(p[hit.point_inds[:1]]))
        self._ring()

    def _ring(self) -> None:
        with self.front.batch_update():
            self.front.data[-1].x = [self.choice[_COSTS[self.cost.value]]]
            self.front.data[-1].y = [self.choice["share_of_teacher"]]

    def _draw_curves(self) -> None:
        """Share by dimensions at the precision shown, the modes side by side."""
        here = self._alike("space", "precision")
        traces = []
        for mode, rows in here.groupby("mode", sort=False):
            rows = rows.sort_values("dimensions")
            share = rows["share_of_teacher"]
            traces.append(go.Scatter(
                x=rows["dimensions"], y=share, mode="lines+markers", name=html.escape(mode),
                line={"color": self._color(mode)},
                error_y={"type": "data", "symmetric": False, "array": rows["share_high"] - share,
                         "arrayminus": share - rows["share_low"], "thickness": 1},
                hovertemplate="%{x} dimensions: %{y:.1%}<extra></extra>",
            ))  # fmt: skip
        with self.curves.batch_update():
            self.curves.data = ()
            self.curves.add_traces(traces)

    def _alike(self, *names: str) -> pd.DataFrame:
        """Return the points that share these values with the one shown."""
        return self.table[(self.table[list(names)] == self.choice[list(names)]).all(axis=1)]

    def _color(self, mode: str) -> str:
        others = [m for m in self.table["mode"].unique() if m not in COLORS]
        return COLORS[mode] if mode in COLORS else CATEGORIES[(3 + others.index(mode)) % len(CATEGORIES)]

    def _answer(self) -> str:
        row = self.choice
        width = int(self.table["dimensions"].max())
        whole = IndexSpec(width).bytes_per_document
        times = whole / row["bytes_per_document"]
        less = f"{times:.3g} times less than {width} dimensions in float32" if times > 1 else "all that there is"
        spent = self._encode_ms.get(row["mode"])
        encoding = f", {spent:.1f} ms to encode the query" if spent is not None else ", encoding the query not included"
        sizes = [
            (words, _size(count * row["bytes_per_document"]), _size(count * whole)) for words, count in _SIZES.items()
        ]
        table = pd.DataFrame(sizes, columns=["documents", "index", "float32 in full"])
        return (
            f"<p><b>{shown(_name(row))}</b>: {row['share_of_teacher']:.1%} of the teacher's nDCG@10 in full (95 % interval "
            f"{row['share_low']:.1%} to {row['share_high']:.1%}), {row['bytes_per_document']:,} bytes a document, "
            f"{less}. A search among "
            f"{row['documents']:,} documents takes {row['query_ms']:.3f} ms{encoding}; a flat index takes time in "
            "proportion to its documents.</p>"
            + html_table(table, style="text-align:left;border-spacing:10px 0")
            + f'<pre style="white-space:pre-wrap;word-break:normal;line-height:1.35;font-family:monospace;margin-top:12px">{html.escape(self.code)}</pre>'
        )


def _size(count: int) -> str:
    return re.sub(r"(?<=\d)(?=[A-Z])", " ", tqdm.format_sizeof(count, "B"))


def _check(space: object, rows: pd.DataFrame) -> None:
    where = f"curves of {space!r}" if space else "curves"
    if not isinstance(rows, pd.DataFrame) or rows.empty:
        raise WorkbenchError(f"{where}: a table from quantize.sweep is needed, with a row at least")
    if missing := [name for name in _NEEDED if name not in rows]:
        raise WorkbenchError(f"{where} have no column {missing[0]!r}: give what quantize.sweep returned")
    if unknown := set(rows["precision"]) - set(PRECISIONS):
        raise WorkbenchError(
            f"{where} have the precision {sorted(map(str, unknown))[0]!r}: known are {', '.join(PRECISIONS)}"
        )
    numbers = rows[[name for name in _NEEDED if name not in ("mode", "precision")]]
    try:
        numbers = numbers.to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise WorkbenchError(f"{where} have figures that are no numbers: give what quantize.sweep returned") from None
    if not np.isfinite(numbers).all() or (rows["dimensions"] % 1 != 0).any():
        raise WorkbenchError(f"{where} have figures that are no numbers: was the teacher's nDCG@10 zero?")
    if not rows["mode"].map(lambda mode: isinstance(mode, str)).all():
        raise WorkbenchError(f"{where} have modes without a name")
    if rows.duplicated(["mode", "dimensions", "precision"]).any():
        raise WorkbenchError(
            f"{where} have a point twice: name the spaces, as in {{'as it is': rows, 'rotated': others}}"
        )


def _name(row: pd.Series) -> str:
    space = f", {row['space']}" if row["space"] else ""
    return f"{row['dimensions']} dimensions, {row['precision']}, {row['mode']}{space}"


def _whose(side: str) -> str:
    """Return who made vectors, for a comment in code."""
    return f"the {side}" if side in ("teacher", "student") else repr(side)
