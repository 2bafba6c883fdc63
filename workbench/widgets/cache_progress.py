"""A fill of the target cache as it goes on, with buttons to stop and resume it."""

from collections.abc import Sequence

from workbench._util import duration
from workbench.cache import Progress, TargetCache
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

    _progress: Progress | None = None

    def __init__(self) -> None:
        super().__init__("End the fill after the group in flight; nothing is lost")
        self.resume_button = self._button("Resume", "play", "Go on from there", self.resume)
        row = wrapped(self.bar, self.stop_button, self.resume_button)
        self.children = (*self.children, row, self.status)
        self._draw()

    def start(self, cache: TargetCache, texts: Sequence[Text]) -> None:
        """Fill `cache` in the background; `wait` returns the last `Progress`."""
        self._start(lambda: cache.fill(texts, stop=self.stop, on_progress=self._progressed))

    def _progressed(self, progress: Progress) -> None:
        with self._reporting():
            self._progress = progress
            self._draw_soon(self._draw)

    def _share(self) -> float:
        if self._progress is None:
            return float(self._state == "done")
        return self._progress.done / max(1, self._progress.total)

    def _headline(self) -> str:
        return _MESSAGES[self._now]

    def _figures(self) -> list[str]:
        progress = self._progress
        if progress is None:
            return []
        parts = [
            f"{progress.done:,} of {progress.total:,} texts",
            f"{progress.encoded:,} of {progress.encoded_total:,} encoded in this run",
            f"{progress.hits:,} hits",
            f"{progress.texts_per_second:,.0f} texts/s",
        ]
        if progress.failed:
            parts.append(f"{progress.failed:,} without a target")
        if progress.seconds_left is not None and self._now in ("running", "stopping"):
            parts.append(f"{duration(progress.seconds_left)} left")
        return [" · ".join(parts)]

    def _show(self) -> None:
        super()._show()
        self.resume_button.disabled = self._now not in ("stopped", "failed")
