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
# To the exercises of all notebooks, each in a few lines. Try them yourself first; most have more than one good answer.
#
# **What you need:** the environment of `make setup`. About three minutes on two cores, less if the notebooks have filled
# the cache.

# %%
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
from embedding_server import Server
from sklearn.linear_model import LogisticRegression

from workbench import agreement, data, evaluate, models, quantize, student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.docstrings import docstring_corpus
from workbench.extras import publish
from workbench.extras.api_teachers import ApiTeacher
from workbench.pipeline import TOUR
from workbench.quantize import CompressedIndex, IndexSpec
from workbench.teachers import LocalTeacher
from workbench.train import embed, train_student

# %% [markdown]
# All of them use the same things: the tutorial collection, some docstrings, the teacher, the base, and a student of the
# docstrings with a closed-form start.

# %%
collection = data.tutorial()
queries, documents = collection.query_texts(), collection.document_texts()
corpus = docstring_corpus(pairs=1000, held_out=200)
pairs, held_out = corpus.train[:600], corpus.held_out.query_texts()[:100] + corpus.held_out.document_texts()[:100]
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
cache = TargetCache(home() / "cache", teacher)
cache.fill(teacher, queries + documents + pairs + held_out).encoded

# %%
base = models.load(TOUR.base)
base.max_seq_length = TOUR.max_length


def closed_form(texts):
    model = student.build(TOUR.base, cache.dimension, max_length=TOUR.max_length)
    student.fit_head(model, texts, cache.targets(texts))
    return model


def ndcg(query_vectors, document_vectors):
    ids = list(collection.queries), list(collection.documents)
    return evaluate.score(collection.qrels, *ids, query_vectors, document_vectors)["ndcg_at_10"].mean()


model = closed_form(pairs)
t_queries, t_documents = cache.targets(queries)[:], cache.targets(documents)[:]
s_queries, s_documents = embed(model, queries), embed(model, documents)

# %% [markdown]
# ## 0 Start here
#
# **1. The passage farthest from its teacher.**

# %%
taught = closed_form(documents + pairs)  # as in the notebook
cosines = (t_documents * embed(taught, documents)).sum(axis=1)
print(f"{cosines.min():.2f}  {documents[cosines.argmin()].text}")

# %% [markdown]
# **2. Without the docstrings.** With the passages alone the student knows little else, but what it knows is the subject.
# 192 texts are fewer than the 384 features of a ridge regression, and it still pays: compare the asymmetric rows.

# %%
lessons = {"passages and docstrings": documents + pairs, "passages": documents, "docstrings": pairs}
rows = {
    name: evaluate.compare_modes(collection, cache, base, closed_form(texts)).set_index("mode")["ndcg_at_10"]
    for name, texts in lessons.items()
}
pd.DataFrame(rows).style.format("{:.3f}")

# %% [markdown]
# **3. The base's own vectors among the teacher's passages.** Padded to the same width they can be compared, and find
# nothing: about what drawing passages at random would.

# %%
padded = np.pad(base.encode([text.text for text in queries]), ((0, 0), (0, 384)))
random = np.random.default_rng(0).normal(size=padded.shape)
print(f"nDCG@10 of the base {ndcg(padded, t_documents):.3f}, of random vectors {ndcg(random, t_documents):.3f}")

# %% [markdown]
# ## 1 Teacher caching
#
# **1. A prompt for queries.** The cache is the same, for a prompt is part of a text's key: all documents are there, and no
# query.

# %%
asking = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length, prompts={"query": "question: "})
prompted = TargetCache(home() / "cache", asking)
print("queries:  ", prompted.plan(queries), "\ndocuments:", prompted.plan(documents))

# %% [markdown]
# **2. Interrupted.** What was stored stays: a sample of 32, by which the time was estimated, and whole groups of 512. Here
# `stop` does what your Ctrl-C did.

# %%
many, stop = corpus.train[:1200], threading.Event()
interrupted = TargetCache(home() / "solutions", teacher)
interrupted.fill(teacher, many, on_progress=lambda p: p.encoded > 500 and stop.set(), stop=stop)
print(interrupted.plan(many))

# %% [markdown]
# **3. What float16 costs.** The worst coordinate is off by less than a thousandth of the largest.

