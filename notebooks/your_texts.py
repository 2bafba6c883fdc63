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
# **The question:** what does a small model lose on *your* texts, beside a large one, and where?
#
# A large model (the *teacher*) embeds your texts once. A small one (the *student*), which comes with the package, learns
# in seconds to put each of them where the teacher puts it. Then the student serves the queries. Two minutes on two cores
# for a few hundred texts.
#
# Put the path of your own file or folder in place of `"tutorial"`, which is a small collection of everyday passages. (For a
# file that you drag into the list on the left, the name is enough.) A folder of files, a CSV, parquet, JSON lines, PDF and
# Word files, a list and a dataframe all work. Long documents are cut into passages that both models read whole.

# %%
import workbench as wb

source = "tutorial"  # for instance "notes/" or "tickets.csv"
texts = wb.read_texts(source)  # column=["subject", "body"] names columns of a table
print(f"{len(texts):,} texts, the first: {texts[0].id}: {texts[0].text[:100]}")

# %% [markdown]
# ## Search them
#
# Type a query, or pick one. In the list *asymmetric* the student has embedded the query alone, and the teacher the texts.
# The line below the field says how much of what the teacher finds the student finds too; the queries in the table further
# down are pieces of your texts.

# %%
view = wb.search(texts)
view

# %% [markdown]
# ## Where do the two models differ?
#
# Each point is a text. Below the map, *regions* lists the kinds of text, with the kind on which the two agree least first:
# click it, and the table shows its texts. `ready` is the student that comes with the package, which has not learned yours.

# %%
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
student = wb.distill(texts, teacher, recipe="adapt")  # what the search above has made, and kept
models = {"teacher": teacher, "student": student, "ready": wb.load_ready()}
explorer = wb.explore(texts, models)
explorer

# %% [markdown]
# ## How far do they agree?
#
# `overlap` is the share of a text's ten nearest texts that both models find. The student has learned these very texts, so
# its row says how well it has learned them, not how well it serves queries (the search above says that) or new texts. The last
# row is a small model that has not learned from the teacher at all: it has another space, so its queries cannot
# search the teacher's vectors.

# %%
wb.compare(models | {"base": "all-MiniLM-L6-v2"}, texts).style.format(precision=3, na_rep="")

# %% [markdown]
# ## Where next
#
# - [0. Start here](00_start_here.ipynb) explains why this works.
# - [Improve it by hand](improve_by_hand.ipynb) trains the student on more texts like those that it gets wrong.
# - [6. Publish your student](06_publish_your_student.ipynb) saves a student for others. It is an ordinary
#   `SentenceTransformer`: `student.save_pretrained("my-student")`.
