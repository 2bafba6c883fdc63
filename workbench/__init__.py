"""Teacher-aligned distillation: train a small embedding model into the vector space of a large one, and compare the two::

    import workbench as wb

    wb.search("notes/")  # with the packaged teacher, and the ready student after it has learned these texts

    texts = wb.read_texts("notes/")
    teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)  # or any other
    student = wb.distill(texts, teacher)
    wb.search(texts, documents=teacher, queries=student)

Every name below is imported when it is first used. The modules behind them (`workbench.data`, `workbench.train`, ...) and
the views (`workbench.widgets`) have the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public name to the module that defines it.
_HOME = {
    "Text": "data",
    "RetrievalDataset": "data",
    "read_texts": "data",
    "read_dataset": "data",
    "load_model": "models",
    "load_ready": "ready",
    "encode": "models",
    "Teacher": "teachers",
    "TargetCache": "cache",
    "Recipe": "pipeline",
    "distill": "pipeline",
    "compare": "evaluate",
    "explore": "views",
    "search": "views",
    "WorkbenchError": "errors",
}
__all__ = [*_HOME]

if TYPE_CHECKING:  # for editors and type checkers, which cannot follow __getattr__
    from workbench.cache import TargetCache as TargetCache
    from workbench.data import RetrievalDataset as RetrievalDataset
    from workbench.data import Text as Text
    from workbench.data import read_dataset as read_dataset
    from workbench.data import read_texts as read_texts
    from workbench.errors import WorkbenchError as WorkbenchError
    from workbench.evaluate import compare as compare
    from workbench.models import encode as encode
    from workbench.models import load_model as load_model
    from workbench.pipeline import Recipe as Recipe
    from workbench.pipeline import distill as distill
    from workbench.ready import load_ready as load_ready
    from workbench.teachers import Teacher as Teacher
    from workbench.views import explore as explore
    from workbench.views import search as search


def __getattr__(name: str) -> object:
    """Import a public name, or a module of the package, when it is first used."""
    if name in _HOME:
        found = getattr(import_module(f"workbench.{_HOME[name]}"), name)
        globals()[name] = found
        return found
    if not name.startswith("_"):
        try:
            return import_module(f"workbench.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"workbench.{name}":
                raise
    raise AttributeError(f"workbench has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
