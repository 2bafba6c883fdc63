"""One query's results for two or more models, each on both sides or with its query on the first one's documents."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import traitlets

from workbench import evaluate, ranking
from workbench._util import unit, whole
from workbench.cache import TargetCache
from workbench.data import RetrievalDataset, Role, Text, text_problem
from workbench.errors import WorkbenchError
from workbench.failures import CAUSES, failures
from workbench.widgets._html import error_line, hover, html_table, shown
from workbench.widgets._view import Selection, View, model_colors, note, search_box, wrapped
from workbench.widgets.chart import Chart, figure
from workbench.widgets.results import LINES, Results, card, mark
from workbench.widgets.table import Table

_POINTS = 2_000  # with more, points are drawn by WebGL
_MARKS = (
    "Against the first list: ↑ ↓ places gained and lost, = same place, + new. ★ judged relevant, ☆ judged not relevant. "
    "A click opens a card."
)
_MOST_LISTS = 4
_LOOKED_AT = 3_000_000  # failing queries times documents
_SYMBOLS = ("circle", "diamond", "square", "triangle-up")


class RetrievalExplorer(Selection, View):
    """Select or type a query, and see what two or more models find.

    The first model is the reference. Each other model is shown on both sides ("symmetric") and, where its width is the
    reference's, with its query on the reference's documents ("asymmetric").

    Args:
        collection: documents, queries and judgments.
        models: two or more names, each with a model: a pair of vectors, of the queries, float of shape (q, d), and of the
            documents, float of shape (n, d), in the collection's order; or anything that `wb.compare` takes.
        encode: name to a function from a typed query to its vector, float of shape (d,), for models given as vectors.
            Without any, queries cannot be typed.
        k: results to show in each list; n if that is less.
        modes: which lists to show, up to four; names as in `scores`.
        about: a sentence on the collection, shown with the figures.
        answers_first: show the results above the table of queries, where typing is what the reader has come for.

    Attributes:
        selected: positions of the selected queries, of which the first is shown, empty for a typed one; to be set and
            observed, see `select`, which takes ids too.
        query: id of the query that is shown, None for a typed one; to be observed.
        text: text of the query that is shown; to be observed.
        modes: mode to the names of the models that embed the query and the documents: the reference's name, then
            "symmetric" and "asymmetric", or "NAME, symmetric" and so on where there are several other models.
        scores: one row a query (index: its id) with `nDCG@10` of the modes, 0 to 1, and for each but the first its
            difference to the reference, `symmetric_gain` and so on; NaN without judgments.
        results: one row a result of the query shown: mode, rank (1 is best), document_id, cosine and grade (missing
            where it was not judged).
        failures: what `failures.failures` says of the queries that the first other model serves worse than the reference
            with vectors of the same width; empty where there are none, without judgments, or too many to look at.
        times: one row a mode: encode_ms (NaN where the vector was there) and search_ms.

    Raises:
        WorkbenchError: the collection is empty, or a model has not as many vectors as it has texts.
    """

    query = traitlets.Unicode(None, allow_none=True)
    text = traitlets.Unicode()

    def __init__(
        self,
        collection: RetrievalDataset,
        models: Mapping[str, object],
        *,
        encode: Mapping[str, Callable[[str], np.ndarray]] | None = None,
        k: int = 10,
        modes: Sequence[str] | None = None,
        about: str = "",
        answers_first: bool = False,
    ) -> None:
        if not isinstance(collection, RetrievalDataset):
            raise WorkbenchError(
                f"expected a RetrievalDataset, got {type(collection).__name__}: read one with wb.read_dataset, or let "
                "wb.search make one from texts"
            )
        whole(k, "k", 1)
        found = evaluate.same_models(models, collection)
        self._encode = {
            name: lambda text, model=model: evaluate.vectors(model, [Text(text, Role.QUERY)])[0]
            for name, model in found.items()
            if not isinstance(model, tuple)
        } | dict(encode or {})
        if unknown := [name for name in self._encode if name not in found]:
            raise WorkbenchError(
                f"encode has {unknown[0]!r}: its keys are names of models, {', '.join(found)}"
            )
        own = found.keys() - (encode or {}).keys()
        self._caches = {name: found[name] for name in own if isinstance(found[name], TargetCache)}
        vectors = {name: evaluate.vectors(model, collection) for name, model in found.items()}
        self._reference = next(iter(found))
        self.modes = _modes({name: queries.shape[1] for name, (queries, _) in vectors.items()})
        if modes is not None:
            if not modes or (unknown := [mode for mode in modes if mode not in self.modes]):
                missing = f"there is no mode {unknown[0]!r}" if modes else "no mode is chosen"
                raise WorkbenchError(f"{missing}; there are {', '.join(self.modes)}")
            self.modes = {mode: self.modes[mode] for mode in modes}
        self._left_out = [*self.modes][_MOST_LISTS:]
        self.modes = dict([*self.modes.items()][:_MOST_LISTS])
        self._about = about
        self._first, *self._others = self.modes
        self.k = min(int(k), len(collection.corpus))
        self._query_ids, self._document_ids = list(collection.queries), list(collection.corpus)
        self._query_texts, self._document_texts = (
            list(collection.queries.values()),
            list(collection.corpus.values()),
        )
        self._index = pd.Index(self._query_ids, name="query")
        self._qrels = collection.qrels
        self.scores = self._scored(collection, vectors)
        # Once for all searches: a norm of every document costs more than the search does.
        self._queries = {name: unit(queries) for name, (queries, _) in vectors.items()}
        self._documents = {name: unit(documents) for name, (_, documents) in vectors.items()}
        self._lock = threading.RLock()
        self._position: int | None = None
        self.box = search_box("type a query, then Enter", self._typed, "Ask")
        self.box.disabled = not self._encode
        self.find = search_box("words in a query of the collection, then Enter", self._find, "Find")
        for field in (self.box, self.find):
            field.layout = {"flex": "1 1 320px", "max_width": "560px"}
        table = pd.DataFrame({"id": self._query_ids, "query": self._query_texts})
        named = {mode: f"nDCG@10 {mode}" for mode in self.modes}
        named |= {f"{mode}_gain": f"{mode} − {self._first}" for mode in self._others}
        table = table.join(self.scores.rename(columns=named).reset_index(drop=True))
        self.failures = self._failures(collection, vectors)
        if len(self.failures):
            table["why"] = (
                self.failures["cause"].map(CAUSES).reindex(self._query_ids).fillna("").to_numpy()
            )
        self.rows = Table(table, label="queries", page_rows=6, many=False)
        self.chart = self._gains()
        self.status, self.heading, self.lists = note(), ipywidgets.HTML(), Results()
        queries, answers = (
            [self.rows, self.chart],
            [self.heading, self.lists, note(f"{LINES} {_MARKS}")],
        )
        order = [*answers, *queries] if answers_first else [*queries, *answers]
        super().__init__(wrapped(self.box, self.find), self.status, *order)
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
            raise WorkbenchError(
                f"no query can be encoded: give encode={{{self._reference!r}: function, ...}}"
            )
        with self._lock:
            vectors, times = {}, {}
            for side, encode in self._encode.items():
                cache = self._caches.get(
                    side
                )  # what it has kept is not embedded again: no time to be compared
                kept = cache is not None and cache.known(cache.keys([Text(text, Role.QUERY)]))[0]
                start = time.perf_counter()
                try:
                    vector = np.asarray(encode(text))
                except WorkbenchError:
                    raise
                except Exception as error:  # whatever a model of the user's raises
                    raise WorkbenchError(f"{side} could not encode the query: {error}") from error
                times[side] = np.nan if kept else 1000 * (time.perf_counter() - start)
                width = self._documents[side].shape[1]
                if vector.size != width:
                    raise WorkbenchError(
                        f"encode[{side!r}] returned shape {vector.shape}, not ({width},)"
                    )
                vectors[side] = unit(vector.reshape(1, -1), f"{side}'s vector of the query")[0]
            self._show(None, text, vectors, times)

    def summary(self) -> str:
        """Return the means of the modes and the results of the query shown."""
        lists = {
            f"{column['title']}: {column['facts']}".rstrip(": "): [
                " ".join(
                    [
                        row["cosine"],
                        *(mark["text"] for mark in row["marks"]),
                        f"{row['id']}: {row['text']}",
                    ]
                )
                for row in column["rows"]
            ]
            for column in self.lists.columns
            if column["rows"]
        }
        table = html_table(pd.DataFrame({"rank": range(1, self.k + 1), **lists}))
        return f"<p>{self._overall()}</p>{self.heading.value}{table}<p>{_MARKS}</p>"

    def introduction(self) -> str:
        """Return the means of the modes, and which query's results are below."""
        return f"<p>{self._overall()}</p>{self.heading.value}<p>{LINES} {_MARKS}</p>"

    def _gains(self) -> Chart:
        """Draw each query's gains and losses one above the other, in the order of the last mode's."""
        chart = figure(
            height=200,
            x="judged queries, from greatest loss to gain",
            y=f"nDCG@10 − {hover(self._first, 20)}",
        )
        order = list(range(len(self.scores)))
        if self._others:
            last = self.scores[f"{self._others[-1]}_gain"].to_numpy()
            order = np.argsort(last, kind="stable")[
                : np.isfinite(last).sum()
            ].tolist()  # NaN is last
        self._order = order
        for number, mode in enumerate(self._others):
            trace = go.Scattergl if len(order) > _POINTS else go.Scatter
            chart.add_trace(
                trace(
                    x=np.arange(1, len(order) + 1), y=self.scores[f"{mode}_gain"].to_numpy()[order], mode="markers",
                    name=self._title(mode), text=[hover(self._query_texts[place]) for place in order],
                    marker={"color": self._color(mode), "symbol": _SYMBOLS[number % len(_SYMBOLS)], "size": 7},
                    hovertemplate="%{text}<br>%{y:+.3f}<extra></extra>",
                )
            )  # fmt: skip
        return Chart(chart, on_click=lambda _, point: self.select([self._order[point]]))

    def _title(self, mode: str) -> str:
        asks, answers = self.modes[mode]
        return (
            asks if mode == asks else f"{asks}, {'symmetric' if asks == answers else 'asymmetric'}"
        )

    def _color(self, mode: str) -> str:
        return model_colors([*self.modes])[mode]

    def _scored(self, collection: RetrievalDataset, vectors: dict[str, tuple]) -> pd.DataFrame:
        scores = pd.DataFrame(np.nan, index=self._index, columns=list(self.modes))
        if any(identifier in self._qrels for identifier in self._query_ids):
            for mode, (asks, answers) in self.modes.items():
                found = evaluate.score(collection, vectors[asks][0], vectors[answers][1])
                scores[mode] = found["ndcg_at_10"].reindex(self._query_ids)
        for mode in self._others:
            scores[f"{mode}_gain"] = scores[mode] - scores[self._first]
        return scores

    def _failures(self, collection: RetrievalDataset, vectors: dict[str, tuple]) -> pd.DataFrame:
        """Find out why queries fail; a look at one is three searches."""
        self._too_many = False
        own = [
            mode
            for mode, (asks, answers) in self.modes.items()
            if asks == answers != self._reference
        ]
        if not own or self._first != self._reference:
            return pd.DataFrame()
        teacher, student = vectors[self._reference], vectors[self.modes[own[0]][0]]
        failing = (self.scores[f"{own[0]}_gain"] < 0).sum()
        if not failing or teacher[0].shape[1] != student[0].shape[1]:
            return pd.DataFrame()
        self._too_many = bool(failing * len(collection.corpus) > _LOOKED_AT)
        if self._too_many:
            return pd.DataFrame()
        return failures(
            collection, teacher, student, scores=(self.scores[self._first], self.scores[own[0]])
        )

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

    def _show(
        self, position: int | None, text: str, vectors: dict[str, np.ndarray], encode_ms: dict
    ) -> None:
        """Search, and put the results on the page; the caller holds the lock."""
        query_id = None if position is None else self._query_ids[position]
        grades = {} if query_id is None else self._qrels.get(query_id, {})
        found, times, rows = {}, [], []
        for mode, (asks, answers) in self.modes.items():
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
        self.results = pd.DataFrame(
            rows, columns=["mode", "rank", "document_id", "cosine", "grade"]
        )
        self.results["grade"] = self.results["grade"].astype("Int64")
        self._position = position
        if position is None:
            self.selected = ()
        self.rows.selected = self.selected
        if self.box.value not in ("", text):
            self.box.value = ""  # so that the same words can be asked again
        name = "typed" if query_id is None else shown(query_id, 60)
        style, words = (
            "line-height:1.4;overflow-wrap:anywhere",
            f'<b dir="auto">{shown(text, 600)}</b>',
        )
        if query_id in self.failures.index:
            cause = self.failures.loc[query_id]
            words += (
                f" <i>Loses {cause['loss']:.2f} in symmetric search: {CAUSES[cause['cause']]}.</i>"
            )
        self.heading.value = f'<div style="{style}"><code>{name}</code> {words}</div>'
        self.lists.show([self._column(mode, found) for mode in self.modes])
        typing = (
            ""
            if self._encode
            else " Queries cannot be typed: the view was given no <code>encode</code>."
        )
        self.status.value = self._overall() + typing
        self.query, self.text = query_id, text

    def _overall(self) -> str:
        judged = self.scores[self._first].notna().sum()
        means = (
            [f"{shown(self._title(mode))} {self.scores[mode].mean():.3f}" for mode in self.modes]
            if judged
            else ["none"]
        )
        words = f"Mean nDCG@10 of {judged:,} judged queries: {'; '.join(means)}. {len(self._document_ids):,} documents."
        widths = {name: documents.shape[1] for name, documents in self._documents.items()}
        if len(set(widths.values())) > 1:
            each = ", ".join(f"{shown(name)} {width}" for name, width in widths.items())
            words += f" Asymmetric search needs one width, and they differ: {each} dimensions."
        words += f" {shown(self._about)}" * bool(self._about)
        if self._too_many:
            words += " Why queries fail was not looked into, as they and the documents are many: see failures.failures."
        if self._left_out:
            words += f" Not shown: {shown(', '.join(self._left_out))}; choose with modes=[...]."
        return words

    def _column(self, mode: str, found: Mapping[str, Mapping[int, int]]) -> dict:
        """Return a mode's list for `Results`; `found` has document position to rank by mode."""
        column = {
            "title": self._title(mode),
            "color": self._color(mode),
            "facts": "",
            "times": "",
            "rows": [],
        }
        if mode not in found:
            return column | {"facts": "no encoder for this query"}
        here, first, facts = found[mode], found.get(self._first, {}), []
        if self._position is not None and np.isfinite(
            value := self.scores[mode].iloc[self._position]
        ):
            facts.append(f"nDCG@10 {value:.3f}")
        if first and mode != self._first:
            facts.append(f"{len(first.keys() & here.keys())} of {self.k} as in the first list")
        spent = self.times.set_index("mode").loc[mode]
        encoding = "" if np.isnan(spent["encode_ms"]) else f"encode {spent['encode_ms']:.1f} ms, "
        rows = []
        for place, row in zip(
            here, self.results[self.results["mode"] == mode].itertuples(), strict=True
        ):
            marks = (
                [mark(first.get(place), row.rank, self._title(self._first))]
                if first and mode != self._first
                else []
            )
            if not pd.isna(row.grade):
                marks.append(
                    {"text": f"{'★' if row.grade > 0 else '☆'} grade {int(row.grade)}", "kind": "b"}
                )
            rows.append(
                card(
                    place, row.rank, row.cosine, self._document_texts[place], marks, row.document_id
                )
            )
        return column | {
            "facts": " · ".join(facts),
            "times": f"{encoding}search {spent['search_ms']:.1f} ms",
            "rows": rows,
        }


def _modes(widths: Mapping[str, int]) -> dict[str, tuple[str, str]]:
    """Return mode to whose query and whose documents; `widths` are those of the models, the reference's first."""
    first, *others = widths
    modes = {first: (first, first)}
    for name in others:
        before = "" if len(others) == 1 else f"{name}, "
        modes[f"{before}symmetric"] = name, name
        if widths[name] == widths[first]:
            modes[f"{before}asymmetric"] = name, first
    return modes
