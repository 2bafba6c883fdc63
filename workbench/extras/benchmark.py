"""Models on benchmarks, every number from `mteb`, the evaluator behind the public leaderboards."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
import math
import random
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sentence_transformers import SentenceTransformer

from workbench._util import write_json
from workbench.cache import TargetCache
from workbench.data import DATA, Role, Text
from workbench.errors import BenchmarkError
from workbench.extras.tasks import need_mteb
from workbench.models import encode
from workbench.teachers import fingerprint

if TYPE_CHECKING:
    from mteb import AbsTask


_BLOCK = 2048  # texts between two looks at `stop`
Embed = Callable[[Sequence[str], Role], np.ndarray]


@dataclass(frozen=True)
class EvalModel:
    """A model, or a pair of models, that takes part.

    Attributes:
        label: what tables call it.
        name: what result files call it.
        revision: changes with whatever changes its vectors, so that no result is taken for another's.
        dimension: width of its vectors.
        embed: texts and their role to vectors, float32 of shape (n, dimension).
        alike: the same for texts of tasks that know neither query nor document; as documents if None.
        parameters: how many it has, for the result files.
    """

    label: str
    name: str
    revision: str
    dimension: int
    embed: Embed = field(repr=False)
    alike: Embed | None = field(default=None, repr=False)
    parameters: int | None = None


@dataclass(frozen=True)
class TaskResult:
    """One model on one task.

    Attributes:
        task: its name.
        kind: mteb's type of task.
        metric: mteb's main score for it.
        label: the model's.
        score: the main score, a fraction, mean over splits and subsets as mteb has it.
        units: what an interval is drawn over: {"ids", "values"} whose mean is the score (queries, or mteb's
            repeated experiments), or {"scores", "gold", "metric"} of pairs. None where mteb keeps no such thing.
    """

    task: str
    kind: str
    metric: str
    label: str
    score: float
    units: dict | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Progress:
    """The state of a run, handed to `on_progress`.

    Attributes:
        done: evaluations finished, each one model on one task.
        total: evaluations in all.
        task: the task at work; None at the end.
        label: the model at work.
        texts: texts it has embedded for this task so far.
    """

    done: int
    total: int
    task: str | None = None
    label: str | None = None
    texts: int = 0


class Stopped(BenchmarkError):
    """A run was stopped; finished evaluations are kept."""


def of_model(model: SentenceTransformer, label: str, name: str | None = None) -> EvalModel:
    """Enter any sentence-transformers model, such as a student.

    Args:
        model: embeds queries by `encode_query`, everything else by `encode_document`.
        label: what tables call it.
        name: what result files call it; the label if None.
    """

    def run(texts: Sequence[str], role: Role) -> np.ndarray:
        return encode(model, [Text(text, role) for text in texts])

    parameters = sum(parameter.numel() for parameter in model.parameters())
    return EvalModel(
        label, name or label, fingerprint(model)[:16], model.get_embedding_dimension(), run, parameters=parameters
    )


def of_teacher(cache: TargetCache, label: str = "teacher", name: str | None = None) -> EvalModel:
    """Enter a teacher through its cache: what was ever encoded is not encoded again.

    Args:
        cache: its teacher encodes what it lacks.
        label: what tables call it.
        name: what result files call it; the teacher's own name if None.
    """

    def run(texts: Sequence[str], role: Role) -> np.ndarray:
        roled = [Text(text, role) for text in texts]
        cache.fill(roled)
        return np.asarray(cache.targets(roled), dtype=np.float32)

    identity = json.dumps([cache.identity, cache.prompts], sort_keys=True)
    revision = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return EvalModel(label, name or cache.identity["teacher"], revision, cache.dimension, run)


def of_pair(student: EvalModel, teacher: EvalModel, label: str = "asymmetric") -> EvalModel:
    """Enter the asymmetric pair: the teacher embeds documents, the student everything else.

    In tasks that know neither queries nor documents the student is on its own, and scores as in symmetric mode.

    Raises:
        BenchmarkError: the two are not equally wide.
    """
    if student.dimension != teacher.dimension:
        raise BenchmarkError(
            f"{student.label} has vectors of {student.dimension} and {teacher.label} of {teacher.dimension}: they are "
            "not in one space, so one cannot search what the other has embedded"
        )

    def run(texts: Sequence[str], role: Role) -> np.ndarray:
        return (teacher if role is Role.DOCUMENT else student).embed(texts, role)

    revision = hashlib.sha256(f"{student.revision} {teacher.revision}".encode()).hexdigest()[:16]
    name = f"{student.name}-in-{Path(teacher.name).name}"
    return EvalModel(label, name, revision, teacher.dimension, run, alike=student.embed, parameters=student.parameters)


def run(
    models: Sequence[EvalModel],
    tasks: Sequence[AbsTask],
    folder: str | Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_outcome: Callable[[TaskResult], None] | None = None,
    stop: threading.Event | None = None,
) -> list[TaskResult]:
    """Evaluate every model on every task; what `folder` has already is not evaluated again.

    Results are in mteb's own format, in `results/NAME/REVISION/TASK.json` below `folder` (for a folder's task below
    `folder/local/DIGEST`, so that other data of the same name are kept apart), each written when it is finished, and
    beside them `TASK.units.json` with what intervals are drawn from.

    Args:
        models: with different labels.
        tasks: from `workbench.extras.tasks.tasks`.
        folder: for results.
        on_progress: called before and during each evaluation, and once at the end.
        on_outcome: called with each outcome as it comes.
        stop: when set, the run ends within a few thousand texts.

    Raises:
        BenchmarkError: two models share a label, or a task cannot be loaded (the hub cannot be
            reached, say) or run; what is finished is kept, and the same call goes on from there.
        Stopped: `stop` was set.
    """
    mteb = need_mteb()
    labels = [model.label for model in models]
    if repeated := {label for label in labels if labels.count(label) > 1}:
        raise BenchmarkError(f"two models have the label {repeated.pop()!r}: give each its own")
    if reserved := {"task", "kind", "metric"} & set(labels):
        raise BenchmarkError(f"no model can have the label {reserved.pop()!r}, which tables use themselves")
    if not models or not tasks:
        raise BenchmarkError("at least one model and one task are needed")
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchmarkError(f"results cannot be written to {folder}: {error.strerror or error}") from None
    total = len(models) * len(tasks)
    outcomes: list[TaskResult] = []

    def tell(**more: object) -> None:
        if on_progress:
            on_progress(Progress(len(outcomes), total, **more))

    with _quiet():
        for task in tasks:
            name, local = task.metadata.name, task.metadata.dataset["path"].startswith("local/")
            results = mteb.ResultCache(folder / "local" / task.metadata.revision if local else folder)
            for model in models:
                tell(task=name, label=model.label)
                outcome = _stored(results, model, task)
                if outcome is None:
                    if stop is not None and stop.is_set():
                        raise Stopped(f"stopped after {len(outcomes)} of {total} evaluations; they are in {folder}")

                    def embedded(texts: int, model: EvalModel = model, name: str = name) -> None:
                        tell(task=name, label=model.label, texts=texts)

                    try:
                        _load(task)
                        _evaluate(results, model, task, embedded, stop)
                    except Stopped:
                        raise
                    except Exception as error:  # whatever mteb, datasets and the network raise
                        kept = f"{len(outcomes)} of {total} evaluations are done and kept in {folder}"
                        hub = "" if local else " Its data come from the hub: check the network, or name a folder."
                        raise BenchmarkError(
                            f"{name} could not be run: {_reason(error)} ({kept}; the same call goes on from there).{hub}"
                        ) from error
                    outcome = _stored(results, model, task)
                    if outcome is None:
                        raise BenchmarkError(f"{name}: mteb gave no result for {model.label}")
                outcomes.append(outcome)
                if on_outcome:
                    on_outcome(outcome)
            task.unload_data()
    tell()
    return outcomes


# --- tables ---------------------------------------------------------------------------------------


def scores(outcomes: Iterable[TaskResult]) -> pd.DataFrame:
    """Return a row a task (its name is the index) with `kind`, `metric` and a column of scores for each label."""
    rows: dict[str, dict] = {}
    for each in outcomes:
        rows.setdefault(each.task, {"kind": each.kind, "metric": each.metric})[each.label] = each.score
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("task")


def differences(
    outcomes: Sequence[TaskResult], teacher: str = "teacher", *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compare every model with the teacher, task by task.

    Args:
        outcomes: from `run`.
        teacher: label of the model that the others are held against.
        resamples: of the paired percentile bootstrap (Efron and Tibshirani, 1993) over what `TaskResult.units` has:
            queries, pairs of sentences, or mteb's ten experiments, where it tells of their spread and not of the texts'.
        seed: of the resampling.

    Returns:
        A row for each task and label but the teacher's: `task`, `kind`, `label`, `score`, `teacher`,
        `share_of_teacher` (ratio), its 95 % interval `share_low` and `share_high`, `difference`, its interval `low`
        and `high`, and `units`, how many were resampled. Intervals are NaN where there is nothing to resample.

    Raises:
        BenchmarkError: the teacher has no outcome for a task.
    """
    held = {each.task: each for each in outcomes if each.label == teacher}
    rows = []
    for each in outcomes:
        if each.label == teacher:
            continue
        if each.task not in held:
            raise BenchmarkError(f"there is no score of {teacher!r} on {each.task}: run it too")
        against = held[each.task]
        row = {"task": each.task, "kind": each.kind, "label": each.label, "score": each.score, "teacher": against.score}
        row["share_of_teacher"] = each.score / against.score if against.score > 0 else np.nan
        row["share_low"] = row["share_high"] = row["low"] = row["high"] = np.nan
        row["difference"], row["units"] = each.score - against.score, 0
        if pairs := _resampled(each.units, against.units, resamples, seed):
            mine, theirs, row["units"] = pairs
            row["low"], row["high"] = np.quantile(mine - theirs, (0.025, 0.975))
            if theirs.min() > 0:
                row["share_low"], row["share_high"] = np.nanquantile(mine / theirs, (0.025, 0.975))
        rows.append(row)
    return pd.DataFrame(rows)


