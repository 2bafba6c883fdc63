"""Ranked lists side by side, with lines between the same documents."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import traitlets

from workbench import ranking
from workbench.widgets._html import cut, from_here
from workbench.widgets._view import Part, model_colors, module

LINES = "Lines join what neighboring lists share: solid it stays or rises, dashed it falls."


class Results(Part):
    """Lists of cards; `on_follow` is called with the key of a card whose arrow was clicked."""

    _esm = module("results")
    _content = traitlets.Dict().tag(sync=True)

    def __init__(self, on_follow: Callable[[int], object] | None = None) -> None:
        self._on_follow, self.columns = on_follow, []
        super().__init__()

    def show(self, columns: Sequence[dict]) -> None:
        """Show lists, each a dict of title, color, facts, times and rows, which are `card`s."""
        self.columns = columns
        ranks = [{row["key"]: n for n, row in enumerate(column["rows"], 1)} for column in columns]
        links = [
            [(rank, right[key]) for key, rank in left.items() if key in right]
            for left, right in pairwise(ranks)
        ]
        follow = self._on_follow is not None
        self.put(_content={"columns": columns, "links": links, "follow": follow})

    def _received(self, message: dict, buffers: list) -> None:
        self._on_follow(message["key"])


def card(
    key: int,
    rank: int,
    cosine: float,
    text: str,
    marks: Sequence[dict] = (),
    name: str = "",
    around: tuple[str, str] = ("", ""),
    file: str | None = None,
) -> dict:
    """Return a card of a list; `around` is what stands before and after the text."""
    texts = {"text": cut(text, 200), "full": cut(text, 5000), "id": cut(name, 60)}
    texts |= {"before": around[0], "after": around[1], "file": from_here(file)}
    number = {"key": key, "rank": rank, "value": float(cosine), "cosine": f"{cosine:.3f}"}
    return number | texts | {"marks": list(marks)}


def mark(before: int | None, rank: int, first: str) -> dict:
    """Return a card's mark: its rank against the one `before`, in the list named `first`."""
    if before is None:
        return {"text": "+ new", "kind": "mark", "title": f"not in the list of {first}"}
    arrow = f"{'↑' if before > rank else '↓'}{abs(before - rank)}" if before != rank else "="
    return {"text": arrow, "kind": "span", "title": f"rank {before} for {first}"}


def neighbor_lists(
    units: Mapping[str, np.ndarray], texts: Sequence, ids: Sequence, row: int, k: int
) -> list:
    """Return each model's k nearest texts of one; `units` are vectors of length 1 by name."""
    colors, columns = model_colors([*units]), []
    first: dict[int, int] = {}  # text to its rank for the reference
    for name, vectors in units.items():
        count = min(k + 1, len(vectors))
        (cosines,), (rows,) = ranking.top_k(vectors[row][None], vectors, count, normalized=True)
        near = [(int(r), c) for r, c in zip(rows, cosines, strict=True) if r != row][:k]
        facts, cards = "nearest by cosine", []
        if columns:
            facts = f"{sum(text in first for text, _ in near)} of {len(near)} shared"
        for rank, (text, cosine) in enumerate(near, 1):
            marks = [mark(first.get(text), rank, columns[0]["title"])] if columns else []
            cards.append(card(text, rank, cosine, texts[text], marks, ids[text]))
        columns.append({"title": name, "color": colors[name], "facts": facts, "rows": cards})
        first = first or {card["key"]: card["rank"] for card in cards}
    return columns
