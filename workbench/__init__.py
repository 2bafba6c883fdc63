"""Train a small embedding model into the vector space of a large one, and compare the two.

Example:
    import workbench as wb

    texts = wb.read_texts("notes/")
    teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
    student = wb.distill(texts, teacher)
    wb.search(texts, documents=teacher, queries=student)
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
_HOME = {
    "Text": "data", "RetrievalDataset": "data", "read_texts": "data", "read_dataset": "data",
    "load_model": "models", "encode": "models", "load_ready": "ready", "Teacher": "teachers",
    "TargetCache": "cache", "Recipe": "pipeline", "distill": "pipeline", "compare": "evaluate",
    "explore": "views", "search": "views", "export": "extras.export", "WorkbenchError": "errors",
}  # fmt: skip
__all__ = [*_HOME]

if TYPE_CHECKING:  # for editors, which cannot follow __getattr__
    from workbench.cache import TargetCache
    from workbench.data import RetrievalDataset, Text, read_dataset, read_texts
    from workbench.errors import WorkbenchError
    from workbench.evaluate import compare
    from workbench.extras.export import export
    from workbench.models import encode, load_model
    from workbench.pipeline import Recipe, distill
    from workbench.ready import load_ready
    from workbench.teachers import Teacher
    from workbench.views import explore, search


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name in _HOME:
        return getattr(import_module(f"workbench.{_HOME[name]}"), name)
    raise AttributeError(f"workbench has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
