# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions
#
# Short solutions to the exercises of the numbered notebooks. Try them yourself first; most have more than one good answer.
#
# **What you need:** the environment of `make setup`. It takes about two minutes on two cores, less if the notebooks have run.

# %%
import tempfile

import _course
import numpy as np
import pandas as pd
import torch
from embedding_server import Server

import workbench as wb
from workbench import agreement, closed_form, evaluate, quantize, student
from workbench.errors import TrainingError
from workbench.evaluate import vectors
from workbench.extras.api_teachers import ApiTeacher
from workbench.quantize import CompressedIndex, IndexSpec
from workbench.train import TrainingConfig, train_student

# %%
train, collection = _course.factbook(train=400, held_out=200)
queries, documents = collection.query_texts(), collection.document_texts()
held_out = queries + documents
teacher, base = wb.Teacher("all-mpnet-base-v2", max_length=96), wb.load_model("all-MiniLM-L6-v2")
targets, (t_q, t_d) = vectors(teacher, train), vectors(teacher, collection)
wanted = np.concatenate([t_q, t_d])


def ndcg(query_vectors, document_vectors):
    return evaluate.score(collection, query_vectors, document_vectors)["ndcg_at_10"].mean()


def made(texts, kind="ridge"):
    model = student.build("all-MiniLM-L6-v2", 768, max_length=96)
    student.fit_head(model, texts, vectors(teacher, texts), kind=kind)
    return model


def loss(model):
    return ((wb.encode(model, held_out) - wanted) ** 2).sum(axis=1).mean()


model = made(train)
s_q, s_d = wb.encode(model, queries), wb.encode(model, documents)

# %% [markdown]
# ## 1 The method from scratch
#
# **1. A rotation of 100 passages.** It has 100 directions to go by, and the small model has 384. In the others it is arbitrary.

# %%
passages = [text for text in train if text.role == "document"]
x, y = (
    torch.tensor(wb.encode(base, passages)).double(),
    torch.tensor(vectors(teacher, passages)).double(),
)
b_q = torch.tensor(wb.encode(base, queries)).double()
for count in (100, len(passages)):
    turn = closed_form.rotation(x[:count], y[:count])
    print(f"{count} passages: nDCG@10 {ndcg(turn(b_q).float().numpy(), t_d):.3f}")

# %% [markdown]
# **2. From a random layer.** One pass over few texts leaves it far behind the formula.

# %%
one_pass = TrainingConfig(epochs=1, learning_rate=1e-4)
raw = student.build("all-MiniLM-L6-v2", 768, max_length=96)
train_student(raw, passages[:256], vectors(teacher, passages[:256]), one_pass)
print(
    f"random start {ndcg(wb.encode(raw, queries), t_d):.3f}, rotation {ndcg(turn(b_q).float().numpy(), t_d):.3f}"
)

# %% [markdown]
# **3. A turned index.** The rotation that is fitted includes the turn, and finds the same.

# %%
random = np.linalg.qr(np.random.default_rng(0).standard_normal((768, 768)))[0].astype(np.float32)
again = closed_form.rotation(x, y @ torch.tensor(random).double())
print(
    f"{ndcg(turn(b_q).float().numpy(), t_d):.3f}, and turned {ndcg(again(b_q).float().numpy(), t_d @ random):.3f}"
)

# %% [markdown]
# ## 2 Training a student
#
# **1. 25 steps from a random head.**

# %%
raw = student.build("all-MiniLM-L6-v2", 768, max_length=96)
train_student(raw, train[:400], targets[:400], TrainingConfig(epochs=1, learning_rate=3e-4))
print(f"loss {loss(raw):.3f} after 25 steps, ridge {loss(model):.3f}")

# %% [markdown]
# **2. One role alone.** Questions are short and made by a template, passages are not: each student is worse on the other role.

# %%
roles = {role: [text for text in train if text.role == role] for role in ("query", "document")}
rows = {}
for role, texts in roles.items():
    one = made(texts)
    parts = {"query": (queries, t_q), "document": (documents, t_d)}
    rows[f"learned from {role}"] = {
        f"{name} loss": ((wb.encode(one, some) - t) ** 2).sum(axis=1).mean()
        for name, (some, t) in parts.items()
    }
pd.DataFrame(rows).style.format("{:.3f}")

# %% [markdown]
# **3. Batches of one.** Single texts pull in different directions, so the steps are noisy.

# %%
for size in (1, 16):
    one = made(train)
    config = TrainingConfig(epochs=1, batch_size=size, learning_rate=1e-4, group_by_length=False)
    train_student(one, train[:160], targets[:160], config)
    print(f"batches of {size:2}: held-out loss {loss(one):.3f}, before {loss(model):.3f}")

# %% [markdown]
# ## 3 Where they differ
#
# **1. Two vectors swapped.** Their own rows fall. A mean over all texts hardly notices.

# %%
order = np.arange(len(documents))
order[[0, 100]] = order[[100, 0]]
tables = {"as it is": agreement.per_text(t_d, s_d), "swapped": agreement.per_text(t_d, s_d[order])}
measures = ["cosine", "overlap"]
pd.concat(
    {
        name: pd.DataFrame({"the two": t[measures].loc[[0, 100]].mean(), "all": t[measures].mean()})
        for name, t in tables.items()
    },
    axis=1,
).style.format("{:.3f}")

