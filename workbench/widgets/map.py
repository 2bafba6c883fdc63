"""Points of one or two models in a plane: lasso, zoom, colors by a measure or by a category."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import traitlets
from plotly.colors import sample_colorscale

from workbench.widgets._html import cut
from workbench.widgets._view import (
    MOST_CATEGORIES,
    OTHER,
    SCALE,
    Part,
    Selection,
    model_colors,
    module,
    palette,
)

_SHADES = 64
_TEXTS_AT_ONCE = 3_000  # with more, the text under the pointer is asked for
_MOST_LABELS = 40
_SHAPES = "diamond", "circle"


class Map(Selection, Part):
    """A map whose points can be selected. All points of one row are selected together.

    Args:
        count: number of rows, n.
        height: in pixels.

    Attributes:
        selected: positions of the selected rows, a tuple of int; to be set and observed.
    """

    _esm = module("map")
    _sets = traitlets.List().tag(sync=True)  # the points of each model
    _colors = traitlets.Dict().tag(sync=True)
    _lines = traitlets.Unicode().tag(sync=True)
    _labels = traitlets.List().tag(sync=True)
    _selected = traitlets.Bytes().tag(sync=True)
    _height = traitlets.Int().tag(sync=True)

    def __init__(self, count: int, *, height: int = 400) -> None:
        self._index = pd.RangeIndex(count)
        self._tip: Callable[[int], str] = str
        self._codes = np.empty(0, int)
        super().__init__(_height=height)
        self.observe(
            lambda _: self.put(_selected=np.array(self.selected, np.uint32).tobytes()), "selected"
        )

    def place(self, points: Mapping[str, np.ndarray]) -> None:
        """Show these points, float of shape (n, 2) for each model; together they fill the frame."""
        every = np.concatenate(list(points.values()))
        low, span = every.min(axis=0), np.maximum(np.ptp(every, axis=0), 1e-9)
        colors = model_colors([*points])
        sets = [
            {
                "name": name, "shape": _SHAPES[number % 2] if len(points) > 1 else "circle",
                "color": colors[name],
                "xy": ((xy - low) / span).astype(np.float32).tobytes(),
            }
            for number, (name, xy) in enumerate(points.items())
        ]  # fmt: skip
        self._places = (next(iter(points.values())) - low) / span
        self.put(_sets=sets)

    def label(self, names: np.ndarray) -> None:
        """Write the name of each group of rows, str of shape (n,), into the middle of its points, the largest first."""
        labels = [
            {
                "text": cut(str(name), 40),
                "at": np.median(self._places[names == name], axis=0).tolist(),
            }
            for name in pd.Series(names).value_counts().index[:_MOST_LABELS]
        ]
        self.put(_labels=labels)

    def join(self, which: str) -> None:
        """Draw lines between a row's points: of "all" rows or the selected ones, of the "selected" ones, or of "none"."""
        self.put(_lines=which)

    def paint(self, values: pd.Series | None, tip: Callable[[int], str] = str) -> None:
        """Color the points by a measure or by a category, by model if None; `tip` says what stands beside the pointer."""
        self._tip, count = tip, len(self._index)
        texts = [tip(row) for row in range(count)] if count <= _TEXTS_AT_ONCE else None
        self._codes = np.empty(0, int)
        if values is None:
            colors = {}
        elif is_numeric(values):
            numbers = values.to_numpy(dtype=float)
            known = numbers[np.isfinite(numbers)]
            low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
            shades = [_hex(color) for color in sample_colorscale(SCALE, _SHADES)]
            shade = np.nan_to_num(
                (numbers - low) / max(high - low, 1e-12) * (_SHADES - 1),
                nan=_SHADES,
                posinf=_SHADES - 1,
                neginf=0,
            )
            colors = {
                "title": str(values.name), "palette": [*shades, OTHER], "codes": shade.astype(np.uint8).tobytes(),
                "ramp": {"low": f"{low:.3g}", "high": f"{high:.3g}", "colors": shades[::7]},
            }  # fmt: skip
        else:
            names = values.astype(str)
            counts = names.value_counts()
            shown = list(counts.index[:MOST_CATEGORIES])
            self._codes = pd.Index(shown, dtype=object).get_indexer(names.astype(object))
            self._codes[self._codes < 0] = len(shown)
            hues = [*palette(len(shown)), OTHER]
            entries = [
                {
                    "code": code,
                    "label": f"{cut(name, 28)} {counts.iloc[code]:,}",
                    "color": hues[code],
                }
                for code, name in enumerate(shown)
            ]
            if rest := len(counts) - len(shown):
                entries.append(
                    {
                        "code": len(shown),
                        "label": f"{rest:,} others: search for them",
                        "color": OTHER,
                    }
                )
            colors = {
                "title": str(values.name), "palette": hues, "entries": entries,
                "codes": self._codes.astype(np.uint8).tobytes(),
            }  # fmt: skip
        self.put(_colors=colors | {"texts": texts})

    def _received(self, message: dict, buffers: list) -> None:
        match message:
            case {"kind": "select"}:
                self.select(np.frombuffer(buffers[0], np.uint32).astype(int))
            case {"kind": "category", "code": code}:
                self.select(np.flatnonzero(self._codes == code))
            case {"kind": "tip", "row": row} if 0 <= row < len(self._index):
                self.send({"kind": "tip", "row": row, "text": self._tip(row)})


def is_numeric(column: pd.Series) -> bool:
    """Say whether a column is of numbers, so that it can be a color and a histogram."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _hex(color: str) -> str:
    return "#" + "".join(f"{int(part):02X}" for part in color[4:-1].split(","))
