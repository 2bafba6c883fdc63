"""Make the student that comes with the package, `data/ready`, or measure it. The teacher's vectors are kept.

    python -m bench.ready make TEXTS [--output data/ready] [--more 270000]
    python -m bench.ready measure COLLECTION...

TEXTS is a folder of parquet files (`text`, `role`), one a source. The head alone learns, on stored features of the base. The best pass is
chosen by a source that is held out whole, Reuters, which may be used for research alone: no text of it is trained on. Then
the base's own space is added to what the head has learned, see `with_base_space`.
Measured beside it are the untrained base, a closed form of the collection's documents, and the ready student adapted to
them. Writes build/ready.json.
"""

from __future__ import annotations

import argparse
import copy
import math
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dropout

from bench.__main__ import machine
from workbench import data, evaluate, models, pipeline, ready, student, train
from workbench._util import home, spread, whole_folder, write_json
from workbench.cache import TargetCache
from workbench.data import Role, Text
from workbench.errors import WorkbenchError
from workbench.pipeline import ADAPT

# Source to documents, queries, and queries cropped from other documents. In asymmetric search a student reads queries alone,
# and a short text costs the teacher a tenth of a long one.
LESSON = {
    "arxiv": (3500, 8000, 8000), "debian": (2500, 2500, 0), "medquad": (1500, 2500, 2500), "wordnet": (6000, 0, 0),
    "wikisplit": (5000, 0, 0), "questions": (0, 3000, 0), "trivia": (0, 4000, 0), "web_queries": (0, 4000, 0),
    "claims": (0, 3500, 0),
}  # fmt: skip
# More of the same, of which MORE_TEXTS are drawn at random; most of them short.
MORE = {
    "arxiv": (45000, 90000, 45000), "debian": (30000, 60000, 15000), "medquad": (9000, 15000, 6800), "wordnet": (116000, 0, 0),
    "wikisplit": (45000, 0, 0), "questions": (0, 64000, 0), "trivia": (0, 49200, 0), "web_queries": (0, 99400, 0),
    "claims": (0, 9800, 0),
}  # fmt: skip
MORE_TEXTS = 270_000
HELD_OUT = {"reuters": (500, 500, 0)}
SHARE = 0.6  # of the base's space in the student's vectors
ALIGNED_ON = 4000  # texts that say how the base's space is turned