def share_table(rows: pd.DataFrame) -> str:
    """Format what `differences` returned for a terminal."""
    if not len(rows):
        return "nothing to compare with the teacher"
    shown = rows[["task", "label", "score", "teacher"]].round(4)
    shown["share of teacher"] = ["" if np.isnan(share) else f"{share:.1%}" for share in rows["share_of_teacher"]]
    shown["95 % interval"] = [
        "" if np.isnan(low) else f"{low:.1%} to {high:.1%}"
        for low, high in zip(rows["share_low"], rows["share_high"], strict=True)
    ]
    return shown.to_string(index=False)


def by_kind(outcomes: Iterable[TaskResult], teacher: str = "teacher") -> pd.DataFrame:
    """Return the mean score by kind of task, and both averages that leaderboards have.

    Only tasks that every label has been run on count, or the means would be over different tasks.

    Returns:
        A row a kind, then `mean over tasks` and `mean over kinds`. Columns: `tasks`, and for each label
        its mean score and, but for the teacher, `LABEL share`, the ratio of that mean to the teacher's.
    """
    table = scores(outcomes)
    labels = [column for column in table.columns if column not in ("kind", "metric")]
    table = table.dropna(subset=labels)
    kinds = table.groupby("kind", sort=False)[labels].mean()
    both = pd.DataFrame({"mean over tasks": table[labels].mean(), "mean over kinds": kinds.mean()}).T
    counts = table["kind"].value_counts().reindex(kinds.index)
    result = pd.concat([kinds, both])
    result.insert(0, "tasks", [*counts, len(table), len(table)])
    for label in labels:
        if teacher in labels and label != teacher:
            result[f"{label} share"] = result[label] / result[teacher].where(result[teacher] > 0)
    return result