# %% [markdown]
# **2. Roles swapped.** It is another search with other errors. Which is better depends on which side the student embeds better.

# %%
print(f"student's queries, teacher's documents: {ndcg(s_q, t_d):.3f}")
print(f"teacher's queries, student's documents: {ndcg(t_q, s_d):.3f}")

# %% [markdown]
# **3. The teacher reranks twenty.** What is among the first twenty comes back; the rest is lost. The teacher has to embed the query,
# which is the cost that the student was to save.

# %%
found = np.argsort(-(s_q @ t_d.T), axis=1)[:, :20]
scores = np.take_along_axis(t_q @ t_d.T, found, axis=1)
ordered = np.take_along_axis(found, np.argsort(-scores, axis=1), axis=1)
reranked = evaluate.score_ranking(collection, ordered)["ndcg_at_10"].mean()
print(f"student {ndcg(s_q, t_d):.3f}, reranked {reranked:.3f}, teacher {ndcg(t_q, t_d):.3f}")

# %% [markdown]
# ## 4 How it fails
#
# **1. The last tenth shifted.** Nine tenths of the texts still predict their vectors, so the check passes.

# %%
tail = len(train) * 9 // 10
shifted = np.concatenate([targets[:tail], np.roll(targets[tail:], 1, axis=0)])
try:
    train_student(made(train), train[:], shifted, TrainingConfig(epochs=1), held_out=None)
    print("no error")
except TrainingError as error:
    print(error)

# %% [markdown]
# **2. How much blur?**

# %%
middle = t_q.mean(axis=0) / np.linalg.norm(t_q.mean(axis=0))
for share in (0.3, 0.5, 0.7, 0.9):
    blurred = (1 - share) * t_q + share * middle
    blurred /= np.linalg.norm(blurred, axis=1, keepdims=True)
    print(
        f"{share:.1f}: cosine {(blurred * t_q).sum(axis=1).mean():.2f}, nDCG@10 {ndcg(blurred, t_d):.3f}"
    )

# %% [markdown]
# ## 5 Truncation and quantization
#
# **1. A rotation from a hundred texts.** Only a hundred texts have decided which directions come first.

# %%
points = [IndexSpec(m) for m in (384, 192, 96, 48)]
spaces = {
    f"{count} texts": tuple(v @ quantize.principal_rotation(targets[:count]) for v in (t_q, t_d))
    for count in (len(train), 100)
}
curves = quantize.sweep(collection, {"teacher": (t_q, t_d)} | spaces, points)
curves.pivot(index="dimensions", columns="mode", values="ndcg_at_10").loc[::-1].style.format(
    "{:.3f}"
)

# %% [markdown]
# **2. A random rotation after the principal one** spreads each component over all dimensions, so the order is lost.

# %%
turn = quantize.principal_rotation(targets)
spaces = {
    "principal": (t_q @ turn, t_d @ turn),
    "then a random one": (t_q @ turn @ random, t_d @ turn @ random),
}
points = [IndexSpec(768, "binary"), IndexSpec(192, "binary")]
both = quantize.sweep(collection, {"teacher": (t_q, t_d)} | spaces, points)
both.pivot(index="dimensions", columns="mode", values="ndcg_at_10").loc[::-1].style.format("{:.3f}")

# %% [markdown]
# **3. Candidates.** With a multiplier of 1 the signs alone decide; with more, the float query orders the candidates again.

# %%
index = CompressedIndex(t_d, IndexSpec(192, "binary"))
for rescore_multiplier in (1, 10, 50):
    positions = index.search(t_q, 10, rescore_multiplier=rescore_multiplier)[1]
    scored = evaluate.score_ranking(collection, positions)["ndcg_at_10"].mean()
    print(f"{rescore_multiplier:2} candidates for each result: {scored:.3f}")

# %% [markdown]
# ## 6 Caching, and models behind an API
#
# **1. A prompt for queries.** A prompt is part of a text's key, so the cache is the same: it has the documents and no queries.

# %%
folder = tempfile.mkdtemp()
wb.TargetCache(folder, teacher).fill(held_out[:10] + held_out[-10:])
asking = wb.Teacher("all-mpnet-base-v2", max_length=96, prompts={"query": "question: "})
prompted = wb.TargetCache(folder, asking)
print("queries:  ", prompted.plan(held_out[:10]), "\ndocuments:", prompted.plan(held_out[-10:]))

# %% [markdown]
# **2. Sixty requests a minute.** One a second, whatever the concurrency, which hides the latency of an answer and exceeds no limit.

# %%
server = Server(lambda some: wb.encode(base, some), "small")
slow = ApiTeacher("small", url=server.url, requests_per_minute=60, batch_size=8, concurrency=8)
print(slow.estimate(documents))

# %% [markdown]
# **3. In the wrong order.** Nothing goes wrong: each vector states in `index` which text it belongs to. Without that field texts would
# get each other's vectors, and no check of shapes could notice.


# %%
class Backwards(Server):
    def payload(self, body, texts):
        answer = super().payload(body, texts)
        return answer | {"data": answer["data"][::-1]}


eight = [text.text for text in documents[:8]]
with Backwards(server.encode, "small") as backwards:
    taken = [
        ApiTeacher("small", url=one.url).encode(eight, "document") for one in (server, backwards)
    ]
print(f"largest difference {np.abs(taken[0] - taken[1]).max():.1e}")
server.close()
