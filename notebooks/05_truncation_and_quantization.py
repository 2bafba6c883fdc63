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
# **What you will learn:** what shorter and coarser vectors cost, how a space is made fit for truncation without
# training, and that a student inherits from its teacher exactly what is there.
#
# **What you need:** the environment of `make setup`. Two minutes on two cores.

# %%
import time
from dataclasses import replace

import _course
import numpy as np
import pandas as pd

from workbench import evaluate, quantize, student
from workbench._progress import CacheBar, TrainingBar
from workbench._util import home
from workbench.cache import TargetCache
from workbench.docstrings import docstring_corpus
from workbench.pipeline import TOUR
from workbench.quantize import CompressedIndex, IndexSpec
from workbench.teachers import LocalTeacher
from workbench.train import embed, train_student
from workbench.widgets.tradeoff_explorer import TradeoffExplorer

# %% [markdown]
# ## 5.1 How large is an index?
#
# A document costs its dimensions times the bits of each. float32 has 32 bits, float16 has 16, int8 has 8, and binary
# keeps nothing but the sign. Ten billion documents in full are thirty terabytes.

# %%
points = [IndexSpec(768), IndexSpec(768, "int8"), IndexSpec(192, "int8"), IndexSpec(192, "binary")]
sizes = pd.DataFrame(
    {"bytes a document": [point.bytes_per_document for point in points]},
    index=[f"{point.dimensions} {point.precision}" for point in points],
)
sizes.assign(terabytes_for_ten_billion=sizes["bytes a document"] / 100)

# %% [markdown]
# ## 5.2 A collection, its teacher and its student
#
# Docstrings again: some to learn from, others to measure on. The student has its closed-form start and a pass of training.

# %%
profile = _course.profile()
corpus = docstring_corpus(pairs=profile.pairs, held_out=profile.held_out)
train, collection = corpus.train[: profile.lesson], corpus.held_out
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
cache = TargetCache(home() / "cache", teacher)
with CacheBar() as bar:
    texts = train + collection.query_texts() + collection.document_texts()
    cache.fill(teacher, texts, on_plan=bar.plan, on_progress=bar.progress)


# %%
def taught(targets):
    model = student.build(TOUR.base, cache.dimension, max_length=TOUR.max_length)
    student.fit_head(model, train, targets)
    with TrainingBar() as bar:
        train_student(model, train, targets, replace(profile.settings, epochs=1), on_step=bar)
    return model


# %%
plain = taught(cache.targets(train))
sides = evaluate.mode_vectors(collection, cache, plain)
{mode: (queries.shape, documents.shape) for mode, (queries, documents) in sides.items()}

# %% [markdown]
# ## 5.3 Truncation, as it is
#
# Some teachers are trained so that the first dimensions hold most of the meaning (Matryoshka representation
# learning). This one was not. We keep the first $m$ dimensions of each vector and bring it back to unit norm, and
# search in a real index of that size.

# %%
ids = list(collection.queries), list(collection.documents)
grid = quantize.grid(cache.dimension)
as_it_is = quantize.sweep(collection.qrels, *ids, sides, grid, timed=20_000)
print(quantize.format_table(as_it_is))

# %% [markdown]
# Each column is a share of the same number, the teacher's nDCG@10 in full. In *symmetric* search the student embeds both
# sides, in *asymmetric* search the queries alone, and both sides are cut and coded the same way.
#
# > **Think first.** The teacher's dimensions have no order. How could you give them one, without changing a single
# > distance and without training anything?
#
# ## 5.4 Turn the space
#
# Distances do not change when a space is rotated. Of all rotations, the one by the principal components puts as much
# as possible into the first dimensions: for the matrix $T$ of the teacher's vectors, its columns are the eigenvectors
# of $T^\top T$, the greatest eigenvalue first. We fit it on the training texts, never on what we measure with.

# %%
rotation = quantize.principal_rotation(cache.targets(train)[:])
targets, turned_targets = cache.targets(train), cache.targets(train).rotated(rotation)
before, after = targets[:200], turned_targets[:200]
print(f"largest change of a cosine: {np.abs(before @ before.T - after @ after.T).max():.1e}")

# %%
kept = pd.DataFrame({"as it is": before, "rotated": after}.items(), columns=["space", "vectors"]).set_index("space")
kept["vectors"].map(lambda v: (v[:, :96] ** 2).sum(axis=1).mean()).rename(
    "share of the norm in 96 dimensions"
).to_frame()

# %% [markdown]
# The targets are rotated as they are read, so the cache stays as it was. A new student learns them with the same loss,
# and nothing tells it that the order of dimensions means something now.

# %%
rotated = taught(turned_targets)
rotated_sides = {
    "teacher": tuple(vectors @ rotation for vectors in sides["teacher"]),
    "symmetric": (embed(rotated, collection.query_texts()), embed(rotated, collection.document_texts())),
}
rotated_sides["asymmetric"] = rotated_sides["symmetric"][0], rotated_sides["teacher"][1]

