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
# **What you need:** the environment of `make setup`. It takes about three minutes on two cores, less if the notebooks
# have filled the cache.

# %%
import shutil
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
from workbench.train import train_student

# %% [markdown]
# All solutions share the same objects: the tutorial data set, some docstrings, the teacher, the base, and a student of
# the docstrings with a closed-form start.

# %%
collection = data.read_dataset("tutorial")
queries, documents = collection.query_texts(), collection.document_texts()
corpus = docstring_corpus(pairs=1000, held_out=150)
pairs, held_out = (
    corpus.train[:600],
    corpus.held_out.query_texts()[:100] + corpus.held_out.document_texts()[:100],
)
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
cache = TargetCache(home() / "cache", teacher)
shutil.rmtree(home() / "solutions", ignore_errors=True)  # of an earlier run of this notebook
cache.fill(queries + documents + pairs + held_out).encoded

# %%
base = models.load_model(TOUR.base)
base.max_seq_length = TOUR.max_length


def closed_form(texts):
    model = student.build(TOUR.base, cache.dimension, max_length=TOUR.max_length)
    student.fit_head(model, texts, cache.targets(texts))
    return model


def ndcg(query_vectors, document_vectors):
    return evaluate.score(collection, query_vectors, document_vectors)["ndcg_at_10"].mean()


model = closed_form(pairs)
t_queries, t_documents = cache.targets(queries)[:], cache.targets(documents)[:]
s_queries, s_documents = models.encode(model, queries), models.encode(model, documents)

# %% [markdown]
# ## 0 Start here
#
# **1. The passage farthest from its teacher.**

# %%
taught = closed_form(documents + pairs)  # as in the notebook
cosines = (t_documents * models.encode(taught, documents)).sum(axis=1)
print(f"{cosines.min():.2f}  {documents[cosines.argmin()].text}")

# %% [markdown]
# **2. Without the docstrings.** A student of the passages alone knows little, but it knows the subject. 192 texts are
# fewer than the 384 features of a ridge regression, and it still pays: compare the asymmetric rows.

# %%
choices = {"passages and docstrings": documents + pairs, "passages": documents, "docstrings": pairs}
rows = {
    name: evaluate.compare(
        {"teacher": cache, "base": base, "student": closed_form(texts)}, collection
    )
    for name, texts in choices.items()
}
pd.DataFrame(
    {name: table.set_index("mode")["ndcg_at_10"] for name, table in rows.items()}
).style.format("{:.3f}")

# %% [markdown]
# **3. Random vectors among the teacher's passages.** The padded base finds about as much as they do.

# %%
padded = np.pad(base.encode([text.text for text in queries]), ((0, 0), (0, 384)))
random = np.random.default_rng(0).normal(size=padded.shape)
print(
    f"nDCG@10 of the base {ndcg(padded, t_documents):.3f}, of random vectors {ndcg(random, t_documents):.3f}"
)

# %% [markdown]
# ## 1 Teacher caching
#
# **1. A prompt for queries.** The cache is the same, because a prompt is part of a text's key. It has all documents and
# no queries.

# %%
asking = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length, prompts={"query": "question: "})
prompted = TargetCache(home() / "cache", asking)
print("queries:  ", prompted.plan(queries), "\ndocuments:", prompted.plan(documents))

# %% [markdown]
# **2. Interrupted.** The cache keeps what was stored: whole groups of 256. Here `stop` does what your Ctrl-C did, and the small model stands in for the teacher, since it is quicker.

# %%
many, stop = corpus.train[:1200], threading.Event()
interrupted = TargetCache(home() / "solutions", LocalTeacher(TOUR.base, max_length=TOUR.max_length))
interrupted.fill(many, on_progress=lambda p: p.encoded > 500 and stop.set(), stop=stop)
print(interrupted.plan(many))

# %% [markdown]
# **3. What float16 costs.** The worst coordinate is off by less than a thousandth of the largest.

# %%
exact = TargetCache(home() / "solutions", teacher, dtype="float32")
exact.fill(queries)
full = exact.targets(queries)[:]
print(
    f"worst: {np.abs(full - full.astype(np.float16)).max():.1e}, largest coordinate: {np.abs(full).max():.2f}"
)

# %% [markdown]
# ## 2 Student distillation
#
# **1. From a random head.** After two passes its loss is still far above the closed form's.

# %%
few = replace(TOUR.config, epochs=2, learning_rate=3e-4)
raw = student.build(TOUR.base, cache.dimension, max_length=TOUR.max_length)
result = train_student(
    raw, pairs, cache.targets(pairs), few, held_out=(held_out, cache.targets(held_out))
)
wanted = cache.targets(held_out)[:]
print(f"closed form: {((models.encode(model, held_out) - wanted) ** 2).sum(axis=1).mean():.3f}")
result.history.dropna(subset="held_out_loss").set_index("step")["held_out_loss"].to_frame()

# %% [markdown]
# **2. One role alone.** The closed form shows it without training. Queries are short and documents long, so a student
# trained on one role is worse on the other. A search of the tutorial passages, a subject that neither student was
# trained on, hardly separates the two.

