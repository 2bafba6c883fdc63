# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Benchmarks
#
# **The question:** on which kinds of task does a student keep up with its teacher, and does it beat the untrained base?
#
# You will run teacher, student and pair on several kinds of task with `mteb`, the evaluator behind the public leaderboards,
# read a difference with its interval, and compare a student fairly with published ones.
#
# **What you need:** the environment of `make setup` (elsewhere `pip install -e ".[benchmark]"`). It takes about a
# minute on two cores, without network.

# %%
import json
import tempfile
from collections import defaultdict
from pathlib import Path

import pandas as pd

import workbench as wb
from workbench import data
from workbench.extras import benchmark, tasks
from workbench.widgets import BenchmarkBoard

home = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1 A folder is a task
#
# `mteb` knows hundreds of tasks by name and downloads them from the hub. A folder on your machine can be a task too,
# and its files decide the kind. `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv` make a retrieval task. `text` and
# `label` make classification or clustering. Two sentences and a score make similarity. Here the tutorial passages serve
# three times: as they are, with their subjects as labels, and as pairs of a title and a text that match or do not.

# %%
rows = [
    json.loads(line) for line in (data.DATA / "tutorial" / "corpus.jsonl").read_text().splitlines()
]
subjects = defaultdict(list)
for row in rows:
    subjects[row["_id"].rpartition("-")[0]].append(row)
{subject: len(some) for subject, some in subjects.items()}

# %%
labeled = [
    [
        {"text": row["text"], "label": subject}
        for subject, some in subjects.items()
        for row in some[half::2]
    ]
    for half in (0, 1)
]
pairs = [
    {"sentence1": row["title"], "sentence2": some[(i + shift) % len(some)]["text"], "score": int(shift == 0)}
    for some in subjects.values() for i, row in enumerate(some) for shift in (0, 1)
]  # fmt: skip


def write(name, **files):
    folder = home / "tasks" / name
    folder.mkdir(parents=True, exist_ok=True)
    for split, some in files.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


# %%
found = tasks.tasks(
    [
        data.DATA / "tutorial",
        write("subject", train=labeled[0], test=labeled[1]),
        write("subject-clusters", test=labeled[0] + labeled[1]),
        write("title-of-text", test=pairs),
    ]
)
pd.DataFrame(
    [(t.metadata.name, t.metadata.type, t.metadata.main_score) for t in found],
    columns=["task", "kind", "score"],
)

# %% [markdown]
# ## 2 A student of these passages
#
# The teacher has to embed the documents for a search anyway, so a student can learn from them without further calls of the teacher. It
# uses no judgment and sees no query of the data set.

# %%
documents = wb.read_dataset("tutorial").document_texts()
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
model = wb.distill(documents, teacher, recipe="adapt", others=0)

# %% [markdown]
# ## 3 Select, run, watch
#
# Four models take part: the teacher through its cache, the untrained base, the student, and the pair with the teacher
# for documents and the student for queries. In tasks without queries and documents, the pair is the student alone.
#
# > **Think first.** The untrained base is a good model by itself. On which of the four tasks must the student beat the
# > base to be useful, and on which is a draw enough?

# %%
base = wb.load_model("all-MiniLM-L6-v2")
base.max_seq_length = 96
large = benchmark.of_teacher(wb.TargetCache(home / "cache", teacher))
small = benchmark.of_model(model, "student")
entries = [large, benchmark.of_model(base, "base"), small, benchmark.of_pair(small, large, "pair")]
board = BenchmarkBoard(entries, found, home / "benchmarks")
board

# %%
outcomes = board.run()

# %% [markdown]
# Press **Run** above and it finishes at once. Each evaluation is stored in its own file, in `mteb`'s format, and is
# repeated only when the model or the data change. The teacher's vectors come from the cache.
#
# ## 4 Differences with their intervals
#
# The interval is paired: both models are scored on the same queries or pairs, so the difficulty
# of a query that is hard for both cancels out. Classification and clustering have no scores of single texts, so they
# have no interval.

# %%
differences = benchmark.differences(outcomes)
differences[["task", "label", "score", "teacher", "difference", "low", "high", "samples"]].round(3)

# %% [markdown]
# An interval that includes 0 means that these data cannot separate the two models. It does not mean that they are
# equal. Seventy-two queries are few; do not trust a third decimal.
#
# ## 5 Public tasks
#
# With access to the hub, you can use names instead of folders: `tasks.tasks(["BEIR"])` or `["MTEB(eng, v2)"]`, and
# `workbench benchmark --student FOLDER --tasks BEIR` on the command line.

# %%
print(
    f"{len(tasks.tasks(['BEIR']))} tasks in BEIR, {len(tasks.tasks(['MTEB(eng, v2)']))} in MTEB (English, v2)"
)

# %% [markdown]
# The paper and the published models average over different sets, and in different ways: 53.9 over 14 sets and 53.55
# over 15 are the same family of students. Each row below has its own set of tasks: compare within a row, never between
# rows. `published[published["task"].notna()]` has scores of single tasks.

# %%
published = benchmark.published()
averages = published[published["average"].isin(["by task", "by kind"])]
averages.pivot_table(
    index=["benchmark", "average", "source"], columns="mode", values="score"
).round(4)

# %% [markdown]
# ## 6 By kind of task
#
# A leaderboard averages over tasks, or within each kind of task first. With kinds of unequal size the two averages differ.

# %%
benchmark.by_kind(outcomes).round(3)

# %% [markdown]
# ## The answer

# %%
student_rows = differences[differences["label"] == "student"]
shares = (student_rows["score"] / student_rows["teacher"]).set_axis(student_rows["task"])
print(
    "Share of the teacher's score: "
    + ", ".join(f"{task} {share:.0%}" for task, share in shares.items())
)

# %% [markdown]
# ## What you learned
#
# - A folder in a plain layout is a task, scored by the same evaluator as the public ones.
# - Report a difference with its interval, and an average with the tasks that it covers.
# - The share of the teacher that a student keeps depends on the kind of task: look at the kind that you need.
#
# ## Exercises
#
# 1. How wide is the tutorial's interval with half of its queries? How many queries would halve the width of the full
#    set?
# 2. Which subject do the models confuse most in the classification task?
# 3. Write a folder of your own: twenty texts, twenty queries, and which text answers which query. Add it to the board.
