"""One query's results for the teacher, the student on both sides and the student on the teacher's documents."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from itertools import pairwise

import anywidget
import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import traitlets

from workbench import evaluate, ranking
from workbench._util import unit
from workbench.data import RetrievalDataset, text_problem
from workbench.errors import WorkbenchError
from workbench.widgets._html import cut, error_line, hover, html_table, shown
from workbench.widgets._view import COLORS, MODES, STATIC, Selection, View, note, search_box, wrapped
from workbench.widgets.chart import figure
from workbench.widgets.table import Table

_SIDES = ("teacher", "student")
_GAINS = ("symmetric", "asymmetric")
_POINTS = 2_000  # with more, points are drawn by WebGL
_LINES = "Lines join the same document: solid it rises or stays, dashed it falls."
_MARKS = (
    "Against the column to the left: ↑ ↓ places gained and lost, = same place, + new; − is not in the column to the "
    "right. ★ judged relevant, ☆ judged not relevant."
)


class Results(anywidget.AnyWidget):
    """Ranked lists side by side, with lines between those that hold the same document.

    Attributes:
        content: `columns`, each with title, color, facts, times and rows, and `links`, for each column but the last pairs
            of ranks in it and in the next. The browser puts all of it on the page as text.
    """

    _esm = STATIC / "results.js"
    _css = STATIC / "results.css"
    content = traitlets.Dict().tag(sync=True)


class RetrievalExplorer(Selection, View):
    """Select or type a query, and see what each of the three ways to search finds.

    The modes are "teacher" (teacher's query, teacher's documents), "symmetric" (student's both) and
    "asymmetric" (student's query, teacher's documents).

    Args:
        collection: documents, queries and judgments.
        teacher: the teacher's vectors of the queries, float of shape (q, d), and of the documents, float of shape
            (n, d), in the collection's order.
        student: the student's, of the same shapes.
        encode: "teacher" and "student" to a function from a typed query to its vector, float of shape (d,). With one of
            them alone, the modes that need the other stay empty; without any, queries cannot be typed.
        k: results to show for each mode; n if that is less.

    Attributes:
        selected: positions of the selected queries, of which the first is shown, empty for a typed one; to be set and
            observed, see `select`, which takes ids too.
        query: id of the query that is shown, None for a typed one; to be observed.
        text: text of the query that is shown; to be observed.
        scores: one row a query (index: its id) with nDCG@10 of the modes, 0 to 1, and `symmetric_gain` and
            `asymmetric_gain`, the difference to the teacher's; NaN without judgments.
        results: one row a result of the query shown: mode, rank (1 is best), document_id, cosine and grade (missing
            where it was not judged).
        times: one row a mode: encode_ms (NaN where the vector was there) and search_ms.

    Raises:
        WorkbenchError: the collection is empty, or the arrays are not vectors of it in one space.
    """

    query = traitlets.Unicode(None, allow_none=True)
    text = traitlets.Unicode()

    def __init__(
        self,
        collection: RetrievalDataset,
        teacher: tuple[np.ndarray, np.ndarray],
        student: tuple[np.ndarray, np.ndarray],
        *,
        encode: Mapping[str, Callable[[str], np.ndarray]] | None = None,
        k: int = 10,
    ) -> None:
        self._encode = dict(encode or {})
        if unknown := [name for name in self._encode if name not in _SIDES]:
            raise WorkbenchError(f'encode has {unknown[0]!r}: its keys are "teacher" and "student"')
        if k < 1:
            raise WorkbenchError(f"k is {k}; at least 1 is needed")
        vectors = _vectors(collection, teacher=teacher, student=student)
        self.k = min(int(k), len(collection.corpus))
        self._query_ids, self._document_ids = list(collection.queries), list(collection.corpus)
        self._query_texts, self._document_texts = list(collection.queries.values()), list(collection.corpus.values())
        self._index = pd.Index(self._query_ids, name="query")
        self._qrels = collection.qrels
        self.scores = self._scored(collection, vectors)
        # Once for all searches: a norm of every document costs more than the search does.
        self._queries = {side: unit(vectors[side][0]) for side in _SIDES}
        self._documents = {side: unit(vectors[side][1]) for side in _SIDES}
        self._lock = threading.RLock()
        self._position: int | None = None
        self.box = search_box("type a query, then Enter", self._typed, "Ask")
        self.box.disabled = not self._encode
        self.find = search_box("words in a query of the collection, then Enter", self._find, "Find")
        for field in (self.box, self.find):
            field.layout = {"flex": "1 1 320px", "max_width": "560px"}
        table = pd.DataFrame({"id": self._query_ids, "query": self._query_texts})
        named = {mode: f"nDCG@10 {mode}" for mode in MODES} | {f"{mode}_gain": f"{mode} − teacher" for mode in _GAINS}
        table = table.join(self.scores.rename(columns=named).reset_index(drop=True))
        self.rows = Table(table, label="queries", page_rows=6, many=False)
        self.chart = self._gains()
        self.status, self.heading, self.lists = note(), ipywidgets.HTML(), Results()
        super().__init__(
            wrapped(self.box, self.find),
            self.status, self.rows, self.chart, self.heading, self.lists, note(f"{_LINES} {_MARKS}"),
        )  # fmt: skip
        self.rows.observe(lambda change: self.select(change["new"]), "selected")
        self.observe(lambda _: self._selection_changed(), "selected")
        self.select(0)

    def select(self, rows: object = ()) -> None:
        """Show a query of the collection, by its id or its position."""
        with self._lock:
            super().select(rows)

    def ask(self, text: str) -> None:
        """Encode a text and show what it finds.

        Raises:
            WorkbenchError: the text is empty or unusable, or there is no way to encode it.
        """
        if problem := text_problem(text):
            raise WorkbenchError(f"the query {problem}")
        if not text.strip():
            raise WorkbenchError("the query is empty: type some words")
        if not self._encode:
            raise WorkbenchError('no query can be encoded: give encode={"teacher": function, "student": function}')
        with self._lock:
            vectors, times = {}, {}
            for side, encode in self._encode.items():
                start = time.perf_counter()
                try:
                    vector = np.asarray(encode(text))
                except WorkbenchError:
                    raise
                except Exception as error:  # whatever a model of the user's raises
                    raise WorkbenchError(f"the {side} could not encode the query: {error}") from error
                times[side] = 1000 * (time.perf_counter() - start)
                width = self._documents[side].shape[1]
                if vector.size != width:
                    raise WorkbenchError(f"encode[{side!r}] returned shape {vector.shape}, not ({width},)")
                vectors[side] = unit(vector.reshape(1, -1), f"the {side}'s vector of the query")[0]
            self._show(None, text, vectors, times)

    def summary(self) -> str:
        """Return the means of the modes and the results of the query shown."""
        lists = {
            f"{column['title']}: {column['facts']}".rstrip(": "): [
                " ".join([row["cosine"], *(mark["text"] for mark in row["marks"]), f"{row['id']}: {row['text']}"])
                for row in column["rows"]
            ]
            for column in self.lists.content["columns"]
            if column["rows"]
        }
        table = html_table(pd.DataFrame({"rank": range(1, self.k + 1), **lists}))
        return f"<p>{self._overall()}</p>{self.heading.value}{table}<p>{_MARKS}</p>"

    def figures(self) -> list[go.Figure]:
        """Return the gains and losses of all judged queries."""
        return [self.chart]

    def _gains(self) -> go.FigureWidget:
        chart = figure(height=240, x="judged queries, each mode from greatest loss to gain", y="nDCG@10 − teacher's")
        for mode, symbol in zip(_GAINS, ("circle", "diamond"), strict=True):
            gains = self.scores[f"{mode}_gain"].to_numpy()
            order = np.argsort(gains, kind="stable")[: np.isfinite(gains).sum()]  # NaN is last
            trace = go.Scattergl if len(order) > _POINTS else go.Scatter
            chart.add_trace(
                trace(
                    x=np.arange(1, len(order) + 1), y=gains[order], mode="markers", name=evaluate.LABELS[mode],
                    marker={"color": COLORS[mode], "symbol": symbol, "size": 7},
                    text=[hover(self._query_texts[place]) for place in order],
                    hovertemplate="%{text}<br>%{y:+.3f}<extra></extra>",
                )
            )  # fmt: skip
            chart.data[-1].on_click(
                lambda _, hit, __, order=order: hit.point_inds and self.select(order[hit.point_inds[:1]])
            )
        return chart

    def _scored(self, collection: RetrievalDataset, vectors: dict[str, tuple]) -> pd.DataFrame:
        scores = pd.DataFrame(np.nan, index=self._index, columns=list(MODES))
        if any(identifier in self._qrels for identifier in self._query_ids):
            for mode, (asks, answers) in MODES.items():
                found = evaluate.score(collection, vectors[asks][0], vectors[answers][1])
                scores[mode] = found["ndcg_at_10"].reindex(self._query_ids)
        for mode in _GAINS:
            scores[f"{mode}_gain"] = scores[mode] - scores["teacher"]
        return scores

    def _typed(self, text: str) -> None:
        try:
            if text:
                self.ask(text)
        except WorkbenchError as error:
            self.status.value = error_line(error)

    def _find(self, words: str) -> None:
        words = words.strip().lower()
        here = [place for place, text in enumerate(self._query_texts) if words in text.lower()]
        self.rows.filter(here if words else None)

    def _selection_changed(self) -> None:
        with self._lock:
            if not self.selected or self.selected[0] == self._position:
                return
            position = self.selected[0]
            vectors = {side: queries[position] for side, queries in self._queries.items()}
            self._show(position, self._query_texts[position], vectors, {})

    def _show(self, position: int | None, text: str, vectors: dict[str, np.ndarray], encode_ms: dict) -> None:
        """Search, and put the results on the page; the caller holds the lock."""
        query_id = None if position is None else self._query_ids[position]
        grades = {} if query_id is None else self._qrels.get(query_id, {})
        found, times, rows = {}, [], []
        for mode, (asks, answers) in MODES.items():
            if asks not in vectors:
                continue
            start = time.perf_counter()
            asked, documents = vectors[asks][None], self._documents[answers]
            (cosines,), (positions,) = ranking.top_k(asked, documents, self.k, normalized=True)
            times.append((mode, encode_ms.get(asks, np.nan), 1000 * (time.perf_counter() - start)))
            found[mode] = {place: rank for rank, place in enumerate(positions.tolist(), 1)}
            for (place, rank), cosine in zip(found[mode].items(), cosines.tolist(), strict=True):
                identifier = self._document_ids[place]
                rows.append((mode, rank, identifier, cosine, grades.get(identifier)))
        self.times = pd.DataFrame(times, columns=["mode", "encode_ms", "search_ms"])
        self.results = pd.DataFrame(rows, columns=["mode", "rank", "document_id", "cosine", "grade"])
        self.results["grade"] = self.results["grade"].astype("Int64")
        self._position = position
        if position is None:
            self.selected = ()
        self.rows.selected = self.selected
        if self.box.value not in ("", text):
            self.box.value = ""  # so that the same words can be asked again
        name = "typed" if query_id is None else shown(query_id, 60)
        style, words = "line-height:1.4;overflow-wrap:anywhere", f'<b dir="auto">{shown(text, 600)}</b>'
        self.heading.value = f'<div style="{style}"><code>{name}</code> {words}</div>'
        self.lists.content = self._content(found)
        typing = "" if self._encode else " Queries cannot be typed: the view was given no <code>encode</code>."
        self.status.value = self._overall() + typing
        self.query, self.text = query_id, text

    def _overall(self) -> str:
        judged = self.scores["teacher"].notna().sum()
        means = [f"{evaluate.LABELS[mode]} {self.scores[mode].mean():.3f}" for mode in MODES] if judged else ["none"]
        words = f"Mean nDCG@10 of {judged:,} judged queries: {'; '.join(means)}."
        return f"{words} {len(self._document_ids):,} documents."

    def _content(self, found: Mapping[str, Mapping[int, int]]) -> dict:
        """Return what `Results` shows; `found` has document position to rank by mode."""
        lists = [None, *(found.get(mode) for mode in MODES), None]
        columns = [
            {"title": evaluate.LABELS[mode], "color": COLORS[mode]} | self._column(mode, found, left, right)
            for left, mode, right in zip(lists, MODES, lists[2:], strict=False)
        ]
        links = [
            [[rank, right[place]] for place, rank in left.items() if place in right]
            for left, right in pairwise(found.get(mode, {}) for mode in MODES)
        ]
        return {"columns": columns, "links": links}

    def _column(self, mode: str, found: Mapping[str, Mapping], left: Mapping | None, right: Mapping | None) -> dict:
        if mode not in found:
            return {"facts": "no encoder for this query", "times": "", "rows": []}
        here, facts, rows = found[mode], [], []
        if self._position is not None and np.isfinite(value := self.scores[mode].iloc[self._position]):
            facts.append(f"nDCG@10 {value:.3f}")
        if "teacher" in found and mode != "teacher":
            facts.append(f"{len(found['teacher'].keys() & here.keys())} of the teacher's {self.k}")
        spent = self.times.set_index("mode").loc[mode]
        encoding = "" if np.isnan(spent["encode_ms"]) else f"encode {spent['encode_ms']:.1f} ms, "
        for place, row in zip(here, self.results[self.results["mode"] == mode].itertuples(), strict=True):
            identifier, text = cut(row.document_id, 60), self._document_texts[place]
            rows.append(
                {
                    "rank": row.rank, "cosine": f"{row.cosine:.3f}", "marks": _marks(place, row, left, right),
                    "id": identifier, "text": cut(text, 200), "title": f"{identifier}: {cut(text, 800)}",
                }
            )  # fmt: skip
        return {"facts": " · ".join(facts), "times": f"{encoding}search {spent['search_ms']:.1f} ms", "rows": rows}


def _marks(place: int, row: tuple, left: Mapping | None, right: Mapping | None) -> list[dict]:
    """Return the marks of a result: its move from the column to the left, its loss to the right, its grade."""
    marks = []
    if left is not None and place not in left:
        marks.append({"text": "+ new", "kind": "mark", "title": "new: not in the column to the left"})
    elif left is not None:
        moved = left[place] - row.rank
        marks.append({"text": f"{'↑' if moved > 0 else '↓'}{abs(moved)}" if moved else "=", "kind": "span"})
    if right is not None and place not in right:
        marks.append({"text": "− lost", "kind": "mark", "title": "not in the column to the right"})
    if not pd.isna(row.grade):
        marks.append({"text": f"{'★' if row.grade > 0 else '☆'} grade {int(row.grade)}", "kind": "b"})
    return marks


def _vectors(collection: RetrievalDataset, **sides: tuple) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return float32 vectors (queries, documents) of both sides, or say why they do not fit the collection."""
    found = {}
    for side, pair in sides.items():
        try:
            found[side] = evaluate.vectors(tuple(pair), collection)
        except WorkbenchError as error:
            raise WorkbenchError(f"{side}: {error}") from None
    widths = {side: queries.shape[1] for side, (queries, _) in found.items()}
    if len(set(widths.values())) > 1:
        each = ", ".join(f"{side} {width}" for side, width in widths.items())
        raise WorkbenchError(f"the widths differ ({each}): asymmetric search needs one space, so one width")
    return found
