"""Ctrl-C and SIGTERM as a wish to stop, which working code asks for."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["Stop"]


class Stop:
    """Whether someone asked the sweep to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    @contextlib.contextmanager
    def on_signals(self, wanted: bool, say: Callable[[str], None]) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM (which a cluster sends before the time is up) for a wish to stop; a second Ctrl-C
        stops at once."""
        if not wanted or threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            say("stopping when the steps under way are done; Ctrl-C again stops at once")

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
