"""What shorter and coarser vectors cost in quality, and save in size and time."""

from collections.abc import Mapping

import ipywidgets
import numpy as np
import pandas as pd
import plotly.express

from workbench import quantize
from workbench.errors import WorkbenchError
from workbench.quantize import PRECISIONS
from workbench.widgets._html import cut, error_line, hover, shown
from workbench.widgets._view import MODES, Selection, View, model_colors, note, wrapped
from workbench.widgets.chart import Chart, figure
from workbench.widgets.table import Table

_COSTS = {"bytes a document": "bytes_per_document", "milliseconds a query": "total_ms"}
_SYMBOLS = dict(zip(PRECISIONS, ("circle", "diamond", "square", "triangle-up"), strict=True))
_LEGEND = "● float32 &nbsp;◆ float16 &nbsp;■ int8 &nbsp;▲ binary. Lines: the Pareto front."
_CONTROLS = ["dimensions", "precision", "mode", "space"]
_CODE = """from workbench.quantize import CompressedIndex, IndexSpec

# documents: vectors of {documents}, queries: of {queries}{space}
index = CompressedIndex(documents, IndexSpec({dimensions}, "{precision}"))
scores, positions = index.search(queries, 10)
"""


class TradeoffExplorer(Selection, View):
    """Choose a point on the curves of quality, size and query time.

    Args:
        curves: what `quantize.sweep` returned, or several such tables by the name of their space.
        encode_ms: mode to the milliseconds that encoding one query takes; added to the search.

    Attributes:
        table: one row a point: the columns of `curves`, `space`, and `total_ms` with encoding.
        position: row of the point that is shown, the first of those selected.
    """

    def __init__(
        self,
        curves: pd.DataFrame | Mapping[str, pd.DataFrame],
        *,
        encode_ms: Mapping[str, float] | None = None,
    ) -> None:
        spaces = curves if isinstance(curves, Mapping) else {"": curves}
        rows = [rows.assign(space=space) for space, rows in spaces.items()]
        self.table = table = pd.concat(rows, ignore_index=True)
        modes = table["mode"].unique().tolist()
        self._encode_ms = encode_ms
        encoding = [encode_ms[mode] if encode_ms else 0.0 for mode in table["mode"]]
        table["total_ms"] = table["query_ms"] + encoding
        self._index = table.index
        self._colors = {hover(mode): color for mode, color in model_colors(modes).items()}
        names = [name for name in _CONTROLS if table[name].nunique() > 1]
        self.controls = {name: self._control(name) for name in names}
        self.cost = ipywidgets.Dropdown(options=_COSTS, description="Against")
        self.status, self.answer = note(), ipywidgets.HTML()
        axes = {"y": "share of the teacher's nDCG@10", "yaxis_tickformat": ".0%"}
        axes |= {"xaxis_type": "log", "xaxis_nticks": 8, "xaxis_tickformat": ",~r"}
        self.front = Chart(figure(height=380, **axes), on_click=self._point_clicked)
        axes["xaxis_tickvals"] = table["dimensions"].unique()
        self.curves = Chart(figure(height=330, x="dimensions", **axes))
        numbers = ["share_of_teacher", "share_low", "share_high", *_COSTS.values(), "query_ms"]
        points = table[[*self.controls, *numbers]]
        self.rows = Table(points, label="points", page_rows=8, many=False)
        left = ipywidgets.VBox([*self.controls.values(), self.cost, note(_LEGEND), self.status])
        left.layout = self.answer.layout = {"flex": "1 1 340px", "min_width": "300px"}
        for chart in (self.front, self.curves):
            chart.layout = {"flex": "2 1 440px", "min_width": "300px"}
        rows = wrapped(left, self.front), wrapped(self.answer, self.curves)
        super().__init__(*rows, self.rows)
        self.observe(lambda _: self._show_selected(), "selected")
        self.cost.observe(lambda _: self._draw(), "value")
        self.rows.observe(lambda change: self.select(change["new"]), "selected")
        self.select(int((table["mode"] == modes[-1]).argmax()))

    @property
    def choice(self) -> pd.Series:
        """The row of `table` that is shown."""
        return self.table.iloc[self.position]

    @property
    def code(self) -> str:
        """Python that builds and searches the index that is shown."""
        row = self.choice
        queries, documents = MODES.get(row["mode"], (repr(row["mode"]),) * 2)
        space = f", in the space {row['space']!r}" if row["space"] else ""
        names = {"queries": f"the {queries}", "documents": f"the {documents}", "space": space}
        return _CODE.format(**names, **row[["dimensions", "precision"]])

    def select(self, rows: object = (), **values: object) -> None:
        """Show a row of `table`, or the one with a new dimensions=, precision=, mode= or space=."""
        if values:
            values = self.choice[_CONTROLS].to_dict() | values
            rows = np.flatnonzero((self.table[list(values)] == values).all(axis=1))
            if not rows.size:
                raise WorkbenchError(f"{_name(values)} was not measured: the table has what was")
        super().select(rows)

    def summary(self) -> str:
        """Return what is shown, as HTML."""
        return self.answer.value

    def _control(self, name: str) -> ipywidgets.DOMWidget:
        options = self.table[name].unique().tolist()
        kind = ipywidgets.ToggleButtons
        if name == "dimensions":
            kind, options = ipywidgets.SelectionSlider, sorted(options)
        control = kind(
            options=[(cut(option, 30), option) for option in options],
            description=name.capitalize(),
            style={"description_width": "76px", "button_width": "max-content"},
            layout={"width": "auto"},
        )
        control.observe(lambda change: self._set(name, change["new"]), "value")
        return control

    def _set(self, name: str, value: object) -> None:
        try:
            if value != self.choice[name]:  # the view itself has not set the control
                self.select(**{name: value})
        except WorkbenchError as error:
            self._set_controls()
            self.status.value = error_line(error)

    def _show_selected(self) -> None:
        if self.selected:
            self.position = self.selected[0]
            self._set_controls()
            self.status.value, self.answer.value = "", self._answer()
            self.rows.selected = self.selected
            self.rows.reveal(self.position)
            self._draw()

    def _set_controls(self) -> None:
        for name, control in self.controls.items():
            control.value = self.choice[name]

    def _draw(self) -> None:
        cost, share = self.cost.value, "share_of_teacher"
        points = self._alike("space").reset_index(names="row")
        fronts = [rows[quantize.pareto_mask(rows, [cost])] for _, rows in points.groupby("mode")]
        style = {"y": share, "color": "mode", "color_discrete_map": self._colors}
        style["template"] = "none"  # plotly's own template takes long
        best = pd.concat(fronts).sort_values(cost)
        lines = plotly.express.line(best, x=cost, line_shape="hv", **style)
        marks = {"symbol": "precision", "symbol_map": _SYMBOLS, "custom_data": ["row"]}
        marks["hover_data"] = {share: ":.1%", "dimensions": True, "row": False}
        markers = plotly.express.scatter(points, x=cost, **marks, **style)
        with self.front.edit() as chart:
            chart.data = ()
            chart.add_traces(lines.update_traces(hoverinfo="skip").data)
            chart.add_traces(markers.update_traces(marker_size=8, showlegend=False).data)
            ring = {"size": 17, "color": "rgba(0,0,0,0)", "line": {"color": "#CC79A7", "width": 3}}
            x, y = [self.choice[cost]], [self.choice[share]]
            chart.add_scatter(x=x, y=y, mode="markers", name="shown", hoverinfo="skip", marker=ring)
            chart.update_xaxes(title_text=self.cost.label)
        rows = self._alike("space", "precision").sort_values("dimensions")
        rows["above"] = rows["share_high"] - rows[share]
        rows["below"] = rows[share] - rows["share_low"]
        errors = {"error_y": "above", "error_y_minus": "below"}
        lines = plotly.express.line(rows, x="dimensions", markers=True, **errors, **style)
        with self.curves.edit() as chart:
            chart.data = ()
            chart.add_traces(lines.data)

    def _alike(self, *names: str) -> pd.DataFrame:
        """Return the points that share these values with the one shown."""
        points = self.table[(self.table[[*names]] == self.choice[[*names]]).all(axis=1)]
        return points.assign(mode=points["mode"].map(hover))

    def _point_clicked(self, trace: int, point: int) -> None:
        rows = self.front.figure.data[trace].customdata
        if rows is not None:
            self.select([int(rows[point][0])])

    def _answer(self) -> str:
        row, size = self.choice, self.choice["bytes_per_document"]
        encoding = "encoding the query not included"
        if self._encode_ms:
            encoding = f"{self._encode_ms[row['mode']]:.1f} ms to encode the query"
        return (
            f"<p><b>{shown(_name(row))}</b>: {row['share_of_teacher']:.1%} of the teacher's "
            f"nDCG@10 in full (95 % interval {row['share_low']:.1%} to {row['share_high']:.1%}), "
            f"{size:,} bytes a document, {size * 10:,} GB for ten billion.</p>"
            f"<p>A search among {row['documents']:,} documents takes {row['query_ms']:.3f} ms, "
            f"{encoding}.</p>"
            f'<pre style="white-space:pre-wrap;word-break:normal">{shown(self.code, 2000)}</pre>'
        )


def _name(row: Mapping[str, object]) -> str:
    name = f"{row['dimensions']} dimensions, {row['precision']}, {row['mode']}"
    return f"{name}, {row['space']}" if row["space"] else name
