"""Train a small embedding model into the vector space of a large one, and compare the two::

    import workbench as wb

    wb.search("notes/")  # by the packaged teacher, and by the ready student once it has read them

    texts = wb.read_texts("notes/")
    teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)  # or any other
    student = wb.distill(texts, teacher)
    wb.search(texts, documents=teacher, queries=student)

Every name below is imported when it is first used. The modules behind them (`workbench.data`,
`workbench.train`, ...) and the views (`workbench.widgets`) have the rest.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_MODULES = {
    "data": ["Text", "RetrievalDataset", "read_texts", "read_dataset"],
    "models": ["load_model", "encode"],
    "ready": ["load_ready"],
    "teachers": ["Teacher"],
    "cache": ["TargetCache"],
    "pipeline": ["Recipe", "distill"],
    "evaluate": ["compare"],
    "views": ["explore", "search"],
    "errors": ["WorkbenchError"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [*_HOME]

if TYPE_CHECKING:  # for editors, which cannot follow __getattr__
    from workbench.cache import TargetCache
    from workbench.data import RetrievalDataset, Text, read_dataset, read_texts
    from workbench.errors import WorkbenchError
    from workbench.evaluate import compare
    from workbench.models import encode, load_model
    from workbench.pipeline import Recipe, distill
    from workbench.ready import load_ready
    from workbench.teachers import Teacher
    from workbench.views import explore, search


def __getattr__(name: str) -> object:
    """Import a public name, or a module of the package, when it is first used."""
    if name in _HOME:
        return getattr(import_module(f"workbench.{_HOME[name]}"), name)
    if find_spec(f"workbench.{name}"):
        return import_module(f"workbench.{name}")
    raise AttributeError(f"workbench has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
