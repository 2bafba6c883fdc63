"""A fill of the target cache as it goes on: texts done, speed, time left, and buttons to stop and resume it."""

from __future__ import annotations

import contextlib
import html
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

import ipywidgets

from workbench.cache import Plan, Progress, TargetCache, duration
from workbench.data import Text
from workbench.errors import WorkbenchError
from workbench.widgets._view import View, note, shown, works_while_busy

_REDRAW_SECONDS = 0.3
_STATES = {
    "ready": "Nothing is being filled yet.",
    "running": "Filling.",
    "stopping": "Stopping: the batch group in flight is still stored.",
    "stopped": "Stopped. What is done is stored; Resume goes on from there.",
    "done": "Done.",
    "failed": "Failed. What was done before is stored; Resume goes on from there.",
}


class CacheProgress(View):
    """Show a `TargetCache.fill`, and stop and resume it.

    Either pass its parts to a fill of your own, in a `with` block if the view shall tell an error or a
    stop from an end: `cache.fill(texts, on_plan=view.plan, on_progress=view.progress,
    stop=view.stop)`. Resume then takes the stop back, and the cell has to be run again if the fill has
    ended already. Or let `view.run(cache, texts)` fill in the background.

    Args:
        what: a name for what makes the targets.

    Attributes:
        stop: `threading.Event`; when set, the fill ends after the batch group in flight.
    """

    def __init__(self, what: str = "teacher") -> None:
        self.what = what
        self.stop = threading.Event()
        self._lock = threading.RLock()  # a fill reports on one thread while buttons are pressed on another
        self._plan: Plan | None = None
        self._progress: Progress | None = None
        self._error: BaseException | None = None
        self._state = "ready"
        self._drawn = 0.0
        self._job: tuple[TargetCache, Iterable[Text]] | None = None
        self._filling: Future[Progress] | None = None  # the latest fill that `run` or Resume started
        self.bar = ipywidgets.FloatProgress(min=0, max=1, layout={"flex": "1 1 200px", "width": "auto"})
        self.stop_button = ipywidgets.Button(
            description="Stop", icon="stop", tooltip="End the fill after the batch group in flight; nothing is lost"
        )
        self.resume_button = ipywidgets.Button(
            description="Resume", icon="play", tooltip="Go on where the fill ended", disabled=True
        )
        self.status = note()
        self.stop_button.on_click(lambda _: self._stop_clicked())
        self.resume_button.on_click(lambda _: self._resume_clicked())
        row = ipywidgets.HBox(
            [self.bar, self.stop_button, self.resume_button],
            layout={"flex_flow": "row wrap", "align_items": "center", "width": "100%"},
        )
        super().__init__(row, self.status)
        works_while_busy(self.stop_button)
        works_while_busy(self.resume_button)
        self._draw()

    # --- what a fill calls ---

    def plan(self, plan: Plan) -> None:
        """Take the plan of a fill, as its `on_plan`."""
        with self._reporting():
            self._plan = plan
            if self._state != "running":  # otherwise a sample was encoded first, and its progress counts
                self._progress = None
            state = "running"
            if not self._in_background and not plan.missing:
                state = "done"  # no progress follows
            elif not self._in_background and self.stop.is_set():
                state = "stopped"  # a fill looks at `stop` before the next group
            self._begin(state)

    def progress(self, progress: Progress) -> None:
        """Take the progress of a fill, as its `on_progress`."""
        with self._reporting():
            self._progress = progress
            self._state, self._error = "running", None
            if not self._in_background and progress.total is not None and progress.done >= progress.total:
                self._state = "done"
            elif not self._in_background and self.stop.is_set():
                self._state = "stopped"
            if self._state != "running" or time.monotonic() - self._drawn >= _REDRAW_SECONDS:
                self._draw()

    def __enter__(self) -> CacheProgress:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._reporting():
            if not self._in_background:
                self._end(error)

    # --- a fill of its own ---

    def run(self, cache: TargetCache, texts: Iterable[Text]) -> None:
        """Fill `cache` with the targets of `texts` in a background thread; see `wait`.

        Args:
            cache: its teacher makes the targets that are missing; leave both alone until the fill has ended.
            texts: a list, or anything else that can be gone through again, which Resume has to do.

        Raises:
            WorkbenchError: a fill is running, or `texts` can be gone through only once.
        """
        if isinstance(texts, Iterator):
            raise WorkbenchError("texts can be gone through only once, and Resume has to again: pass a list of them")
        with self._lock:
            self._check_idle()
            self._job = (cache, texts)
            self._plan = None
            self._start()

    def resume(self) -> None:
        """Go on where a fill was stopped; one that `run` did not start has to be called again.

        Raises:
            WorkbenchError: a fill is running.
        """
        with self._lock:
            self._check_idle()
            if self._job is not None:
                self._start()
                return
            self.stop.clear()
            self._error = None
            if self._state != "running":
                self._state = "ready"
            self._draw()

    def wait(self, timeout: float | None = None) -> Progress:
        """Wait until the fill that `run` or Resume started has ended; interrupting this leaves it running.

        Args:
            timeout: seconds; None waits as long as it takes.

        Returns:
            The last progress, of a stopped fill too.

        Raises:
            WorkbenchError: nothing was started, or it is still running after `timeout`.
            Exception: whatever the fill raised.
        """
        filling = self._filling
        if filling is None:
            raise WorkbenchError("no fill was started here: call run() first")
        try:
            return filling.result(timeout)
        except TimeoutError:
            if filling.done():  # the fill's own error
                raise
            raise WorkbenchError(f"the fill is still running after {timeout} s: wait longer, or stop it") from None

    def close(self) -> None:
        """End a fill that `run` started, and remove the view."""
        if self._in_background:
            self.stop.set()
        super().close()

    def summary(self) -> str:
        """Return state and figures of the fill."""
        with self._lock:
            said = _STATES[self._current_state()]
            if self._state == "ready" and self._progress is not None:
                said = "Run the cell with the fill again: it goes on where it ended."
            lines = [f"<b>{shown(self.what)}</b>: {said}"]
            if (figures := self._figures()) is not None:
                lines.append(figures)
            if self._error is not None:
                lines.append(f'<span class="error">{type(self._error).__name__}: {shown(self._error, 1000)}</span>')
        return "<br>".join(lines)

    # --- inside ---

    @property
    def _in_background(self) -> bool:
        return self._filling is not None and not self._filling.done()

    def _check_idle(self) -> None:
        if self._in_background:
            raise WorkbenchError("a fill is running in this view: stop it, or wait() for its end")

    def _start(self) -> None:
        self.stop.clear()
        self._progress, self._filling = None, Future()
        self._begin("running")
        # A daemon, for a kernel that shuts down must not wait: every finished group is on disk.
        threading.Thread(target=self._fill, args=(self._filling, *self._job), daemon=True).start()

    def _fill(self, filling: Future[Progress], cache: TargetCache, texts: Iterable[Text]) -> None:
        result, error = None, None
        try:
            result = cache.fill(texts, on_plan=self.plan, on_progress=self.progress, stop=self.stop)
        except BaseException as raised:  # whatever it is, wait() must not wait for ever
            error = raised
        with self._lock:  # whoever waits for the end sees it drawn, and whoever sees it drawn may start again
            with self._reporting():
                self._progress = result or self._progress
                self._end(error)
            if error is not None:
                filling.set_exception(error)
            else:
                filling.set_result(result)

    def _begin(self, state: str) -> None:
        self._state, self._error = state, None
        self._draw()

    def _end(self, error: BaseException | None) -> None:
        done, total = (self._progress.done, self._progress.total) if self._progress else (0, None)
        if error is not None:
            self._state, self._error = "failed", error
        elif self.stop.is_set() and (total is None or done < total):
            self._state = "stopped"
        else:
            self._state = "done"
        self._draw()

    def _current_state(self) -> str:
        return "stopping" if self._state in ("ready", "running") and self.stop.is_set() else self._state

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Hold the lock; what goes wrong in the view must not end the fill that reports to it."""
        with self._lock:
            try:
                yield
            except Exception as error:
                with contextlib.suppress(Exception):
                    self.status.value = f'<span class="error">Not shown: {shown(error)}. The fill goes on.</span>'

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        state = self._current_state()
        progress = self._progress
        if state == "done":
            self.bar.value = 1.0
        elif progress is not None and progress.total:
            self.bar.value = min(1.0, progress.done / progress.total)
        elif progress is None and state == "running":
            self.bar.value = 0.0
        self.bar.bar_style = {"done": "success", "failed": "danger", "stopped": "warning"}.get(state, "")
        self.stop_button.disabled = state in ("stopping", "stopped", "done", "failed")
        # One that was asked to stop and is not ours may go on at once; ours has to end before it starts again.
        self.resume_button.disabled = not (
            state in ("stopped", "failed") or (state == "stopping" and not self._in_background)
        )
        self.status.value = self.summary()

    def _figures(self) -> str | None:
        progress = self._progress
        if progress is None:
            return None if self._plan is None else html.escape(str(self._plan))
        total = "" if progress.total is None else f" of {progress.total:,}"
        share = f" ({progress.done / progress.total:.0%})" if progress.total else ""
        to_make = "" if progress.encoded_total is None else f" of {progress.encoded_total:,}"
        parts = [
            f"{progress.done:,}{total} texts{share}",
            f"{progress.encoded:,}{to_make} encoded in this run",
            f"{progress.hits:,} hits",
            f"{progress.texts_per_second:,.0f} texts/s",
            f"{progress.bytes / 1e6:,.1f} MB stored in this run",
        ]
        if progress.seconds_left is not None and self._current_state() in ("running", "stopping"):
            parts.append(f"{duration(progress.seconds_left)} left")
        return " · ".join(parts)

    def _stop_clicked(self) -> None:
        self.stop.set()  # before the lock: it must work whatever the fill is doing
        with self._reporting():
            self._draw()

    def _resume_clicked(self) -> None:
        try:
            self.resume()
        except WorkbenchError as error:
            with self._lock:
                self.status.value = f'<span class="error">{shown(error)}</span>'
