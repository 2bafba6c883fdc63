"""The project with small models under the names of the real ones, for notebooks that have to run in seconds."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

from bench.ready import save_ready
from workbench import data, models, pipeline
from workbench._util import PROJECT
from workbench.cache import TargetCache

TEACHER_WIDTH = 768  # as wide as all-mpnet-base-v2, which the notebooks truncate


def small_project(folder: Path) -> Path:
    """Copy the project, with small models and a ready student made of them; return the folder to run notebooks in.

    A name of a model that is a folder in the working directory is that folder, so nothing is patched. The models are the
    first layers of all-MiniLM-L6-v2: they read whole words, and near texts stay near.
    """
    project = folder / "project"
    shutil.copytree(PROJECT / "workbench", project / "workbench")
    shutil.copytree(PROJECT / "data", project / "data", ignore=shutil.ignore_patterns("head.*"))
    notebooks = project / "notebooks"
    notebooks.mkdir()
    (notebooks / "sentence-transformers").mkdir()
    for name, layers, width in ((models.MPNET, 2, TEACHER_WIDTH), (models.MINILM, 1, None)):
        _first_layers(layers, width).save_pretrained(str(notebooks / name), create_model_card=False)
        (notebooks / name.partition("/")[2]).symlink_to(notebooks / name, target_is_directory=True)
    before = Path.cwd()
    os.chdir(notebooks)
    try:
        _save_small_ready(project / "data" / "ready", folder / "cache")
    finally:
        os.chdir(before)
    return notebooks


def environment(notebooks: Path, home: Path) -> dict[str, str]:
    """Return the environment of a kernel that imports the copy of the package, and keeps what it makes in `home`."""
    path = [notebooks.parent, *(PROJECT / name for name in ("notebooks", "examples", "recipes"))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "WORKBENCH_HOME": str(home)}


def _first_layers(layers: int, width: int | None) -> SentenceTransformer:
    """Return the first layers of all-MiniLM-L6-v2, with its vectors turned into a wider space if a width is given."""
    transformer = Transformer(str(models.resolve(models.MINILM).path))
    encoder = transformer.model.encoder
    encoder.layer = encoder.layer[:layers]
    transformer.model.config.num_hidden_layers = layers
    transformer.max_seq_length = 256
    modules = [transformer, Pooling(384, pooling_mode="mean")]
    if width:
        dense = Dense(384, width, bias=False, activation_function=torch.nn.Identity())
        turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((width, 384)))
        dense.linear.weight.data = torch.from_numpy(turn).float()
        modules.append(dense)
    return SentenceTransformer(modules=[*modules, Normalize()], device="cpu")


def _save_small_ready(folder: Path, cache: Path) -> None:
    collection = data.read_dataset("tutorial")
    texts = collection.document_texts() + collection.query_texts()
    recipe = replace(pipeline.ADAPT, hidden=800, others=0)
    targets = TargetCache(cache, pipeline.teacher_of(None, recipe))
    distilled = pipeline.run(texts, targets, recipe, cache / "student", progress=False)
    save_ready(distilled.student, folder, distilled.provenance)
