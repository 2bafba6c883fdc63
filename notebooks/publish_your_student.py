# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Publish your student
#
# **The question:** what must a published student bring and state, so that others can use it and know what it is worth?
#
# You will publish a student as a folder that loads without this package, alone or with its teacher as one model, run it
# without torch, and write an honest model card.
#
# **What you need:** the environment of `make setup`, and one gigabyte of disk. It takes about two minutes on two cores. This lesson is
# optional.

# %%
import tempfile
import time
from pathlib import Path

import _course
import numpy as np
import pandas as pd
from IPython.display import Markdown
from sentence_transformers import SentenceTransformer

import workbench as wb
from workbench import evaluate, quantize
from workbench.extras import card, publish
from workbench.student import read_provenance
from workbench.widgets import TradeoffExplorer

published = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1 A student and its provenance
#
# Users of a model want to know what it was made from. `wb.distill` stores that in the student's folder.

# %%
train, countries = _course.factbook(train=400, held_out=150)
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
model = wb.distill(train, teacher, recipe="rotation", output=published / "made")
about = read_provenance(published / "made")
{name: about[name] for name in ("teacher_name", "base", "texts_by_role", "start")}

# %% [markdown]
# ## 2 Measure first
#
# A card must have results, and it must show the teacher beside the student. We measure on texts like the training
# texts, and on texts of another kind. Both belong on the card.

# %%
base, reports = wb.load_model("all-MiniLM-L6-v2"), []
base.max_seq_length = 96
for collection in (countries, wb.read_dataset("tutorial")):
    rows = wb.compare({"teacher": teacher, "base": base, "student": model}, collection)
    reports.append(evaluate.report(collection, rows, max_length=96))
    print(f"{collection.name}\n{evaluate.format_table(rows)}\n")

# %% [markdown]
# The curves of notebook 5 tell users which sizes they can choose.

# %%
collection = countries
large_vectors, small_vectors = (evaluate.vectors(one, collection) for one in (teacher, model))
asymmetric = small_vectors[0], large_vectors[1]
sides = {"teacher": large_vectors, "symmetric": small_vectors, "asymmetric": asymmetric}

# %%
curves = quantize.sweep(collection, sides, quantize.grid(768, least=192))
reports[0]["curves"] = evaluate.as_rows(curves)
TradeoffExplorer(curves)

# %% [markdown]
# ## 3 The card
#
# The card is generated from the measurements and the provenance. Nothing in it is typed by hand.

# %%
model_card = card.card(about, reports, name="me/my-student", dimension=768, onnx=True)
Markdown(model_card.text)

# %% [markdown]
# > **Think first.** Which sentence of this card would you, as its author, most like to leave out? Keep that one.
#
# ## 4 The student
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
# ## 5 The pair
#
# The pair is one model: `encode_query` runs the student and `encode_document` the teacher. Nobody can mix up the sides,
# and widths and prompts always match.

# %%
large = wb.load_model("all-mpnet-base-v2")
large.max_seq_length = 96

# %%
pair_card = card.card(about, reports, name="me/my-pair", dimension=768, pair=True)
pair = SentenceTransformer(str(publish.save_pair(large, model, published / "pair", card=pair_card)))
found = pair.similarity(pair.encode_query(queries[:1]), pair.encode_document(passages))
print(queries[0], "->", passages[int(found.argmax())][:100])

# %% [markdown]
# ## 6 Without torch
#
# The ONNX graph holds the whole student. It maps tokens to a finished vector, so a runtime needs no code for pooling or
# the head. int8 is less exact, and faster on most machines; the table shows both on this one. The times are medians.

# %%
runs = {"teacher, torch": lambda q: large.encode(q, show_progress_bar=False)}
runs |= {"student, torch": lambda q: model.encode_query(q, show_progress_bar=False)}
for name, int8 in (("float32", False), ("int8", True)):
    runs[f"student, ONNX {name}"] = (
        lambda q, m=publish.OnnxModel(folder / card.ONNX_FOLDER, int8=int8): m.encode(q, "query")
    )

# %%
vectors, took = {name: [] for name in runs}, {name: [] for name in runs}
for query in queries[:50]:
    for name, encode in runs.items():  # in turn, so that a busy moment hits all
        started = time.perf_counter()
        vectors[name].append(encode([query])[0])
        took[name].append(time.perf_counter() - started)
measured = {name: (np.stack(vectors[name]), np.median(took[name])) for name in runs}
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
# ## 7 Permanent truncation
#
# sentence-transformers does not save `truncate_dim`. A truncated model loads at its new width everywhere. Teacher and
# student are rotated and truncated in the same way, so they still share a space. Eight hundred texts are few to estimate
# 768 directions; for a model that you ship, use several times as many texts as dimensions.

# %%
rotation = quantize.principal_rotation(evaluate.vectors(teacher, train))
short = [publish.truncated(one, 192, rotation) for one in (large, model)]
small = SentenceTransformer(str(publish.save_pair(*short, published / "short-pair")))
small.encode_query(queries[:2]).shape, small.encode_document(passages[:2]).shape

# %% [markdown]
# ## The answer

# %%
best = max(runs, key=lambda name: slowest / measured[name][1])
print(
    f"A student ships as one folder of {sum(p.stat().st_size for p in folder.rglob('*')) / 1e6:.0f} MB with a card of {len(model_card.text.split())} words, all measured."
)
print(
    f"The fastest way to run it here is {best}: {slowest / measured[best][1]:.1f} times the teacher's queries a second."
)

# %% [markdown]
# To send it to the hub: `workbench push FOLDER me/my-student --dry-run` lists what would be sent. Nothing is sent unasked.
#
# ## What you learned
#
# - A student is an ordinary model: sentence-transformers loads it, alone or as a pair, and onnxruntime runs it.
# - The card is made from measurements, with the teacher and the base beside the student.
# - Publishing writes a complete folder or nothing.
#
# ## Exercises
#
# 1. Load the folder of section 4 in an environment that has only sentence-transformers, and run the code of its card.
# 2. Publish the student of `make demo` from the command line: `workbench evaluate --curves`, then `workbench publish`.
# 3. Truncate to 96 dimensions without the rotation, and compare both pairs on the tutorial data set.
