"""Ctrl-C and SIGTERM: finish the step under way, save, leave."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar

from palora.errors import PaloraError


class Interrupted(PaloraError):
    """The run was stopped from outside and has left a checkpoint to go on from."""

    def __init__(self, signal_name: str, folder: Path, step: int, steps: int) -> None:
        self.folder = folder
        super().__init__(f"Stopped by {signal_name} after step {step} of {steps}; {folder} can be resumed")


class StopSignals:
    """``with StopSignals() as stop:`` collects SIGINT and SIGTERM; a second one ends the program at once.

    `stop.name` is the signal that came, or None. Outside the main thread, where Python allows no handlers,
    nothing is collected.
    """

    NAMES: ClassVar[dict[signal.Signals, str]] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.NAMES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = self.NAMES[signal.Signals(number)]
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
