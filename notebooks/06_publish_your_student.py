# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. Publish your student
#
# **The question:** what must a published student bring and state, so that others can use it and know what it is worth?
#
# You will publish a student as a folder that loads without this package, alone or with its teacher as one model, run it
# without torch, and write an honest model card.
#
# **What you need:** the environment of `make setup`, and one gigabyte of disk. It takes two minutes on two cores. If
# you have run notebook 2, its student is published here; otherwise this notebook makes one with only a closed-form
# start.

# %%
import shutil
import time

import _course
import numpy as np
import pandas as pd
from IPython.display import Markdown
from sentence_transformers import SentenceTransformer

from workbench import data, evaluate, models, quantize, student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.docstrings import docstring_corpus
from workbench.extras import card, publish
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher
from workbench.widgets import TradeoffExplorer

# %%
profile = _course.profile()
published = profile.folder / "published"
shutil.rmtree(published, ignore_errors=True)  # of an earlier run of this notebook

# %% [markdown]
# ## 6.1 A student and its provenance
#
# Users of a model want to know what it was made from. `student.save` stores the provenance in the student's folder, and
# `student.read_provenance` reads it.

# %%
corpus = docstring_corpus(pairs=profile.pairs, held_out=profile.held_out)
train = corpus.train[: profile.train_texts]
print(f"{len(train):,} texts to learn from")

# %%
collections = [corpus.held_out, data.read_dataset("tutorial")]
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
cache = TargetCache(home() / "cache", teacher)
texts = [text for one in collections for text in one.query_texts() + one.document_texts()]
_ = cache.embed(texts + train, progress=True)

# %%
trained = _course.learned(cache, train)  # notebook 2's student, if it is there
model, about = student.load(trained), student.read_provenance(trained)
{
    name: about[name]
    for name in ("teacher_name", "base", "texts", "texts_by_role", "start", "settings")
}

# %% [markdown]
# ## 6.2 Measure first
#
# A card must have results, and it must show the teacher beside the student. We measure on texts like the training
# texts, and on texts of another kind. Both belong on the card.

# %%
base = models.load_model(TOUR.base)
base.max_seq_length = TOUR.max_length
reports = []
for collection in collections:
    rows = evaluate.compare({"teacher": cache, "base": base, "student": model}, collection)
    reports.append(evaluate.report(collection, rows, max_length=TOUR.max_length))
    print(f"{collection.name}\n{evaluate.format_table(rows)}\n")

# %% [markdown]
# The curves of notebook 5 tell your users which sizes they can choose.

# %%
collection = corpus.held_out
large_vectors, small_vectors = (
    evaluate.vectors(cache, collection),
    evaluate.vectors(model, collection),
)
asymmetric = small_vectors[0], large_vectors[1]
sides = {"teacher": large_vectors, "symmetric": small_vectors, "asymmetric": asymmetric}

# %%
curves = quantize.sweep(collection, sides, quantize.grid(cache.dimension, least=192))
reports[0]["curves"] = evaluate.as_rows(curves)
TradeoffExplorer(curves)

# %% [markdown]
# ## 6.3 The card
#
# The card is generated from the measurements and the provenance. Nothing in it is typed by hand.

# %%
model_card = card.card(about, reports, name="me/my-student", dimension=cache.dimension, onnx=True)
Markdown(model_card.text)

# %% [markdown]
# > **Think first.** Which sentence of this card would you, as its author, most like to leave out? Keep that one.
#
# ## 6.4 The student
#
# The result is an ordinary sentence-transformers folder. It gets its final name only when it is complete, and a folder
# that is not empty is never overwritten.

# %%
folder = publish.save_student(model, published / "student", card=model_card, onnx=True)
pd.DataFrame(
    [
        {"file": str(p.relative_to(folder)), "bytes": p.stat().st_size}
        for p in sorted(folder.rglob("*.*"))
    ]
)

