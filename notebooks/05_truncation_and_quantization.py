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
# **The question:** how small can an index be, and does the student tolerate compression as well as its teacher?
#
# You will see what shorter and coarser vectors cost, and how a rotation prepares a space for truncation without training.
#
# **What you need:** the environment of `make setup`. It takes about a minute on two cores.

# %%
import time

import _course
import numpy as np
import pandas as pd

import workbench as wb
from workbench import evaluate, quantize
from workbench.quantize import CompressedIndex, IndexSpec
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
# Passages on countries and their questions, some to learn from, others to measure on. The student is a closed form, made in
# seconds.

# %%
train, collection = _course.factbook(train=400, held_out=200)
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
student = wb.distill(train, teacher, recipe="adapt", others=0)
targets = evaluate.vectors(teacher, train)
sides = {
    "teacher": evaluate.vectors(teacher, collection),
    "symmetric": evaluate.vectors(student, collection),
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
grid = quantize.grid(768)
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
rotation = quantize.principal_rotation(targets)
before, after = targets[:200], targets[:200] @ rotation
print(f"largest change of a cosine: {np.abs(before @ before.T - after @ after.T).max():.1e}")
print(f"share of the norm in the first 96 dimensions: {(before[:, :96] ** 2).sum(axis=1).mean():.0%} before, "
      f"{(after[:, :96] ** 2).sum(axis=1).mean():.0%} after")  # fmt: skip

# %% [markdown]
# The student's last layer is linear, so its vectors turn with the teacher's, and nothing has to be trained again.

# %%
rotated_sides = {
    mode: tuple(vectors @ rotation for vectors in pair) for mode, pair in sides.items()
}

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
    return (floats / floats.loc[768]).loc[::-1, ["teacher", "symmetric", "asymmetric"]]


pd.concat({"as it is": own_share(as_it_is), "rotated": own_share(rotated)}, axis=1).style.format(
    "{:.1%}"
)

# %% [markdown]
# Where fewer dimensions are left, differences between two models weigh more. How much the student falls depends on how close
# it is to its teacher, and on the data ([docs/experiments.md](../docs/experiments.md) has two data sets).
#
# > **Caution.** Binary codes of all 768 dimensions can be worse after the rotation, as on Cranfield in
# > [docs/experiments.md](../docs/experiments.md), because a component that holds almost nothing still gets a full bit. They can also be better,
# > even better than the float vectors that they come from. The intervals in 5.7 show which of these differences so few
# > queries can confirm. Compare the binary rows of the two tables before you combine rotation and binary codes.
#
# ## 5.6 A real index
#
# int8 needs a minimum and a maximum for each dimension. They are computed from the documents and are part of the
# index. Queries stay as they are. With minimum $l$ and maximum $u$, a value $x$ becomes the byte $c$ and is
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


own = milliseconds(lambda texts: student.encode_query(texts, show_progress_bar=False))
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
# ## 5.8 The answer

# %%
kept = rotated.set_index(["mode", "precision", "dimensions"])["share_of_teacher"]
for mode in ("teacher", "asymmetric"):
    print(f"{mode}: {kept[mode, 'float32', 768]:.0%} of the teacher's nDCG@10 at 3,072 bytes a document, "
          f"{kept[mode, 'int8', 192]:.0%} at 192 bytes (rotated, 192 dimensions, int8).")  # fmt: skip

# %% [markdown]
# ## What you learned
#
# - Size is dimensions times bits. Along both, quality falls slowly at first and fast at the end.
# - A rotation by principal components prepares a teacher for truncation without training, even if it was not made for that.
# - Compare the student's curve with its teacher's at each size before you choose one.
#
# ## Exercises
#
# 1. Fit the rotation on only a hundred texts. Below how many dimensions does it hurt?
# 2. Apply a random rotation after the principal one. What happens to the binary rows?
# 3. Binary search rescores ten candidates for each result. Try `rescore_multiplier=1` and `rescore_multiplier=50` in
#    `search`.
