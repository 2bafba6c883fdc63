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
# **What you will do:** read texts of your own, train a small model into the vector space of a large one, and search the
# texts with both. About a minute on two cores for a few hundred short texts.
#
# Put the path of your folder or file in place of `"tutorial"`, which is a small collection of everyday passages. A folder
# of `.txt` and `.md` files, a CSV (`column="..."` names the column), parquet, JSON lines, a list and a dataframe column all
# work. `passages=200` cuts long files into passages of about 200 words.

# %%
import workbench as wb

source = "tutorial"  # for instance "notes/", or "tickets.csv" with column="body"
texts = wb.read_texts(source)
print(f"{len(texts):,} texts, the first: {texts[0].text[:100]}")

# %% [markdown]
# ## A large model and a small one
#
# The large model (the *teacher*) embeds every text once. The small model (the *student*) learns to put every text where
# the teacher puts it. Both are kept: the same call returns at once. The recipe `tour` takes half a minute here; without
# it, a few hundred texts are trained on for several minutes, and the student comes closer.

# %%
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
student = wb.distill(texts, teacher, recipe="tour")

# %% [markdown]
# How far do they agree? `base` is the small model before training, which has a space of its own: its vectors cannot be
# compared with the teacher's, only its neighbors.

# %%
models = {"teacher": teacher, "student": student, "base": "all-MiniLM-L6-v2"}
wb.compare(models, texts).style.format(precision=3, na_rep="")

# %% [markdown]
# ## Search with both
#
# The teacher has embedded the texts, and the student embeds the query (*asymmetric*, the third list). Type a query of your
# own, or pick one of the example queries, which are sentences from your texts.

# %%
view = wb.search(source, documents=teacher, queries=student)
view

# %% [markdown]
# ## Where next
#
# - [0. Start here](00_start_here.ipynb) tells why this works, in five minutes.
# - [3. Alignment diagnostics](03_alignment_diagnostics.ipynb) shows where a student differs from its teacher:
#   `wb.explore({"teacher": teacher, "student": student}, texts)` opens its map on your texts.
# - [6. Publish your student](06_publish_your_student.ipynb) saves a student for others. It is an ordinary
#   `SentenceTransformer`: `student.save_pretrained("my-student")`.
