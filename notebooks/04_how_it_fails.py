# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. How it fails
#
# **The question:** what goes wrong without an error message, and which measure catches it?
#
# Six ways to ruin a search, each on purpose, each with the number that shows it.
#
# **What you need:** the environment of `make setup`. It takes about a minute on two cores.

# %%
import _course
import numpy as np
import pandas as pd

import workbench as wb
from workbench import agreement, evaluate, regions
from workbench.errors import TrainingError
from workbench.evaluate import vectors

train, collection = _course.factbook(train=400, held_out=200)
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
lesson, (t_q, t_d) = vectors(teacher, train), vectors(teacher, collection)


def ndcg(queries, documents):
    return evaluate.score(collection, queries, documents)["ndcg_at_10"].mean()


print(f"nDCG@10 of the teacher {ndcg(t_q, t_d):.3f}")

# %% [markdown]
# ## 4.1 Rows out of step
#
# Texts and vectors are in two files, and one of them has lost a row. Every shape still fits.

# %%
shifted = wb.Teacher(np.roll(lesson, 1, axis=0), texts=train)
model = wb.distill(train, shifted, recipe="ridge", progress=False)
print(f"nDCG@10 {ndcg(wb.encode(model, collection.query_texts()), t_d):.3f}")

# %% [markdown]
# > **Think first.** The closed form has raised no error. What could a check compare, if every row has a vector?
#
# Whether a text *predicts* its vector better than another text's vector. Training asks that first:

# %%
try:
    wb.distill(train, shifted, recipe="tour", epochs=1, progress=False)
except TrainingError as error:
    print(error)

# %% [markdown]
# ## 4.2 The wrong prompt
#
# Some models want words in front of each query ("query: "). Here the teacher gets a prompt that it was not trained with.

# %%
prompt = "Instruct: given a web search query, retrieve relevant passages that answer it. Query: "
prompted = wb.Teacher("all-mpnet-base-v2", max_length=96, prompts={"query": prompt})
p_q = vectors(prompted, collection.query_texts())
cosine = (p_q * t_q).sum(axis=1).mean()
print(f"nDCG@10 {ndcg(p_q, t_d):.3f}; mean cosine to the vectors without the prompt {cosine:.2f}")

# %% [markdown]
# The measure that catches it: embed a few queries again, as the service does, and compare with the vectors of the evaluation. The
# cosine has to be 1. The cache keeps prompts apart, so it never mixes the two.
#
# ## 4.3 Narrow training texts
#
# A student that has learned flags alone.

