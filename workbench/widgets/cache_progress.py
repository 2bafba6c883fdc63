"""A fill of the target cache as it goes on, with buttons to stop and resume it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from workbench._util import duration
from workbench.cache import Plan, Progress, TargetCache
from workbench.data import Text
from workbench.errors import WorkbenchError
from workbench.widgets._html import shown
from workbench.widgets._job import Job

_MESSAGES = {
    "ready": "Nothing is being filled.",
    "running": "Filling.",
    "stopping": "Stopping: the batch group in flight is still stored.",
    "stopped": "Stopped. What is done is stored; Resume goes on from there.",
    "done": "Done.",
    "failed": "Failed. What was done before is stored; Resume goes on from there.",
}


class CacheProgress(Job):
    """Show a `TargetCache.fill`, stop it and resume it.

    `view.run(cache, texts)` fills in the background. Or report a fill of your own to the view:
    `with view: cache.fill(texts, on_plan=view.plan, on_progress=view.progress, stop=view.stop)`.
    Resume then takes back the stop, and you run the cell again.

    Args:
        what: a name for what makes the targets.

    Attributes:
        stop: `threading.Event`; when set, the fill ends after the batch group in flight.
    """

    _plan: Plan | None = None
    _progress: Progress | None = None

    def __init__(self, what: str = "teacher") -> None:
        self.what = what
        super().__init__("End the fill after the batch group in flight; nothing is lost")
        self.resume_button = self._button("Resume", "play", "Go on from there", self.resume)
        row = self._row(self.bar, self.stop_button, self.resume_button)
        self.children = (*self.children, row, self.status)
        self._draw()

    def plan(self, plan: Plan) -> None:
        """Take the plan of a fill, as its `on_plan`."""
        with self._reporting():
            self._plan, self._progress, self._state = plan, None, "running"
            self._draw()

    def progress(self, progress: Progress) -> None:
        """Take the progress of a fill, as its `on_progress`."""
        with self._reporting():
            self._progress, self._state = progress, "running"
            if self._due():
                self._draw()

    def run(self, cache: TargetCache, texts: Iterable[Text]) -> None:
        """Fill `cache` in a background thread; `wait` returns the last `Progress`.

        Args:
            cache: its teacher makes the targets that are missing; leave both alone until the end.
            texts: a list, or anything else that can be iterated again, which Resume has to do.

        Raises:
            WorkbenchError: a fill is running, or `texts` can be iterated only once.
        """
        if isinstance(texts, Iterator):
            raise WorkbenchError("texts can be iterated only once: give a list, for Resume")

        def fill() -> Progress:
            return cache.fill(texts, on_plan=self.plan, on_progress=self.progress, stop=self.stop)

        self._start(fill)

    def _cut_short(self) -> bool:
        return self.stop.is_set() and self._share() < 1

    def _share(self) -> float:
        progress = self._progress
        if self._state == "done":
            return 1.0
        return progress.done / progress.total if progress and progress.total else 0.0

    def _headline(self) -> str:
        return f"<b>{shown(self.what)}</b>: {_MESSAGES[self._now]}"

    def _figures(self) -> list[str]:
        progress = self._progress
        if progress is None:
            return [] if self._plan is None else [str(self._plan)]
        parts = [
            f"{_of(progress.done, progress.total)} texts",
            f"{_of(progress.encoded, progress.encoded_total)} encoded in this run",
            f"{progress.hits:,} hits",
            f"{progress.texts_per_second:,.0f} texts/s",
            f"{progress.bytes / 1e6:,.1f} MB stored in this run",
        ]
        if progress.failed:
            parts.append(f"{progress.failed:,} without a target")
        if progress.seconds_left is not None and self._now in ("running", "stopping"):
            parts.append(f"{duration(progress.seconds_left)} left")
        return [" · ".join(parts)]

    def _show(self) -> None:
        super()._show()
        # A fill in a cell that was asked to stop may be run again at once.
        can_resume = (
            ("stopped", "failed") if self._in_background else ("stopping", "stopped", "failed")
        )
        self.resume_button.disabled = self._now not in can_resume


def _of(count: int, total: int | None) -> str:
    return f"{count:,}" if total is None else f"{count:,} of {total:,}"