def published(path: str | Path = DATA / "published.json") -> pd.DataFrame:
    """Return published figures, each with its source.

    Returns:
        `benchmark`, `task` (None for an average), `average` ("by task", "by kind" or None), `model`, `mode`
        ("symmetric", "asymmetric" or "teacher"), `score` (a fraction) and `source`. Averages of different sources
        are over different sets of tasks and are never to be compared.
    """
    content = json.loads(Path(path).read_text())
    table = pd.DataFrame(content["figures"])
    table["score"] = table["score"] / 100
    table["source"] = table["source"].map(content["sources"])
    return table.astype({"task": object, "average": object}).where(table.notna(), None)


# --- one evaluation -------------------------------------------------------------------------------


def _evaluate(results, model: EvalModel, task: AbsTask, on_texts, stop: threading.Event | None) -> None:
    import tempfile

    import mteb

    # Sampling goes on from the task's own generators, so each model gets them fresh and sees the same samples.
    twin = copy.copy(task)
    twin.rng_state, twin.np_rng = random.Random(task.seed), np.random.default_rng(task.seed)
    with tempfile.TemporaryDirectory(prefix="workbench-") as predictions:
        done = mteb.evaluate(
            _encoder(model, on_texts, stop),
            twin,
            cache=None,
            co2_tracker=False,
            prediction_folder=predictions,
            show_progress_bar=False,
        ).task_results[0]
        units = _units(task, done, Path(predictions))
    if not math.isfinite(done.get_score()):
        raise BenchmarkError(f"{model.label} has no score: it is {done.get_score()}")
    path = _path(results, model, task)
    _units_path(path).unlink(missing_ok=True)
    results.save_to_cache(done, _meta(model))
    # Last, so that a result without it is one that was interrupted.
    write_json(_units_path(path), {"score": done.get_score(), "units": units})


