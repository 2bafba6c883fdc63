"""A fill of the target cache as it goes on: texts done, speed, time left, and buttons to stop and resume it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

from workbench._util import duration, file_size
from workbench.cache import Plan, Progress, TargetCache
from workbench.data import Text
from workbench.errors import WorkbenchError
from workbench.widgets._html import shown
from workbench.widgets._job import Job

_WORDS = {
    "ready": "Nothing is being filled yet.",
    "running": "Filling.",
    "stopping": "Stopping: the batch group in flight is still stored.",
    "stopped": "Stopped. What is done is stored; Resume goes on from there.",
    "done": "Done.",
    "failed": "Failed. What was done before is stored; Resume goes on from there.",
}


class CacheProgress(Job):
    """Show a `TargetCache.fill`, stop it and resume it.

    `view.run(cache, texts)` fills in the background. Or report a fill of your own to the view:
    `cache.fill(texts, on_plan=view.plan, on_progress=view.progress, stop=view.stop)`, in a `with view:` block if the view
    is to know an error or a stop from an end. Resume then takes the stop back, and the cell has to be run again if the
    fill has ended.

    Args:
        what: a name for what makes the targets.

    Attributes:
        stop: `threading.Event`; when set, the fill ends after the batch group in flight.
    """

    _noun = "fill"
    _plan: Plan | None = None
    _progress: Progress | None = None

    def __init__(self, what: str = "teacher") -> None:
        self.what = what
        super().__init__("End the fill after the batch group in flight; nothing is lost")
        self.resume_button = self._button(
            "Resume", "play", "Go on where the fill ended", self.resume
        )
        row = self._row(self.bar, self.stop_button, self.resume_button)
        self.children = (*self.children, row, self.status)
        self._draw()

    def plan(self, plan: Plan) -> None:
        """Take the plan of a fill, as its `on_plan`."""
        with self._reporting():
            self._plan, self._trouble = plan, None
            if (
                self._state != "running"
            ):  # otherwise a sample was encoded first, and its progress counts
                self._progress = None
            self._state, self._error = self._reported(complete=not plan.missing), None
            self._draw()

    def progress(self, progress: Progress) -> None:
        """Take the progress of a fill, as its `on_progress`."""
        with self._reporting():
            self._progress, self._error = progress, None
            self._state = self._reported(complete=self._complete)
            if self._due():
                self._draw()

    def run(self, cache: TargetCache, texts: Iterable[Text]) -> None:
        """Fill `cache` with the targets of `texts` in a background thread; see `wait`, which returns the last `Progress`.

        Args:
            cache: its teacher makes the targets that are missing; leave both alone until the fill has ended.
            texts: a list, or anything else that can be iterated again, which Resume has to do.

        Raises:
            WorkbenchError: a fill is running, or `texts` can be iterated only once.
        """
        if isinstance(texts, Iterator):
            raise WorkbenchError(
                "texts can be iterated only once, and Resume does it again: pass a list of them"
            )

        def work() -> Progress:
            self._progress = None
            last = cache.fill(texts, on_plan=self.plan, on_progress=self.progress, stop=self.stop)
            self._progress = last or self._progress
            return last

        with self._lock:
            if not self._in_background:
                self._plan = self._progress = None
            self._start(work)

    @property
    def _complete(self) -> bool:
        progress = self._progress
        return (
            progress is not None and progress.total is not None and progress.done >= progress.total
        )

    def _reported(self, *, complete: bool) -> str:
        """Return the state after a report: the end of a fill of one's own is known by its last report alone."""
        if self._in_background:
            return "running"
        # A fill looks at `stop` before the next group.
        return "done" if complete else "stopped" if self.stop.is_set() else "running"

    def _cut_short(self) -> bool:
        return self.stop.is_set() and not self._complete

    def _share(self) -> float:
        progress = self._progress
        if self._state == "done":
            return 1.0
        if progress is None and self._now == "running":
            return 0.0
        return (
            min(1.0, progress.done / progress.total)
            if progress and progress.total
            else self.bar.value
        )

    def _headline(self) -> str:
        said = _WORDS[self._now]
        if self._now == "ready" and self._progress is not None:
            said = "Run the cell with the fill again: it goes on where it ended."
        return f"<b>{shown(self.what)}</b>: {said}"

    def _figures(self) -> list[str]:
        progress = self._progress
        if progress is None:
            return [] if self._plan is None else [html.escape(str(self._plan))]
        total = "" if progress.total is None else f" of {progress.total:,}"
        share = f" ({progress.done / progress.total:.0%})" if progress.total else ""
        to_make = "" if progress.encoded_total is None else f" of {progress.encoded_total:,}"
        parts = [
            f"{progress.done:,}{total} texts{share}",
            f"{progress.encoded:,}{to_make} encoded in this run",
            f"{progress.hits:,} hits",
            f"{progress.texts_per_second:,.0f} texts/s",
            f"{file_size(progress.bytes)} stored in this run",
        ]
        if progress.failed:
            parts.append(f"{progress.failed:,} without a target")
        if progress.seconds_left is not None and self._now in ("running", "stopping"):
            parts.append(f"{duration(progress.seconds_left)} left")
        return [" · ".join(parts)]

    def _show(self) -> None:
        super()._show()
        # A fill of one's own that was asked to stop may go on at once; ours has to end before it starts again.
        again = "stopped", "failed", *(() if self._in_background else ("stopping",))
        self.resume_button.disabled = self._now not in again
