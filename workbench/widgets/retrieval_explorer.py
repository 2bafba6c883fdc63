"""One query's results for two or more models side by side."""

import threading
import time
from collections.abc import Callable, Mapping

import ipywidgets
import numpy as np
import pandas as pd
import traitlets

from workbench import evaluate, ranking
from workbench._util import unit, whole_number
from workbench.cache import TargetCache
from workbench.data import RetrievalDataset, Role, Text
from workbench.widgets._html import error_line, hover, shown
from workbench.widgets._view import MODES, Selection, View, model_colors, note, search_box
from workbench.widgets.chart import Chart, figure
from workbench.widgets.results import LINES, Results, card, mark
from workbench.widgets.table import Table

_LEGEND = f"{LINES} Against the first list: ↑ ↓ moved, = same place, + new. ★ judged relevant."
AROUND = 600  # letters that are shown before and after a passage
_MOST_COMPARISONS = 3_000_000  # failing queries times documents; each is searched three times


class RetrievalExplorer(Selection, View):
    """Select or type a query, and see what two or more models find.

    Each model but the first, the reference, is shown on both sides ("symmetric") and, if it is as
    wide, with its query on the reference's documents ("asymmetric"); four lists at most.

    Args:
        models: two or more by name: pairs of vectors of queries and documents, float of shape
            (q, d) and (n, d), or anything that `wb.compare` takes.
        encode: for models given as vectors, name to what embeds a typed query, float of shape (d,).
        about: a sentence on the collection, shown with the figures.

    Attributes:
        query: id of the query shown, None for a typed one; to be observed.
        modes: the reference's name, "symmetric" and "asymmetric" ("NAME, symmetric" of several
            models) to the models that embed the query and the documents.
        scores: one row a query (index: its id) with `nDCG@10` of each mode and, for each but the
            first, its difference to the reference (`symmetric_gain`); NaN if not judged.
        results: one row a result shown: mode, rank (1 is best), document_id, cosine, grade.
        failures: `evaluate.failures` of the first two models, if these are few.
    """

    query = traitlets.Unicode(None, allow_none=True)

    def __init__(
        self,
        collection: RetrievalDataset,
        models: Mapping[str, object],
        *,
        encode: Mapping[str, Callable[[str], np.ndarray]] | None = None,
        k: int = 10,
        about: str = "",
    ) -> None:
        self.k = min(whole_number(k, "k"), len(collection.corpus))
        models = evaluate.same_models(models, collection)
        self._encode = {
            name: _encoder(model) for name, model in models.items() if not isinstance(model, tuple)
        } | dict(encode or {})
        vectors = {name: evaluate.vectors(model, collection) for name, model in models.items()}
        self.modes = _modes({name: queries.shape[1] for name, (queries, _) in vectors.items()})
        self._first, *self._others = self.modes
        self._colors = model_colors(list(self.modes))
        self._titles = {
            mode: f"{asking}, {mode}" if mode in MODES and mode != asking else mode
            for mode, (asking, _) in self.modes.items()
        }
        self._query_texts = list(collection.queries.values())
        self._documents = list(collection.corpus.items())
        self._collection = collection
        self._index = pd.Index(collection.queries, name="query")
        self._qrels = collection.qrels
        self.scores = self._score(collection, vectors)
        self.failures = self._explain_failures(collection, vectors)
        # Once for all searches: the norm of every document takes longer than a search.
        self._units = {name: tuple(map(unit, pair)) for name, pair in vectors.items()}
        self._lock = threading.RLock()  # callbacks may come on several threads
        self._row: int | None = None  # of the query shown
        typing = "type a query, then Enter" if self._encode else "needs encode={name: function}"
        self.box = search_box(typing, self.ask, "Ask")
        self.box.disabled = not self._encode
        self.box.layout = {"width": "100%", "max_width": "560px"}
        self.rows = Table(self._query_table(), label="queries", page_rows=6, many=False)
        self.chart = self._gain_chart()
        judged = self.scores[self._first].count()
        means = [f"{shown(title)} {self.scores[m].mean():.3f}" for m, title in self._titles.items()]
        self._overview = (
            f"Mean nDCG@10 of {judged:,} judged queries: {'; '.join(means) if judged else 'none'}. "
            f"{len(self._documents):,} documents. {shown(about)}"
        )
        self.status, self.heading, self.lists = note(), ipywidgets.HTML(), Results()
        answers = self.heading, self.lists, note(_LEGEND)
        super().__init__(self.box, self.status, *answers, self.rows, self.chart)
        self.rows.observe(lambda change: self.select(change["new"]), "selected")
        self.observe(lambda _: self._show_selected(), "selected")
        self.select(0)

    def ask(self, text: str) -> None:
        """Encode a text and show what it finds; an error is shown below the field."""
        if not text.strip():
            return
        with self._lock:
            vectors, encode_ms = {}, {}
            for name, encode in self._encode.items():
                start = time.perf_counter()
                try:
                    width = self._units[name][1].shape[1]
                    vectors[name] = unit(np.asarray(encode(text)).reshape(1, width))
                except Exception as error:  # whatever a model or a function raises
                    self.status.value = error_line(error, f"{shown(name)} cannot encode it: ")
                    return
                encode_ms[name] = 1000 * (time.perf_counter() - start)
            self._show(None, text, vectors, encode_ms)

    def summary(self) -> str:
        """Return what is shown, as HTML."""
        return f"<p>{self._overview}</p>{self.heading.value}<p>{_LEGEND}</p>"

    def _passage(
        self, document: int, vectors: np.ndarray, query: np.ndarray
    ) -> tuple[str, tuple[str, str]]:
        """Return the best passage of a document, and what stands before and after it."""
        text, passages = self._documents[document][1], self._collection.passages
        if passages is None:
            return text, ("", "")
        rows = np.flatnonzero(passages.documents == document)
        start, end = passages.spans[rows[(vectors[rows] @ query).argmax()]]
        before = f"… {text[start - AROUND : start]}" if start > AROUND else text[:start]
        after = f"{text[end : end + AROUND]} …" if len(text) > end + AROUND else text[end:]
        return text[start:end], (before, after)

    def _score(self, collection: RetrievalDataset, vectors: Mapping[str, tuple]) -> pd.DataFrame:
        scores = pd.DataFrame(np.nan, index=self._index, columns=list(self.modes))
        if any(query in self._qrels for query in self._index):
            for mode, (asking, answering) in self.modes.items():
                queries, documents = vectors[asking][0], vectors[answering][1]
                scores[mode] = evaluate.score(collection, queries, documents)["ndcg_at_10"]
        for mode in self._others:
            scores[f"{mode}_gain"] = scores[mode] - scores[self._first]
        return scores

    def _explain_failures(self, collection: RetrievalDataset, vectors: dict) -> pd.DataFrame:
        pairs = [vectors[self.modes[mode][0]] for mode in (self._first, self._others[0])]
        scores = self.scores[self._first], self.scores[self._others[0]]
        one_width = pairs[0][0].shape[1] == pairs[1][0].shape[1]
        comparisons = (scores[1] < scores[0]).sum() * len(collection.corpus)
        if one_width and 0 < comparisons <= _MOST_COMPARISONS:
            return evaluate.failures(collection, *pairs, scores=scores)
        return pd.DataFrame()

    def _query_table(self) -> pd.DataFrame:
        names = {mode: f"nDCG@10 {mode}" for mode in self.modes}
        names |= {f"{mode}_gain": f"{mode} − {self._first}" for mode in self._others}
        table = self.scores.rename(columns=names)
        table.insert(0, "query", self._query_texts)
        if len(self.failures):
            table["why"] = self.failures["cause"].map(evaluate.CAUSES)
        return table.rename_axis("id").reset_index()

    def _gain_chart(self) -> Chart:
        """Draw each query's gains one above the other, in the order of the last mode's."""
        y = f"nDCG@10 − {hover(self._first, 20)}"
        chart = figure(height=200, x="judged queries, from greatest loss to gain", y=y)
        judged = self.scores[f"{self._others[-1]}_gain"].reset_index(drop=True).dropna()
        order = judged.sort_values(kind="stable").index.to_numpy()
        for mode in self._others:
            chart.add_scatter(
                x=np.arange(1, len(order) + 1),
                y=self.scores[f"{mode}_gain"].to_numpy()[order],
                mode="markers",
                name=hover(self._titles[mode], 60),
                text=[hover(self._query_texts[row]) for row in order],
                marker={"color": self._colors[mode], "size": 7},
                hovertemplate="%{text}<br>%{y:+.3f}<extra></extra>",
            )
        return Chart(chart, on_click=lambda _, point: self.select(order[point]))

    def _show_selected(self) -> None:
        with self._lock:
            if self.selected and self.selected[0] != self._row:
                row = self.selected[0]
                vectors = {name: queries[[row]] for name, (queries, _) in self._units.items()}
                self._show(row, self._query_texts[row], vectors, {})

    def _show(self, row: int | None, text: str, vectors: dict, encode_ms: dict) -> None:
        """Search with each model's vector of the query, (1, d)."""
        query_id = None if row is None else self._index[row]
        grades = self._qrels.get(query_id, {})
        columns, results, first_ranks = [], [], {}
        for mode, (asking, answering) in self.modes.items():
            column = {"title": self._titles[mode], "color": self._colors[mode], "rows": []}
            columns.append(column | {"facts": "no encoder for this query", "times": ""})
            if asking not in vectors:
                continue
            start, documents = time.perf_counter(), self._units[answering][1]
            options = {"normalized": True, "rows": self._collection.rows}
            (cosines,), (near,) = ranking.top_k(vectors[asking], documents, self.k, **options)
            times = f"search {1000 * (time.perf_counter() - start):.1f} ms"
            if asking in encode_ms:
                times = f"encode {encode_ms[asking]:.1f} ms, {times}"
            facts = []
            if row is not None and pd.notna(self.scores[mode].iloc[row]):
                facts.append(f"nDCG@10 {self.scores[mode].iloc[row]:.3f}")
            if first_ranks:
                shared = len(first_ranks.keys() & set(near))
                facts.append(f"{shared} of {self.k} as in the first list")
            columns[-1] |= {"facts": " · ".join(facts), "times": times}
            for rank, (document, cosine) in enumerate(zip(near, cosines, strict=True), 1):
                name, marks = self._documents[document][0], []
                body, around = self._passage(document, documents, vectors[asking][0])
                grade = grades.get(name)
                results.append((mode, rank, name, cosine, grade))
                if first_ranks:
                    marks.append(mark(first_ranks.get(document), rank, self._titles[self._first]))
                if grade is not None:
                    star = "★" if grade > 0 else "☆"
                    marks.append({"text": f"{star} grade {grade}", "kind": "b"})
                file = getattr(self._collection.details.get(name), "fields", {}).get("file")
                row_card = card(int(document), rank, cosine, body, marks, name, around, file)
                column["rows"].append(row_card)
            if mode == self._first:
                first_ranks = {document: rank for rank, document in enumerate(near, 1)}
        names = ["mode", "rank", "document_id", "cosine", "grade"]
        self.results = pd.DataFrame(results, columns=names).astype({"grade": "Int64"})
        self._row = row
        if row is None:
            self.selected = ()
        else:
            self.box.value = ""
        self.rows.selected = self.selected
        words = f'<b dir="auto">{shown(text, 600)}</b>'
        if query_id in self.failures.index:
            loss, cause = self.failures.loc[query_id, ["loss", "cause"]]
            words += f" <i>Loses {loss:.2f} in symmetric search: {evaluate.CAUSES[cause]}.</i>"
        name = "typed" if query_id is None else shown(query_id, 60)
        self.heading.value = f"<code>{name}</code> {words}"
        self.lists.show(columns)
        self.status.value = self._overview
        self.query = query_id


def _encoder(model: object) -> Callable[[str], np.ndarray]:
    """Return what embeds a typed query with a model; a cached one would have no time to compare."""
    if isinstance(model, TargetCache):
        return lambda text: model.teacher.encode([text], Role.QUERY)
    return lambda text: evaluate.vectors(model, [Text(text, Role.QUERY)])


def _modes(widths: Mapping[str, int]) -> dict[str, tuple[str, str]]:
    reference, *others = widths
    modes = {reference: (reference, reference)}
    for name in others:
        prefix = "" if len(others) == 1 else f"{name}, "
        modes[f"{prefix}symmetric"] = name, name
        if widths[name] == widths[reference]:
            modes[f"{prefix}asymmetric"] = name, reference
    return dict(list(modes.items())[:4])
