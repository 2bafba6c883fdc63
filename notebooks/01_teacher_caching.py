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
# **What you will learn:** why the teacher runs once and never again, what decides a target embedding, and
# how a cache survives whatever happens to it.
#
# **What you need:** the environment of `make setup`. Less than a minute on two cores.

# %%
import numpy as np
import pandas as pd

from workbench import data, models
from workbench._util import home
from workbench.cache import TargetCache
from workbench.teachers import LocalTeacher
from workbench.widgets.cache_progress import CacheProgress

# %% [markdown]
# ## 1.1 Texts with roles
#
# A text is a *query* or a *document*, and it keeps that role all the way. Many teachers put a prompt in front
# of queries only, so the same words may have two different targets. We start with the tutorial collection:
# short passages on everyday subjects, small enough to judge every result by eye.

# %%
collection = data.tutorial()
queries, documents = collection.query_texts(), collection.document_texts()
pd.DataFrame([{"role": t.role.value, "text": t.text} for t in queries[:4] + documents[:4]])

# %% [markdown]
# ## 1.2 The teacher
#
# The teacher is a model of 109 million parameters that gives vectors of 768 dimensions. Its weights came with
# `make setup` as packages; they are checked against a known SHA-256 before anything is loaded. On a processor
# that multiplies bfloat16 natively the teacher uses it, but only after it has compared a few vectors with
# their float32 versions.

# %%
teacher = LocalTeacher(models.MPNET, max_length=96)
print(teacher.dtype)
teacher.identity

# %% [markdown]
# > **Think first.** You have cached a million targets and now set `max_length=128`. Which of them can you
# > keep?
#
# None, because a longer cut may change any vector, and the cache cannot know which. The identity above says
# what a set of targets belongs to; change any part of it and you get a cache of its own. Role, prompt and the
# exact text are added to it for each target.

# %% [markdown]
# ## 1.3 Filling the cache
#
# Before the long part the cache says what is missing, how much room it takes and how long it will be. Texts
# are encoded in groups of 512 and each group is on the disk before the next one starts. Stop ends the fill
# after the group in flight, and Resume goes on from there. The fill runs beside the kernel, so that you can
# read on meanwhile; `wait` returns at its end.

# %%
cache = TargetCache(home() / "cache", teacher)
filling = CacheProgress()
filling.run(cache, teacher, queries + documents)
filling

# %%
_ = filling.wait()

# %% [markdown]
# Fill it again, and the teacher has nothing to do. This is also what happens after a crash: run the same cell
# and it goes on from the last finished group.

# %%
again = cache.fill(teacher, queries + documents)
print(f"{again.encoded} encoded, {again.hits} hits")

# %% [markdown]
# ## 1.4 What is on the disk
#
# Open formats only: `identity.json` states the teacher, and each `.safetensors` file holds keys and vectors. A
# file is named after the checksum of its content, so it cannot be damaged without being noticed.

# %%
pd.DataFrame([{"file": p.name, "bytes": p.stat().st_size} for p in sorted(cache.folder.iterdir())])

# %% [markdown]
# > **Caution.** Vectors are stored as float16, half the room of float32, which rounds each coordinate by one part
# > in two thousand at most. A teacher that computes in bfloat16 rounds more than that, and a little differently
# > in every batch. The next cell measures what both together leave of the cosine.

# %%
stored = cache.targets(queries)[:]
fresh = teacher.encode([t.text for t in queries], "query")
print(f"lowest cosine between stored and fresh: {(stored * fresh).sum(axis=1).min():.6f}")

# %% [markdown]
# ## 1.5 Reading
#
# Targets are read from the disk as they are asked for, in any order; nothing is held in memory but row
# numbers. A training step asks for a batch like this one.

# %%
targets = cache.targets(queries + documents)
batch = targets[np.array([200, 3, 77])]
print(targets.shape, batch.shape, batch.dtype)

# %% [markdown]
# ## 1.6 Damage
#
# Let us flip one bit, in a cache beside yours so that nothing of yours is at risk. It gets more than
# one file (`merge=False`, or they would be joined). The damaged one is named and set aside, and exactly its texts count as
# missing again.

# %%
import shutil
import tempfile

scratch = tempfile.mkdtemp()
beside = TargetCache(scratch, teacher)
beside.fill(teacher, queries + documents, merge=False)
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
# - The teacher runs once for each text; a target is decided by teacher, settings, role, prompt and text.
# - A killed run loses the group in flight at most, and the same call goes on from there.
# - A damaged file gives itself away by its name, and costs only its own texts.
#
# ## Exercises
#
# 1. Give the teacher `prompts={"query": "question: "}` and open a cache for it. How many targets of the queries
#    does it have, and of the documents?
# 2. Interrupt a `fill` over `docstring_corpus().train[:3000]`, then run it again. What does the plan say?
# 3. Open a second cache with `dtype="float32"` and measure what float16 costs in the worst coordinate.