# %%
roles = {role: [text for text in pairs if text.role == role] for role in ("query", "document")}
loss = {
    f"learned from {role}": {
        f"{other} loss": ((models.encode(one, some) - cache.targets(some)[:]) ** 2)
        .sum(axis=1)
        .mean()
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
        "symmetric": ndcg(models.encode(one, queries), models.encode(one, documents)),
        "asymmetric": ndcg(models.encode(one, queries), t_documents),
    }
    for name, one in alone.items()
}
pd.DataFrame(found).style.format("{:.3f}")

# %% [markdown]
# **3. Batches of one.** The mean over sixteen texts varies a quarter as much as a single text, because the spread falls
# with the square root of the number. So the loss of single-text steps is noisy, and the same texts at the same rate
# give a worse student.

# %%
apart = ((models.encode(model, held_out) - wanted) ** 2).sum(axis=1)
drawn = np.random.default_rng(0).choice(apart, size=(500, 16))
print(
    f"spread of the loss of one text {apart.std():.3f}, of the mean of sixteen {drawn.mean(axis=1).std():.3f}"
)

# %%
for size in (1, 16):
    one = closed_form(pairs)
    small = replace(
        TOUR.config, epochs=1, batch_size=size, learning_rate=1e-4, group_by_length=False
    )
    train_student(one, pairs[:160], cache.targets(pairs[:160]), small)
    print(
        f"batches of {size:2}: held-out loss {((models.encode(one, held_out) - wanted) ** 2).sum(axis=1).mean():.3f}"
    )

# %% [markdown]
# **4.** `docs/guide.md` has the demo's table, and what the same texts give from the closed form: less in asymmetric search, and
# more in symmetric search. So the start explains it. The demo searches 500 documents instead of 150, which is harder for
# every model, so compare shares of the teacher.
#
# ## 3 Alignment diagnostics
#
# **1. The ten texts with the lowest overlap.** Compare whatever you find with all texts: any ten texts have something
# in common.

# %%
t, s = cache.targets(held_out)[:], models.encode(model, held_out)
table = agreement.per_text(t, s)
words = pd.Series([len(text.text.split()) for text in held_out])
worst = table["overlap"].nsmallest(10).index
print(f"words: {words.mean():.0f} on average, {words[worst].mean():.0f} in the worst ten")

# %% [markdown]
# **2. Two vectors swapped.** The cosine of the two texts falls. Measures of the student as a whole, such
# as CKA, hardly notice.

# %%
order = np.arange(len(held_out))
order[[0, 100]] = order[[100, 0]]
pd.DataFrame(
    {
        name: {
            "cosine of the two": (t * v)[[0, 100]].sum(axis=1).mean(),
            "mean cosine": (t * v).sum(axis=1).mean(),
            "cka": agreement.cka(t, v),
        }
        for name, v in {"as it is": s, "exchanged": s[order]}.items()
    }
).style.format("{:.3f}")

# %% [markdown]
# **3. Without the means.** The student's vectors are shifted as a whole from the teacher's. Centering both removes that
# part of the error, but the larger part differs from text to text. The cosine still falls, because some of it came from
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
# **1. Roles swapped.** It is a different search with different errors. Which one is better depends on whether the
# student is worse on queries or on documents.

# %%
print(f"student's queries, teacher's documents: {ndcg(s_queries, t_documents):.3f}")
print(f"teacher's queries, student's documents: {ndcg(t_queries, s_documents):.3f}")

# %% [markdown]
# **2. The teacher reranks twenty.** Documents among the student's first twenty are put in the right order; the others
# are lost. The teacher then has to encode the query, which is the cost that the student was meant to save.

# %%
scores = s_queries @ t_documents.T
found = np.argsort(-scores, axis=1)[:, :20]
again = np.take_along_axis(t_queries @ t_documents.T, found, axis=1)
ordered = np.take_along_axis(found, np.argsort(-again, axis=1), axis=1)
reranked = evaluate.score_ranking(collection, ordered)["ndcg_at_10"].mean()
print(
    f"student {ndcg(s_queries, t_documents):.3f}, put in order {reranked:.3f}, teacher {ndcg(t_queries, t_documents):.3f}"
)

# %% [markdown]
# **3. Without the centroid shift.** If every text had the same error, this would remove it. Documents are not queries,
# so their mean error is only a guess at that of the queries.

# %%
offset = (s_documents - t_documents).mean(axis=0)
print(
    f"asymmetric {ndcg(s_queries, t_documents):.3f}, without the offset {ndcg(s_queries - offset, t_documents):.3f}"
)

# %% [markdown]
# ## 5 Truncation and quantization
#
# **1. A rotation from a hundred texts.** It matters where few dimensions are left: only a hundred texts have decided which
# of them come first. Compare with no rotation, the column `teacher`.

