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
import workbench as wb

# %%
teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
wb.search("tutorial", documents=teacher, queries=wb.load_ready())
