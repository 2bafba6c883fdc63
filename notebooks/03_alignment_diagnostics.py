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
# **What you will learn:** how to see where a student lies off its teacher, text by text and as a whole, and how
# to tell a student that is only rotated from one that is different.
#
# **What you need:** the environment of `make setup`. Two minutes on two cores. If you have run notebook 2, its
# student is examined here; otherwise a student with nothing but a closed-form start.

# %%
import _course
import numpy as np
import pandas as pd
import plotly.express as px

from workbench import agreement, student
from workbench._progress import CacheBar
from workbench._util import home
from workbench.cache import TargetCache
from workbench.docstrings import docstring_corpus
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher
from workbench.train import embed
from workbench.widgets.agreement_explorer import AgreementExplorer
from workbench.widgets.neighbor_inspector import NeighborInspector

# %% [markdown]
# ## 3.1 Two sets of vectors of the same texts
#
# The held-out docstrings are texts that no student has learned from. Diagnostics on training texts would flatter.

# %%
profile = _course.profile()
corpus = docstring_corpus(pairs=profile.pairs, held_out=profile.held_out)
lesson = corpus.train[: profile.lesson]
texts = corpus.held_out.query_texts() + corpus.held_out.document_texts()
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
cache = TargetCache(home() / "cache", teacher)
with CacheBar() as bar:
    cache.fill(teacher, texts + lesson, on_plan=bar.plan, on_progress=bar.progress)

# %%
folder = _course.learned(cache, lesson)
model = student.load(folder)
print(folder)
t, s = np.asarray(cache.targets(texts)), embed(model, texts)
t.shape, s.shape

# %% [markdown]
# ## 3.2 Text by text
#
# The cosine says whether a text is in its place. The overlap says whether its neighborhood is the same: which
# of its ten nearest texts both models name. The two often part, and retrieval depends on the second: on six
# public collections the overlap told more often than the cosine which of two students searches better
# (`docs/measured.md` has the table).

# %%
table = agreement.per_text(t, s, columns=pd.DataFrame({"role": [text.role.value for text in texts]}))
table.describe()

# %%
agreement.by(table, "role", "cosine")

# %% [markdown]
# ## 3.3 As a whole
#
# Each measure with how to read it. `distance` is what is left between the two clouds, and `procrustes` what would
# be left after the best rotation; it needs four texts a dimension, so with 400 texts it is not defined. `cka` compares
# what is near to what in the two spaces. For the vectors $T$ and $S$, less their means,
#
# $$ \mathrm{CKA} = \frac{\lVert T^\top S \rVert_F^2}{\lVert T^\top T \rVert_F\, \lVert S^\top S \rVert_F} $$

# %%
whole = agreement.summary(t, s, table)
whole.style.format({"value": "{:.3f}"})

# %% [markdown]
# > **Think first.** Turn the student's vectors by a random rotation. Which measures change, and which do not?

# %%
rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((t.shape[1],) * 2))[0].astype(np.float32)
rotated = agreement.summary(t, s @ rotation)
pd.DataFrame({"as it is": whole["value"], "rotated": rotated["value"]})

# %% [markdown]
# Everything that is about the student alone, or about pairs of its texts, stays: CKA, rank correlation, overlap.
# Cosine and distance collapse, and so would asymmetric search: the student's queries would fall among strange
# documents. That is why the untrained base, a good model by itself, cannot search the teacher's documents.
#
# ## 3.4 The spectrum
#
# How many directions does each model use? A student that uses far fewer has collapsed. The picture ends where the texts
# do, for $n$ of them show no more than $n - 1$ directions; and what a student's head makes of 384 dimensions and a bias fills no
# more than 385, so its line has to fall.

# %%
spectra = pd.DataFrame({"teacher": agreement.spectrum(t), "student": agreement.spectrum(s)})[: min(t.shape) - 1]
names = {"index": "component", "value": "share of all singular values", "variable": ""}
lines = px.line(spectra, log_y=True, labels=names, range_y=[1e-5, 0.1], template="none")
grid = {"gridcolor": "rgba(128,128,128,.3)", "exponentformat": "power"}
lines.update_layout(
    paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font_color="#888", xaxis=grid, yaxis=grid
)

# %% [markdown]
# ## 3.5 See it
#
# One map for both models: a text is two points, and a line joins them. Lasso a cluster, brush the low end of
# the histogram, or sort the table by cosine and pick the worst. `explorer.selection` is then a dataframe.

# %%
explorer = AgreementExplorer(t, s, texts)
explorer

# %% [markdown]
# > **Caution.** A map of two dimensions must lie about 768. The line above the map says how well the drawn lines
# > follow the true distances; trust the histogram first.

# %%
explorer.selection = explorer.table.nsmallest(10, "cosine")
explorer.selection[["role", "cosine", "overlap", "text"]]

# %% [markdown]
# ## 3.6 One text's neighbors

# %%
inspector = NeighborInspector(t, s, texts)
inspector.pick(int(np.argmin(table["overlap"])))
inspector

# %% [markdown]
# ## What you learned
#
# - Agreement has several sides: place (cosine), neighborhood (overlap), geometry (CKA), scale of the whole
#   (spectrum, offset).
# - A rotation leaves the geometry alone and ruins asymmetric search.
# - Look at the worst texts before you train longer: they often have something in common.
#
# ## Exercises
#
# 1. What do the ten texts of the least overlap have in common? Compare the mean of their lengths with that of all.
# 2. Exchange the student's vectors of two texts. Which measures of 3.2 and 3.3 notice, and which cannot?
# 3. Subtract from both models' vectors their mean. What is left of the cosine, and of the overlap?