# %%
all_of_it = cache.targets(pairs)[:]
points = [IndexSpec(m) for m in (384, 192, 96, 48)]
spaces = {
    name: tuple(v @ quantize.principal_rotation(some) for v in (t_queries, t_documents))
    for name, some in {"600 texts": all_of_it, "100 texts": all_of_it[:100]}.items()
}
curves = quantize.sweep(collection, {"teacher": (t_queries, t_documents)} | spaces, points)
curves.pivot(index="dimensions", columns="mode", values="ndcg_at_10").loc[::-1].style.format(
    "{:.3f}"
)

# %% [markdown]
# **2. A random rotation after the principal one.** It spreads each component over all dimensions, so every sign carries
# information again. The order is lost, and at 192 dimensions that costs quality. At full size, 72 queries cannot
# separate the two.

# %%
turn = quantize.principal_rotation(all_of_it)
spread = turn @ np.linalg.qr(np.random.default_rng(0).normal(size=turn.shape))[0].astype(np.float32)
spaces = {
    name: (t_queries @ r, t_documents @ r)
    for name, r in {"principal": turn, "then a random one": spread}.items()
}
points = [IndexSpec(768, "binary"), IndexSpec(192, "binary")]
both = quantize.sweep(collection, {"teacher": (t_queries, t_documents)} | spaces, points)
both.pivot(index="dimensions", columns="mode", values="ndcg_at_10").loc[::-1].style.format("{:.3f}")

# %% [markdown]
# **3. Candidates.** With a multiplier of 1 the signs alone decide. With more, the float query reranks the candidates.
# The gain soon ends, because the relevant documents were among the first candidates.

# %%
index = CompressedIndex(t_documents, IndexSpec(192, "binary"))
for rescore_multiplier in (1, 10, 50):
    positions = index.search(t_queries, 10, rescore_multiplier=rescore_multiplier)[1]
    scored = evaluate.score_ranking(collection, positions)["ndcg_at_10"].mean()
    print(f"{rescore_multiplier:2} candidates for each result: {scored:.3f}")

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
# **3. 96 dimensions, with the rotation and without.** The two pairs differ only in the basis in which they are truncated.

# %%
large = models.load_model(TOUR.teacher)
large.max_seq_length = TOUR.max_length
for name, rotation in (("rotated", turn), ("as it is", None)):
    short = [publish.truncated(one, 96, rotation) for one in (large, model)]
    vectors = (
        short[1].encode([q.text for q in queries]),
        short[0].encode([d.text for d in documents]),
    )
    print(f"{name:8}: nDCG@10 {ndcg(*vectors):.3f} at {vectors[0].shape[1]} dimensions")

# %% [markdown]
# ## 7 Benchmarks
#
# **1. Half of the queries.** The width is proportional to one over the square root of their number. Half as many
# queries widen the interval by a factor of about 1.4, and four times as many would halve it.

# %%
per_query = evaluate.score(collection, s_queries, t_documents)["ndcg_at_10"].to_numpy()
rng = np.random.default_rng(0)
for count in (len(per_query), len(per_query) // 2):
    means = rng.choice(per_query[:count], size=(2000, count)).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    print(f"{count} queries: {per_query[:count].mean():.3f}, 95 % interval {low:.3f} to {high:.3f}")

# %% [markdown]
# **2. Which subjects are confused?** The classifier is trained on every second passage, as in the task, and predicts
# the subjects of the others. A lead of one or two passages in this list means little.

# %%
subjects = np.array([name.rpartition("-")[0] for name in collection.corpus])
classifier = LogisticRegression(max_iter=1000).fit(s_documents[::2], subjects[::2])
true, guessed = subjects[1::2], classifier.predict(s_documents[1::2])
wrong = pd.Series(list(zip(true, guessed, strict=True)))[true != guessed]
print(f"{(true == guessed).mean():.0%} of {len(true)} right; confused (true, guessed):")
wrong.value_counts().head(5)

# %% [markdown]
# **3.** `data.read_dataset` reports what is wrong with a folder, line by line, before anything runs. Its documentation
# describes the layout.
#
# ## 8 Black-box teachers
#
# **1. Sixteen tokens.** The maximum length changes the vectors, so it is part of the identity. The teacher gets a new,
# empty cache.

# %%
server = Server(lambda some: teacher.encode(some, "document"), "large")
short = ApiTeacher("large", url=server.url, name="at-home", tokenizer=models.MPNET, max_tokens=16)
truncated = TargetCache(home() / "solutions", short)
print(truncated.plan(documents[:64]))
truncated.fill(documents[:64])
print(short.usage)

# %% [markdown]
# **2. Sixty requests a minute.** One request a second, whatever the concurrency: `concurrency` hides the latency of an
# answer but cannot exceed a rate limit.

# %%
slow = ApiTeacher(
    "large", url=server.url, dimensions=768, requests_per_minute=60, batch_size=8, concurrency=8
)  # fmt: skip
print(slow.estimate(documents))

# %% [markdown]
# **3. In the wrong order.** Nothing goes wrong: each vector states in `index` which text it belongs to. The remaining
# difference also appears with the server in order, and comes from rounding in another batch. Without that field, texts
# would get each other's vectors, and no check of shapes could notice.


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
