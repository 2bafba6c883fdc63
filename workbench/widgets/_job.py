"""A view of work that takes long: one machine to start, stop, resume and wait for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Self

import ipywidgets

from workbench.errors import WorkbenchError
from workbench.widgets._html import error_line
from workbench.widgets._view import View, note, works_while_busy, wrapped

REDRAW_SECONDS = 0.35
_BAR_STYLES = {"done": "success", "failed": "danger", "stopped": "warning"}


class Job(View):
    """A view of work on another thread, or in a cell that reports to the view.

    The state is one of ready, running, stopping, stopped, done and failed. An error in the view never reaches the work.
    A view of one kind of work says in `_headline()` what goes on, and in `_share()` how much is done, 0 to 1.

    Attributes:
        stop: `threading.Event`; when set, the work ends soon and keeps what it has done.
    """

    _noun = "job"
    _future: Future | None = None  # the result of the latest work that was started here
    _stopped_by: tuple[
        type[Exception], ...
    ] = ()  # errors by which the work says that it was stopped

    def __init__(self, tooltip: str) -> None:
        self.stop = threading.Event()
        self._lock = (
            threading.RLock()
        )  # work reports on one thread while buttons are pressed on another
        self._state = "ready"
        self._error: BaseException | None = None  # of the work
        self._trouble: Exception | None = None  # of the view
        self._drawn = 0.0
        self._work: Callable[[], object] | None = None
        self.bar = ipywidgets.FloatProgress(
            min=0, max=1, layout={"flex": "1 1 200px", "width": "auto"}
        )
        self.stop_button = self._button("Stop", "stop", tooltip, self._stop_clicked)
        self.status = note()
        super().__init__()

    def resume(self) -> None:
        """Start stopped work again; work that was not started here may go on after this, and its cell is run again.

        Raises:
            WorkbenchError: it is still running.
        """
        with self._lock:
            if self._work is not None:
                self._start(self._work)
                return
            self.stop.clear()
            self._error = None
            if self._state != "running":
                self._state = "ready"
            self._show()

    def wait(self, timeout: float | None = None) -> object:
        """Wait for the end of the work that was started here, and return its result; interrupting leaves it running.

        Args:
            timeout: seconds; None waits as long as it takes.

        Raises:
            WorkbenchError: nothing was started, or it is still running after `timeout`.
            Exception: whatever the work raised.
        """
        future = self._future
        if future is None:
            raise WorkbenchError(f"no {self._noun} was started here: call run() first")
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():  # the work's own error
                raise
            raise WorkbenchError(
                f"the {self._noun} is still running after {timeout} s: wait longer, or stop it"
            ) from None

    def close(self) -> None:
        """Stop what was started here, and close the view."""
        if self._in_background:
            self.stop.set()
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._reporting():
            if not self._in_background:
                self._end(error)

    def summary(self) -> str:
        """Return state and figures of the work."""
        return self._said()

    def _said(self) -> str:
        with self._lock:
            try:
                lines = [self._headline(), *self._figures()]
            except Exception as error:  # figures that are no numbers
                lines, self._trouble = [], self._trouble or error
            if self._state == "failed":
                lines.append(error_line(self._error, f"{type(self._error).__name__}: "))
            if self._trouble is not None:
                lines.append(error_line(self._trouble, "Not all could be shown: "))
        return "<br>".join(lines)

    # --- what a view of one kind of work calls, and may do in its own way ---

    def _button(
        self, name: str, icon: str, tooltip: str, clicked: Callable[[], object]
    ) -> ipywidgets.Button:
        def click(_: object) -> None:
            with contextlib.suppress(
                WorkbenchError
            ):  # work is running, and the status line says so
                clicked()

        button = ipywidgets.Button(description=name, icon=icon, tooltip=tooltip)
        button.on_click(click)
        works_while_busy(button)
        return button

    def _row(self, *parts: ipywidgets.Widget) -> ipywidgets.HBox:
        return wrapped(*parts, align_items="center", width="100%")

    def _start(self, work: Callable[[], object]) -> None:
        """Call `work` on a thread of its own."""
        with self._lock:
            if self._in_background:
                raise WorkbenchError(
                    f"a {self._noun} is running in this view: stop it, or wait() for its end"
                )
            self.stop.clear()
            self._work, self._future, self._trouble = work, Future(), None
            self._state, self._error = "running", None
            self._draw()
            # A daemon, since a kernel that shuts down must not wait: what is finished is kept.
            threading.Thread(target=self._run, args=(work, self._future), daemon=True).start()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Hold the lock; what goes wrong in the view must not end the work that reports to it."""
        with self._lock:
            try:
                yield
            except Exception as error:
                self._trouble = error
                self.status.value = self._said()

    def _end(self, error: BaseException | None) -> None:
        stopped = self._cut_short() if error is None else isinstance(error, self._stopped_by)
        self._state, self._error = (
            "stopped" if stopped else "done" if error is None else "failed",
            error,
        )
        self._draw()

    def _due(self) -> bool:
        """Say whether it is time to draw again."""
        return self._state != "running" or time.monotonic() - self._drawn >= REDRAW_SECONDS

    def _cut_short(self) -> bool:
        """Say whether work that ended without an error was stopped."""
        return self.stop.is_set()

    def _figures(self) -> list[str]:
        """Return lines of HTML."""
        return []

    def _draw(self) -> None:
        """Draw all; the caller holds the lock."""
        self._show()

    @property
    def _in_background(self) -> bool:
        return self._future is not None and not self._future.done()

    @property
    def _now(self) -> str:
        """The state, which is "stopping" where a stop has not been answered yet."""
        return (
            "stopping"
            if self._state in ("ready", "running") and self.stop.is_set()
            else self._state
        )

    def _show(self) -> None:
        """Show state and figures: bar, buttons and the status line."""
        self._drawn = (
            time.monotonic()
        )  # before what may fail, so that a failure is no more frequent than a success
        self.bar.value = self._share()
        self.bar.bar_style = _BAR_STYLES.get(self._now, "")
        self.stop_button.disabled = self._now not in ("ready", "running")
        self.status.value = self._said()

    def _run(self, work: Callable[[], object], future: Future) -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # whatever it is, wait() must not wait for ever
            error = raised
        with (
            self._lock
        ):  # whoever waits for the end sees it drawn, and whoever sees it drawn may start again
            with self._reporting():
                self._end(error)
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

    def _stop_clicked(self) -> None:
        self.stop.set()  # before the lock: it must work whatever the work is doing
        with self._reporting():
            self._show()
