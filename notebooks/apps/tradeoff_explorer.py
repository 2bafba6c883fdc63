# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How small can an index be?
#
# Vectors can be truncated and quantized. Choose a size and a precision to see how much of the large model's quality
# remains and what a search costs. *Rotated* is the same space after a rotation by its principal components, which
# changes no distance and puts as much as possible into the first dimensions.

# %%
import _course

from workbench import evaluate, quantize, student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.docstrings import docstring_corpus
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher
from workbench.widgets import TradeoffExplorer

# %%
profile = _course.profile()
corpus = docstring_corpus(pairs=profile.pairs, held_out=profile.held_out)
collection, lesson = corpus.held_out, corpus.train[: profile.lesson]
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
cache = TargetCache(home() / "cache", teacher)
_ = cache.fill(collection.query_texts() + collection.document_texts() + lesson)

# %%
model = student.load(_course.learned(cache, lesson))
sides = {"teacher": evaluate.vectors(cache, collection), "symmetric": evaluate.vectors(model, collection)}
sides["asymmetric"] = sides["symmetric"][0], sides["teacher"][1]
rotation = quantize.principal_rotation(cache.targets(lesson)[:])
spaces = {
    "as it is": sides,
    "rotated": {mode: tuple(vectors @ rotation for vectors in side) for mode, side in sides.items()},
}

# %%
points = quantize.grid(cache.dimension)
curves = {name: quantize.sweep(collection, some, points, timed=20_000) for name, some in spaces.items()}

# %%
TradeoffExplorer(curves)
