# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. Black-box teachers
#
# **The question:** what does it cost to distill from a model behind an API, and what is lost when something fails?
#
# You will estimate the cost, and see the cache keep what you have paid for through an exhausted budget, a busy server and a
# rejected text.
#
# **What you need:** the environment of `make setup`. You need no account and no key, because the notebook starts its
# own server. It takes less than a minute on two cores.

# %%
import shutil

import _course
import numpy as np
import pandas as pd
from embedding_server import Server

from workbench import data, evaluate, models, student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.data import Text
from workbench.errors import TeacherError
from workbench.extras.api_teachers import ApiTeacher
from workbench.pipeline import TOUR
from workbench.teachers import ArrayTeacher, FunctionTeacher, LocalTeacher
from workbench.widgets import CacheProgress

# %% [markdown]
# ## 8.1 A server
#
# Distillation needs only the teacher's vectors, so any server that answers `POST /v1/embeddings` will do: OpenAI and
# compatible servers such as vLLM, TEI, Ollama, LM Studio and llama.cpp. Here it is the large model of the other
# notebooks behind a small server on this machine.

# %%
model = LocalTeacher(models.MPNET, max_length=TOUR.max_length)
server = Server(lambda texts: model.encode(texts, "document"), "large")
server.url

# %% [markdown]
# From here on we use only the address and the model's name. A first request finds out the width.

# %%
teacher = ApiTeacher(
    "large",
    url=server.url,
    name="large-at-home",
    tokenizer=models.MPNET,
    max_tokens=TOUR.max_length,
)
teacher.identity

# %% [markdown]
# > **Caution.** The cache tells teachers apart by this identity. A provider can change the model behind a name. So the
# > cache keeps the vector of one short text, `probe`, asks for it again before each fill, and refuses to mix two
# > models. `name` is yours: choose another one to start a new cache.
#
# ## 8.2 What will it cost?
#
# The tokenizer counts tokens, the price turns them into money, and the rate limits give the time. The estimate sends
# nothing.

# %%
collection = data.read_dataset("tutorial")
queries, documents = collection.query_texts(), collection.document_texts()
texts = queries + documents
print(teacher.estimate(texts))

# %%
paid = ApiTeacher(
    "large",
    url=server.url,
    name="large-at-home",
    dimensions=teacher.dimension,
    price=5.0,
    requests_per_minute=500,
    batch_size=16,
)
print(paid.estimate(texts))

# %% [markdown]
# > **Think first.** The second estimate has no tokenizer. Would you rather have it too high or too low?
#
# Without a tokenizer, one token is assumed for every four bytes, which fits English. Other languages need more tokens
# per byte. Count their tokens before you rely on a budget. Once answers arrive, the server's own count is charged.
#
# ## 8.3 A budget
#
# The budget is half of what is needed. The request that would exceed it is not sent.

# %%
half = paid.estimate(texts).cost / 2
frugal = ApiTeacher(
    "large", url=server.url, name="large-at-home", price=5.0, budget=half, batch_size=16
)
folder = _course.profile().folder / "api"
shutil.rmtree(
    folder, ignore_errors=True
)  # of an earlier run of this notebook, in which all was paid
cache = TargetCache(folder, frugal)
try:
    cache.fill(texts)
except TeacherError as error:
    print(error)
print(frugal.usage)

# %% [markdown]
# Everything paid for is stored. Another teacher with the same identity continues where this one stopped.

# %%
print(cache.plan(texts))

# %% [markdown]
# ## 8.4 A server in trouble
#
# Real servers are busy, drop connections and restart. This one rejects every third request with `429` and asks the
# client to wait, and it rejects one particular text. By default, up to 1 % of the texts may stay without a target. Here
# none may (`skip=0`).


# %%
class InTrouble(Server):
    count = 0

    def answer(self, request, body, texts):
        self.count += 1
        if self.count % 3 == 0:
            return self.send(request, 429, {"error": {"message": "busy"}}, Retry_After="0.2")
        if "unspeakable" in texts:
            return self.send(request, 400, {"error": {"message": "not this text"}})
        super().answer(request, body, texts)


busy = InTrouble(server.encode, "large")
tried = ApiTeacher("large", url=busy.url, name="large-at-home", batch_size=16)
cache = TargetCache(folder, tried, skip=0)

# %%
awkward = Text("unspeakable", "document")
filling = CacheProgress()
filling.start(cache, [*texts, awkward])
filling

# %%
try:
    filling.wait()
except TeacherError as error:
    print(error)
print(tried.usage)

# %% [markdown]
# Each busy answer costs one more request. The rejected text costs only itself, and all others are there:

# %%
print(cache.plan(texts))
again = cache.fill(texts)
print(f"{again.encoded} encoded, {again.hits} hits")

# %% [markdown]
# ## 8.5 Functions and arrays
#
# Any function that turns texts into vectors is a teacher. So are existing vectors: a file published with a corpus, or a
# column of a data set.

# %%
letters = FunctionTeacher(
    lambda texts, role: np.array([[t.count(c) + 1 for c in "abcdefgh"] for t in texts]),
    "letters",
    8,
)
letters.encode(["a cab", "a hedge"], "query").round(2)

# %%
given = ArrayTeacher(cache.targets(documents)[:], documents, "given")
TargetCache(_course.profile().folder / "given", given).fill(documents).encoded

# %% [markdown]
# ## 8.6 The same student
#
# The vectors are the model's own, so the student is the same too. Compare it with one made from the model directly.

# %%
direct = TargetCache(home() / "cache", model)
_ = direct.embed(texts, progress=True)
cosines = (cache.targets(texts)[:] * direct.targets(texts)[:]).sum(axis=1)
print(f"lowest cosine between the API's vector and the model's: {cosines.min():.6f}")


# %%
def closed_form(targets):
    small = student.build(TOUR.base, targets.shape[1], max_length=TOUR.max_length)
    student.fit_head(small, documents, targets)
    return small


base = models.load_model(TOUR.base)
base.max_seq_length = TOUR.max_length
rows = {
    name: evaluate.compare(
        {"teacher": at, "base": base, "student": closed_form(at.targets(documents))}, collection
    )
    for name, at in {"through the API": cache, "directly": direct}.items()
}
pd.DataFrame(
    {name: table.set_index("mode")["ndcg_at_10"] for name, table in rows.items()}
).style.format("{:.3f}")

# %% [markdown]
# > **Think first.** Why does a black-box teacher make the asymmetric row possible, and how can its provider take it
# > away again?
#
# Documents stay in the provider's space, and queries are embedded here at no cost. If the provider retires the model,
# only the student can add new documents to the old ones.

# %%
server.close()
busy.close()

# %% [markdown]
# ## What you learned
#
# - A teacher is anything that returns vectors: a URL, a function, an array.
# - What you have paid for is stored at once: no budget, busy server or crash makes you pay for a vector twice.
# - A rejected text costs only itself, and the error names it.
#
# ## Exercises
#
# 1. Give the teacher `max_tokens=16` and fill its cache. Why does the cache request everything again?
# 2. Set `requests_per_minute=60` and `batch_size=8`. How long will it take, and does `concurrency` change that?
# 3. Write a server that answers in the wrong order. What happens, and which field of the protocol prevents worse?