# %%
queries = [text.text for text in collection.query_texts()]
passages = [text.text for text in collection.document_texts()]
again = SentenceTransformer(str(folder))
print(
    f"largest difference: {np.abs(again.encode_query(queries) - model.encode_query(queries)).max():.1e}"
)

# %% [markdown]
# ## 6.5 The pair
#
# The pair is one model: `encode_query` runs the student and `encode_document` the teacher. Nobody can mix up the sides,
# and widths and prompts always match.

# %%
large = models.load_model(TOUR.teacher)
large.max_seq_length = TOUR.max_length

# %%
pair_card = card.card(about, reports, name="me/my-pair", dimension=cache.dimension, pair=True)
pair = SentenceTransformer(str(publish.save_pair(large, model, published / "pair", card=pair_card)))
found = pair.similarity(pair.encode_query(queries[:1]), pair.encode_document(passages))
print(queries[0], "->", passages[int(found.argmax())][:100])

# %% [markdown]
# ## 6.6 Without torch
#
# The ONNX graph holds the whole student. It maps tokens to a finished vector, so a runtime needs no code for pooling or
# the head. int8 is faster and less exact; the table shows both on this machine.


# %%
def seconds(encode):
    encode(queries[:4])
    started = time.perf_counter()
    vectors = np.concatenate([encode([query]) for query in queries])
    return vectors, time.perf_counter() - started


# %%
runs = {"teacher, torch": lambda q: large.encode(q, show_progress_bar=False)}
runs |= {"student, torch": lambda q: model.encode_query(q, show_progress_bar=False)}
for name, int8 in (("float32", False), ("int8", True)):
    runs[f"student, ONNX {name}"] = (
        lambda q, m=publish.OnnxModel(folder / card.ONNX_FOLDER, int8=int8): m.encode(q, "query")
    )
measured = {name: seconds(encode) for name, encode in runs.items()}

# %%
exact, slowest = measured["student, torch"][0], measured["teacher, torch"][1]
pd.DataFrame(
    {
        "times the teacher's speed, one query at a time": {
            n: slowest / t for n, (_, t) in measured.items()
        },
        "least cosine to the student": {
            n: (v * exact).sum(axis=1).min() for n, (v, _) in measured.items()
        },
    }
).style.format("{:.3f}")

# %% [markdown]
# > **Caution.** A cosine of 0.99 to the student does not mean 99 % of its quality. `python -m bench.latency` measures
# > how much nDCG@10 int8 keeps on your data sets, and also the speed of the teacher in ONNX.
#
# ## 6.7 Permanent truncation
#
# sentence-transformers does not save `truncate_dim`. A truncated model loads at its new width everywhere. Teacher and
# student are rotated and truncated in the same way, so they still share a space. Eight hundred texts are few to estimate
# 768 directions; for a model that you ship, use several times as many texts as dimensions.

# %%
rotation = quantize.principal_rotation(cache.targets(train)[:])
short = [publish.truncated(one, 192, rotation) for one in (large, model)]
small = SentenceTransformer(str(publish.save_pair(*short, published / "short-pair")))
small.encode_query(queries[:2]).shape, small.encode_document(passages[:2]).shape

# %% [markdown]
# ## 6.8 The hub
#
# Nothing leaves your machine until you call `push` without `dry_run`. The dry run lists what would be sent. The token
# is read from your environment and is not copied.

# %%
publish.push(folder, "me/my-student", dry_run=True)

# %% [markdown]
# ## What you learned
#
# - A student is an ordinary model: sentence-transformers loads it, alone or as a pair, and onnxruntime runs it.
# - The card is made from measurements, with the teacher and the base beside the student.
# - Publishing writes a complete folder or nothing, and sends nothing until you ask.
#
# ## Exercises
#
# 1. Load the folder of 6.4 in an environment that has only sentence-transformers, and run the code of its card.
# 2. Publish the student of `make demo` from the command line: `workbench evaluate --curves`, then `workbench publish`.
# 3. Truncate to 96 dimensions without the rotation, and compare both pairs on the tutorial data set.
