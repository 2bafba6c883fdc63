# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 0. Start here
#
# **What you will learn:** the whole story once, in five minutes: two models, one space, and a search that uses both.
# Each step has a notebook of its own, and the last section says which one is for you.
#
# **What you need:** the environment of `make setup`. About a minute on two cores.

# %%
import _course
import numpy as np
import pandas as pd

from workbench import data, evaluate, models, student
from workbench._progress import CacheBar
from workbench._util import home
from workbench.cache import TargetCache
from workbench.docstrings import docstring_corpus
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher
from workbench.train import embed
from workbench.widgets.agreement_explorer import AgreementExplorer
from workbench.widgets.retrieval_explorer import RetrievalExplorer

# %% [markdown]
# ## 0.1 A large model and a small one
#
# Both turn a text into a vector, so that texts of like meaning lie close together. The large one, the *teacher*, does it
# better. The small one, the *base*, does it several times as fast.

# %%
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
base = models.load(TOUR.base)
base.max_seq_length = TOUR.max_length
pd.DataFrame(
    {
        "parameters": [sum(p.numel() for p in model.parameters()) for model in (teacher.model, base)],
        "width of a vector": [teacher.dimension, base.get_embedding_dimension()],
    },
    index=["teacher", "base"],
).style.format("{:,}")

# %% [markdown]
# ## 0.2 Two spaces
#
# The tutorial collection has short passages on everyday subjects, and questions about them. Each model finds the passages
# to a question among *its own* vectors.

# %%
collection = data.tutorial()
queries, documents = collection.query_texts(), collection.document_texts()
print(queries[0].text, documents[0].text, sep="\n\n")

# %% [markdown]
# > **Think first.** Can the small model's vector of a question be looked up among the large model's passages?
#
# Not even the widths are the same. And if they were, each model has directions of its own: two maps of one city, drawn by
# people who never met. Whoever changes the model has to embed all passages anew.
#
# ## 0.3 One space
#
# So the small model gets one linear layer more, which makes its vectors as wide as the teacher's, and learns to put every
# text where the teacher puts it. All it ever sees are texts and the teacher's vectors of them:
#
# $$L = \frac{1}{n}\sum_i \lVert s(x_i) - t(x_i) \rVert^2$$
#
# The teacher's vectors are made once and kept.

# %%
profile = _course.profile()  # "tour", or what WORKBENCH_PROFILE says
corpus = docstring_corpus(pairs=profile.pairs, held_out=profile.held_out)
lesson = documents + corpus.train[: profile.lesson]
cache = TargetCache(home() / "cache", teacher)
with CacheBar() as bar:
    cache.fill(teacher, lesson + queries, on_plan=bar.plan, on_progress=bar.progress)

# %% [markdown]
# The layer's best start has a closed form, a ridge regression. It takes seconds, and is enough for today; notebook 2 goes
# on from there.

# %%
small = student.build(TOUR.base, cache.dimension, max_length=TOUR.max_length)
student.fit_head(small, lesson, cache.targets(lesson))

# %% [markdown]
# Every text below is two points, the teacher's and the student's, on one map. The student has never seen the questions.

# %%
texts = queries + documents
t, s = cache.targets(texts)[:], embed(small, texts)
explorer = AgreementExplorer(t, s, texts)
explorer

# %% [markdown]
# > **Caution.** A flat map of 768 dimensions has to lie. The line above it says how far its distances can be trusted, which
# > is hardly at all here; the histogram below is exact.

# %%
print(f"mean cosine of a question to its teacher's vector: {(t * s).sum(axis=1)[: len(queries)].mean():.2f}")

# %% [markdown]
# ## 0.4 A search that mixes them
#
# Now the passages can be embedded by the teacher, once, and the questions by the student, each time: *asymmetric* search.

# %%
rows = evaluate.compare_modes(collection, cache, base, small)
rows.set_index("mode")[["ndcg_at_10", "share_of_teacher"]].style.format("{:.3f}")

# %% [markdown]
# Type a question of your own, or pick one, and compare the results of the two models side by side.

# %%
sides = np.split(t, [len(queries)]), np.split(s, [len(queries)])
encode = {"teacher": lambda text: teacher.encode([text], "query")[0], "student": lambda text: small.encode_query(text)}
search = RetrievalExplorer(collection, *sides, encode=encode)
search

# %% [markdown]
# > **Caution.** The base, in its own space, still finds more than this student of a few seconds, whose place in the table
# > is what training and texts of the subject are for. What no training of its own gives the base is the last row: a search
# > among passages that the teacher has embedded.
#
# ## 0.5 Where to go next
#
# | you want to | notebook |
# |---|---|
# | understand the method, step by step | 1 Teacher caching, 2 Student distillation |
# | see where a student goes wrong, and what that does to results | 3 Alignment diagnostics, 4 Retrieval side by side |
# | make the index smaller | 5 Truncation and quantization |
# | give your student to others | 6 Publish your student |
# | know how good it is, on tasks that others use | 7 Benchmarks |
# | learn from a model behind an API | 8 Black-box teachers |
#
# Notebooks run alone or in order, each from a fresh kernel, and share one cache, so that nothing is embedded twice. Those
# that look at a student take notebook 2's if it is there. `WORKBENCH_PROFILE=full make lab` has them take on nine times as
# many texts, for an hour or two on two cores.
#
# ## What you learned
#
# - A student is the small model and one linear layer, taught nothing but where its teacher puts each text.
# - Both then share one space: what one has embedded the other can search.
# - The teacher runs once a text, whatever you try afterwards.
#
# ## Exercises
#
# 1. Which passage does the student put farthest from its teacher? Sort the table of 0.3 by cosine.
# 2. Leave the docstrings out of `lesson`, so that only the passages are left. What happens to the asymmetric row, and why?
# 3. Search the teacher's passages with the base's vectors, cut or padded to the same width. What is nDCG@10 then?
