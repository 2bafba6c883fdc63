"""Interactive views, one a file. They take arrays and results, and load no model themselves.

Each view is imported when it is first named: `from workbench.widgets import AgreementExplorer`.
"""

import re
from importlib import import_module

__all__ = [
    "AgreementExplorer",
    "BenchmarkBoard",
    "CacheProgress",
    "ModelComparison",
    "NeighborInspector",
    "RetrievalExplorer",
    "Table",
    "TradeoffExplorer",
    "TrainingMonitor",
]


def __getattr__(name: str) -> type:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return getattr(import_module(f"{__name__}.{file}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