# %%
exact = TargetCache(home() / "solutions", teacher, dtype="float32")
exact.fill(teacher, queries)
full = exact.targets(queries)[:]
print(f"worst: {np.abs(full - full.astype(np.float16)).max():.1e}, largest coordinate: {np.abs(full).max():.2f}")

# %% [markdown]
# ## 2 Student distillation
#
# **1. From a random head.** After two passes it is still far from where the closed form starts.

# %%
few = replace(TOUR.settings, epochs=2, learning_rate=3e-4)
raw = student.build(TOUR.base, cache.dimension, max_length=TOUR.max_length)
result = train_student(raw, pairs, cache.targets(pairs), few, held_out=(held_out, cache.targets(held_out)))
wanted = cache.targets(held_out)[:]
print(f"closed form: {((embed(model, held_out) - wanted) ** 2).sum(axis=1).mean():.3f}")
result.history.dropna(subset="held_out_loss").set_index("step")["held_out_loss"].to_frame()

# %% [markdown]
# **2. One role alone.** The closed form shows it without training. Queries are short and documents long: a student that saw
# one kind only is worse on the other. A search among the tutorial's passages, a subject that neither has learned, hardly tells
# the two apart.

# %%
roles = {role: [text for text in pairs if text.role == role] for role in ("query", "document")}
loss = {
    f"learned from {role}": {
        f"{other} loss": ((embed(one, some) - cache.targets(some)[:]) ** 2).sum(axis=1).mean()
        for other in roles
        for some in [[text for text in held_out if text.role == other]]
    }
    for role, texts in roles.items()
    for one in [closed_form(texts)]
}
pd.DataFrame(loss).style.format("{:.3f}")

# %%
alone = {f"learned from {role}": closed_form(texts) for role, texts in roles.items()}
found = {
    name: {
        "symmetric": ndcg(embed(one, queries), embed(one, documents)),
        "asymmetric": ndcg(embed(one, queries), t_documents),
    }
    for name, one in alone.items()
}
pd.DataFrame(found).style.format("{:.3f}")

# %% [markdown]
# **3. Batches of one.** Texts differ, and a mean over sixteen differs a quarter as much: the root of sixteen. So steps from
# single texts jump about, and the same texts at the same rate end up worse.

# %%
apart = ((embed(model, held_out) - wanted) ** 2).sum(axis=1)
drawn = np.random.default_rng(0).choice(apart, size=(500, 16))
print(f"spread of the loss of one text {apart.std():.3f}, of the mean of sixteen {drawn.mean(axis=1).std():.3f}")

# %%
for size in (1, 16):
    one = closed_form(pairs)
    small = replace(TOUR.settings, epochs=1, batch_size=size, learning_rate=1e-4, group_by_length=False)
    train_student(one, pairs[:160], cache.targets(pairs[:160]), small)
    print(f"batches of {size:2}: held-out loss {((embed(one, held_out) - wanted) ** 2).sum(axis=1).mean():.3f}")

# %% [markdown]
# **4.** The README has the demo's table. It searches among 500 documents and not 200, which is harder for everyone, so compare
# shares of the teacher: with five times the texts, asymmetric search keeps as much as symmetric search.
#
# ## 3 Alignment diagnostics
#
# **1. The ten of the least overlap.** Whatever you find, compare it with all texts: ten of anything have something in
# common.

# %%
t, s = cache.targets(held_out)[:], embed(model, held_out)
table = agreement.per_text(t, s)
words = pd.Series([len(text.text.split()) for text in held_out])
worst = table["overlap"].nsmallest(10).index
print(f"words: {words.mean():.0f} in the mean, {words[worst].mean():.0f} in the worst ten")

# %% [markdown]
# **2. Two vectors exchanged.** The two texts' own cosine and overlap fall; what describes the student as a whole, its
# spectrum and its rank, is about a set of vectors and cannot notice.

# %%
order = np.arange(len(held_out))
order[[0, 100]] = order[[100, 0]]
pd.DataFrame(
    {
        name: {
            "cosine of the two": (t * v)[[0, 100]].sum(axis=1).mean(),
            "mean cosine": (t * v).sum(axis=1).mean(),
            "cka": agreement.cka(t, v),
            "effective rank": agreement.effective_rank(agreement.spectrum(v)),
        }
        for name, v in {"as it is": s, "exchanged": s[order]}.items()
    }
).style.format("{:.3f}")

