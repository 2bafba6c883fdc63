# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Truncation and quantization
#
# **The question:** how small can an index be, and does the student stand it as well as its teacher?
#
# You will see what shorter and coarser vectors cost, and how a rotation prepares a space for truncation without training.
#
# **What you need:** the environment of `make setup`. It takes two minutes on two cores.

# %%
import time
from dataclasses import replace

import _course
import numpy as np
import pandas as pd

from workbench import evaluate, models, quantize, student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.docstrings import docstring_corpus
from workbench.pipeline import TOUR, TrainingBar
from workbench.quantize import CompressedIndex, IndexSpec
from workbench.teachers import LocalTeacher
from workbench.train import train_student
from workbench.widgets import TradeoffExplorer

# %% [markdown]
# ## 5.1 How large is an index?
#
# A document takes its number of dimensions times the bits of each. float32 has 32 bits, float16 has 16, int8 has 8, and
# binary has 1, the sign. At full size, ten billion documents take thirty terabytes.

# %%
points = [IndexSpec(768), IndexSpec(768, "int8"), IndexSpec(192, "int8"), IndexSpec(192, "binary")]
sizes = pd.DataFrame(
    {"bytes a document": [point.bytes_per_document for point in points]},
    index=[f"{point.dimensions} {point.precision}" for point in points],
)
sizes.assign(terabytes_for_ten_billion=sizes["bytes a document"] / 100)

# %% [markdown]
# ## 5.2 A data set, its teacher and its student
#
# We use docstrings again, some to train on, others to measure on. The student gets a closed-form start and one pass of
# training.

# %%
profile = _course.profile()
corpus = docstring_corpus(pairs=profile.pairs, held_out=profile.held_out)
train, collection = corpus.train[: profile.train_texts], corpus.held_out
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
cache = TargetCache(home() / "cache", teacher)
texts = train + collection.query_texts() + collection.document_texts()
_ = cache.embed(texts, progress=True)


# %%
def taught(targets):
    model = student.build(TOUR.base, cache.dimension, max_length=TOUR.max_length)
    student.fit_head(model, train, targets)
    with TrainingBar() as bar:
        train_student(model, train, targets, replace(profile.config, epochs=1), on_step=bar)
    return model


# %%
plain = taught(cache.targets(train))
sides = {
    "teacher": evaluate.vectors(cache, collection),
    "symmetric": evaluate.vectors(plain, collection),
}
sides["asymmetric"] = sides["symmetric"][0], sides["teacher"][1]
{mode: (queries.shape, documents.shape) for mode, (queries, documents) in sides.items()}

# %% [markdown]
# ## 5.3 Truncation in the original space
#
# Some teachers are trained to put most of the meaning into the first dimensions (Matryoshka representation learning).
# This one was not. We keep the first $m$ dimensions of each vector, normalize it again, and search a real index of that
# size.

# %%
grid = quantize.grid(cache.dimension)
as_it_is = quantize.sweep(collection, sides, grid, timed=20_000)
print(quantize.format_table(as_it_is))

# %% [markdown]
# Each column is a share of the same number, the teacher's nDCG@10 at full size. In *symmetric* search the student
# embeds both sides. In *asymmetric* search it embeds only the queries. Both sides are truncated and quantized in the
# same way.
#
# > **Think first.** The teacher's dimensions have no order. How could you give them one, without changing any distance
# > and without training?
#
# ## 5.4 Rotate the space
#
# A rotation changes no distance. Of all rotations, the one by the principal components puts as much as possible into
# the first dimensions. For the matrix $T$ of the teacher's vectors, its columns are the eigenvectors of $T^\top T$,
# largest eigenvalue first. We fit it on the training texts, never on the texts that we measure with.

# %%
rotation = quantize.principal_rotation(cache.targets(train)[:])
targets = cache.targets(train)
turned_targets = targets[:] @ rotation
before, after = targets[:200], turned_targets[:200]
print(f"largest change of a cosine: {np.abs(before @ before.T - after @ after.T).max():.1e}")

# %%
kept = pd.DataFrame(
    {"as it is": before, "rotated": after}.items(), columns=["space", "vectors"]
).set_index("space")
kept["vectors"].map(lambda v: (v[:, :96] ** 2).sum(axis=1).mean()).rename(
    "share of the norm in 96 dimensions"
).to_frame()

# %% [markdown]
# The cache stays as it is. A new student learns them with the same loss,
# which does not depend on the order of the dimensions.

# %%
rotated = taught(turned_targets)
rotated_sides = {
    "teacher": tuple(vectors @ rotation for vectors in sides["teacher"]),
    "symmetric": (
        models.encode(rotated, collection.query_texts()),
        models.encode(rotated, collection.document_texts()),
    ),
}
rotated_sides["asymmetric"] = rotated_sides["symmetric"][0], rotated_sides["teacher"][1]

