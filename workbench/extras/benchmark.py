"""Models on benchmarks, every number from `mteb`, the evaluator behind the public leaderboards."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import random
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sklearn.metrics import average_precision_score

from workbench._util import expanded, need
from workbench.cache import TargetCache
from workbench.data import DATA, Role, Text
from workbench.errors import BenchmarkError
from workbench.evaluate import interval, vectors
from workbench.models import check_cosine, encode, fingerprint, load_model

if TYPE_CHECKING:
    from mteb import AbsTask


@dataclass(frozen=True)
class EvalModel:
    """A model or a pair to evaluate."""

    label: str  # its name in tables
    name: str  # its name in result files
    revision: str  # changes with whatever changes its vectors; results belong to one revision
    dimension: int
    # To float32 of shape (n, dimension). The role is None in tasks without queries and documents.
    embed: Callable[[Sequence[str], Role | None], np.ndarray]


@dataclass(frozen=True)
class TaskResult:
    """One model on one task."""

    task: str
    kind: str  # mteb's type of task
    metric: str  # name of the main score in mteb
    label: str  # the model's
    score: float  # the main score, 0 to 1 (correlations -1 to 1), mean over splits and subsets
    # {"metric", "values", "keys"}: the "mean" over queries (keys: their ids), "spearman" or
    # "average_precision" of pairs of texts (keys: their gold scores); None for other tasks.
    per_sample: dict | None = field(default=None, repr=False)


@dataclass(frozen=True)
class EvalProgress:
    """The state of a run."""

    results: tuple[TaskResult, ...]  # of finished evaluations, each of one model on one task
    total: int
    task: str | None = None  # the current task; None at the end
    label: str | None = None  # the current model's
    texts: int = 0  # that it has embedded for this task

    @property
    def done(self) -> int:
        """Number of finished evaluations."""
        return len(self.results)


class Stopped(BenchmarkError):
    """A run was stopped."""


def of_model(
    model: str | Path | SentenceTransformer, label: str, name: str | None = None
) -> EvalModel:
    """Return a sentence-transformers model to evaluate, called `name` or `label` in files."""
    model = load_model(model)
    check_cosine(model)

    def embed(texts: Sequence[str], role: Role | None) -> np.ndarray:
        return encode(model, [Text(text, role or Role.DOCUMENT) for text in texts])

    width = model.get_embedding_dimension()
    return EvalModel(label, name or label, fingerprint(model)[:16], width, embed)


def of_teacher(cache: TargetCache, name: str | None = None) -> EvalModel:
    """Return a teacher, labeled "teacher", to evaluate through its cache."""

    def embed(texts: Sequence[str], role: Role | None) -> np.ndarray:
        documents = [Text(text, role or Role.DOCUMENT) for text in texts]
        cache.fill(documents)
        return vectors(cache, documents, allow_missing=True)

    name, facts = name or cache.identity["teacher"], [cache.identity, cache.prompts]
    revision = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return EvalModel("teacher", name, revision, cache.dimension, embed)


def of_pair(student: EvalModel, teacher: EvalModel, label: str = "asymmetric") -> EvalModel:
    """Return the asymmetric pair: the teacher embeds documents, the student everything else."""
    if student.dimension != teacher.dimension:
        widths = f"{student.dimension} and {teacher.dimension}"
        raise BenchmarkError(f"student and teacher of a pair differ in width: {widths}")

    def embed(texts: Sequence[str], role: Role | None) -> np.ndarray:
        model = teacher if role is Role.DOCUMENT else student
        return model.embed(texts, role)

    name = f"{student.name}-in-{Path(teacher.name).name}"
    revision = f"{student.revision}-{teacher.revision}"
    return EvalModel(label, name, revision, teacher.dimension, embed)


def run(
    models: Sequence[EvalModel],
    tasks: Sequence[AbsTask],
    folder: str | Path,
    *,
    on_progress: Callable[[EvalProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> list[TaskResult]:
    """Evaluate every model on every task, except where `folder` has the result already.

    Results are files of mteb's `ResultCache`, those of local folders below `folder/local/DIGEST`.

    Args:
        tasks: from `workbench.extras.tasks.tasks`.
        stop: ends the run within a few thousand texts when it is set.

    Raises:
        BenchmarkError: a task cannot be run, or `stop` was set (`Stopped`). The same call continues
            from what is finished.
    """
    mteb, datasets = need("mteb", "benchmark"), need("datasets", "benchmark")
    if len({model.label for model in models}) < len(models):
        raise BenchmarkError("two models share a label: give each its own")
    logging.getLogger("mteb").setLevel(logging.ERROR)  # the run reports its own progress
    datasets.disable_progress_bars()
    folder, done, total = expanded(folder), [], len(models) * len(tasks)

    def report(task: str | None = None, label: str | None = None, texts: int = 0) -> None:
        if task and stop and stop.is_set():
            raise Stopped(f"stopped after {len(done)} of {total} evaluations, kept in {folder}")
        if on_progress:
            on_progress(EvalProgress(tuple(done), total, task, label, texts))

    for task in tasks:
        name, local = task.metadata.name, task.metadata.dataset["path"].startswith("local/")
        cache = mteb.ResultCache(folder / "local" / task.metadata.revision if local else folder)
        for model in models:
            report(name, model.label)
            result = _stored(cache, model, task)
            if result is None:
                try:
                    _evaluate(cache, model, task, report)
                except Stopped:
                    raise
                except Exception as error:  # whatever mteb, datasets and the network raise
                    kept = f"{len(done)} of {total} evaluations are kept in {folder}"
                    raise BenchmarkError(f"{name} could not be run: {error!r} ({kept})") from error
                result = _stored(cache, model, task)
            done.append(result)
        task.unload_data()
    report()
    return done


def _stored(cache, model: EvalModel, task: AbsTask) -> TaskResult | None:
    """Return the result of an earlier run by this mteb, or None."""
    data = task.metadata
    try:
        result = cache.load_task_result(data.name, _meta(model))
    except ValueError:  # a kill while it was written
        return None
    if result is None or result.mteb_version != version("mteb"):
        return None
    (first, *_), *_ = result.scores.values()
    score, samples = float(result.get_score()), first.get("samples")
    return TaskResult(data.name, data.type, data.main_score, model.label, score, samples)


def _evaluate(cache, model: EvalModel, task: AbsTask, report: Callable[..., None]) -> None:
    """Evaluate a model, and store the result."""
    import mteb
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    if not isinstance(task, AbsTaskAggregate) and not task.data_loaded:  # its parts load in turn
        task.load_data()
    # mteb samples with the task's generators: with new ones, all models see the same samples.
    twin = copy.copy(task)
    twin.rng_state, twin.np_rng = random.Random(task.seed), np.random.default_rng(task.seed)
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="mteb|sklearn")
        (result,) = mteb.evaluate(
            _encoder(model, report),
            twin,
            cache=None,
            co2_tracker=False,
            prediction_folder=folder,
            show_progress_bar=False,
        ).task_results
        path = Path(folder) / task.prediction_file_name
        if path.is_file() and len(result.scores) == len(task.hf_subsets) == 1:
            (split,), (subset,) = result.scores, task.hf_subsets
            scores, predicted = result.scores[split][0], json.loads(path.read_text())
            samples = _samples(twin, twin.dataset[subset][split], predicted[subset][split])
            # An interval around another number than mteb's score would mislead.
            score = score_of(**samples) if samples else np.nan
            if abs(score - scores["main_score"]) <= 1e-3:
                scores["samples"] = samples
    cache.save_to_cache(result, _meta(model))


def _samples(task: AbsTask, rows: dict, predicted: dict) -> dict | None:
    """Return the scores per sample of an evaluation, None where mteb keeps none."""
    kind, measure = task.metadata.type, task.metadata.main_score
    if kind == "Retrieval" and measure.startswith("ndcg_at_"):
        import ir_measures

        ndcg = ir_measures.nDCG @ int(measure.removeprefix("ndcg_at_"))
        scored = ir_measures.iter_calc([ndcg], rows["relevant_docs"], predicted)
        values = {query.query_id: query.value for query in scored if query.query_id in predicted}
        keys = sorted(values)
        return {"metric": "mean", "values": [values[key] for key in keys], "keys": keys}
    if kind not in ("STS", "PairClassification"):
        return None
    metric = "spearman" if kind == "STS" else "average_precision"
    gold = rows["score" if kind == "STS" else task.label_column_name]
    keys = [float(score) for score in gold]
    return {"metric": metric, "values": predicted["cosine_scores"], "keys": keys}


def _encoder(model: EvalModel, report: Callable[..., None]):
    """Return a model as mteb expects one."""
    from mteb.models.abs_encoder import AbsEncoder

    class Encoder(AbsEncoder):
        mteb_model_meta = _meta(model)
        done = 0

        def __init__(self) -> None:
            pass

        def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **_):
            role = Role(prompt_type.value) if prompt_type else None
            # A `Text` may have no NUL.
            texts = [text.replace("\0", " ") for batch in inputs for text in batch["text"]]
            vectors = np.empty((len(texts), model.dimension), dtype=np.float32)
            size = 2048  # texts between two looks at `stop`
            for start in range(0, len(texts), size):
                report(task_metadata.name, model.label, self.done)
                block = texts[start : start + size]
                vectors[start : start + len(block)] = model.embed(block, role)
                self.done += len(block)
            report(task_metadata.name, model.label, self.done)
            return vectors

    return Encoder()


def _meta(model: EvalModel):
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    name = model.name if model.name.count("/") == 1 else f"workbench/{Path(model.name).name}"
    name = re.sub(r"[^A-Za-z0-9._/-]+", "-", name)
    facts = {"name": name, "revision": model.revision}
    return ModelMeta.create_empty(overwrites=facts | {"similarity_fn_name": ScoringFunction.COSINE})


def scores(results: Iterable[TaskResult]) -> pd.DataFrame:
    """Return a row per task (index: its name): `kind`, `metric` and the score of each label."""
    rows: dict[str, dict] = {}
    for result in results:
        row = rows.setdefault(result.task, {"kind": result.kind, "metric": result.metric})
        row[result.label] = result.score
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("task")


def differences(results: Sequence[TaskResult]) -> pd.DataFrame:
    """Compare every model with the one labeled "teacher", task by task.

    Returns:
        A row for each task and other label: `task`, `kind`, `label`, `score`, `teacher`,
        `share_of_teacher`, its 95 % interval `share_low` and `share_high`, `difference`, its
        interval `low` and `high`, and `samples`. Intervals are over queries (`evaluate.interval`)
        or pairs of sentences (the paired percentile bootstrap); NaN for other tasks.
    """
    teachers = {result.task: result for result in results if result.label == "teacher"}
    rows = []
    for result in results:
        if result.label == "teacher":
            continue
        if result.task not in teachers:
            raise BenchmarkError(f"there is no score of the teacher on {result.task}: run it too")
        teacher = teachers[result.task]
        row = {"task": result.task, "kind": result.kind, "label": result.label}
        row |= {"score": result.score, "teacher": teacher.score}
        row["share_of_teacher"] = result.score / teacher.score if teacher.score > 0 else np.nan
        row |= dict.fromkeys(("share_low", "share_high", "low", "high"), np.nan)
        row |= {"difference": result.score - teacher.score, "samples": 0}
        samples = [result.per_sample, teacher.per_sample]
        if all(samples) and samples[0]["keys"] == samples[1]["keys"]:
            row["samples"] = len(samples[0]["keys"])
            row |= _intervals(samples)
        rows.append(row)
    return pd.DataFrame(rows)


def _intervals(samples: Sequence[Mapping]) -> dict[str, float]:
    """Return the 95 % intervals of difference and share of a model and the teacher."""
    if samples[0]["metric"] == "mean":
        model, reference = (np.asarray(side["values"]) for side in samples)
        difference = interval(model - reference)
        share = interval(model, reference) if reference.any() else (np.nan, np.nan)
    else:
        model, reference = _resampled(samples)
        difference = np.quantile(model - reference, (0.025, 0.975))
        share = (np.nan, np.nan)
        if reference.min() > 0:
            share = np.quantile(model / reference, (0.025, 0.975))
    names = "low", "high", "share_low", "share_high"
    return dict(zip(names, map(float, [*difference, *share]), strict=True))


def _resampled(samples: Sequence[Mapping]) -> np.ndarray:
    """Return the scores of several models on the same resamples, (models, resamples)."""
    rng, keys = np.random.default_rng(0), np.asarray(samples[0]["keys"])
    values = [np.asarray(model["values"]) for model in samples]
    results = []
    for _ in range(1000):
        rows = rng.integers(len(keys), size=len(keys))
        results.append([score_of(samples[0]["metric"], part[rows], keys[rows]) for part in values])
    return np.array(results).T


def score_of(metric: str, values: Sequence[float], keys: Sequence) -> float:
    """Return the score that samples come to; see `TaskResult.per_sample`."""
    if metric == "spearman":
        return float(spearmanr(values, keys).statistic)
    if metric == "average_precision":
        return float(average_precision_score(keys, values))
    return float(np.mean(values))


def by_kind(results: Iterable[TaskResult]) -> pd.DataFrame:
    """Return mean scores over the tasks that every label was run on.

    A row per kind, then `mean over tasks` and `mean over kinds`. Columns: `tasks`, and for each
    label its mean score and `LABEL share` of the teacher's.
    """
    table = scores(results).dropna()
    labels = [name for name in table if name not in ("kind", "metric")]
    means = table.groupby("kind", sort=False)[labels].mean()
    over_kinds = means.mean()
    means.loc["mean over tasks"], means.loc["mean over kinds"] = table[labels].mean(), over_kinds
    counts = table["kind"].value_counts().reindex(means.index, fill_value=len(table))
    means.insert(0, "tasks", counts)
    teacher = means["teacher"].where(means["teacher"] > 0)
    shares = means[labels].drop(columns="teacher").div(teacher, axis=0)
    return means.join(shares.add_suffix(" share"))


def published() -> pd.DataFrame:
    """Return published figures: scores of a task, or averages over the tasks of their source."""
    content = json.loads((DATA / "published.json").read_text())
    table = pd.DataFrame(content["figures"])
    table["score"] = table["score"] / 100
    table["source"] = table["source"].map(content["sources"])
    return table.astype({"task": object, "average": object}).where(table.notna(), None)
