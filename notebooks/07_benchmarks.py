# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. Benchmarks
#
# **What you will learn:** how to run teacher, student and pair on tasks of several kinds through `mteb`, the evaluator
# behind the public leaderboards; how to read a difference with its interval; and how to set a student among published
# ones without comparing what cannot be compared.
#
# **What you need:** the environment of `make setup` (elsewhere `pip install -e ".[benchmark]"`). About a minute on
# two cores, no network.

# %%
import json
from collections import defaultdict

import _course
import pandas as pd

from workbench import data, models, planning, student
from workbench._progress import CacheBar, TrainingBar
from workbench._util import home
from workbench.cache import TargetCache
from workbench.extras import benchmark, tasks
from workbench.pipeline import REDACT_IR, TOUR
from workbench.teachers import LocalTeacher
from workbench.train import train_student
from workbench.widgets.benchmark_board import BenchmarkBoard

# %% [markdown]
# ## 7.1 A folder is a task
#
# `mteb` knows hundreds of tasks by name and fetches them from the hub. A folder on your machine is a task too, of the
# kind that its files say: `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv` make a retrieval task, `text` and `label`
# make classification or clustering, two sentences and a score make similarity. Here the tutorial's own passages serve
# three times: as they are, by subject, and as pairs of a title and a text that belong together or do not.

# %%
rows = [json.loads(line) for line in (data.DATA / "tutorial" / "corpus.jsonl").read_text().splitlines()]
subjects = defaultdict(list)
for row in rows:
    subjects[row["_id"].rpartition("-")[0]].append(row)
{subject: len(some) for subject, some in subjects.items()}

# %%
labeled = [
    [{"text": row["text"], "label": subject} for subject, some in subjects.items() for row in some[half::2]]
    for half in (0, 1)
]
pairs = [
    {"sentence1": row["title"], "sentence2": some[(i + shift) % len(some)]["text"], "score": int(shift == 0)}
    for some in subjects.values() for i, row in enumerate(some) for shift in (0, 1)
]  # fmt: skip


def write(name, **files):
    folder = home() / "tasks" / name
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
    [(t.metadata.name, t.metadata.type, t.metadata.main_score) for t in found], columns=["task", "kind", "score"]
)

# %% [markdown]
# ## 7.2 A student of these passages
#
# The teacher has to encode documents anyway before anyone can search them, so a student may learn from them for nothing.
# No judgment is used, and no query of the collection is seen. As 192 passages are few, pieces of their sentences are added
# in the role of queries (with thousands of documents that did not help, and the documents alone are better).

# %%
documents = data.tutorial().document_texts()
texts = documents + data.crop_queries(documents, count=2)
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
cache = TargetCache(home() / "cache", teacher)
with CacheBar() as bar:
    cache.fill(teacher, texts, on_plan=bar.plan, on_progress=bar.progress)
[text.text for text in texts[len(documents) : len(documents) + 3]]

# %%
model = student.build(TOUR.base, cache.dimension, max_length=TOUR.max_length)
student.fit_head(model, texts, cache.targets(texts))
settings = _course.profile().settings
with TrainingBar() as bar:
    train_student(model, texts, cache.targets(texts), settings, on_step=bar)

# %% [markdown]
# ## 7.3 Pick, run, watch
#
# Four take part: the teacher through its cache, the untrained base, the student, and the pair that has the teacher for
# documents and the student for queries. Where a task knows neither, the pair is the student alone.
#
# > **Think first.** The untrained base is a good model of its own. On which of the four tasks must the student be better
# > than the base to be worth anything, and on which does it only have to be as good?

# %%
base = models.load(TOUR.base)
base.max_seq_length = TOUR.max_length
large, small = benchmark.of_teacher(cache), benchmark.of_model(model, "student")
models = [large, benchmark.of_model(base, "base"), small, benchmark.of_pair(small, large, "pair")]
board = BenchmarkBoard(models, found, home() / "benchmarks", aliases={"scifact": "SciFact"})
board

# %%
outcomes = board.run()

# %% [markdown]
# Press **Run** above and it is done at once: every evaluation lies in a file of its own, in `mteb`'s format, and is only
# made again when the model or the data change. The teacher's vectors come from the cache of notebook 1.
#
# ## 7.4 Differences with their intervals
#
# The interval is a paired bootstrap: the same draw of queries, or of pairs, scores both models, so what makes a query hard
# for both falls out. For classification and clustering `mteb` repeats an experiment ten times; there the interval tells
# how much its draws matter, and nothing about other texts.

# %%
differences = benchmark.differences(outcomes)
differences[["task", "label", "score", "teacher", "difference", "low", "high", "units"]].round(3)

# %% [markdown]
# An interval that holds 0 says that these data cannot tell the two apart, not that they are equal. Seventy-two queries
# are few; do not believe a third decimal.
#
# ## 7.5 Two averages
#
# A leaderboard averages over tasks, or over kinds of task first. With two kinds of unequal size they part.

# %%
benchmark.by_kind(outcomes).round(3)

# %% [markdown]
# The paper and the published models average over different sets, and in different ways: 53.9 over 14 sets and 53.55 over
# 15 are the same family of students. Choose *beside published averages* above: each row stands for itself, and a student
# of yours appears in a row once it has run all its tasks.

# %%
board.view.value = "beside published averages"
published = benchmark.published()
averages = published[published["average"].isin(["by task", "by kind"])]
averages.pivot_table(index=["benchmark", "average", "source"], columns="mode", values="score").round(4)

# %% [markdown]
# ## 7.6 The paper's road
#
# With the hub in reach, names do instead of folders: `tasks.tasks(["BEIR"])` or `["MTEB(eng, v2)"]`, and
# `workbench benchmark --student FOLDER --tasks BEIR` on the command line. What would it take to train the paper's student?
# Its recipe is a value that you can print, copy and change; `workbench distill --recipe redact-ir --dry-run` measures your
# machine. The speeds below are made up: put in your own.

# %%
print(f"{len(tasks.tasks(['BEIR']))} tasks in BEIR, {len(tasks.tasks(['MTEB(eng, v2)']))} in MTEB (English, v2)")
print(planning.plan(REDACT_IR.settings, planning.Speeds("a device of 1,500 and 2,500", 1500, 2500), 6_700_000, 768))

# %% [markdown]
# ## What you learned
#
# - A folder in a plain layout is a task, scored by the same evaluator as the public ones.
# - A difference comes with its interval, and an average with what it is an average of.
# - The share of the teacher that is kept differs by kind of task: look at the kind that you need.
#
# ## Exercises
#
# 1. How wide is the tutorial's interval with half of its queries? How many queries would halve the width that all have?
# 2. Which subject do the models confuse most in the classification task?
# 3. Write a folder of your own: twenty texts, twenty queries, and which answers which. Add it to the board.
