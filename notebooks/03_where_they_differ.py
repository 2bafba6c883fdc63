# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Where they differ
#
# **The question:** on which texts does a student differ from its teacher, and which searches lose by it?
#
# You will look at single texts, at kinds of text, at a map, and at search results query by query.
#
# **What you need:** the environment of `make setup`. It takes about a minute on two cores.

# %%
import _course
import numpy as np
import pandas as pd

import workbench as wb
from workbench import agreement, evaluate, regions
from workbench.evaluate import vectors
from workbench.widgets import NeighborInspector, RetrievalExplorer

# %% [markdown]
# ## 3.1 Two sets of vectors for the same texts
#
# The student learned from passages on countries and their questions. We look at passages that it has not seen: on texts that
# it has learned, it looks better than it is.

# %%
train, collection = _course.factbook(train=400, held_out=200)
texts = collection.document_texts()
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
student = wb.distill(train, teacher, recipe="adapt", others=0)  # learns these texts, no others
t, s = vectors(teacher, texts), wb.encode(student, texts)
t.shape, s.shape

# %% [markdown]
# ## 3.2 Text by text
#
# The *cosine* says whether a text is in its place. The *overlap* says whether it has the same neighbors: the share of its ten
# nearest texts that both models find. A text can be near its place and have other neighbors.

# %%
table = agreement.per_text(t, s).assign(
    field=[text.fields["field"] for text in texts], text=[text.text[:80] for text in texts]
)
print(f"mean cosine {table['cosine'].mean():.2f}, mean overlap {table['overlap'].mean():.2f}")
table.nsmallest(5, "overlap")[["cosine", "overlap", "text"]].style.format(precision=2)

# %% [markdown]
# ## 3.3 A rotation of the student
#
# > **Think first.** Turn all of the student's vectors by one random rotation. Which changes: the cosine, the overlap, or what
# > a search finds?

# %%
rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((768, 768)))[0].astype(np.float32)
t_q, s_q = (vectors(model, collection)[0] for model in (teacher, student))
rows = {}
for name, turn in {"as it is": np.eye(768, dtype=np.float32), "rotated": rotation}.items():
    means = agreement.per_text(t, s @ turn)[["cosine", "overlap"]].mean()
    searches = {"symmetric": (s_q @ turn, s @ turn), "asymmetric": (s_q @ turn, t)}
    found = {
        m: evaluate.score(collection, *pair)["ndcg_at_10"].mean() for m, pair in searches.items()
    }
    rows[name] = {**means, **{f"nDCG@10 {mode}": value for mode, value in found.items()}}
pd.DataFrame(rows).style.format("{:.2f}")

# %% [markdown]
# The overlap among the student's own texts, and its own search, stay: no distance between two of its vectors has changed. The
# cosine falls to about zero, and so does asymmetric search. So neither measure is enough alone: the overlap of a text among its
# own model's texts says nothing of the place, and the cosine little of the neighbors. For asymmetric search there is a measure
# of both: how many of the teacher's nearest does the student find *on the teacher's index*?
#
# ## 3.4 Which kinds of text
#
# `compare_regions` compares groups with all other texts; the intervals hold for all groups together. Where `overlap_high` is
# below 0, a group is worse than the rest. Here the groups are the fields of the passages; `find_regions` finds groups where
# there is no such column.

# %%
regions.compare_regions(table, "field").round(2)

# %%
found = regions.compare_regions(table, regions.find_regions(t, texts))
found.head(4).round(2)

# %% [markdown]
# ## 3.5 The map
#
# The teacher lays out the texts. Select some with the lasso, sort the table, or open the regions.

# %%
explorer = wb.explore(texts, {"teacher": teacher, "student": student}, color="field")
explorer

# %% [markdown]
# > **Caution.** A two-dimensional map distorts 768 dimensions. The lines on it are drawn toward a text's neighbors for the
# > student, so they say what the overlap says, and are no check of the map. Trust the table of regions first.
#
# One text, and what each model finds nearest to it:

# %%
inspector = NeighborInspector({"teacher": t, "student": s}, texts)
inspector.select(int(table["overlap"].idxmin()))
inspector

# %% [markdown]
# ## 3.6 Query by query
#
# Agreement needs no judgments. Judgments say what an error costs: people have said which of the tutorial's passages answer
# which question. A score close to the teacher's can be many small losses or a few total ones. The student knows countries, and
# these passages are about bread and bicycles.

# %%
tutorial = wb.read_dataset("tutorial")
search = RetrievalExplorer(tutorial, {"teacher": teacher, "student": student})
search

# %%
scores = search.scores
lost = (scores["asymmetric_gain"] < -0.05).sum()
print(f"{lost} of {len(scores)} questions lose, {(scores['asymmetric_gain'] > 0.05).sum()} gain")
search.failures.head(5)[["loss", "cause", "text"]]

# %% [markdown]
# > **Think first.** Which would tell you beforehand, without judgments, which questions lose: their cosine to the teacher's
# > vector, or the overlap of what they find?

# %%
(t_q, t_d), s_q = vectors(teacher, tutorial), wb.encode(student, tutorial.query_texts())
near = agreement.per_text(t_q, s_q, among=(t_d, t_d))
near["gain"] = scores["asymmetric_gain"].to_numpy()
near[["cosine", "overlap", "nearest_rank", "gain"]].corr(method="spearman")[
    "gain"
].to_frame().style.format("{:.2f}")

# %% [markdown]
# `nearest_rank` is the rank that the student gives to the teacher's best document: higher is worse, so it goes against the gain.
# It and the overlap ask the index, the cosine does not. With 72 questions a correlation between -0.23 and 0.23 is not significant at
# 5 %. The closer a student is to its teacher, the less any of the three says of a single question
# ([docs/experiments.md](../docs/experiments.md)).
#
# ## 3.7 The answer

# %%
worst = regions.compare_regions(table, "field").index[0]
finds = _course.finds({"teacher": teacher, "student": student}, tutorial)["student"]
print(
    f"On new texts of its subject the overlap is {table['overlap'].mean():.0%}, lowest for '{worst}'. On another subject the"
)
print(
    f"student finds {finds.mean():.1f} of the teacher's 10, and {lost} of {len(scores)} questions lose by it."
)

# %% [markdown]
# ## What you learned
#
# - Place (cosine) and neighborhood (overlap) are two things. A rotation changes one and leaves the other.
# - Means hide texts and queries. Look at the worst kind first, then train on more of it: [Improve it by hand](improve_by_hand.ipynb).
# - The two modes of search fail differently; measure both before you choose.
#
# ## Exercises
#
# 1. Swap the student's vectors of two texts. Which measures notice?
# 2. Swap the roles: the teacher embeds the queries, the student the documents. Is it the same as asymmetric search?
# 3. Let the student find twenty documents and the teacher rerank them. How much of the loss comes back?
