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

import workbench as wb
from workbench import evaluate, quantize
from workbench.widgets import TradeoffExplorer

# %%
train, collection = _course.factbook(train=400, held_out=150)
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
targets = evaluate.vectors(teacher, train)

# %%
vectors = {
    "teacher": evaluate.vectors(teacher, collection),
    "student": evaluate.vectors(wb.load_ready(), collection),
}
sides = {"teacher": vectors["teacher"], "symmetric": vectors["student"]}
sides["asymmetric"] = vectors["student"][0], vectors["teacher"][1]
rotation = quantize.principal_rotation(targets)
rotated = {mode: (queries @ rotation, texts @ rotation) for mode, (queries, texts) in sides.items()}

# %%
points = quantize.grid(768)
curves = {
    "as it is": quantize.sweep(collection, sides, points, timed=20_000),
    "rotated": quantize.sweep(collection, rotated, points, timed=20_000),
}

# %%
TradeoffExplorer(curves)
