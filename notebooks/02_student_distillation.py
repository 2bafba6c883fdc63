# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Student distillation
#
# **The question:** how close to its teacher does a student come in a minute of training, and does a search notice?
#
# You will see how a student of 23 million parameters learns its teacher's space from cached targets, and what a closed-form
# start is worth.
#
# **What you need:** the environment of `make setup`. It takes about three minutes on two cores.

# %%
import _course
import numpy as np
import pandas as pd
import torch
from sentence_transformers.util import batch_to_device

from workbench import evaluate, models, student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.docstrings import docstring_corpus
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher
from workbench.train import TrainingConfig, provenance, train_student, validate
from workbench.widgets import CacheProgress, ModelComparison, TrainingMonitor

# %% [markdown]
# ## 2.1 Training texts and held-out texts
#
# The docstrings of the installed libraries are real text that every machine has. The first sentence of a docstring is
# the query, the rest is the document. Four hundred pairs are enough to see the method work;
# `WORKBENCH_PROFILE=full` takes all of them.

# %%
profile = _course.profile()
corpus = docstring_corpus(pairs=profile.pairs, held_out=profile.held_out)
train = corpus.train
held_out = corpus.held_out.query_texts() + corpus.held_out.document_texts()
pd.DataFrame([{"role": t.role.value, "text": t.text[:100]} for t in train[:4]])

# %%
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
cache = TargetCache(home() / "cache", teacher)
filling = CacheProgress()
filling.start(cache, train + held_out)
filling

# %%
_ = filling.wait()
targets, wanted = cache.targets(train), cache.targets(held_out)

# %% [markdown]
# ## 2.2 The student
#
# The student is a small transformer, mean pooling over its tokens, and a linear head from its 384 dimensions to the
# teacher's 768. The head is part of the model, so it is saved with it. The last module normalizes every vector, because
# the teacher's vectors have unit norm.

# %%
model = student.build(TOUR.base, cache.dimension, max_length=TOUR.max_length)
print(model)

# %% [markdown]
# ## 2.3 The loss
#
# For a text $x$ the student's vector should match the teacher's:
#
# $$ L = \frac{1}{n} \sum_{i=1}^{n} \lVert s(x_i) - t(x_i) \rVert^2 $$
#
# It needs no judgments, no negatives and no access to the teacher's internals. For vectors of
# unit norm the loss is $2 - 2\cos$: 0 for the same place, 2 for unrelated vectors, 4 for opposite ones.
#
# > **Think first.** What is the loss of a head that starts at random?

# %%
random_start = validate(model, held_out, wanted)
random_start

# %% [markdown]
# About 2: a random head knows nothing about the teacher's space.
#
# ## 2.4 The closed-form start
#
# With the transformer frozen, the best head is a ridge regression, which needs no training. For the $n$ texts' pooled
# features $H$ and targets $T$, both centered, it is
#
# $$ W = (H^\top H + s\, n\, v\, I)^{-1} H^\top T $$
#
# where $v$ is the mean variance of a feature. The strength $s$ is chosen by the loss on a tenth of the texts.

# %%
warm = student.fit_head(model, train, targets)
closed_form = validate(model, held_out, wanted)
print(warm)
pd.DataFrame({"random": random_start, "closed form": closed_form})

# %%
closed_form_folder = student.save(model, profile.folder / "start")

# %% [markdown]
# ## 2.5 The method in twenty lines
#
# Draw a batch, compute the squared distance, take a step, lower the rate.


