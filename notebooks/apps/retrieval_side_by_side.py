# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Retrieval side by side
#
# A large model and its small student search the same passages. Select a question or type your own. Lines join the same
# passage across the lists, and a star marks a passage that people have judged relevant. In the third list the student
# embeds only the question, and the large model has embedded the passages.

# %%
import _course

from workbench import data, models, student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.docstrings import docstring_corpus
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher
from workbench.widgets import RetrievalExplorer

# %%
profile = _course.profile()
collection = data.tutorial()
queries, documents = collection.query_texts(), collection.document_texts()
lesson = docstring_corpus(pairs=profile.pairs, held_out=profile.held_out).train[: profile.lesson]
teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
cache = TargetCache(home() / "cache", teacher)
_ = cache.fill(queries + documents + lesson)

# %%
model = student.load(_course.learned(cache, lesson))
t, s = (
    [cache.targets(some)[:] for some in (queries, documents)],
    [models.encode(model, some) for some in (queries, documents)],
)
encode = {"teacher": lambda text: teacher.encode([text], "query")[0], "student": lambda text: model.encode_query(text)}

# %%
RetrievalExplorer(collection, {"teacher": t, "student": s}, encode=encode)