def _encoder(model: EvalModel, on_texts: Callable[[int], None], stop: threading.Event | None):
    """Return what mteb takes for a model."""
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.types import PromptType

    class Encoder(AbsEncoder):
        mteb_model_meta = _meta(model)
        model_prompts = None
        done = 0

        def __init__(self) -> None:
            pass

        def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **_):
            if prompt_type is None:
                encode, role = model.alike or model.embed, Role.DOCUMENT
            else:
                encode, role = model.embed, Role.QUERY if prompt_type == PromptType.query else Role.DOCUMENT
            texts = [text.replace("\0", " ") for batch in inputs for text in batch["text"]]  # no `Text` may have NUL
            vectors = np.empty((len(texts), model.dimension), dtype=np.float32)
            for start in range(0, len(texts), _BLOCK):
                if stop is not None and stop.is_set():
                    raise Stopped("stopped; finished evaluations and the teacher's vectors are kept")
                block = texts[start : start + _BLOCK]
                vectors[start : start + len(block)] = encode(block, role)
                self.done += len(block)
                on_texts(self.done)
            return vectors

    return Encoder()


def _meta(model: EvalModel):
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    name = model.name if model.name.count("/") == 1 else f"workbench/{Path(model.name).name}"
    name = re.sub(r"[^A-Za-z0-9._/-]+", "-", name)
    return ModelMeta.create_empty(
        overwrites={
            "name": name,
            "revision": model.revision,
            "embed_dim": model.dimension,
            "n_parameters": model.parameters,
            "similarity_fn_name": ScoringFunction.COSINE,
        }
    )


def _load(task: AbsTask) -> None:
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    if not isinstance(task, AbsTaskAggregate) and not task.data_loaded:  # an aggregate loads its parts in turn
        task.load_data()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _path(results, model: EvalModel, task: AbsTask) -> Path:
    return results.get_task_result_path(task.metadata.name, _meta(model))


def _units_path(path: Path) -> Path:
    return path.with_suffix(".units.json")