# %% [markdown]
# **3. Without the means.** The student's cloud as a whole lies beside the teacher's. Without both means that part of the
# error is gone; what is left, each text's own, is by far the larger part. The cosine falls all the same, for some of it was
# what all texts have in common.

# %%
centered = [v - v.mean(axis=0) for v in (t, s)]
centered = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in centered]
pd.DataFrame(
    {
        name: agreement.per_text(*both)[["cosine", "overlap"]].mean()
        for name, both in {"as it is": (t, s), "centered": centered}.items()
    }
).style.format("{:.3f}")

# %% [markdown]
# ## 4 Retrieval side by side
#
# **1. The other way round.** It is another search, with its errors in another place. Which is better depends on what the
# student knows less of, the queries or the documents.

# %%
print(f"student's queries, teacher's documents: {ndcg(s_queries, t_documents):.3f}")
print(f"teacher's queries, student's documents: {ndcg(t_queries, s_documents):.3f}")

# %% [markdown]
# **2. The teacher puts twenty in order.** What the student has found among its first twenty is put right; what it has not
# is lost. The teacher then has to encode the query, which is what the student was to spare.

# %%
scores = s_queries @ t_documents.T
found = np.argsort(-scores, axis=1)[:, :20]
again = np.take_along_axis(t_queries @ t_documents.T, found, axis=1)
ordered = np.take_along_axis(found, np.argsort(-again, axis=1), axis=1)
ids = list(collection.queries), list(collection.documents)
reranked = evaluate.score_ranking(collection.qrels, *ids, ordered)["ndcg_at_10"].mean()
print(
    f"student {ndcg(s_queries, t_documents):.3f}, put in order {reranked:.3f}, teacher {ndcg(t_queries, t_documents):.3f}"
)

# %% [markdown]
# **3. Without the offset.** If all texts were off in the same direction, this would put them right. Documents are not queries,
# so it is no more than a guess at what queries are off by.

# %%
offset = (s_documents - t_documents).mean(axis=0)
print(f"asymmetric {ndcg(s_queries, t_documents):.3f}, without the offset {ndcg(s_queries - offset, t_documents):.3f}")

# %% [markdown]
# ## 5 Truncation and quantization
#
# **1. A rotation from a hundred texts.** From 192 dimensions down, where which of them come first matters and was decided by
# a hundred texts. It is still better than no order at all.

# %%
all_of_it = cache.targets(pairs)[:]
points = [IndexSpec(m) for m in (384, 192, 96, 48)]
spaces = {
    name: tuple(v @ quantize.principal_rotation(some) for v in (t_queries, t_documents))
    for name, some in {"600 texts": all_of_it, "100 texts": all_of_it[::6][:100]}.items()
}
curves = quantize.sweep(collection.qrels, *ids, {"teacher": (t_queries, t_documents)} | spaces, points)
curves.pivot(index="dimensions", columns="mode", values="ndcg_at_10").loc[::-1].style.format("{:.3f}")

# %% [markdown]
# **2. A random rotation after the principal one.** It spreads what each component holds over all dimensions, so that every
# sign counts for something again, and the order is lost: at 192 dimensions that costs. In full the two differ by less than
# 72 queries can tell.

# %%
turn = quantize.principal_rotation(all_of_it)
spread = turn @ np.linalg.qr(np.random.default_rng(0).normal(size=turn.shape))[0].astype(np.float32)
spaces = {
    name: (t_queries @ r, t_documents @ r) for name, r in {"principal": turn, "then a random one": spread}.items()
}
points = [IndexSpec(768, "binary"), IndexSpec(192, "binary")]
both = quantize.sweep(collection.qrels, *ids, {"teacher": (t_queries, t_documents)} | spaces, points)
both.pivot(index="dimensions", columns="mode", values="ndcg_at_10").loc[::-1].style.format("{:.3f}")

# %% [markdown]
# **3. Candidates.** One means that signs alone decide. More are put in order by the query in full; it soon makes no
# difference, for what matters was among the first.

