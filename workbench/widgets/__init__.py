"""Interactive views, one a file. They take arrays and results, and load no model themselves.

Each view is imported when it is first named: `from workbench.widgets import AgreementExplorer`.
"""

from importlib import import_module

_MODULES = {
    "AgreementExplorer": "agreement_explorer",
    "BenchmarkBoard": "benchmark_board",
    "CacheProgress": "cache_progress",
    "ModelComparison": "model_comparison",
    "NeighborInspector": "neighbor_inspector",
    "RetrievalExplorer": "retrieval_explorer",
    "Table": "table",
    "TradeoffExplorer": "tradeoff_explorer",
    "TrainingMonitor": "training_monitor",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> type:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