# So many texts fill a wider head than that of `ADAPT`.
RECIPE = replace(ADAPT, name="broad", hidden=3072)
HEAD = train.TrainingConfig(
    batch_size=512, learning_rate=1e-3, epochs=10, dropout=0.1, evaluations=1, max_grad_norm=None
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ready", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("make")
    command.add_argument("folder", type=Path, metavar="TEXTS")
    command.add_argument(
        "--more", type=int, default=MORE_TEXTS, help="how many to learn from besides LESSON"
    )
    command.add_argument("--output", type=Path, default=ready.READY)
    commands.add_parser("measure").add_argument(
        "collections", nargs="+", type=Path, metavar="COLLECTION"
    )
    options = parser.parse_args()
    try:
        if options.command == "measure":
            return measure(options.collections)
        return make(options.folder, options.output, options.more)
    except (OSError, WorkbenchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def make(source: Path, output: Path, count: int) -> int:
    """Draw the texts, train the head, and write it."""
    started = time.perf_counter()
    lesson, more, held_out = (draw(source, plan) for plan in (LESSON, MORE, HELD_OUT))
    lesson = list(
        dict.fromkeys(
            lesson + [more[i] for i in np.random.default_rng(0).permutation(len(more))[:count]]
        )
    )
    cache = TargetCache(home() / "cache", pipeline.teacher_of(None, RECIPE))
    model = RECIPE.student(cache)
    features = pipeline.features_of(model, RECIPE, cache)
    targets, unseen = (cache.embed(texts) for texts in (lesson, held_out))
    inputs, unseen_inputs = (features.embed(part, what="features") for part in (targets, unseen))
    about = {"head_fit": student.fit_head(model, lesson, targets, features=inputs)}
    about["result"] = train_head(model, inputs, targets, HEAD, held_out=(unseen_inputs, unseen))
    about |= {"base": RECIPE.base, "start": RECIPE.start, "config": HEAD}
    aligned_on = [lesson[i] for i in spread(len(lesson), ALIGNED_ON)]
    whole = with_base_space(model.eval(), student.pooled(model, aligned_on), RECIPE.base)
    provenance = train.provenance(cache, lesson, source=", ".join(sorted(LESSON)), **about)
    provenance |= {"held_out": ", ".join(HELD_OUT), "machine": machine()}
    provenance |= {"base_space": {"share": SHARE, "texts": len(aligned_on)}}
    save_ready(whole, output, provenance, mirrored=whole[0].get_embedding_dimension())
    print(f"written to {output} after {time.perf_counter() - started:.0f} s")
    return 0


def train_head(
    model: SentenceTransformer,
    features: np.ndarray,
    targets: np.ndarray,
    config: train.TrainingConfig = HEAD,
    *,
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
    **callbacks: Any,
) -> train.Result:
    """Train a student's head on stored features; the transformer stays as it is.

    Features index like an array of shape (n, width), such as the targets of a cache of
    `FrozenFeatures`. Those of `held_out` are best from sources that are not trained on: on others
    the loss falls while subjects not seen get worse. Callbacks are `on_step` and `stop`.
    """
    student.check_targets(model, len(features), targets)
    # The first steps disturb a head in closed form: smaller batches make 200 steps, to mend it.
    least_steps_per_epoch = math.ceil(200 / (config.epochs * config.restarts))
    largest_batch = max(8, len(features) // least_steps_per_epoch)
    config = replace(config, batch_size=min(config.batch_size, largest_batch))

    layers = student.head_of(model)
    head = torch.nn.Sequential(*copy.deepcopy(list(model.children())[2:])).cpu()
    trained_layers = list(head)[: len(layers)]
    first = trained_layers[0].linear
    sample = np.asarray(features[np.array(spread(len(features), 20_000))], dtype=np.float32)
    mean, deviation = student.mean_and_deviation(torch.from_numpy(sample))
    # Features are standardized, so that Adam's steps are alike for all of them. The first layer
    # takes that in here, and is folded back in the end.
    with torch.no_grad():
        if first.bias is None:
            mean = torch.zeros_like(mean)
        else:
            first.bias.add_(first.weight @ mean)
        first.weight.mul_(deviation)
    if len(layers) == 2:
        head.insert(1, Dropout(config.dropout))

    def standardized(values: np.ndarray) -> np.ndarray:
        return (np.asarray(values, dtype=np.float32) - mean.numpy()) / deviation.numpy()

    def evaluate() -> dict[str, float]:
        vectors = student.through_head(model, standardized(held_out[0]), head)
        return train.figures(vectors, held_out[1], {})

    result = train.train(
        head.to(model.device),
        lambda rows: {"sentence_embedding": torch.from_numpy(standardized(features[rows]))},
        targets,
        config,
        evaluate=held_out and evaluate,
        **callbacks,
    )
    if result.best_step > 0:  # else the head stays exactly as it is
        head.cpu()
        with torch.no_grad():
            first.weight.div_(deviation)
            if first.bias is not None:
                first.bias.sub_(first.weight @ mean)
        for layer, trained in zip(layers, trained_layers, strict=True):
            layer.load_state_dict(trained.state_dict())
    return result


def with_base_space(model, features: np.ndarray, base: str):
    """Return a student whose vectors are the sum of the given student's and of the base's own turned into that space.

    A head that has learned other subjects loses some of the order that the base's own space has among texts. The base's
    space, the mean of its tokens, is turned by the matrix with orthonormal rows that brings it nearest to the student's
    vectors (orthogonal Procrustes; Schönemann, 1966), which leaves its distances as they are.

    Args:
        model: a student with a head of two layers on the mean of the tokens and more.
        features: what the head gets of some thousand texts, of shape (n, width).
        base: the student's base.
    """
    first, last = (module.linear for module in student.head_of(model))
    x = torch.from_numpy(features).to(first.weight.device)
    with torch.no_grad():
        learned = last(torch.nn.functional.gelu(first(x)))
        own = x[:, : model[0].get_embedding_dimension()]
        left, _, right = torch.linalg.svd(
            own.T @ torch.nn.functional.normalize(learned), full_matrices=False
        )
        size = SHARE / (1 - SHARE) * learned.norm(dim=1).mean() / own.norm(dim=1).mean()
        turn, center, deviation = size * (left @ right).T, own.mean(dim=0), own.std(dim=0)
        deviation = deviation.clamp_min(deviation.median() / 10)  # some features hardly vary
        # GELU(u) - GELU(-u) = u, see `student.build`
        through = torch.nn.functional.pad(torch.diag(1 / deviation), (0, x.shape[1] - own.shape[1]))
        shift, back = center / deviation, turn * deviation
        options = build_options(model)
        options["hidden"] += 2 * own.shape[1]
        made = student.build(base, **options, device=str(model.device))
        wide, out = (module.linear for module in student.head_of(made))
        wide.weight.copy_(torch.cat([first.weight, through, -through]))
        wide.bias.copy_(torch.cat([first.bias, -shift, shift]))
        out.weight.copy_(torch.cat([last.weight, back, -back], dim=1))
        out.bias.copy_(last.bias + turn @ center)
    return made.eval()


def save_ready(model, folder: str | Path, provenance: dict, *, mirrored: int = 0) -> Path:
    """Write a student's head in 8 bits, with its provenance and checksum, for `ready.load_ready`.

    Args:
        model: a student with a head of two layers, whose transformer is its base's.
        folder: new, or with an earlier one, whose card (README.md) stays.
        provenance: what `train.provenance` returned.
        mirrored: the last so many hidden units repeat those before them with opposite signs in
            both layers; they are not stored.
    """
    first, last = (layer.linear for layer in student.head_of(model))
    stored = first.out_features - mirrored
    layers = (first.weight[:stored], first.bias[:stored]), (last.weight[:, :stored], last.bias)
    tensors = {}
    for number, (weight, bias) in enumerate(layers):
        for name, tensor in {**packed(weight.detach().cpu()), "bias": bias}.items():
            tensors[f"{number}.{name}"] = tensor.detach().cpu().contiguous()
    build = build_options(model)
    with whole_folder(folder) as scratch:
        if (card := Path(folder) / "README.md").is_file():
            shutil.copy(card, scratch)
        save_file(tensors, scratch / ready.HEAD_FILE)
        more = {
            "base_fingerprint": models.resolve(provenance["base"]).fingerprint,
            "build": build,
            "mirrored": mirrored,
            "head_sha256": ready.digest((scratch / ready.HEAD_FILE).read_bytes(), build),
        }
        write_json(scratch / models.PROVENANCE, {**provenance, **more})
    return Path(folder)


def build_options(model) -> dict:
    """Return the options of `student.build` for a student with a head of two layers."""
    head = student.head_of(model)
    return {
        "dimension": head[-1].out_features,
        "normalize": models.normalizes(model),
        "hidden": head[0].out_features - 2 * head[0].in_features,
        "pooling": list(model.children())[1].pooling_mode,
        "max_length": model.max_seq_length,
        "prompts": dict(model.prompts),
    }


def packed(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Round a layer's weights, of shape (out, in), to int8 with a scale for each row and column."""
    least = torch.finfo(torch.float32).tiny
    columns = weight.pow(2).mean(dim=0).sqrt().clamp_min(least)
    scaled = weight / columns
    # The largest weight of each row is kept by itself. In a head that started as the closed form it
    # carries a feature through, and is a hundred times as large as the rest.
    place = scaled.abs().argmax(dim=1, keepdim=True)
    peak = scaled.gather(1, place)
    scaled.scatter_(1, place, 0)
    scale = (scaled.abs().amax(dim=1) / 127).clamp_min(least)
    rounded = (scaled / scale[:, None]).round().to(torch.int8)
    return {
        "weight": rounded,
        "scale": scale,
        "columns": columns,
        "peak": peak,
        "place": place.int(),
    }


def measure(folders: list[Path]) -> int:
    """Compare the ready student, and what `adapt` makes of it, on collections."""
    cache = TargetCache(home() / "cache", pipeline.teacher_of(None, ADAPT))
    base, student_ready, rows = models.load_model(ADAPT.base), ready.load_ready(), []
    base.max_seq_length = ADAPT.max_length
    for folder in folders:
        collection = data.read_dataset(folder)
        documents = [text for text in collection.document_texts() if text.text.strip()]
        cache.embed(documents, progress=True)
        closed = ADAPT.change(start="closed-form").student(cache)
        student.fit_head(closed, documents, cache.targets(documents))
        started = time.perf_counter()
        adapted = pipeline.run(
            documents,
            cache,
            ADAPT,
            home() / "adapted" / collection.name,
            progress=False,
            resume=False,
        )
        seconds = time.perf_counter() - started
        compared = {
            "teacher": cache,
            "base": base,
            "closed form": closed,
            "ready": student_ready,
            "adapted": adapted.student,
        }
        table = evaluate.compare(compared, collection)
        table.insert(0, "collection", collection.name)
        rows.append(table.assign(seconds=seconds))
        print(
            f"{collection.name}: adapted in {seconds:.1f} s\n{table.round(3).to_string()}",
            flush=True,
        )
    found = pd.concat(rows)
    print(
        found.groupby(["model", "mode"], sort=False)["share_of_teacher"]
        .agg(["mean", "min"])
        .round(3)
        .to_string()
    )
    print(
        f"written to {write_json(home() / 'ready.json', {'machine': machine(), 'rows': evaluate.as_rows(found)})}"
    )
    return 0


def draw(folder: Path, plan: dict[str, tuple[int, int, int]], seed: int = 0) -> list[Text]:
    """Draw texts from each source, by role, and crop queries from documents that were not drawn."""
    texts = []
    for source, (documents, queries, cropped) in plan.items():
        table = pq.read_table(folder / f"{source}.parquet", columns=["text", "role"]).to_pandas()
        for role, count in ((Role.DOCUMENT, documents), (Role.QUERY, queries)):
            some = table[
                (table["role"] == role.value) & (table["text"].str.strip() != "")
            ].drop_duplicates("text")
            shuffled = [Text(text, role) for text in some["text"].sample(frac=1, random_state=seed)]
            texts += shuffled[:count]
            if role is Role.DOCUMENT:
                rest = shuffled[count:]
                texts += data.crop_queries(rest[:cropped], -(-cropped // max(1, len(rest))))[
                    :cropped
                ]
    return list(dict.fromkeys(texts))


if __name__ == "__main__":
    sys.exit(main())