# %%
def learn(model, texts, targets, config):
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay)
    order = np.random.default_rng([config.seed, 0]).permutation(len(texts))
    batches = order.reshape(-1, config.batch_size)
    rates, losses = np.linspace(config.learning_rate, config.final_learning_rate, len(batches)), []
    for batch, rate in zip(batches, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        features = batch_to_device(model.preprocess([texts[i].text for i in batch]), model.device)
        vectors = model(features)["sentence_embedding"]
        distances = (vectors - torch.tensor(targets[batch], device=model.device)).pow(2).sum(dim=1)
        optimizer.zero_grad()
        distances.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        losses.append(float(distances.mean()))
    return losses


# %% [markdown]
# The package's training loop adds what a long run needs: checkpoints, several processes, bfloat16, batches grouped by
# length. With these turned off it must produce the same student. Here are eight steps from the same start:

# %%
few = TrainingConfig(
    batch_size=32, learning_rate=1e-4, epochs=1, precision="float32", group_by_length=False
)
plain, ours = (student.load(closed_form_folder).eval() for _ in range(2))
losses = learn(plain, train[:256], targets[:256], few)
_ = train_student(ours, train[:256], targets[:256], few)

# %%
vectors = {
    name: models.encode(one, held_out, precision="float32")
    for name, one in (("plain", plain), ("ours", ours), ("start", model))
}
print(
    f"largest difference to the twenty lines: {np.abs(vectors['ours'] - vectors['plain']).max():.1e}"
)
print(
    f"largest difference to the start:        {np.abs(vectors['ours'] - vectors['start']).max():.1e}"
)

# %% [markdown]
# ## 2.6 Training
#
# Training makes one pass over the texts (four in the full profile), in batches grouped by length. It measures the
# held-out loss at intervals and keeps the best student. The figure has two reference lines. The closed-form start is
# the loss to beat. The teacher is the lower limit: it does not repeat its cached vectors exactly, because it rounds a
# little differently in every batch.

# %%
again = np.concatenate(
    [
        teacher.encode([t.text for t in held_out if t.role == role], role)
        for role in ("query", "document")
    ]
)
ceiling = float(((again - np.asarray(wanted)) ** 2).sum(axis=1).mean())
monitor = TrainingMonitor(
    {"closed-form start": closed_form["loss"], "the teacher, encoding again": ceiling}
)
monitor

# %%
config = profile.config
options = {"held_out": (held_out, wanted), "on_step": monitor, "stop": monitor.stop}
result = monitor.run(lambda: train_student(model, train, targets, config, **options))
result.history.dropna(subset="held_out_loss").set_index("step")[
    ["held_out_loss", "cosine_query", "cosine_document"]
]

# %% [markdown]
# > **Caution.** The learning rate is half of that of the recipe `tour`, because these are few steps. The head was optimal for
# > the transformer before it moved, so a higher rate can raise the loss at first, with no time left to recover. This is one
# > more reason to keep the best student instead of the last one.
#
# ## 2.7 Search quality
#
# A higher cosine does not prove better retrieval, so we search. In *symmetric* search the student embeds both queries
# and documents. In *asymmetric* search the teacher has embedded the documents once, and the student embeds only the
# queries.

# %%
base = models.load_model(TOUR.base)
base.max_seq_length = TOUR.max_length
start = student.load(closed_form_folder)
compared = {"teacher": cache, "base": base, "closed-form start": start, "student": model}
rows = evaluate.compare(compared, corpus.held_out)
print(evaluate.format_table(rows))

# %% [markdown]
# The table shows the untrained base, the closed-form start and the trained student beside the teacher. With a few
# hundred queries the intervals are wide, so compare the intervals before the means.
#
# > **Caution.** The best student was selected on these same texts (by its loss, not by search), so it looks a little
# > better here than it is. For an unbiased figure, measure on texts that played no part in the selection.
#
# Which texts did training move nearer to the teacher, and which farther away? Choose two models, and sort.

# %%
students = {
    "student": models.encode(model, held_out),
    "closed-form start": models.encode(start, held_out),
}
ModelComparison({"teacher": wanted[:]} | students, held_out)

# %% [markdown]
# ## 2.8 Save it
#
# The folder loads with plain `SentenceTransformer(path)`, without this package. `provenance.json` in it records how the
# student was made. Notebook 6 publishes it.

# %%
made = {
    "base": TOUR.base,
    "source": "docstrings",
    "start": "closed-form",
    "head_fit": warm,
    "config": config,
    "result": result,
}
student.save(model, profile.folder / "student", provenance(cache, train, **made))

# %% [markdown]
# ## What you learned
#
# - The loss is the squared distance to a cached target, and the student is an ordinary sentence-transformers model with
#   a linear head.
# - The closed form fits the head in a second; training then moves the transformer.
# - Both search modes are measured beside the teacher and the untrained base, with intervals.
#
# ## Exercises
#
# 1. Train from the random head (leave out 2.4). How many steps until it reaches the closed form's loss?
# 2. Train on queries alone, then on documents alone. Which mode suffers from which?
# 3. Call `learn` with batches of one text. How does the loss of a step vary, and what does that do to the held-out
#    loss?
# 4. Run `make demo` and compare its table with yours. It differs in two things, twelve times the texts and a start from the ready
#    student: which of them explains the asymmetric row?
