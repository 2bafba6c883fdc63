# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your texts
#
# **The question:** you have texts to search. Will a small, fast model find in them what a large one finds?
#
# A large model (the *teacher*) embeds your texts once: it turns each into a vector, and texts of similar meaning get vectors
# that point the same way. A small model (the *student*) learns from some of them to give a text the teacher's vector. From
# then on it can answer queries on the teacher's index, several times as fast. Two minutes on two cores for a few hundred texts.
#
# Put the path of your own file or folder in place of `"tutorial"`, which is a small collection of everyday passages. (For a
# file that you drag into the list on the left, the name is enough.) A folder of files, a CSV, parquet, JSON lines, PDF and
# Word files, a list and a dataframe all work. Long documents are cut into passages that both models read whole.

# %%
import time

import _course

import workbench as wb

source = "tutorial"  # for instance "notes/" or "tickets.csv"
texts = wb.read_texts(source, sample=1000)  # column=["subject", "body"] names columns of a table
held_out, learned = texts[::4], [text for i, text in enumerate(texts) if i % 4]
print(f"{len(texts):,} texts, one of them ({texts[0].id}): {texts[0].text[:100]}")

# %% [markdown]
# ## Teach a student
#
# The student learns from three quarters of the texts. It never sees the last quarter: on texts that it has learned, any
# student looks good. There are several ways to make one, from the cheapest: `ready` comes with the package and has learned
# nothing of yours, `rotation` turns the small model's space into the teacher's, `adapt` also fits it to your texts.

# %%
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
students, seconds = {"ready": wb.load_ready()}, {"ready": 0.0}
for recipe in ("rotation", "adapt"):
    started = time.perf_counter()
    students[recipe] = wb.distill(learned, teacher, recipe=recipe)
    seconds[recipe] = time.perf_counter() - started

# %% [markdown]
# ## How much do they find?
#
# The queries are pieces of the texts that no student has seen. For each, the teacher names its ten nearest among all texts.
# How many of these ten does a student find, when it asks the teacher's index?

# %%
collection = _course.asked(texts, held_out)
finds = _course.finds({"teacher": teacher, **students}, collection)
ten = min(10, len(texts))
best = _course.cheapest(finds)
print(f"The student finds {finds[best].mean():.1f} of the teacher's {ten} ({best}).")
finds.mean().sort_values().rename(f"of the teacher's {ten}").to_frame().style.format("{:.1f}")

# %% [markdown]
# Did learning pay? The difference between two students on the same queries has an interval. If it includes 0, chance may have
# made it. So we take the cheapest student that the best one does not beat beyond chance.

# %%
print(_course.gained(finds, "adapt", "ready"), _course.gained(finds, "adapt", "rotation"), sep="\n")

# %% [markdown]
# ## Search them
#
# Type a query, or pick one. In the list *asymmetric* the student has embedded the query alone, and the teacher the texts: that
# is the search that you would run. *Symmetric* is the student on both sides.

# %%
view = wb.search(collection, documents=teacher, queries=students[best])
view

# %% [markdown]
# ## Where do the two models differ?
#
# The map shows the texts that the student has not seen; each point is a text. *Regions* lists the kinds of text, with the kind
# on which the two agree least first: click it, and the table shows its texts. With few texts no region may differ from the
# rest by more than chance.

# %%
explorer = wb.explore(held_out, {"teacher": teacher, best: students[best]})
explorer

# %% [markdown]
# ## What it costs
#
# A query of each model, one at a time, in turn, so that a busy moment hits both.

# %%
queries, took = list(collection.queries.values())[:20], {"teacher": [], "student": []}
for query in queries:
    for name, model in {"teacher": teacher.model, "student": students[best]}.items():
        started = time.perf_counter()
        model.encode([query], show_progress_bar=False)
        took[name].append(time.perf_counter() - started)
times = {name: 1000 * sorted(values)[len(values) // 2] for name, values in took.items()}

# %% [markdown]
# ## The answer

# %%
speed = times["teacher"] / times["student"]
answer = (
    f"For your texts, use `{best}`: asked with queries that it has not seen, it finds {finds[best].mean():.1f} of the "
    f"large model's {ten}. It costs {seconds[best]:.0f} seconds once, and {times['student']:.0f} ms a query "
    f"where the large model takes {times['teacher']:.0f} ({speed:.1f} times as fast); the index stays as it is."
)
print(answer)

# %% [markdown]
# Two cheaper ways to compare with, before you use it: embed all texts again with the small model and search in its own space
# (it then needs no teacher), and a search by words (BM25). The [guide](../docs/guide.md#when-not-to-use-a-student) says when
# they are the better choice.
#
# ## Where next
#
# - [1. The method from scratch](01_the_method_from_scratch.ipynb) shows why this works, in forty lines.
# - [Improve it by hand](improve_by_hand.ipynb) trains a student on more texts like those that it gets wrong.
# - [Publish your student](publish_your_student.ipynb) saves a student for others. It is an ordinary
#   `SentenceTransformer`: `students[best].save_pretrained("my-student")`.
