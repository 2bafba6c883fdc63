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
# **The question:** can a small model search an index that a large model has built?
#
# You will see how a small model learns a large model's embedding space, and how one search uses both. Each step has its own
# notebook. The last section says which one to open next.
#
# **What you need:** the environment of `make setup`. It takes about a minute on two cores.

# %%
import _course
import numpy as np
import pandas as pd

import workbench as wb
from workbench import data, evaluate, models, student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.docstrings import docstring_corpus
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher
from workbench.widgets import AgreementExplorer, RetrievalExplorer

# %% [markdown]
# ## 0.1 A large model and a small one
#
# Both models turn a text into a vector, and texts of similar meaning get vectors that are close together. The large
# one, the *teacher*, is more accurate. The small one, the *base*, is several times as fast.

# %%
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
base = models.load_model(TOUR.base)
base.max_seq_length = TOUR.max_length
pd.DataFrame(
    {
        "parameters": [
            sum(p.numel() for p in model.parameters()) for model in (teacher.model, base)
        ],
        "width of a vector": [teacher.dimension, base.get_embedding_dimension()],
    },
    index=["teacher", "base"],
).style.format("{:,}")

# %% [markdown]
# ## 0.2 Two spaces
#
# The tutorial data set has short passages on everyday subjects, and questions about them. Each model can search for the
# passages that answer a question, but only among *its own* vectors.

# %%
collection = data.read_dataset("tutorial")
queries, documents = collection.query_texts(), collection.document_texts()
print(queries[0].text, documents[0].text, sep="\n\n")

# %% [markdown]
# > **Think first.** Can you search the large model's passages with the small model's vector of a question?
#
# No. The vectors have different widths. Even at equal widths, the directions of one space mean nothing in the other. If
# you change the model, you have to embed all passages again.
#
# ## 0.3 One space
#
# The small model gets one more linear layer, which makes its vectors as wide as the teacher's. This model, the
# *student*, is trained to put each text where the teacher puts it. It sees only the texts and the teacher's vectors:
#
# $$L = \frac{1}{n}\sum_i \lVert s(x_i) - t(x_i) \rVert^2$$
#
# The teacher's vectors are computed once and cached.

# %%
profile = _course.profile()  # "quick", or what WORKBENCH_PROFILE says
corpus = docstring_corpus(pairs=profile.pairs, held_out=profile.held_out)
train = documents + corpus.train[: profile.train_texts]
cache = TargetCache(home() / "cache", teacher)
_ = cache.embed(train + queries, progress=True)

# %% [markdown]
# The linear layer has a closed-form start, a ridge regression. It takes seconds, and this notebook stops there.
# Notebook 2 continues with training.

# %%
small = student.build(TOUR.base, cache.dimension, max_length=TOUR.max_length)
student.fit_head(small, train, cache.targets(train))

# %% [markdown]
# The teacher lays out the texts on the map. A line leads from a selected text to where its neighbors for the student are.
# The student has never seen the questions.

# %%
texts = queries + documents
t, s = cache.targets(texts)[:], models.encode(small, texts)
explorer = AgreementExplorer({"teacher": t, "student": s}, texts)
explorer

# %% [markdown]
# > **Caution.** A two-dimensional map distorts 768 dimensions. The text above the map gives the rank correlation between
# > the length of a line and the share of lost neighbors. The histogram beside the map is exact.

# %%
print(
    f"mean cosine of a question to its teacher's vector: {(t * s).sum(axis=1)[: len(queries)].mean():.2f}"
)

# %% [markdown]
# ## 0.4 A search that uses both
#
# The teacher embeds the passages once. The student embeds each question as it comes. This is *asymmetric* search, and
# only a student can do it: the base's vectors, padded to the teacher's width, find next to nothing there. `ready` is the
# student that comes with the package. It has learned from 308,000 other texts, with one layer more, and has seen none of
# these.

# %%
own = evaluate.vectors(base, collection)  # of the questions, and of the passages
padded = tuple(np.pad(each, [(0, 0), (0, cache.dimension - each.shape[1])]) for each in own)
ready = wb.load_ready()
compared = {"teacher": cache, "base": own, "padded base": padded, "student": small, "ready": ready}
rows = wb.compare(compared, collection).set_index(["model", "mode"])[
    ["ndcg_at_10", "share_of_teacher"]
]
rows.drop(index=("padded base", "symmetric")).style.format("{:.3f}")

# %% [markdown]
# Type a question of your own, or select one, and compare the results of the two models side by side.

# %%
search = RetrievalExplorer(collection, {"teacher": cache, "ready": ready})
search

# %% [markdown]
# > **Caution.** The student of this notebook, which took a few seconds, has learned these very passages, and so it keeps up
# > with `ready`, which has not. In its own space the untrained base finds about as much as either. But whoever takes the base
# > has to embed all passages again with it, and its own space is all that it can search.
#
# ## 0.5 Where to go next
#
# | you want to | notebook |
# |---|---|
# | understand the method, step by step | 1 Teacher caching, 2 Student distillation |
# | see where a student goes wrong, and how that changes results | 3 Alignment diagnostics, 4 Retrieval side by side |
# | make the index smaller | 5 Truncation and quantization |
# | give your student to others | 6 Publish your student |
# | measure your student on public tasks | 7 Benchmarks |
# | learn from a model behind an API | 8 Black-box teachers |
#
# You can run the notebooks alone or in order, each from a fresh kernel. They share one cache, so no text is embedded
# twice. Notebooks that examine a student use the one from notebook 2 if it exists. `WORKBENCH_PROFILE=full make lab`
# uses all docstrings, twenty times as many texts, and takes an hour or two on two cores.
#
# ## What you learned
#
# - A student is the small model plus a small head. It is trained only on the teacher's vectors.
# - Both models then share one space, and either can search what the other has embedded.
# - The teacher encodes each text once, however many experiments follow.
#
# ## Exercises
#
# 1. Which text does the student put farthest from its teacher? Sort the table of 0.3 by cosine.
# 2. Leave the docstrings out of `train`, so only the passages remain. What happens to the asymmetric row, and why?
# 3. Put random vectors in place of the padded base's. Does the search find less?
