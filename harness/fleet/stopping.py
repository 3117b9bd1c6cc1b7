"""Ctrl-C and SIGTERM: the first asks for a clean stop, the second ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Remembers that somebody asked this run to stop.

    Notes
    -----
    Only the main thread may handle signals; elsewhere nothing changes. Ray sets a handler of
    its own when it starts, so that ours are installed after that.
    """

    def __init__(self) -> None:
        self._got = ""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals for the length of the block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[signal.Signals, Any] = {n: signal.signal(n, self._take) for n in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def reason(self) -> str:
        """Why to stop; empty while nobody asked."""
        return f"asked to ({self._got}; once more ends it at once)" if self._got else ""

    def raise_if_asked(self) -> None:
        """End the run as an interrupt once everything is clean.

        Raises
        ------
        KeyboardInterrupt
            If somebody asked.
        """
        if self._got:
            raise KeyboardInterrupt

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._got:
            raise KeyboardInterrupt
        self._got = signal.Signals(number).name