# %%
index = CompressedIndex(t_documents, IndexSpec(192, "binary"))
for rescore_multiplier in (1, 10, 50):
    positions = index.search(t_queries, 10, rescore_multiplier=rescore_multiplier)[1]
    scored = evaluate.score_ranking(collection.qrels, *ids, positions)["ndcg_at_10"].mean()
    print(f"{rescore_multiplier:2} rescore_multiplier for each result: {scored:.3f}")

# %% [markdown]
# ## 6 Publish your student
#
# **1.** `python -m bench.clean FOLDER` does it: it makes an environment for each card and runs the card's code there.
#
# **2.** In a terminal, after `make demo`:
#
# ```
# workbench evaluate --student build/demo/student --curves --json build/report.json
# workbench publish  --student build/demo/student --results build/report.json --name me/my-student --output build/release
# ```
#
# **3. 96 dimensions, with the rotation and without.** The order of dimensions is all that differs.

# %%
large = models.load(TOUR.teacher)
large.max_seq_length = TOUR.max_length
for name, rotation in (("rotated", turn), ("as it is", None)):
    short = [publish.truncated(one, 96, rotation) for one in (large, model)]
    vectors = short[1].encode([q.text for q in queries]), short[0].encode([d.text for d in documents])
    print(f"{name:8}: nDCG@10 {ndcg(*vectors):.3f} at {vectors[0].shape[1]} dimensions")

# %% [markdown]
# ## 7 Benchmarks
#
# **1. Half of the queries.** The width goes with one over the root of their number: half as many widen it by about 1.4,
# and four times as many would halve it.

# %%
per_query = evaluate.score(collection.qrels, *ids, s_queries, t_documents)["ndcg_at_10"].to_numpy()
rng = np.random.default_rng(0)
for count in (len(per_query), len(per_query) // 2):
    means = rng.choice(per_query[:count], size=(2000, count)).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    print(f"{count} queries: {per_query[:count].mean():.3f}, 95 % interval {low:.3f} to {high:.3f}")

# %% [markdown]
# **2. Which subjects are confused?** The classifier learns from every second passage, as the task does, and names the
# subjects of the others. Where the first in the list leads by a passage or two, do not read an order into it.

# %%
subjects = np.array([name.rpartition("-")[0] for name in collection.documents])
classifier = LogisticRegression(max_iter=1000).fit(s_documents[::2], subjects[::2])
true, guessed = subjects[1::2], classifier.predict(s_documents[1::2])
wrong = pd.Series(list(zip(true, guessed, strict=True)))[true != guessed]
print(f"{(true == guessed).mean():.0%} of {len(true)} right; confused (true, guessed):")
wrong.value_counts().head(5)

# %% [markdown]
# **3.** `data.beir` says what is wrong with a folder, line by line, before anything runs; its documentation has the
# layout.
#
# ## 8 Black-box teachers
#
# **1. Sixteen tokens.** The cut decides the vectors, so it is part of the identity: a cache of its own, and nothing in it.

# %%
server = Server(lambda some: teacher.encode(some, "document"), "large")
short = ApiTeacher("large", url=server.url, name="at-home", tokenizer=models.MPNET, max_tokens=16)
truncated = TargetCache(home() / "solutions", short)
print(truncated.plan(documents[:64]))
truncated.fill(short, documents[:64])
print(short.usage)

# %% [markdown]
# **2. Sixty requests a minute.** One a second, however many may be under way: `concurrency` hides how long an answer takes,
# and cannot beat a limit.

# %%
slow = ApiTeacher(
    "large", url=server.url, dimensions=768, requests_per_minute=60, batch_size=8, concurrency=8
)  # fmt: skip
print(slow.estimate(documents))

# %% [markdown]
# **3. In the wrong order.** Nothing happens: each vector says by `index` which text it is of, and the difference is that of
# an orderly server, the rounding in another batch. Without that field vectors would be given to other texts, and no check of
# their shape could tell.


# %%
class Backwards(Server):
    def payload(self, body, texts):
        answer = super().payload(body, texts)
        return answer | {"data": answer["data"][::-1]}


eight = [text.text for text in documents[:8]]
with Backwards(server.encode, "large") as backwards:
    for name, one in (("in order", server), ("backwards", backwards)):
        vectors = ApiTeacher("large", url=one.url, dimensions=768).encode(eight, "document")
        print(f"{name}: largest difference {np.abs(vectors - t_documents[:8]).max():.1e}")
server.close()
