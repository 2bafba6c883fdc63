"""A fill of the target cache as it goes on, with buttons to stop and resume it."""

from collections.abc import Sequence

from workbench._util import duration
from workbench.cache import Plan, Progress, TargetCache
from workbench.data import Text
from workbench.widgets._job import Job
from workbench.widgets._view import wrapped

_MESSAGES = {
    "ready": "Nothing is being filled.",
    "running": "Filling.",
    "stopping": "Stopping after the group in flight.",
    "stopped": "Stopped. Resume goes on from what is stored.",
    "done": "Done.",
    "failed": "Failed. Resume goes on from what is stored.",
}


class CacheProgress(Job):
    """Fill a `TargetCache` in the background, show how far it is, and stop and resume it."""

    _plan: Plan | None = None
    _progress: Progress | None = None

    def __init__(self) -> None:
        super().__init__("End the fill after the group in flight; nothing is lost")
        self.resume_button = self._button("Resume", "play", "Go on from there", self.resume)
        row = wrapped(self.bar, self.stop_button, self.resume_button)
        self.children = (*self.children, row, self.status)
        self._draw()

    def run(self, cache: TargetCache, texts: Sequence[Text]) -> None:
        """Fill `cache`; `wait` returns the last `Progress`."""
        reports = {"on_plan": self._planned, "on_progress": self._progressed}
        self._start(lambda: cache.fill(texts, stop=self.stop, **reports))

    def _planned(self, plan: Plan) -> None:
        with self._reporting():
            self._plan, self._progress = plan, None
            self._draw()

    def _progressed(self, progress: Progress) -> None:
        with self._reporting():
            self._progress = progress
            if self._due():
                self._draw()

    def _share(self) -> float:
        if self._progress is None:
            return float(self._state == "done")
        return self._progress.done / max(1, self._progress.total)

    def _headline(self) -> str:
        return _MESSAGES[self._now]

    def _figures(self) -> list[str]:
        progress = self._progress
        if progress is None:
            return [] if self._plan is None else [str(self._plan)]
        parts = [
            f"{progress.done:,} of {progress.total:,} texts",
            f"{progress.encoded:,} of {progress.encoded_total:,} encoded in this run",
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
        self.resume_button.disabled = self._now not in ("stopped", "failed")
