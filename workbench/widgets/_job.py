"""A view of work that takes long: start, stop, resume and wait for it."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import ipywidgets

from workbench.errors import WorkbenchError
from workbench.widgets._html import error_line
from workbench.widgets._view import View, note, works_while_busy

REDRAW_SECONDS = 0.35
_BAR_STYLES = {"done": "success", "failed": "danger", "stopped": "warning"}


class Job(View):
    """A view of work on another thread.

    A subclass says in `_headline()` what goes on, in `_share()` how much is done, 0 to 1, and more
    in `_figures()`. When `stop`, a `threading.Event`, is set, the work ends soon.
    """

    _future: Future | None = None  # the result of the latest work
    _work: Callable[[], object] | None = None
    _stopped_by: tuple[type[Exception], ...] = ()  # errors that mean that the work was stopped
    _error: BaseException | None = None  # of the work
    _state = "ready"  # or running, stopped, done, failed
    _began = _drawn = 0.0  # times of the start, and of the latest drawing
    _waits: threading.Timer | None = None  # for the next drawing

    def __init__(self, tooltip: str) -> None:
        self.stop = threading.Event()
        # Work reports on one thread while buttons are pressed on another.
        self._lock = threading.RLock()
        self.bar = ipywidgets.FloatProgress(max=1, layout={"flex": "1 1 200px", "width": "auto"})
        self.stop_button = self._button("Stop", "stop", tooltip, self._stop_clicked)
        self.status = note()
        super().__init__()

    def run(self, *arguments: object) -> object:
        """Start with these arguments of `start`, and wait; an interrupt stops the work."""
        self.start(*arguments)
        try:
            return self.wait()
        except KeyboardInterrupt:
            self.stop.set()
            raise

    def resume(self) -> None:
        """Start stopped work again."""
        self._start(self._work)

    def wait(self, timeout: float | None = None) -> object:
        """Wait for the work, and return its result or raise its error."""
        if self._future is None:
            raise WorkbenchError("nothing was started here: call start() first")
        return self._future.result(timeout)

    def close(self) -> None:
        """Stop the work, and close the view."""
        if self._future is not None:
            self.stop.set()
        super().close()

    def summary(self) -> str:
        """Return state and figures of the work as HTML."""
        with self._lock:
            lines = [self._headline(), *self._figures()]
            if self._state == "failed":
                lines.append(error_line(self._error, f"{type(self._error).__name__}: "))
        return "<br>".join(lines)

    def _figures(self) -> list[str]:
        return []

    def _draw(self) -> None:
        self._show()

    def _button(self, name: str, icon: str, tooltip: str, clicked: Callable) -> ipywidgets.Button:
        button = ipywidgets.Button(description=name, icon=icon, tooltip=tooltip)
        button.on_click(lambda _: clicked())
        works_while_busy(button)
        return button

    def _start(self, work: Callable[[], object]) -> None:
        with self._lock:
            if self._future is not None and not self._future.done():
                raise WorkbenchError("work is running here: stop it, or wait()")
            self.stop.clear()
            self._work, self._future, self._began = work, Future(), time.monotonic()
            self._state, self._error = "running", None
            self._draw()
            # A daemon, since a kernel that shuts down must not wait: what is finished is kept.
            threading.Thread(target=self._run, args=(work, self._future), daemon=True).start()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Hold the lock; an error in the view must not end the work that reports to it."""
        with self._lock:
            try:
                yield
            except Exception as error:
                self.status.value = error_line(error, "Not all could be shown: ")

    def _end(self, error: BaseException | None) -> None:
        with self._reporting():
            self._error = error
            stopped = self.stop.is_set() and self._share() < 1
            if isinstance(error, self._stopped_by) or (error is None and stopped):
                self._state = "stopped"
            else:
                self._state = "done" if error is None else "failed"
            self._draw()

    def _draw_soon(self, draw: Callable[[], None]) -> None:
        """Draw now, or in a moment if that was done just before; then once for all reports."""
        wait = self._drawn + REDRAW_SECONDS - time.monotonic()
        if wait <= 0:
            draw()
        elif not self._waits:
            self._waits = threading.Timer(wait, self._draw_late, [draw])
            self._waits.daemon = True
            self._waits.start()

    def _draw_late(self, draw: Callable[[], None]) -> None:
        with self._reporting():
            self._waits = None
            draw()

    @property
    def _now(self) -> str:
        """The state; "stopping" where the work has not answered a stop yet."""
        state = self._state
        if state == "ready" and self._share():  # work that was not started here reports to it
            state = "running" if self._share() < 1 else "done"
        return "stopping" if state in ("ready", "running") and self.stop.is_set() else state

    def _show(self) -> None:
        """Show state and figures: bar, buttons and the status line."""
        self._drawn = time.monotonic()  # first, so that a failure is no more frequent
        self.bar.value = self._share()
        self.bar.bar_style = _BAR_STYLES.get(self._now, "")
        self.stop_button.disabled = self._now not in ("ready", "running")
        self.status.value = Job.summary(self)

    def _run(self, work: Callable[[], object], future: Future) -> None:
        # Whoever waits for the end sees it drawn, and whoever sees it drawn may start again.
        try:
            result = work()
            with self._lock:
                self._end(None)
                future.set_result(result)
        except BaseException as error:  # whatever it is, wait() must not wait for ever
            with self._lock:
                self._end(error)
                future.set_exception(error)

    def _stop_clicked(self) -> None:
        self.stop.set()  # before the lock: it must work whatever the work is doing
        with self._reporting():
            self._show()
