"""Ranked lists side by side: what two or more models find, with lines between the same documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import traitlets

from workbench import ranking
from workbench.widgets._html import cut
from workbench.widgets._view import Part, model_colors, module

LINES = "Lines join what neighboring lists share: solid it stays or rises, dashed it falls."


class Results(Part):
    """Lists of cards. Texts go onto the page as text; a click on a card shows more of it.

    Args:
        on_follow: called with the key of the card whose arrow was clicked; without it, cards have no arrow.

    Attributes:
        columns: the lists, each with title, color, facts, times and rows of key, rank, cosine, marks, id, text and full.
    """

    _esm = module("results")
    _content = traitlets.Dict().tag(sync=True)

    def __init__(self, on_follow: Callable[[int], object] | None = None) -> None:
        self._on_follow, self.columns = on_follow, []
        super().__init__()

    def show(self, columns: Sequence[dict]) -> None:
        """Show these lists. What two neighboring lists share, by key, is joined by a line."""
        self.columns = [column | {"follow": self._on_follow is not None} for column in columns]
        ranks = [
            {row["key"]: place for place, row in enumerate(column["rows"], 1)} for column in columns
        ]
        links = [
            [(place, b[key]) for key, place in a.items() if key in b] for a, b in pairwise(ranks)
        ]
        self.put(_content={"columns": self.columns, "links": links})

    def _received(self, message: dict, buffers: list) -> None:
        if message.get("kind") == "follow" and self._on_follow:
            self._on_follow(message["key"])


def card(
    key: int, rank: int, cosine: float, text: str, marks: Sequence[dict] = (), name: str = ""
) -> dict:
    """Return a card of a list."""
    return {
        "key": key, "rank": rank, "cosine": f"{cosine:.3f}", "value": float(cosine), "marks": list(marks), "id": cut(name, 60),
        "text": cut(text, 200), "full": cut(text, 5000),
    }  # fmt: skip


def mark(found: int | None, rank: int, first: str) -> dict:
    """Return a card's mark against the first list, in which it has the rank `found` or none."""
    if found is None:
        return {"text": "+ new", "kind": "mark", "title": f"not in the list of {first}"}
    moved = found - rank
    title = f"rank {found} for {first}"
    return {
        "text": f"{'↑' if moved > 0 else '↓'}{abs(moved)}" if moved else "=",
        "kind": "span",
        "title": title,
    }


def neighbor_lists(
    units: Mapping[str, np.ndarray], texts: Sequence[str], row: int, k: int
) -> list[dict]:
    """Return each model's k nearest texts of one as columns of `Results`; `units` are vectors of length 1."""
    columns, first, reference, colors = [], {}, next(iter(units)), model_colors([*units])
    for number, (name, own) in enumerate(units.items()):
        (cosines,), (places,) = ranking.top_k(
            own[row][None], own, min(k + 1, len(own)), normalized=True
        )
        near = [(int(p), float(c)) for p, c in zip(places, cosines, strict=True) if p != row][:k]
        if number == 0:
            first = {place: rank for rank, (place, _) in enumerate(near, 1)}
        rows = [
            card(
                place,
                rank,
                cosine,
                texts[place],
                [mark(first.get(place), rank, reference)] if number else (),
            )
            for rank, (place, cosine) in enumerate(near, 1)
        ]
        shared = sum(place in first for place, _ in near)
        facts = f"{shared} of {len(near)} shared" if number else "nearest by cosine"
        columns.append(
            {"title": name, "color": colors[name], "facts": facts, "times": "", "rows": rows}
        )
    return columns
