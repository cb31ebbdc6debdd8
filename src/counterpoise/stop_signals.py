"""Signals by which people, schedulers and terminals stop a process: Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 (of Slurm)."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT") if hasattr(signal, name))
"""Signals that stop a process. Windows lacks SIGHUP and SIGUSR1."""


class Stopped(SystemExit):
    """A signal stopped the process. The exit code is 128 plus the number of the signal, as shells use it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.cause = cause(number)


def cause(number: int) -> str:
    """Return the name of a signal for messages."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def stop(number: int, frame: FrameType | None) -> None:
    """Raise `Stopped`."""
    raise Stopped(number)


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object] = stop) -> Iterator[None]:
    """Handle the signals of `SIGNALS` within the block. Has no effect outside the main thread.

    A signal that is ignored remains so: `nohup` ignores SIGHUP, and shells ignore Ctrl-C for background jobs.

    Args:
        handler: As of `signal.signal`. Defaults to `stop`.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in SIGNALS}
        previous = {number: old for number, old in previous.items() if old not in (signal.SIG_IGN, None)}
    try:
        for number in previous:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
