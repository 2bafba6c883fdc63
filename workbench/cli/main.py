"""The `workbench` command: parse, call, say what went wrong."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib import import_module

from workbench.cli.options import parser
from workbench.errors import WorkbenchError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code (0 done, 1 failed, 2 wrong usage, 130 stopped)."""
    options = parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    stop = threading.Event()

    def ask_to_stop(*_: object) -> None:
        if options.at_once or stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("\nStopping at the next safe point; Ctrl-C again stops at once.", file=sys.stderr)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, ask_to_stop)
    try:
        # Imported now, because torch takes seconds that --help should not wait for.
        module = import_module(f"workbench.cli.{options.module}")
        getattr(module, options.command)(options, stop)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 130 if stop.is_set() else 1
    except KeyboardInterrupt:
        goes_on = "" if options.at_once else "; the same command goes on from what is stored"
        print(f"stopped{goes_on}", file=sys.stderr)
        return 130
    return 130 if stop.is_set() else 0
