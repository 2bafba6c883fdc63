"""Models on benchmarks, every number from `mteb`, the evaluator behind the public leaderboards."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import itertools
import json
import logging
import math
import random
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sentence_transformers import SentenceTransformer

from workbench._util import expanded, need, write_json
from workbench.cache import TargetCache
from workbench.data import Role, Text
from workbench.errors import BenchmarkError
from workbench.evaluate import vectors
from workbench.extras import per_sample
from workbench.models import ModelFiles, encode, fingerprint, load_model

if TYPE_CHECKING:
    from mteb import AbsTask


_BLOCK = 2048  # texts between two looks at `stop`
Embed = Callable[[Sequence[str], Role], np.ndarray]


@dataclass(frozen=True)
class EvalModel:
    """A model, or a pair of models, to evaluate."""

    label: str  # its name in tables
    name: str  # its name in result files
    revision: str  # changes with everything that changes its vectors; stored results belong to one revision
    dimension: int  # width of its vectors
    embed: Embed = field(
        repr=False
    )  # texts and their role to vectors, float32 of shape (n, dimension)
    # The same in tasks without queries and documents; `embed` with the document role if None.
    alike: Embed | None = field(default=None, repr=False)
    parameters: int | None = None  # their number, for the result files
    skip: float = 1.0  # share of the texts of a task's corpus, or of its queries, that may have a vector of zeros


@dataclass(frozen=True)
class TaskResult:
    """One model on one task."""

    task: str
    kind: str  # mteb's type of task
    metric: str  # name of its main score in mteb
    label: str  # the model's
    score: float  # the main score, 0 to 1 (correlations -1 to 1), mean over splits and subsets as in mteb
    # What intervals are drawn over, see `extras.per_sample`; None where mteb has no scores per sample.
    per_sample: dict | None = field(default=None, repr=False)


@dataclass(frozen=True)
class EvalProgress:
    """The state of a run, as `on_progress` receives it."""

    done: int  # finished evaluations, each of one model on one task
    total: int  # all evaluations
    task: str | None = None  # the current task; None at the end
    label: str | None = None  # the current model's
    texts: int = 0  # that it has embedded for this task


class Stopped(BenchmarkError):
    """A run was stopped; finished evaluations are kept."""


def of_model(
    model: str | Path | ModelFiles | SentenceTransformer, label: str, name: str | None = None
) -> EvalModel:
    """Return a sentence-transformers model to evaluate, such as a student.

    Args:
        model: whatever `models.load_model` takes: a name, a folder or a loaded model.
        label: its name in tables.
        name: its name in result files; the label if None.
    """
    model = load_model(model)

    def run(texts: Sequence[str], role: Role) -> np.ndarray:
        return encode(model, [Text(text, role) for text in texts])

    count, width = sum(each.numel() for each in model.parameters()), model.get_embedding_dimension()
    return EvalModel(label, name or label, fingerprint(model)[:16], width, run, parameters=count)


def of_teacher(cache: TargetCache, label: str = "teacher", name: str | None = None) -> EvalModel:
    """Return a teacher to evaluate through its cache, so each text is encoded once.

    A text that a fill of the cache skips has a vector of zeros, whose cosine with every other is 0 in mteb.

    Args:
        cache: of the teacher, which encodes the texts that are missing.
        label: its name in tables.
        name: its name in result files; the teacher's own name if None.
    """

    def run(texts: Sequence[str], role: Role) -> np.ndarray:
        roled = [Text(text, role) for text in texts]
        cache.fill(roled, skip=1)  # only a part of a task's texts; see `EvalModel.skip`
        return vectors(cache, roled, filled=True)

    identity = json.dumps([cache.identity, cache.prompts], sort_keys=True)
    revision = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return EvalModel(
        label, name or cache.identity["teacher"], revision, cache.dimension, run, skip=cache.skip
    )


def of_pair(student: EvalModel, teacher: EvalModel, label: str = "asymmetric") -> EvalModel:
    """Return the asymmetric pair to evaluate: the teacher embeds documents, the student everything else.

    In tasks without queries and documents the student embeds all texts, and scores as in the symmetric mode.

    Raises:
        BenchmarkError: the two are not equally wide.
    """
    if student.dimension != teacher.dimension:
        raise BenchmarkError(
            f"{student.label} has vectors of {student.dimension} and {teacher.label} of {teacher.dimension}: one "
            "cannot search what the other has embedded"
        )

    def run(texts: Sequence[str], role: Role) -> np.ndarray:
        return (teacher if role is Role.DOCUMENT else student).embed(texts, role)

    revision = hashlib.sha256(f"{student.revision} {teacher.revision}".encode()).hexdigest()[:16]
    name = f"{student.name}-in-{Path(teacher.name).name}"
    return EvalModel(
        label,
        name,
        revision,
        teacher.dimension,
        run,
        student.embed,
        student.parameters,
        teacher.skip,
    )


def run(
    models: Sequence[EvalModel],
    tasks: Sequence[AbsTask],
    folder: str | Path,
    *,
    on_progress: Callable[[EvalProgress], None] | None = None,
    on_outcome: Callable[[TaskResult], None] | None = None,
    stop: threading.Event | None = None,
) -> list[TaskResult]:
    """Evaluate every model on every task, except where `folder` has the result already.

    Results are in mteb's own format, in `results/NAME/REVISION/TASK.json` below `folder`, each written when it is
    finished. `TASK.units.json` beside them has the scores per sample for intervals. Results of tasks from local
    folders are below `folder/local/DIGEST`, which keeps different data of one name apart.

    Args:
        models: with different labels.
        tasks: from `workbench.extras.tasks.tasks`.
        folder: for results.
        on_progress: called before and during each evaluation, and once at the end.
        on_outcome: called with each result.
        stop: ends the run within a few thousand texts when it is set.

    Raises:
        BenchmarkError: two models share a label, or a task cannot be loaded or run, for example because the hub
            cannot be reached. What is finished is kept, and the same call continues from there.
        Stopped: `stop` was set.
    """
    mteb = need("mteb", "benchmark")
    labels = [model.label for model in models]
    if repeated := {label for label in labels if labels.count(label) > 1}:
        raise BenchmarkError(f"two models have the label {repeated.pop()!r}: give each its own")
    if reserved := {"task", "kind", "metric"} & set(labels):
        raise BenchmarkError(
            f"no model can have the label {reserved.pop()!r}, which is a column of the tables"
        )
    if not models or not tasks:
        raise BenchmarkError("at least one model and one task are needed")
    folder = expanded(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchmarkError(
            f"results cannot be written to {folder}: {error.strerror or error}"
        ) from None
    done, total, stop = [], len(models) * len(tasks), stop or threading.Event()

    def tell(**more: object) -> None:
        if on_progress:
            on_progress(EvalProgress(len(done), total, **more))

    with _quiet():
        for task, model in itertools.product(tasks, models):
            name, local = task.metadata.name, task.metadata.dataset["path"].startswith("local/")
            results = mteb.ResultCache(
                folder / "local" / task.metadata.revision if local else folder
            )
            report = functools.partial(tell, task=name, label=model.label)
            report()
            if (result := _stored(results, model, task)) is None:
                try:
                    result = _evaluate(results, model, task, report, stop)
                except Stopped:
                    said = f"stopped after {len(done)} of {total} evaluations, which are kept in {folder}"
                    raise Stopped(said) from None
                except Exception as error:  # whatever mteb, datasets and the network raise
                    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
                    hub = (
                        ""
                        if local
                        else " Its data come from the hub: check the network, or name a local folder."
                    )
                    raise BenchmarkError(
                        f"{name} could not be run: {reason} ({len(done)} of {total} evaluations are done and kept in "
                        f"{folder}; the same call continues from there).{hub}"
                    ) from error
            done.append(result)
            if on_outcome:
                on_outcome(result)
            if model is models[-1]:
                task.unload_data()
    tell()
    return done


# --- one evaluation -------------------------------------------------------------------------------


def _evaluate(
    results, model: EvalModel, task: AbsTask, report, stop: threading.Event
) -> TaskResult:
    import mteb
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    if stop.is_set():
        raise Stopped
    if (
        not isinstance(task, AbsTaskAggregate) and not task.data_loaded
    ):  # an aggregate loads its parts in turn
        task.load_data()
    # mteb samples with the task's generators. Each model gets fresh ones, so all see the same samples.
    twin = copy.copy(task)
    twin.rng_state, twin.np_rng = random.Random(task.seed), np.random.default_rng(task.seed)
    with tempfile.TemporaryDirectory(prefix="workbench-") as predictions:
        done = mteb.evaluate(
            _encoder(model, report, stop),
            twin,
            cache=None,
            co2_tracker=False,
            prediction_folder=predictions,
            show_progress_bar=False,
        ).task_results[0]
        samples = per_sample.of_result(task, done, Path(predictions))
    if not math.isfinite(done.get_score()):
        raise BenchmarkError(f"{model.label} has no score: it is {done.get_score()}")
    path = _samples_path(results, model, task)
    path.unlink(missing_ok=True)
    results.save_to_cache(done, _meta(model))
    # Last, so that a result without it is one that was interrupted.
    write_json(path, {"score": done.get_score(), "units": samples})
    return _result(task, model, done.get_score(), samples)


def _encoder(model: EvalModel, report: Callable[..., None], stop: threading.Event):
    """Return a model as mteb expects one."""
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.types import PromptType

    class Encoder(AbsEncoder):
        mteb_model_meta = _meta(model)
        done = 0

        def __init__(self) -> None:
            pass

        def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **_):
            role = Role.QUERY if prompt_type == PromptType.query else Role.DOCUMENT
            embed = model.embed if prompt_type else model.alike or model.embed
            texts = [
                text.replace("\0", " ") for batch in inputs for text in batch["text"]
            ]  # no `Text` may have NUL
            vectors = np.empty((len(texts), model.dimension), dtype=np.float32)
            for start in range(0, len(texts), _BLOCK):
                if stop.is_set():
                    raise Stopped
                block = texts[start : start + _BLOCK]
                vectors[start : start + len(block)] = embed(block, role)
                self.done += len(block)
                report(texts=self.done)
            if (without := int((~vectors.any(axis=1)).sum())) > model.skip * len(texts):
                raise BenchmarkError(
                    f"no vector of {without:,} of {len(texts):,} texts, more than {model.skip:.3g} (--skip)"
                )
            return vectors

    return Encoder()


def _meta(model: EvalModel):
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    name = model.name if model.name.count("/") == 1 else f"workbench/{Path(model.name).name}"
    name = re.sub(r"[^A-Za-z0-9._/-]+", "-", name)
    facts = {
        "name": name,
        "revision": model.revision,
        "embed_dim": model.dimension,
        "n_parameters": model.parameters,
    }
    return ModelMeta.create_empty(
        overwrites={**facts, "similarity_fn_name": ScoringFunction.COSINE}
    )


def _samples_path(results, model: EvalModel, task: AbsTask) -> Path:
    return results.get_task_result_path(task.metadata.name, _meta(model)).with_suffix(".units.json")


def _result(task: AbsTask, model: EvalModel, score: float, samples: dict | None) -> TaskResult:
    data = task.metadata
    return TaskResult(data.name, data.type, data.main_score, model.label, score, samples)


def _stored(results, model: EvalModel, task: AbsTask) -> TaskResult | None:
    """Return the complete result of an earlier run on these data with this mteb, or None."""
    import mteb

    try:
        result = results.load_task_result(task.metadata.name, _meta(model))
        kept = json.loads(_samples_path(results, model, task).read_text())
        whole = (
            (result.dataset_revision, result.mteb_version)
            == (task.metadata.revision, mteb.__version__)
            and per_sample.is_sound(kept["units"])
            and not result.get_missing_evaluations(task)
            and abs(kept["score"] - result.get_score()) <= 1e-4
        )
        return _result(task, model, kept["score"], kept["units"]) if whole else None
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):  # missing, half written or edited
        return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence mteb's messages and bars, except errors: the run reports its own progress."""
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
