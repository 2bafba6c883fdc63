"""Interactive views of arrays and results, one a file; each is imported when first named."""

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