# %%
flags = [text for text in train if text.fields.get("field") == "flag"]
mixed = train[:: len(train) // len(flags)][: len(flags)]
narrow, broad = (
    wb.distill(some, teacher, recipe="ridge", progress=False) for some in (flags, mixed)
)
texts = collection.document_texts()
is_flag = np.array([text.fields["field"] for text in texts])
rows = {}
for name, model in {
    f"{len(flags)} flags": narrow,
    f"{len(mixed)} texts of all kinds": broad,
}.items():
    overlap = agreement.per_text(t_d, wb.encode(model, texts))["overlap"]
    rows[name] = overlap.groupby(np.where(is_flag == "flag", "flags", "other texts")).mean()
pd.DataFrame(rows).style.format("{:.2f}")

# %% [markdown]
# The measure that catches it: agreement *by kind of text* on texts like those that will be searched, not on texts like those
# that were learned.

# %%
narrow_table = agreement.per_text(t_d, wb.encode(narrow, texts)).assign(field=is_flag)
regions.compare_regions(narrow_table, "field").head(3).round(2)

# %% [markdown]
# ## 4.4 A high cosine and a bad search
#
# Two students, made by hand. One has noise on every vector. The other blurs: each question is drawn to the mean of all.
#
# > **Think first.** The noisy one has the lower cosine. Which one searches better?

# %%
noise = np.random.default_rng(0).standard_normal(t_q.shape) / np.sqrt(t_q.shape[1])
students = {
    "noise": t_q + 0.9 * noise,
    "blur": 0.3 * t_q + 0.7 * t_q.mean(axis=0) / np.linalg.norm(t_q.mean(axis=0)),
}
rows = {}
for name, q in students.items():
    q = (q / np.linalg.norm(q, axis=1, keepdims=True)).astype(np.float32)
    near = agreement.per_text(t_q, q, among=(t_d, t_d))
    rows[name] = {**near[["cosine", "overlap"]].mean(), "nDCG@10": ndcg(q, t_d)}
made = pd.DataFrame(rows)
made.style.format("{:.2f}")

# %% [markdown]
# The cosine weighs all 768 directions alike; a search needs those in which texts differ. The measure that catches it: the overlap
# of what is found. It puts the two in the same order as the search.
#
# ## 4.5 Long documents, cut
#
# A model reads a fixed number of tokens and ignores the rest. Here all passages of a country are one document.

# %%
world = wb.read_dataset("factbook")
by_country = {}
for text in world.document_texts():
    by_country.setdefault(text.title, []).append(text)
by_country = dict([*by_country.items()][:60])
corpus = {name: "\n\n".join(text.text for text in some) for name, some in by_country.items()}
names = {text.id: name for name, some in by_country.items() for text in some}
queries = {
    id_: f"a place where it is said: {world.details[id_].text.partition('. ')[2][:80]}"
    for id_ in [*names][::5]
}
long = wb.RetrievalDataset("countries", corpus, queries, {id_: {names[id_]: 1} for id_ in queries})
both = {"base": "all-MiniLM-L6-v2", "ready": wb.load_ready()}
for passages in (False, True):
    rows = wb.compare(both, long, passages=passages)
    print(
        f"whole documents: {passages}; nDCG@10 of the base {rows['ndcg_at_10'][0]:.3f}",
        *rows.attrs["notes"][1:],
        sep="\n  ",
    )

# %% [markdown]
# The measure that catches it is the share of the text that is read, which the library says where documents are cut. By default
# it searches passages, and reads all.
#
# ## 4.6 Another language
#
# The models here know English. A question in German, and the same in English:

# %%
pairs = {
    "Norway": ("What is the weather like in Norway?", "Wie ist das Wetter in Norwegen?"),
    "Switzerland": ("Has Switzerland mountains or plains?", "Gibt es in der Schweiz Berge oder Ebenen?"),
    "Japan": ("Which disasters threaten Japan?", "Welche Katastrophen bedrohen Japan?"),
    "Egypt": ("Which parts of Egypt are crowded or empty?", "Wo in Ägypten leben viele Menschen, wo keine?"),
    "Greece": ("What do factories make in Greece?", "Was stellen Fabriken in Griechenland her?"),
}  # fmt: skip
base = wb.load_model("all-MiniLM-L6-v2")
english, german = (wb.encode(base, [pair[i] for pair in pairs.values()], "query") for i in (0, 1))
letters = {
    language: np.mean(
        [len(pair[i]) / len(base.tokenizer.tokenize(pair[i])) for pair in pairs.values()]
    )
    for i, language in enumerate(["English", "German"])
}
print(f"mean cosine of a question to its translation {(english * german).sum(axis=1).mean():.2f}")
print("letters a token:", {language: round(float(count), 1) for language, count in letters.items()})

# %% [markdown]
# The measure that catches it: letters a token. A tokenizer that does not know a language cuts its words into small pieces.
# `wb.search` warns where most documents look so, and names a multilingual model. Neither a rotation nor learning brings in a
# language that the small model has never read.
#
# ## The answer
#
# | failure | what it looks like | what catches it |
# |---|---|---|
# | rows out of step | a student that finds nothing | do texts predict their own vectors better than others'? |
# | wrong prompt | worse, everywhere | cosine of a vector to the one that was evaluated |
# | narrow training texts | good on what was learned | agreement by kind of text |
# | blur | a high cosine | overlap of what is found |
# | documents cut | deep passages are never found | the share of the text that is read |
# | another language | next to no match | letters a token |

# %%
print(
    f"The blurred student has a cosine of {made.loc['cosine', 'blur']:.2f} and an nDCG@10 of {made.loc['nDCG@10', 'blur']:.2f};"
)
print(
    f"the noisy one {made.loc['cosine', 'noise']:.2f} and {made.loc['nDCG@10', 'noise']:.2f}. No search has raised an error."
)

# %% [markdown]
# ## Exercises
#
# 1. Shift only the last tenth of the rows in 4.1. Does the check still notice?
# 2. How much blur does the search of 4.4 bear?
