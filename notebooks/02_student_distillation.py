# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Training a student
#
# **The question:** turn, regress, or train: how close to its teacher does a student come, and does a search notice?
#
# You will make four students of the same texts, from the cheapest, and measure all on texts that none has seen.
#
# **What you need:** the environment of `make setup`. It takes about two minutes on two cores.

# %%
import _course
import numpy as np
import pandas as pd

import workbench as wb
from workbench import evaluate, student
from workbench.evaluate import vectors
from workbench.train import TrainingConfig, train_student, validate
from workbench.widgets import ModelComparison, TrainingMonitor

# %% [markdown]
# ## 2.1 Training texts and held-out texts
#
# Passages on countries, each with a question made by a template. The student sees texts and the teacher's vectors, and never
# which question belongs to which passage.

# %%
train, collection = _course.factbook(train=400, held_out=150)
held_out = collection.query_texts() + collection.document_texts()
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
targets, wanted = vectors(teacher, train), vectors(teacher, held_out)
pd.DataFrame(
    [{"role": text.role.value, "text": text.text[:100]} for text in [*train[:2], *train[-2:]]]
)

# %% [markdown]
# ## 2.2 The student
#
# A small transformer, the mean over its tokens, and a linear layer (the *head*) from its 384 dimensions to the teacher's 768. The last
# module makes every vector one long, as the teacher's are. The loss of a text is the squared distance, $2 - 2\cos$: 0 for the
# same place, 2 for a right angle, 4 for opposite vectors.
#
# > **Think first.** What is the loss of a head that starts at random?

# %%
random_head = student.build("all-MiniLM-L6-v2", 768, max_length=96)
losses = {"random": validate(random_head, held_out, wanted)["loss"]}
print(random_head)
print(f"loss {losses['random']:.2f}")

# %% [markdown]
# Near 2: random vectors in 768 dimensions are nearly at right angles.
#
# ## 2.3 Two closed forms
#
# With the transformer frozen, two heads follow from a formula (notebook 1 derives them): the rotation, and a ridge regression with
# its strength chosen on held-out texts. The regression has the least squared error *before* the vectors are made one long, so it is
# best for neither the loss nor the search; it is a start.

# %%
students = {}
for kind in ("rotation", "ridge"):
    students[kind] = student.build("all-MiniLM-L6-v2", 768, max_length=96)
    student.fit_head(students[kind], train, targets, kind=kind)
    losses[kind] = validate(students[kind], held_out, wanted)["loss"]
pd.Series(losses, name="loss on held-out texts").to_frame().style.format("{:.3f}")

# %% [markdown]
# ## 2.4 Training
#
# From the ridge on, all weights learn, in batches of similar length. The monitor shows the loss on held-out texts; the best student is
# kept, which may be the start. The dashed lines are the loss to beat and the *noise floor*: the teacher does not repeat its own
# vectors exactly, because it rounds a little differently in every batch.

# %%
strings = {
    role: [text.text for text in held_out if text.role == role] for role in ("query", "document")
}
again = np.concatenate([teacher.encode(some, role) for role, some in strings.items()])
floor = float(((again - wanted) ** 2).sum(axis=1).mean())
monitor = TrainingMonitor({"ridge": losses["ridge"], "the teacher again": floor})
monitor

# %%
model = student.build("all-MiniLM-L6-v2", 768, max_length=96)
student.fit_head(model, train, targets, kind="ridge")
config = TrainingConfig(epochs=1, learning_rate=1.5e-4)
options = {"held_out": (held_out, wanted), "on_step": monitor, "stop": monitor.stop}
result = monitor.run(lambda: train_student(model, train, targets, config, **options))
students["trained"] = model
losses["trained"] = validate(model, held_out, wanted)["loss"]
print(
    f"loss {losses['ridge']:.3f} before, {losses['trained']:.3f} after {result.history['step'].max()} steps"
)

# %% [markdown]
# ## 2.5 Does a search notice?
#
# > **Think first.** Order the students by their loss. Will the search have the same order?
#
# The base searches its own index; the students ask the teacher's (*asymmetric*), or embed both sides (*symmetric*).

# %%
compared = {"teacher": teacher, "base": "all-MiniLM-L6-v2", **students}
rows = wb.compare(compared, collection)
print(evaluate.format_table(rows))

# %% [markdown]
# With 150 questions the intervals are wide: compare them before the means. The trained student was chosen by its loss on these very
# texts, so it looks a little better than on others.
#
# Which texts did training move nearer to the teacher, and which farther away?

# %%
ModelComparison(
    {"teacher": wanted} | {name: wb.encode(one, held_out) for name, one in students.items()},
    held_out,
)

# %% [markdown]
# ## 2.6 Save it
#
# The folder loads with plain `SentenceTransformer(path)`, without this package. `wb.distill` does all of the above in one call, saves
# the student with a record of how it was made, and goes on where it was interrupted.

# %%
made = wb.distill(train, teacher, recipe="rotation", progress=False)
made.encode_query(["Which river flows through Cairo?"]).shape

# %% [markdown]
# ## 2.7 The answer

# %%
shares = rows[rows["mode"] == "asymmetric"].set_index("model")["share_of_teacher"]
by_loss = min(students, key=losses.get)
print(
    "Asymmetric, share of the teacher's nDCG@10: "
    + ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    + "."
)
print(f"The lowest loss has {by_loss} ({losses[by_loss]:.2f}), the best search {shares.idxmax()}.")

# %% [markdown]
# ## What you learned
#
# - The loss is the squared distance to the teacher's vector. It is near 2 for a random head.
# - A formula gives a usable student in seconds. Training moves the whole transformer and takes minutes.
# - Loss and search are two things. Choose a student by what it finds.
#
# ## Exercises
#
# 1. Train 25 steps from the random head (leave out `fit_head` in 2.4). How far is its loss from the ridge's?
# 2. Learn from the questions alone, then from the passages alone. Which loss suffers from which?
# 3. Train with `batch_size=1` on 160 of the texts, and with 16. What does that do to the held-out loss?
