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
# **What you will learn:** how to distill from a model that you can only ask, not open; what that will cost, and how a
# budget, a busy server and a text that it refuses leave what you have paid for untouched.
#
# **What you need:** the environment of `make setup`, no account and no key: the notebook starts a server of its own.
# Less than a minute on two cores.

# %%
import _course
import numpy as np
import pandas as pd
from embedding_server import Server

from workbench import data, evaluate, models, student
from workbench._progress import CacheBar
from workbench._util import home
from workbench.cache import TargetCache
from workbench.data import Text
from workbench.errors import TeacherError
from workbench.extras.api_teachers import ApiTeacher
from workbench.pipeline import TOUR
from workbench.teachers import ArrayTeacher, FunctionTeacher, LocalTeacher
from workbench.widgets.cache_progress import CacheProgress

# %% [markdown]
# ## 8.1 A server
#
# Distillation needs nothing of a teacher but its vectors, so whatever answers `POST /v1/embeddings` will do: OpenAI
# and those who speak its protocol, such as vLLM, TEI, Ollama, LM Studio and llama.cpp. Here it is the large model of
# the other notebooks behind a small server on this machine.

# %%
model = LocalTeacher(models.MPNET, max_length=TOUR.max_length)
server = Server(lambda texts: model.encode(texts, "document"), "large")
server.url

# %% [markdown]
# From here on we know the address and the model's name, and nothing else. A first request finds the width out.

# %%
teacher = ApiTeacher("large", url=server.url, name="large-at-home", tokenizer=models.MPNET, max_tokens=TOUR.max_length)
teacher.identity

# %% [markdown]
# > **Caution.** The cache tells teachers apart by this identity. Behind a name, a provider can change the model. So the
# > cache keeps the vector of one short text, `probe`, asks for it again before each fill, and refuses to mix two models.
# > `name` is yours: give another one to begin a cache anew.
#
# ## 8.2 What will it cost?
#
# The tokenizer counts, a price makes it money, and limits make it time. Nothing is sent for this.

# %%
collection = data.tutorial()
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
# > **Think first.** The second estimate has no tokenizer. On which side would you like it to err?
#
# A quarter of the bytes is what English comes to; other languages take more tokens for each byte. Count before you
# trust a budget with texts of theirs. When answers arrive, it is the server's own count that is charged.
#
# ## 8.3 A budget
#
# Half of what is needed: the request that would go over the budget is not sent.

# %%
half = paid.estimate(texts).cost / 2
frugal = ApiTeacher("large", url=server.url, name="large-at-home", price=5.0, budget=half, batch_size=16)
cache = TargetCache(_course.profile().folder / "api", frugal)
try:
    with CacheBar() as bar:
        cache.fill(frugal, texts, on_plan=bar.plan, on_progress=bar.progress)
except TeacherError as error:
    print(error)
print(frugal.usage)

# %% [markdown]
# What has been paid for is stored. Another teacher of the same identity goes on where this one stopped.

# %%
print(cache.plan(texts))

# %% [markdown]
# ## 8.4 A server in trouble
#
# Real servers are busy, drop connections and restart. This one refuses every third request with `429` and asks for a
# little time, and it cannot stand one certain text.


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

# %%
awkward = Text("unspeakable", "document")
filling = CacheProgress()
filling.run(cache, tried, [*texts, awkward])
filling

# %%
try:
    filling.wait()
except TeacherError as error:
    print(error)
print(tried.usage)

# %% [markdown]
# The busy answers cost another request each, the awkward text itself alone, and everything else is there:

# %%
print(cache.plan(texts))
again = cache.fill(tried, texts)
print(f"{again.encoded} encoded, {again.hits} hits")

# %% [markdown]
# ## 8.5 The same student
#
# The vectors are the model's own, so the student is as well. Compare it with one made from the model directly.

# %%
direct = TargetCache(home() / "cache", model)
with CacheBar() as bar:
    direct.fill(model, texts, on_plan=bar.plan, on_progress=bar.progress)
cosines = (cache.targets(texts)[:] * direct.targets(texts)[:]).sum(axis=1)
print(f"lowest cosine between the API's vector and the model's: {cosines.min():.6f}")


# %%
def closed_form(targets):
    small = student.build(TOUR.base, targets.shape[1], max_length=TOUR.max_length)
    student.fit_head(small, documents, targets)
    return small


base = models.load(TOUR.base)
base.max_seq_length = TOUR.max_length
rows = {
    name: evaluate.compare_modes(collection, at, base, closed_form(at.targets(documents))).set_index("mode")[
        "ndcg_at_10"
    ]
    for name, at in {"through the API": cache, "directly": direct}.items()
}
pd.DataFrame(rows).style.format("{:.3f}")

# %% [markdown]
# > **Think first.** Why is the asymmetric row the one that a black box makes possible, and the one that it can take
# > away again?
#
# Documents stay in the provider's space and queries are embedded here, for nothing. But if the provider retires the
# model, new documents can no longer join the old ones, except through the student.
#
# ## 8.6 Functions and arrays
#
# Anything that turns texts into vectors is a teacher, and so are vectors that exist already: a file that somebody
# published beside a corpus, a column of a data set.

# %%
letters = FunctionTeacher(
    lambda texts, role: np.array([[t.count(c) + 1 for c in "abcdefgh"] for t in texts]), "letters", 8
)
letters.encode(["a cab", "a hedge"], "query").round(2)

# %%
given = ArrayTeacher(documents, cache.targets(documents)[:], "given")
TargetCache(_course.profile().folder / "given", given).fill(given, documents).encoded

# %%
server.close()
busy.close()

# %% [markdown]
# ## What you learned
#
# - A teacher is whatever answers with vectors: a URL, a function, an array.
# - What is paid for is stored at once: a budget, a busy server or a crash never cost a vector twice.
# - A text that is refused costs itself alone, and the error names it.
#
# ## Exercises
#
# 1. Give the teacher `max_tokens=16` and look at `usage.truncated`. Why does the cache ask for everything anew?
# 2. Set `requests_per_minute=60` and `batch_size=8`. How long will it take, and does `concurrency` change that?
# 3. Make a server that answers in the wrong order. What happens, and which field of the protocol prevents worse?