def _stored(results, model: EvalModel, task: AbsTask) -> TaskResult | None:
    """Return what an earlier run has finished on these data with this mteb; None if nothing whole is there."""
    import mteb

    path = _path(results, model, task)
    try:
        result = results.load_task_result(task.metadata.name, _meta(model))
        kept = json.loads(_units_path(path).read_text())
        same = result.dataset_revision == task.metadata.revision and result.mteb_version == mteb.__version__
        if (
            not same
            or not _sound(kept["units"])
            or result.get_missing_evaluations(task)
            or abs(kept["score"] - result.get_score()) > 1e-4
        ):
            return None
        return TaskResult(
            task.metadata.name,
            task.metadata.type,
            task.metadata.main_score,
            model.label,
            kept["score"],
            kept["units"],
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # missing, half written or edited
        return None


def _sound(units: object) -> bool:
    """Say whether stored units have a shape that `differences` can use."""
    if units is None:
        return True
    keys = ("ids", "values") if "values" in units else ("scores", "gold")
    return len(units[keys[0]]) == len(units[keys[1]]) and all(map(math.isfinite, units[keys[1]]))


def _units(task: AbsTask, result, predictions: Path) -> dict | None:
    """Return what an interval can be drawn over, if it reproduces mteb's score."""
    if len(result.scores) != 1 or len(task.hf_subsets) != 1:
        return None
    (split,), (subset,) = result.scores, task.hf_subsets
    score, found = result.scores[split][0], None
    path = predictions / task.prediction_file_name
    predicted = json.loads(path.read_text())[subset][split] if path.is_file() else None
    kind = task.metadata.type
    if kind == "Retrieval" and predicted is not None:
        found = _query_units(task.dataset[subset][split]["relevant_docs"], predicted, task.metadata.main_score)
    elif kind == "Classification" and "scores_per_experiment" in score:
        values = [each[task.metadata.main_score] for each in score["scores_per_experiment"]]
        found = {"ids": list(map(str, range(len(values)))), "values": values}
    elif kind == "Clustering" and isinstance(score.get("v_measures"), dict):
        levels = list(score["v_measures"].values())
        values = [float(value) for value in np.mean(levels, axis=0)]
        found = {"ids": list(map(str, range(len(values)))), "values": values}
    elif kind in ("STS", "PairClassification") and predicted is not None:
        column = "score" if kind == "STS" else task.label_column_name
        gold = [float(value) for value in task.dataset[subset][split][column]]
        metric = "spearman" if kind == "STS" else "average_precision"
        found = {"metric": metric, "scores": predicted["cosine_scores"], "gold": gold}
    if found is None or abs(_value(found) - score["main_score"]) > 1e-3:
        return None
    return found


def _query_units(qrels: Mapping, predicted: Mapping, metric: str) -> dict | None:
    import ir_measures

    name = re.fullmatch(r"(ndcg|map|mrr|recall)_at_(\d+)", metric)
    if not name:
        return None
    measure = {"ndcg": ir_measures.nDCG, "map": ir_measures.AP, "mrr": ir_measures.RR, "recall": ir_measures.R}
    judged = {query: {doc: int(grade) for doc, grade in grades.items()} for query, grades in qrels.items()}
    values = {
        each.query_id: each.value
        for each in ir_measures.iter_calc([measure[name[1]] @ int(name[2])], judged, predicted)
        if each.query_id in predicted
    }
    return {"ids": list(values), "values": list(values.values())}


def _value(units: Mapping) -> float:
    if "values" in units:
        return float(np.mean(units["values"]))
    return _pair_metric(units["metric"])(np.asarray(units["scores"]), np.asarray(units["gold"]))


def _pair_metric(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    from scipy.stats import spearmanr
    from sklearn.metrics import average_precision_score

    if name == "spearman":
        return lambda predicted, gold: float(spearmanr(predicted, gold).statistic)
    return lambda predicted, gold: float(average_precision_score(gold, predicted))


def _resampled(
    mine: Mapping | None, theirs: Mapping | None, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Score both on the same resamples; None if they have no units in common."""
    if not mine or not theirs:
        return None
    rng = np.random.default_rng(seed)
    if "values" in mine:
        values = [dict(zip(units["ids"], units["values"], strict=True)) for units in (mine, theirs)]
        if set(values[0]) != set(values[1]) or len(values[0]) < 2:
            return None
        columns = [np.array([each[key] for key in values[0]]) for each in values]
        if not any(np.ptp(column) for column in columns):  # experiments that draw all there is tell of no spread
            return None
        draws = rng.integers(len(columns[0]), size=(resamples, len(columns[0])))
        return columns[0][draws].mean(axis=1), columns[1][draws].mean(axis=1), len(columns[0])
    gold = np.asarray(mine["gold"])
    if not np.array_equal(gold, theirs["gold"]):
        return None
    metric = _pair_metric(mine["metric"])
    columns = [np.asarray(units["scores"]) for units in (mine, theirs)]
    pairs = np.empty((2, resamples))
    for number in range(resamples):
        draw = rng.integers(len(gold), size=len(gold))
        pairs[:, number] = [metric(column[draw], gold[draw]) for column in columns]
    return pairs[0], pairs[1], len(gold)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave mteb's errors, not its many notes and bars: the run reports on its own."""
    import datasets

    logger = logging.getLogger("mteb")
    before, bars = logger.level, not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="mteb|sklearn")
            yield
    finally:
        logger.setLevel(before)
        if bars:
            datasets.enable_progress_bars()
