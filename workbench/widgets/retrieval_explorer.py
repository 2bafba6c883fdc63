"""One query's results for the teacher, the student on both sides and the student on the teacher's documents."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable, Mapping

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import traitlets

from workbench import evaluate, ranking
from workbench._util import checked, unit
from workbench.data import RetrievalDataset, text_problem
from workbench.errors import WorkbenchError
from workbench.widgets._view import COLORS, View, figure, hover, note, shown
from workbench.widgets.table import Table

# Mode: whose query vector, whose document vectors, what the page calls it.
_MODES = {
    "teacher": ("teacher", "teacher", "teacher"),
    "student": ("student", "student", "student, symmetric"),
    "asymmetric": ("student", "teacher", "student, asymmetric"),
}
_SIDES = ("teacher", "student")
_HEAD, _ROW, _GAP = 66, 76, 44  # pixels; the lines between the columns need rows of one height
_POINTS = 2_000  # with more, points are drawn by WebGL

_STYLE = f"""<style>
.retrieval {{ display: grid; grid-template-columns: minmax(0, 1fr) {_GAP}px minmax(0, 1fr) {_GAP}px minmax(0, 1fr);
  direction: ltr; line-height: 1.3; font-size: 12px; }}
.retrieval header {{ height: {_HEAD}px; overflow: hidden; }}
.retrieval ol {{ list-style: none; margin: 0; padding: 0; }}
.retrieval li {{ height: {_ROW - 6}px; margin: 0 0 6px; padding: 3px 6px; box-sizing: border-box; overflow: hidden;
  border: 1px solid var(--line, #8886); border-radius: 3px; }}
.retrieval li > div {{ overflow: hidden; }}
.retrieval .facts {{ white-space: nowrap; text-overflow: ellipsis; font-variant-numeric: tabular-nums; }}
.retrieval .text {{ overflow-wrap: anywhere; display: -webkit-box; -webkit-box-orient: vertical;
  -webkit-line-clamp: 3; }}
.retrieval svg {{ margin-top: {_HEAD}px; }}
</style>"""
_LEGEND = (
    "Lines join the same document: solid it rises or stays, dashed it falls. Against the column to the left: "
    "↑ ↓ places gained and lost, = same place, + new; − is not in the column to the right. ★ judged relevant, "
    "☆ judged not relevant."
)


class RetrievalExplorer(View):
    """Pick or type a query, and see what each of the three ways to search finds.

    The modes are "teacher" (teacher's query, teacher's documents), "student" (student's both) and
    "asymmetric" (student's query, teacher's documents).

    Args:
        collection: documents, queries and judgments.
        teacher: the teacher's vectors of the queries, float of shape (q, d), and of the documents,
            float of shape (n, d), in the collection's order.
        student: the student's, of the same shapes.
        encode: "teacher" and "student" to a function from a typed query to its vector, float of
            shape (d,). With one of them alone, the modes that need the other stay empty; without
            any, queries cannot be typed. The view loads no model itself.
        k: results to show for each mode; n if that is less.

    Attributes:
        query: id of the query that is shown, None for a typed one; to be observed.
        text: text of the query that is shown; to be observed.
        scores: one row a query (index: its id) with nDCG@10 of the modes, 0 to 1, and
            `student_gain` and `asymmetric_gain`, the difference to the teacher's; NaN without judgments.
        results: one row a result of the query shown: mode, rank (1 is best), document_id, cosine
            and grade (missing where it was not judged).
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
        vectors = _vectors(collection, teacher, student)
        self.k = min(int(k), len(collection.corpus))
        self._query_ids, self._document_ids = list(collection.queries), list(collection.corpus)
        self._query_texts, self._document_texts = list(collection.queries.values()), list(collection.corpus.values())
        self._place = {identifier: place for place, identifier in enumerate(self._query_ids)}
        self._qrels = collection.qrels
        self.scores = self._scored(vectors)
        # Once for all searches: a norm of every document costs more than the search does.
        self._queries = {side: unit(vectors[side][0]) for side in _SIDES}
        self._documents = {side: unit(vectors[side][1]) for side in _SIDES}
        self._lock = threading.RLock()
        self._position: int | None = None
        self._build()
        self._open(0)

    # --- what code can do ---

    def open(self, query_id: str | None = None) -> None:
        """Show a query of the collection by its id; an unknown one raises WorkbenchError."""
        if query_id is None:  # ipywidgets' own method of this name, which connects the widget to its page
            super().open()
            return
        if query_id not in self._place:
            raise WorkbenchError(
                f"the collection has no query {query_id!r}; its {len(self._place):,} ids are like {self._query_ids[0]!r}"
            )
        self._open(self._place[query_id])

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

    def close(self) -> None:
        """Free the figure and the table too."""
        for part in self.children:  # none where the arguments were refused
            part.close()
        super().close()

    def summary(self) -> str:
        """Return the means of the modes and the results of the query shown."""
        return f"<p>{self._overall()}</p>{self.heading.value}{self.lists.value}<p>{_LEGEND}</p>"

    def figures(self) -> list[go.Figure]:
        """Return the gains and losses of all judged queries."""
        return [self.chart]

    # --- parts ---

    def _build(self) -> None:
        self.box = ipywidgets.Text(
            description="Ask",
            placeholder="type a query, then Enter",
            disabled=not self._encode,
            continuous_update=False,
        )
        self.find = ipywidgets.Text(
            description="Find", placeholder="words in a query of the collection, then Enter", continuous_update=False
        )
        for field in (self.box, self.find):
            field.layout = {"flex": "1 1 320px", "max_width": "560px"}
        table = pd.DataFrame({"id": self._query_ids, "query": self._query_texts})
        for mode in _MODES:
            table[f"nDCG@10 {mode}"] = self.scores[mode].to_numpy()
        for mode in ("student", "asymmetric"):
            table[f"{mode} − teacher"] = self.scores[f"{mode}_gain"].to_numpy()
        self.rows = Table(table, label="queries", page_rows=6, many=False)
        self.chart = self._gains()
        self.status, self.heading, self.lists = note(), ipywidgets.HTML(), ipywidgets.HTML()
        super().__init__(
            ipywidgets.HBox([self.box, self.find], layout={"flex_flow": "row wrap"}),
            self.status, self.rows, self.chart, self.heading, self.lists, note(_LEGEND),
        )  # fmt: skip
        self.box.observe(lambda change: self._typed(change["new"]), "value")
        self.find.observe(lambda change: self._find(change["new"]), "value")
        self.rows.observe(lambda change: change["new"] and self._open(change["new"][0]), "selected")

    def _gains(self) -> go.FigureWidget:
        chart = figure(
            height=240,
            x="judged queries, each mode from its greatest loss to its greatest gain",
            y="nDCG@10 − teacher's",
        )
        for mode, symbol in (("student", "circle"), ("asymmetric", "diamond")):
            gains = self.scores[f"{mode}_gain"].to_numpy()
            order = np.argsort(gains, kind="stable")  # NaN last
            order = order[: np.isfinite(gains).sum()]
            trace = go.Scattergl if len(order) > _POINTS else go.Scatter
            chart.add_trace(
                trace(
                    x=np.arange(1, len(order) + 1), y=gains[order], mode="markers", name=_MODES[mode][2],
                    marker={"color": COLORS[mode], "symbol": symbol, "size": 7},
                    text=[hover(self._query_texts[place]) for place in order],
                    hovertemplate="%{text}<br>%{y:+.3f}<extra></extra>",
                )
            )  # fmt: skip
            chart.data[-1].on_click(
                lambda _, hit, __, order=order: hit.point_inds and self._open(int(order[hit.point_inds[0]]))
            )
        return chart

    def _scored(self, vectors: dict[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
        scores = pd.DataFrame(np.nan, index=pd.Index(self._query_ids, name="query"), columns=list(_MODES))
        if any(identifier in self._qrels for identifier in self._query_ids):
            for mode, (asks, answers, _) in _MODES.items():
                found = evaluate.score(
                    self._qrels, self._query_ids, self._document_ids, vectors[asks][0], vectors[answers][1]
                )
                scores[mode] = found["ndcg_at_10"].reindex(self._query_ids)
        for mode in ("student", "asymmetric"):
            scores[f"{mode}_gain"] = scores[mode] - scores["teacher"]
        return scores

    # --- what happens ---

    def _typed(self, text: str) -> None:
        if not text:
            return
        try:
            self.ask(text)
        except WorkbenchError as error:
            self.status.value = f'<span class="error">{shown(error)}</span>'

    def _find(self, words: str) -> None:
        words = words.strip().lower()
        here = [place for place, text in enumerate(self._query_texts) if words in text.lower()]
        self.rows.only(here if words else None)

    def _open(self, position: int) -> None:
        with self._lock:
            if position == self._position:
                return
            vectors = {side: queries[position] for side, queries in self._queries.items()}
            self._show(position, self._query_texts[position], vectors, {})

    def _show(self, position: int | None, text: str, vectors: dict[str, np.ndarray], encode_ms: dict) -> None:
        """Search, and put the results on the page; the caller holds the lock."""
        query_id = None if position is None else self._query_ids[position]
        grades = {} if query_id is None else self._qrels.get(query_id, {})
        found, times, rows = {}, [], []
        for mode, (asks, answers, _) in _MODES.items():
            if asks not in vectors:
                continue
            start = time.perf_counter()
            cosines, positions = (
                part[0] for part in ranking.top_k_unit(vectors[asks][None], self._documents[answers], self.k)
            )
            times.append((mode, encode_ms.get(asks, np.nan), 1000 * (time.perf_counter() - start)))
            found[mode] = {int(place): rank for rank, place in enumerate(positions, 1)}
            for place, cosine in zip(positions, cosines, strict=True):
                identifier = self._document_ids[place]
                rows.append((mode, found[mode][int(place)], identifier, float(cosine), grades.get(identifier)))
        self.times = pd.DataFrame(times, columns=["mode", "encode_ms", "search_ms"])
        self.results = pd.DataFrame(rows, columns=["mode", "rank", "document_id", "cosine", "grade"])
        self.results["grade"] = self.results["grade"].astype("Int64")
        self._position = position
        self.rows.selected = () if position is None else (position,)
        if self.box.value not in ("", text):
            self.box.value = ""  # so that the same words can be asked again
        name = "typed" if query_id is None else shown(query_id, 60)
        self.heading.value = f'<div style="line-height:1.4;overflow-wrap:anywhere"><code>{name}</code> <b dir="auto">{shown(text, 600)}</b></div>'
        self.lists.value = self._columns(found)
        typing = "" if self._encode else " Queries cannot be typed: the view was given no <code>encode</code>."
        self.status.value = self._overall() + typing
        self.query, self.text = query_id, text

    # --- words and lines ---

    def _overall(self) -> str:
        judged = self.scores["teacher"].notna().sum()
        means = "; ".join(f"{_MODES[mode][2]} {self.scores[mode].mean():.3f}" for mode in _MODES) if judged else "none"
        return f"Mean nDCG@10 of {judged:,} judged queries: {means}. {len(self._document_ids):,} documents."

    def _columns(self, found: dict[str, dict[int, int]]) -> str:
        modes = list(_MODES)
        parts = []
        for left, mode, right in zip([None, *modes], modes, [*modes[1:], None], strict=False):
            if left is not None:
                parts.append(_lines(found.get(left, {}), found.get(mode, {}), self.k))
            parts.append(self._column(mode, found.get(left), found.get(mode), found.get(right), found.get("teacher")))
        return f'{_STYLE}<div class="retrieval">{"".join(parts)}</div>'

    def _column(self, mode: str, left: dict | None, here: dict | None, right: dict | None, teacher: dict | None) -> str:
        title = f'<b style="display:inline-block;border-bottom:3px solid {COLORS[mode]}">{_MODES[mode][2]}</b>'
        if here is None:
            return f"<section><header>{title}<br>no encoder for this query</header></section>"
        facts = []
        if self._position is not None and np.isfinite(value := self.scores[mode].iloc[self._position]):
            facts.append(f"nDCG@10 {value:.3f}")
        if teacher and mode != "teacher":
            facts.append(f"{len(teacher.keys() & here.keys())} of the teacher's {len(teacher)}")
        spent = self.times.set_index("mode").loc[mode]
        encoding = "" if np.isnan(spent["encode_ms"]) else f"encode {spent['encode_ms']:.1f} ms, "
        rows = self.results[self.results["mode"] == mode]
        items = "".join(self._item(place, row, left, right) for place, row in zip(here, rows.itertuples(), strict=True))
        return (
            f'<section aria-label="{_MODES[mode][2]}"><header>{title}<br>{" · ".join(facts)}<br>'
            f"{encoding}search {spent['search_ms']:.1f} ms</header><ol>{items}</ol></section>"
        )

    def _item(self, place: int, row: tuple, left: dict | None, right: dict | None) -> str:
        marks = []
        if left is not None:
            if place not in left:
                marks.append('<mark title="new: not in the column to the left">+ new</mark>')
            else:
                moved = left[place] - row.rank
                marks.append(f"{'↑' if moved > 0 else '↓'}{abs(moved)}" if moved else "=")
        if right is not None and place not in right:
            marks.append('<mark title="not in the column to the right">− lost</mark>')
        if not pd.isna(row.grade):
            marks.append(f"<b>{'★' if row.grade > 0 else '☆'} grade {int(row.grade)}</b>")
        text, identifier = self._document_texts[place], html.escape(str(row.document_id))
        return (
            f'<li title="{identifier}: {shown(text, 800)}"><div class="facts"><b>{row.rank}</b> {row.cosine:.3f} '
            f"{' '.join(marks)} <code>{shown(row.document_id, 60)}</code></div>"
            f'<div class="text" dir="auto">{shown(text, 200)}</div></li>'
        )


def _vectors(collection: RetrievalDataset, teacher: tuple, student: tuple) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return float32 vectors (queries, documents) of both sides, or say why they do not fit the collection."""
    for what, there in (("queries", collection.queries), ("documents", collection.corpus)):
        if not there:
            raise WorkbenchError(f"collection {collection.name!r} has no {what}: there is nothing to explore")
    counts = {"queries": len(collection.queries), "documents": len(collection.corpus)}
    arrays = {}
    for side, pair in (("teacher", teacher), ("student", student)):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise WorkbenchError(f"{side}: a pair (query vectors, document vectors) is needed")
        arrays[side] = tuple(map(np.asarray, pair))
        for (what, count), array in zip(counts.items(), arrays[side], strict=True):
            if array.ndim != 2 or len(array) != count:
                raise WorkbenchError(
                    f"{side}, {what}: shape {array.shape}; the collection has {count:,} {what}, so ({count:,}, d) is "
                    "needed, in the collection's order"
                )
    widths = {f"{side} {what}": v.shape[1] for side in _SIDES for what, v in zip(counts, arrays[side], strict=True)}
    if len(set(widths.values())) > 1:
        each = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise WorkbenchError(f"the widths differ ({each}): asymmetric search needs one space, so one width")
    return {
        side: tuple(checked(v, f"{side}, {what}") for what, v in zip(counts, arrays[side], strict=True))
        for side in _SIDES
    }


def _lines(left: dict[int, int], right: dict[int, int], k: int) -> str:
    """Return a drawing of curves between the rows of the documents that two columns share."""
    curves = []
    for place, rank in left.items():
        if place not in right:
            continue
        start, end = (_ROW * (r - 0.5) - 3 for r in (rank, right[place]))
        moved = rank - right[place]
        color = COLORS["asymmetric"] if moved > 0 else COLORS["teacher"] if moved < 0 else "currentColor"
        dashes = ' stroke-dasharray="5 4"' if moved < 0 else ""
        curves.append(
            f'<path d="M0 {start:.0f} C{_GAP / 2:.0f} {start:.0f} {_GAP / 2:.0f} {end:.0f} {_GAP} {end:.0f}" fill="none" '
            f'stroke="{color}" stroke-width="2"{dashes}/>'
        )
    return (
        f'<svg width="{_GAP}" height="{_ROW * k}" role="img" aria-label="{len(curves)} documents in both columns">'
        f"{''.join(curves)}</svg>"
    )
