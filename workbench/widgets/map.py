"""Points of one or two models in a plane: lasso, zoom, colors by a measure or by a category."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import traitlets
from plotly.colors import sample_colorscale

from workbench.widgets._html import cut
from workbench.widgets._view import OTHER, PALETTE, Part, Selection, model_colors, module

_SHADES = 64
# Low to high, ever lighter, for the color-blind too, and without the ends that a page would hide.
_SCALE = sample_colorscale("Plasma", np.linspace(0.3, 0.78, _SHADES))
_TEXTS_AT_ONCE = 3_000  # with more, the text under the pointer is asked for
_MOST_CATEGORIES = 30
_MOST_LABELS = 40


class Map(Selection, Part):
    """A map of `count` rows. All points of one row are selected together."""

    _esm = module("map")
    _sets = traitlets.List().tag(sync=True)  # the points of each model
    _colors = traitlets.Dict().tag(sync=True)
    _labels = traitlets.List().tag(sync=True)
    _selected = traitlets.Bytes().tag(sync=True)

    def __init__(self, count: int) -> None:
        self._index = pd.RangeIndex(count)
        super().__init__()
        self.observe(lambda _: self.put(_selected=np.uint32(self.selected).tobytes()), "selected")

    def place(self, points: Mapping[str, np.ndarray]) -> None:
        """Show points, float of shape (n, 2) for each model; together they fill the frame."""
        both = np.concatenate(list(points.values()))
        low, span = both.min(axis=0), np.maximum(np.ptp(both, axis=0), 1e-9)
        places = [((xy - low) / span).astype(np.float32) for xy in points.values()]
        self._places, sets = places[0], []
        for (name, color), xy in zip(model_colors([*points]).items(), places, strict=True):
            sets.append({"name": name, "color": color, "xy": xy.tobytes()})
        self.put(_sets=sets)

    def label(self, names: np.ndarray) -> None:
        """Write the name of each group, str of shape (n,), above its points, the largest first."""
        labels = []
        for name in pd.Series(names).value_counts().index[:_MOST_LABELS]:
            x, y = self._places[names == name].T.astype(float)
            labels.append({"text": cut(name, 40), "at": [np.median(x), np.quantile(y, 0.9)]})
        self.put(_labels=labels)

    def paint(self, values: pd.Series | None, tip: Callable[[int], str]) -> None:
        """Color the points by a measure, a category, or by model; `tip` describes a row."""
        self._tip, colors = tip, {}
        if len(self._index) <= _TEXTS_AT_ONCE:
            colors["texts"] = [tip(row) for row in range(len(self._index))]
        if values is not None:
            colors |= self._shades(values) if is_numeric(values) else self._categories(values)
            colors |= {"title": str(values.name), "codes": self._codes.astype(np.uint8).tobytes()}
        self.put(_colors=colors)

    def _shades(self, values: pd.Series) -> dict:
        numbers = values.to_numpy(dtype=float)
        low, high = value_range(numbers)
        shade = (numbers - low) / max(high - low, 1e-12) * (_SHADES - 1)
        self._codes = np.nan_to_num(np.clip(shade, 0, _SHADES - 1), nan=_SHADES)
        ramp = {"low": f"{low:.3g}", "high": f"{high:.3g}", "colors": _SCALE[::7]}
        return {"palette": [*_SCALE, OTHER], "ramp": ramp}

    def _categories(self, values: pd.Series) -> dict:
        names = values.astype(str).astype(object)
        counts = names.value_counts()
        largest = counts.index[:_MOST_CATEGORIES]
        self._codes = largest.get_indexer(names)
        self._codes[self._codes < 0] = len(largest)
        labels = [f"{cut(name, 28)} {counts[name]:,}" for name in largest]
        if len(counts) > len(largest):
            labels.append(f"{len(counts) - len(largest):,} others: search for them")
        return {"palette": [*PALETTE[: len(largest)], OTHER], "labels": labels}

    def _received(self, message: dict, buffers: list) -> None:
        match message:
            case {"kind": "select"}:
                self.select(np.frombuffer(buffers[0], np.uint32).astype(int))
            case {"kind": "tip", "row": row}:
                self.send({"kind": "tip", "row": row, "text": self._tip(row)})


def is_numeric(column: pd.Series) -> bool:
    """Say whether a column holds numbers, so it can be a color scale and a histogram."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def value_range(numbers: np.ndarray) -> tuple[float, float]:
    """Return the least and the greatest finite number, 0 and 1 where there is none."""
    finite = numbers[np.isfinite(numbers)]
    return (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
