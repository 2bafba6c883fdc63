# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Improve it by hand
#
# **The question:** which kind of text does your student get wrong, and does it help to train it on more of that kind?
#
# You look at a map, choose the texts that you are not content with, pick more texts like them from a pool, train again,
# and see before and after on one map. As a control, the student is also trained on as many texts drawn at random. About
# two minutes on two cores.
#
# The texts are passages on countries and their questions. With texts of your own: a sample that you look at and do not train on, some
# to train on, and a larger pool to pick from.

# %%
import numpy as np
import pandas as pd
from _course import factbook, more_like

import workbench as wb

others, collection = factbook(train=1000, held_out=150)
texts = collection.query_texts() + collection.document_texts()  # looked at, never trained on
train = others[::5]  # of the passages and of their questions
pool = [text for i, text in enumerate(others) if i % 5]
print(
    f"{len(texts):,} texts to look at, {len(train):,} to train on, {len(pool):,} to pick more from"
)

# %% [markdown]
# ## Before
#
# A small model whose vectors are mapped into the teacher's space by what the training texts say.

# %%
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
before = wb.distill(train, teacher, recipe="adapt", others=0, progress=False)
explorer = wb.explore(texts, {"teacher": teacher, "before": before}, passages=False)  # a row a text
explorer

# %% [markdown]
# Below the map, *regions* lists the kinds of text, the worst one first. **Click a region, or draw a lasso.** Then run the
# next cells: they take what you have chosen, and the worst region if you have chosen nothing.

# %%
explorer.wait()
found = explorer.regions
found.head(4).round(3)

# %%
if not len(explorer.selected):
    explorer.select(explorer.table["region"] == found.index[0])
chosen = np.isin(np.arange(len(texts)), explorer.selected)
print(f"{chosen.sum()} texts are chosen")
explorer.selection[["cosine", "overlap", "text"]].head(5)

# %% [markdown]
# ## More texts like these
#
# `more_like` embeds the pool with a small model and picks what resembles the chosen texts. Near-duplicates are left out, and
# whatever is looked at here: a student that trains on what it is measured on shows nothing.

# %%
some = [text for text, wanted in zip(texts, chosen, strict=True) if wanted]
more = more_like(some, pool, 200, "all-MiniLM-L6-v2", avoid=texts)
at_random = [pool[i] for i in np.random.default_rng(0).permutation(len(pool))[: len(more)]]
[text.text[:100] for text in more[:4]]

# %% [markdown]
# ## After
#
# The student is fitted again: once with the new texts too, once with as many drawn at random.
# The teacher embeds the new texts only.

# %%
after = wb.distill(train + more, teacher, recipe="adapt", others=0, progress=False)
control = wb.distill(train + at_random, teacher, recipe="adapt", others=0, progress=False)

# %% [markdown]
# The same map again, with the chosen texts selected. Change the model in the list *teacher and* and watch the lines: each leads
# from a text toward its neighbors for the student, so shorter is better.

# %%
again = wb.explore(texts, {"teacher": teacher, "after": after, "before": before}, passages=False)
again.select(chosen)
again

# %% [markdown]
# ## Has it helped?
#
# Read both columns of the table: what the chosen texts have gained, and what all others have gained or paid. The cosine says
# whether a text is in its place; the overlap, whether it has the same ten nearest texts as for the teacher.

# %%
from workbench import agreement
from workbench.evaluate import as_model, vectors

target = vectors(as_model(teacher, texts), texts)
students = {"before": before, "more like them": after, "at random": control}
rows = {}
for name, model in students.items():
    table = agreement.per_text(target, wb.encode(model, texts))
    rows[name] = table.groupby(np.where(chosen, "chosen", "others"))[["cosine", "overlap"]].mean()
pd.concat(rows).unstack(sort=False).round(3)

# %% [markdown]
# > **Think first.** Why the control? More texts of any kind may help. What *choosing* has brought is the difference between the
# > last two rows.

# %% [markdown]
# ## The answer

# %%
table = pd.concat(rows).unstack(sort=False)
for measure in ("cosine", "overlap"):
    value = table[measure, "chosen"]
    print(f"{measure} of the chosen texts: {value['before']:.3f} before, {value['more like them']:.3f} with texts like them, "
          f"{value['at random']:.3f} with as many at random")  # fmt: skip

# %% [markdown]
# ## What you learned
#
# - A map and a table of regions say where to look. A control says whether what you did there has helped.
# - Texts of a kind can put that kind in its place (cosine) more than random texts do, and its neighbors (overlap) gain less:
#   [docs/experiments.md](../docs/experiments.md) has the same on three public collections.
# - Go around again: choose the next region, or take texts in the thousands. What has been embedded is kept.
