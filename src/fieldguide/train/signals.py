"""Ctrl-C and SIGTERM asked politely: the first one sets a flag that the loop reads after each step."""

import os
import signal
import threading
from types import FrameType

from fieldguide.train.failures import Stopped

__all__ = ["Stop"]


class Stop:
    """``with Stop() as stop``: the first SIGINT or SIGTERM sets ``stop.signal``; the next Ctrl-C aborts at once.

    The loop heeds it after each optimizer step and each evaluated batch, and the state is saved; whatever else runs
    meanwhile – a save above all – is not disturbed. SIGUSR1, with which cluster managers announce a SIGTERM, counts
    as one unless the program has a use for it. The earlier handlers come back on exit. Outside the main thread, where
    Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._process = os.getpid()
        self._previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 0 when nobody asked to stop."""
        return 128 + self.signal if self.signal else 0

    def heed(self) -> None:
        """Raises ``Stopped`` when somebody asked to stop."""
        if self.requested:
            raise Stopped(self.exit_code)

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            # nohup and background shells ignore Ctrl-C on purpose; that stays so.
            numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
            if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
                numbers.append(signal.SIGUSR1)
            for number in numbers:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # pyright: ignore[reportArgumentType]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked data worker: the trainer alone decides about Ctrl-C
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self.signal = signal.Signals(number)
            hint = "; Ctrl-C again aborts at once" if number == signal.SIGINT else ""
            os.write(2, f"\nstopping after this step{hint}\n".encode())  # a print could re-enter a half-done print