# %%
rotated = quantize.sweep(collection, rotated_sides, grid, timed=20_000)
print(quantize.format_table(rotated))

# %% [markdown]
# ## 5.5 What the student inherits
#
# At every size, how much of *its own* full quality does the student keep, and how much of its own does the teacher
# keep? Where the student inherits the teacher's behavior, the three columns of a space agree.


# %%
def own_share(rows):
    floats = rows[rows["precision"] == "float32"].pivot(
        index="dimensions", columns="mode", values="ndcg_at_10"
    )
    return (floats / floats.loc[cache.dimension]).loc[::-1, ["teacher", "symmetric", "asymmetric"]]


pd.concat({"as it is": own_share(as_it_is), "rotated": own_share(rotated)}, axis=1).style.format(
    "{:.1%}"
)

# %% [markdown]
# Compare the asymmetric columns of the two spaces. When fewer dimensions are left, differences between two models weigh
# more. After the rotation the first dimensions matter most, also to the loss. How much the student falls depends on how
# close it is to its teacher, and on the data (`docs/measured.md` has two data sets).
#
# Did the student have to be trained in the rotated space? Its head is linear, so you can also rotate the plain student
# after training. The next cell measures how far apart the two students are.

# %%
late = models.encode(plain, collection.query_texts()) @ rotation
early = rotated_sides["symmetric"][0]
print(
    f"mean cosine of the rotated student to the plain one, rotated: {(late * early).sum(axis=1).mean():.4f}"
)

# %% [markdown]
# > **Caution.** Binary codes of all 768 dimensions can be worse after the rotation, as on Cranfield in
# > `docs/measured.md`, because a component that holds almost nothing still gets a full bit. They can also be better,
# > even better than the float vectors that they come from. The intervals in 5.7 show which of these differences so few
# > queries can confirm. Compare the binary rows of the two tables before you combine rotation and binary codes.
#
# ## 5.6 A real index
#
# int8 needs a minimum and a maximum for each dimension. They are computed from the documents, are part of the
# index; queries stay as they are. With minimum $l$ and maximum $u$, a value $x$ becomes the byte $c$ and is
# decoded as $\hat x$:
#
# $$ c = \left\lfloor 255\, \frac{x - l}{u - l} \right\rfloor, \qquad \hat x = l + \frac{c + 1/2}{255}\,(u - l) $$

# %%
queries, documents = rotated_sides["asymmetric"]
index = CompressedIndex(documents, IndexSpec(192, "int8"))
scores, positions = index.search(queries[:1], 3)
print(f"{len(index)} documents, {index.spec.bytes_per_document} bytes each")
print(next(iter(collection.queries.values())))
pd.DataFrame(
    {
        "score": scores[0],
        "document": [list(collection.corpus.values())[i][:90] for i in positions[0]],
    }
)

# %% [markdown]
# > **Caution.** Never compute the ranges from the current batch. With a single query, the minimum and the maximum of
# > each dimension are the same value, and the codes hold no information.
#
# `index.index` is faiss's own index, which `faiss.write_index` stores.
#
# ## 5.7 Choose an index
#
# The view shows quality, size and time together. Search times are measured on 20,000 documents. The time to encode a
# query, measured here, is added to them.


# %%
def milliseconds(encode):
    encode(["warm up"])
    started = time.perf_counter()
    for text in collection.query_texts()[:20]:
        encode([text.text])
    return 1000 * (time.perf_counter() - started) / 20


own = milliseconds(lambda texts: plain.encode_query(texts, show_progress_bar=False))
encode_ms = {
    "teacher": milliseconds(lambda texts: teacher.encode(texts, "query")),
    "symmetric": own,
    "asymmetric": own,
}
encode_ms

# %%
explorer = TradeoffExplorer({"as it is": as_it_is, "rotated": rotated}, encode_ms=encode_ms)
explorer.select(dimensions=192, precision="int8", mode="asymmetric", space="rotated")
explorer

# %%
print(explorer.code)

# %% [markdown]
# ## What you learned
#
# - Size is dimensions times bits. Along both, quality falls slowly at first and fast at the end.
# - A rotation by principal components prepares a teacher for truncation at no cost, even if it was not trained for
#   that.
# - The student follows its teacher's curve, most closely in symmetric search.
#
# ## Exercises
#
# 1. Fit the rotation on only a hundred texts. Below how many dimensions does it hurt?
# 2. Apply a random rotation after the principal one. What happens to the binary rows?
# 3. Binary search rescores ten candidates for each result. Try `rescore_multiplier=1` and `rescore_multiplier=50` in
#    `search`.
