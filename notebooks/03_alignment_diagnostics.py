# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Alignment diagnostics
#
# **The question:** on which texts does a student differ from its teacher?
#
# You will look at single texts, at kinds of text, and at the space as a whole.
#
# **What you need:** the environment of `make setup`. It takes two minutes on two cores. If you have run notebook 2,
# this notebook examines its student; otherwise it makes one with only a closed-form start.

# %%
import _course
import numpy as np
import pandas as pd

from workbench import agreement, models, regions, student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.docstrings import docstring_corpus
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher
from workbench.widgets import AgreementExplorer, NeighborInspector

# %% [markdown]
# ## 3.1 Two sets of vectors for the same texts
#
# No student has trained on the held-out docstrings. Diagnostics on training texts look better than they should.

# %%
profile = _course.profile()
corpus = docstring_corpus(pairs=profile.pairs, held_out=profile.held_out)
train = corpus.train[: profile.train_texts]
texts = corpus.held_out.query_texts() + corpus.held_out.document_texts()
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
cache = TargetCache(home() / "cache", teacher)
_ = cache.embed(texts + train, progress=True)

# %%
folder = _course.learned(cache, train)
model = student.load(folder)
print(folder)
t, s = np.asarray(cache.targets(texts)), models.encode(model, texts)
t.shape, s.shape

# %% [markdown]
# ## 3.2 Text by text
#
# The cosine says whether a text is in its place. The overlap says whether it has the same neighbors: the share of its
# ten nearest texts that both models find. The two often disagree, and retrieval depends on the overlap. On six public
# data sets the overlap predicted more often than the cosine which of two students searches better (the table is in
# `docs/measured.md`).

# %%
table = agreement.per_text(t, s).assign(role=[text.role.value for text in texts])
table.describe()

# %%
regions.compare_regions(table, "role").round(3)

# %% [markdown]
# ## 3.3 As a whole
#
# The table lists each measure and how to read it. `relative_distance` is the squared distance between the two sets of
# vectors, relative to the teacher's norm. `procrustes` is what remains of it after the best rotation; it needs four
# texts per dimension, so it is not defined for so few texts. `cka` compares the similarity structure of the two spaces.
# For centered vectors $T$ and $S$,
#
# $$ \mathrm{CKA} = \frac{\lVert T^\top S \rVert_F^2}{\lVert T^\top T \rVert_F\, \lVert S^\top S \rVert_F} $$

# %%
whole = agreement.summary(t, s, table)
whole.style.format({"value": "{:.3f}"})

# %% [markdown]
# > **Think first.** Apply a random rotation to the student's vectors. Which measures change, and which do not?

# %%
rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((t.shape[1],) * 2))[0].astype(
    np.float32
)
rotated = agreement.summary(t, s @ rotation)
pd.DataFrame({"as it is": whole["value"], "rotated": rotated["value"]})

# %% [markdown]
# Measures of the student alone, or of pairs of its texts, stay the same: CKA, rank correlation, overlap. The cosine
# falls to zero, and the distance grows. Asymmetric search would fail too, because the student's queries would land among
# unrelated documents. For the same reason the untrained base, a good model by itself, cannot search the teacher's documents.
#
# ## 3.4 Which kinds of text
#
# A program finds what the eye has to look for. `find_regions` divides the texts by the teacher's vectors and names each
# region by its words. `compare_regions` compares each region with all other texts. The intervals hold for all regions
# together, so a small region does not come first by chance: where `overlap_high` is below 0, the region is worse than the
# rest. With so few texts that may be true of none; the first row is still the best place to look.

# %%
region = regions.find_regions(t, texts)
found = regions.compare_regions(table, region)
found.head(5).round(3)

# %%
worst = found.index[0]
inside = region == worst
[texts[i].text[:100] for i in np.flatnonzero(inside)[:5]]

# %% [markdown]
# ## 3.5 The map
#
# The teacher lays out the texts. A line leads from a text toward its neighbors for the student; a long line is a text whose
# neighbors for the student lie elsewhere on the teacher's map. The status text has the rank correlation of line length and
# lost neighbors.
# Lasso a cluster, brush the low end of the histogram, or choose "regions" below the map and click on one.
# `explorer.selection` is the dataframe of the selected texts.

# %%
explorer = AgreementExplorer({"teacher": t, "student": s}, texts)
explorer

# %%
explorer.select(inside)
explorer.selection[["cosine", "overlap", "text"]].head(5)

# %% [markdown]
# > **Caution.** A two-dimensional map distorts 768 dimensions. Trust the table of regions first.
#
# One text of the region, and what each model finds nearest to it:

# %%
inspector = NeighborInspector({"teacher": t, "student": s}, texts)
inspector.select(int(np.argmin(np.where(inside, table["overlap"], np.inf))))
inspector

# %% [markdown]
# ## What you learned
#
# - Agreement has several aspects: place (cosine), neighborhood (overlap), geometry (CKA), and what is left after a rotation
#   (procrustes).
# - A rotation leaves the geometry unchanged and ruins asymmetric search.
# - Look at the worst region before you train longer. [Improve it by hand](improve_by_hand.ipynb) goes on from here: more
#   texts like those of a region, and what they bring.
#
# ## Exercises
#
# 1. What do the ten texts with the lowest overlap have in common? Compare their mean length with that of all texts.
# 2. Swap the student's vectors of two texts. Which measures of 3.2 and 3.3 notice, and which cannot?
# 3. Subtract the mean from both models' vectors. How do the cosine and the overlap change?
