"""The errors a user can act on. Any other exception is a defect of the package."""


class WorkbenchError(Exception):
    """Something the user can correct; the message says what was wrong and what to do.

    Example:
        >>> wb.read_texts("no/such/file.csv")
        Traceback (most recent call last):
        workbench.errors.DataError: ...
    """


class DataError(WorkbenchError):
    """Texts, queries or judgments that cannot be used as they are."""


class ModelError(WorkbenchError):
    """A model that cannot be found, verified or used as asked."""


class TeacherError(WorkbenchError):
    """A teacher that cannot be made, or that returned something other than embeddings."""


class IncompleteError(TeacherError):
    """A teacher without some `vectors` (NaN): `failed` has reasons by row; if `final`, for good."""

    def __init__(self, message: str, vectors, failed: dict[int, str], final: bool = False) -> None:
        super().__init__(message)
        self.vectors, self.failed, self.final = vectors, failed, final


class CacheError(WorkbenchError):
    """A cache that cannot be read or written as asked."""


class TrainingError(WorkbenchError):
    """Training that cannot start or go on as asked."""


class BenchmarkError(WorkbenchError):
    """A task, a model or a result that a benchmark cannot use."""