# %%
rotated = quantize.sweep(collection.qrels, *ids, rotated_sides, grid, timed=20_000)
print(quantize.format_table(rotated))

# %% [markdown]
# ## 5.5 What was inherited
#
# At every size, what does the student keep of *its own* quality in full, and what does the teacher keep of its own?
# Where the student inherits, its column follows the teacher's.


# %%
def own_share(rows):
    floats = rows[rows["precision"] == "float32"].pivot(index="dimensions", columns="mode", values="ndcg_at_10")
    return (floats / floats.loc[cache.dimension]).loc[::-1, ["teacher", "symmetric", "asymmetric"]]


pd.concat({"as it is": own_share(as_it_is), "rotated": own_share(rotated)}, axis=1).style.format("{:.1%}")

# %% [markdown]
# Embedding both sides, the student follows its teacher in both spaces. In asymmetric search of the space as it is it falls
# faster: the errors between two models weigh more the less of the vectors is left. Turned, the first dimensions are the
# ones that matter most, to the loss as well, and it follows again. A student that lies closer to its teacher falls less
# (`docs/measured.md` has two collections).
#
# Did the student have to learn the rotated space anew? Its head is linear, so the plain student can be rotated after its
# training as well. The next cell says how far apart the two students end up.

# %%
late = embed(plain, collection.query_texts()) @ rotation
early = rotated_sides["symmetric"][0]
print(f"mean cosine of the rotated student to the plain one, rotated: {(late * early).sum(axis=1).mean():.4f}")

# %% [markdown]
# > **Caution.** With signs alone, all 768 dimensions can do worse after the turn than before: a component that holds
# > almost nothing still gets its bit, as on Cranfield in `docs/measured.md`. They can do better, too, and even better than
# > the floats that they are the signs of; the intervals in 5.7 say what of that two hundred queries can tell. Compare the
# > binary rows of the two tables before you combine them.
#
# ## 5.6 A real index
#
# int8 needs a least and a greatest value for each dimension. They come from the documents, are kept with the index, and
# code the queries too. With $l$ and $u$ for them, a value $x$ becomes a byte and comes back as $\hat x$:
#
# $$ c = \left\lfloor 255\, \frac{x - l}{u - l} \right\rfloor, \qquad \hat x = l + \frac{c + 1/2}{255}\,(u - l) $$

# %%
queries, documents = rotated_sides["asymmetric"]
index = CompressedIndex(documents, IndexSpec(192, "int8"), space=cache.identity)
path = index.save(profile.folder / "index.safetensors")
print(
    f"{path.stat().st_size:,} bytes for {len(index)} documents; {len(index) * index.point.bytes_per_document:,} are codes"
)

# %%
again = CompressedIndex.load(path)
scores, positions = again.search(queries[:1], 3, space=cache.identity)
print(next(iter(collection.queries.values())))
pd.DataFrame({"score": scores[0], "document": [list(collection.documents.values())[i][:90] for i in positions[0]]})

# %% [markdown]
# > **Caution.** Never take the ranges from the batch at hand. A single query would set its own least and greatest value,
# > and every one of its dimensions would be the same.
#
# An index knows the space that it was built in, and refuses the queries of another.

# %%
from workbench.errors import WorkbenchError

try:
    again.search(queries[:1], space={**cache.identity, "max_length": 128})
except WorkbenchError as error:
    print(error)

# %% [markdown]
# ## 5.7 Choose a point
#
# Quality, size and time in one view. Search times are measured among 20,000 documents; to them comes the time that a
# query takes to be encoded, which is measured here.


# %%
def milliseconds(encode):
    encode(["warm up"])
    started = time.perf_counter()
    for text in collection.query_texts()[:20]:
        encode([text.text])
    return 1000 * (time.perf_counter() - started) / 20


own = milliseconds(lambda texts: plain.encode_query(texts, show_progress_bar=False))
encode_ms = {"teacher": milliseconds(lambda texts: teacher.encode(texts, "query")), "symmetric": own, "asymmetric": own}
encode_ms

# %%
explorer = TradeoffExplorer({"as it is": as_it_is, "rotated": rotated}, encode_ms=encode_ms)
explorer.pick(192, "int8", "asymmetric", "rotated")
explorer

# %%
print(explorer.code)

# %% [markdown]
# ## What you learned
#
# - Size is dimensions times bits; quality falls slowly along both until it falls fast.
# - A rotation by principal components gives a teacher the property that it was not trained for, at no cost.
# - The student follows its teacher's curve, whatever that curve is; most closely where it embeds both sides.
#
# ## Exercises
#
# 1. Fit the rotation on a hundred texts only. From how many dimensions on does it hurt?
# 2. Turn the space by a random rotation after the principal one. What happens to the binary rows?
# 3. Binary codes are rescored among ten times as many rescore_multiplier. Try `rescore_multiplier=1` and `rescore_multiplier=50` in `search`.
