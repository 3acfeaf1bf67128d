"""What TensorRT calls back while it works: the logger and the progress monitor.

Their base classes come with the module, so the classes are made when it is there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from edgesr.runtime.backends.build_progress import Steps

Progress = Callable[[str, float, float | None], None]
"""What it is at, the part done (0..1), seconds left (None: not known yet)."""

KEPT_LINES = 20


@functools.lru_cache(maxsize=4)
def logger_of(trt: Any) -> Any:
    """The one logger of a TensorRT module, which keeps its last warnings and errors.

    One for all, because TensorRT takes the first that it gets and warns of any other. Its `lines`
    are (severity "error" or "warning", text).
    """
    errors = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in errors or severity == trt.ILogger.WARNING:
                kind = "error" if severity in errors else "warning"
                self.lines.append((kind, " ".join(str(message).split())))
                del self.lines[:-KEPT_LINES]

        def clear(self) -> None:
            self.lines.clear()

        def warnings(self) -> tuple[str, ...]:
            return tuple(dict.fromkeys(text for kind, text in self.lines if kind == "warning"))

        def reason(self) -> str:
            """The last error in one line."""
            found = [text for kind, text in self.lines if kind == "error"]
            return found[-1] if found else "it gave no reason"

    return Collector()


def make_monitor(trt: Any, on_progress: Progress | None) -> Any:
    """A progress monitor of the module's class; None where it has none or nobody listens."""
    if on_progress is None or not hasattr(trt, "IProgressMonitor"):
        return None
    tell = on_progress

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self._steps = Steps(tell)

        def phase_start(self, phase_name: str, parent_phase: Any, num_steps: int) -> None:
            self._call(lambda: self._steps.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            """False ends the build."""
            self._call(lambda: self._steps.step(phase_name, step))
            return self.stopped is None

        def phase_finish(self, phase_name: str) -> None:
            self._call(lambda: self._steps.finish(phase_name))

        def _call(self, what: Callable[[], None]) -> None:
            # Nothing may be raised through C++: it is kept, and raised when the build has ended.
            try:
                what()
            except BaseException as error:
                self.stopped = self.stopped or error

    return Monitor()
