# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Retrieval side by side
#
# **The question:** which queries lose when the student searches instead of its teacher, and why?
#
# You will compare search results query by query, with a student that embeds everything, and with one that embeds only the
# queries.
#
# **What you need:** the environment of `make setup`. It takes about a minute on two cores. If you have run notebook 2,
# its student searches here; otherwise this notebook makes one with only a closed-form start.

# %%
import _course
import numpy as np

from workbench import agreement, data, evaluate, models, student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.data import Role
from workbench.docstrings import docstring_corpus
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher
from workbench.widgets import RetrievalExplorer

# %% [markdown]
# ## 4.1 A data set small enough to judge by eye
#
# The tutorial data set has short passages on everyday subjects, and queries with graded judgments. Results are scored
# by nDCG@10, which compares the order that a search found with the best possible order. With $g_i$ the grade of the
# document at rank $i$, and $g^*_i$ the grade at that rank in the best order,
#
# $$ \mathrm{nDCG@10} = \sum_{i=1}^{10} \frac{g_i}{\log_2(i+1)} \Big/ \sum_{i=1}^{10} \frac{g^*_i}{\log_2(i+1)} $$

# %%
collection = data.read_dataset("tutorial")
queries, documents = collection.query_texts(), collection.document_texts()
print(len(queries), "queries,", len(documents), "documents; the first query:", queries[0].text)

# %%
profile = _course.profile()
train = docstring_corpus(pairs=profile.pairs, held_out=profile.held_out).train[
    : profile.train_texts
]
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)

# %%
cache = TargetCache(home() / "cache", teacher)
_ = cache.embed(queries + documents + train, progress=True)

# %%
folder = _course.learned(cache, train)
model = student.load(folder)
print(folder)

# %% [markdown]
# ## 4.2 All queries first
#
# The table has four rows: the teacher, the untrained base in its own space, the student in symmetric search, and the
# student's queries against the teacher's documents. The student was trained on docstrings, and these passages are about
# bread and bicycles.

# %%
base = models.load_model(TOUR.base)
base.max_seq_length = TOUR.max_length
rows = evaluate.compare({"teacher": cache, "base": base, "student": model}, collection)
print(evaluate.format_table(rows))

# %% [markdown]
# > **Think first.** In asymmetric search the student embeds only the queries. Why can it still be worse than symmetric
# > search?
#
# If a student shifts queries and documents in the same way, they still match each other. The teacher's documents do not
# have that shift.
#
# ## 4.3 Which queries lose?

# %%
t = np.asarray(cache.targets(queries)), np.asarray(cache.targets(documents))
s = models.encode(model, queries), models.encode(model, documents)

# %%
encode = {
    "teacher": lambda text: teacher.encode([text], Role.QUERY)[0],
    "student": lambda text: model.encode_query(text),
}
explorer = RetrievalExplorer(collection, {"teacher": t, "student": s}, encode=encode)
explorer

# %% [markdown]
# Click a query in the table or a point in the figure, or type a query of your own. Lines join the same document across
# the lists. A star marks a judged document.

# %%
explorer.scores.sort_values("asymmetric_gain").head()

# %% [markdown]
# ## 4.4 Do the diagnostics of notebook 3 predict it?
#
# For each query we take its cosine to the teacher and the overlap of its nearest documents, and correlate them with
# what asymmetric search gained or lost.

# %%
near = agreement.per_text(t[0], s[0], among=(t[1], t[1]), k=10)
near.index = list(collection.queries)
near["gain"] = explorer.scores["asymmetric_gain"]
near[["cosine", "overlap", "nearest_rank", "gain"]].corr(method="spearman")["gain"]

# %% [markdown]
# A measure predicts the gain if its correlation is positive (`nearest_rank`: negative) and far from 0.
#
# > **Caution.** With 72 queries a rank correlation below 0.23, in absolute value, is not significant at 5 %.
# > [docs/measured.md](../docs/measured.md) has the same for more data.
#
# ## What you learned
#
# - Means hide queries: the same share of the teacher can be many small losses or a few total ones.
# - The two modes fail differently; look at both before you choose.
# - Diagnostics on vectors show where to look, and judgments show what an error costs.
#
# ## Exercises
#
# 1. Swap the roles: the teacher embeds the queries, the student the documents. Is it the same as asymmetric search?
# 2. Let the student find twenty documents and the teacher rerank them. How much of the loss is recovered?
# 3. Compute the student's mean error on the documents and subtract it from the student's vectors. Does asymmetric
#    search gain?
