# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compare two models
#
# **The question:** two embedding models, your texts: where do they agree, where do they differ, and which one should you take?
#
# Nothing is trained here. The two models need not have anything to do with each other, and their vectors may differ in
# width. Put your own in place of the names: a name on the hub, a folder, a loaded `SentenceTransformer`, or
# `"openai:MODEL"`. `wb.Teacher` keeps what a model has embedded, so no text is embedded twice. And put your own file or folder in
# place of `"tutorial"`. About a minute on two cores.

# %%
import workbench as wb

models = {"large": wb.Teacher("all-mpnet-base-v2"), "small": wb.Teacher("all-MiniLM-L6-v2")}
texts = wb.read_texts("tutorial")

# %% [markdown]
# ## Do they see the same neighbors?
#
# Each model has a space of its own, so a cosine between their vectors means nothing. What can be compared is which texts
# each of them puts next to which. `overlap` is the share of a text's ten nearest texts that both models find: 1 if they
# agree on all, and 10 divided by the number of texts if they agree by chance.

# %%
table = wb.compare(models, texts)
print(*table.attrs["notes"], sep="\n")
table.style.format(precision=3, na_rep="")

# %% [markdown]
# > **Think first.** Look at `overlap`: is that share of common neighbors small?
#
# It depends on where. Among near-duplicates the models agree on everything, and among texts of one subject the order of
# the tenth and the eleventh neighbor is a matter of taste. So look at the texts where they differ.

# %%
explorer = wb.explore(texts, models)
explorer

# %% [markdown]
# Sort the table by `overlap`, click the first row, and read the neighbors that only one of the models finds: whose would
# you rather have found? *regions*, below the map, tells whether the models differ on one subject or everywhere.
#
# ## How do their search results differ?
#
# The widths differ, so each model searches its own vectors (the view calls the first *teacher*, the second *student*). The
# lists stand side by side, and lines join the texts that both have found. Type a query of your own.

# %%
view = wb.search("tutorial", documents=models["large"], queries=models["small"])
view

# %% [markdown]
# ## Which is better, and what does it cost?
#
# Only judgments can say which model is *better*: people have said which passage answers which question. The tutorial data
# set has 72 judged questions. A folder of your own in BEIR's layout (`corpus.jsonl`, `queries.jsonl`, `qrels/test.tsv`) goes
# in the same place. With so few questions the interval matters more than the number: where it includes 100 %, the two
# models may well be equally good.

# %%
shares = wb.compare(models, wb.read_dataset("tutorial")).set_index(["model", "mode"])
shares[["ndcg_at_10", "share_of_teacher", "share_low", "share_high"]].style.format(precision=3)

# %% [markdown]
# The other side of the scale is speed. Both models embed the same 64 texts, in turn, so that a busy moment hits both.

# %%
import time

some, seconds = [text.text for text in texts[:64]], dict.fromkeys(models, float("inf"))
for _ in range(3):
    for name, model in models.items():
        started = time.perf_counter()
        model.encode(some, "document")
        seconds[name] = min(seconds[name], time.perf_counter() - started)
speed = {name: len(some) / took for name, took in seconds.items()}
print(
    f"the small model embeds {speed['small'] / speed['large']:.1f} texts while the large one embeds one"
)

# %% [markdown]
# ## Which one should you take?
#
# One row for each model: what it finds, with the interval of its share of the first one's, and what it costs.

# %%
answer = shares.droplevel("mode")[["ndcg_at_10", "share_low", "share_high"]].copy()
answer["width"] = [models[name].dimension for name in answer.index]
answer["texts_per_second"] = [speed[name] for name in answer.index]
answer.style.format(precision=3, na_rep="")

# %%
name = answer.index[1]
low, high = answer.loc[name, ["share_low", "share_high"]]
verdict = "which may be chance" if low <= 1 <= high else "which chance does not explain"
print(
    f"The small model finds {answer['ndcg_at_10'].iloc[1] / answer['ndcg_at_10'].iloc[0]:.0%} of what the large one finds ({low:.0%} to {high:.0%}), {verdict},"
)
print(
    f"with vectors of {answer['width'].iloc[1] / answer['width'].iloc[0]:.0%} of the width, and embeds {speed['small'] / speed['large']:.1f} texts while the large one embeds one."
)

# %% [markdown]
# ## What you learned
#
# - Two spaces are compared by neighbors, not by cosines.
# - Agreement needs no judgments and says where to look. Judgments say who is right.
# - To change the model of an index, everything has to be embedded again, unless the new model lives in the old one's
#   space. Making such a model is what [the course](01_the_method_from_scratch.ipynb) is about.
