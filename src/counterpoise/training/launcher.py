"""The processes that this one starts for its further devices, and the end of the run if one of them is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from counterpoise.stop_signals import SIGNALS
from counterpoise.training import signals

GRACE = 5.0
"""Seconds in which this process may end by itself after another one was lost, and the others after this one."""

_children: list["subprocess.Popen[Any]"] = []


class LostProcess(NamedTuple):
    """A process that ended before the training did.

    Args:
        device: Number of its device on this machine.
        code: Its exit code; negative numbers are signals.
    """

    device: int
    code: int

    @property
    def stop(self) -> int | None:
        """Number of the signal that stopped it, if that is one of those that stop a run."""
        number = -self.code if self.code < 0 else self.code - 128
        return number if number in SIGNALS else None

    def __str__(self) -> str:
        if self.code >= 0:
            return f"the process of device {self.device} ended with exit code {self.code}"
        memory = "; the system does this when the memory is full" if self.code == -signal.SIGKILL else ""
        return f"the process of device {self.device} was ended by {signal.Signals(-self.code).name}{memory}"


class ProcessLauncher(_SubprocessScriptLauncher):
    """Start a process for each further device of this machine.

    If one of them is lost, Lightning's launcher kills all processes including this one. Here this process records why
    the run ended, see `watched`.
    """

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Start the processes and call the function."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            _children[:] = self.procs
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


@contextmanager
def watched(end: Callable[[LostProcess], int]) -> Iterator[None]:
    """End the run if a process is lost within the block, and end all processes with the block.

    Args:
        end: Records the end of the run and returns the exit code. It is called in another thread if this process has
            not ended by itself, because it waits for the lost one.
    """
    left = threading.Event()
    threading.Thread(target=_watch, args=(left, end), name="process watch", daemon=True).start()
    try:
        yield
    finally:
        left.set()
        for child in _children:
            if signals.received():
                with suppress(subprocess.TimeoutExpired):
                    child.wait(GRACE)
            child.kill()
        _children.clear()


def _watch(left: threading.Event, end: Callable[[LostProcess], int]) -> None:
    while not left.wait(0.5):
        lost = lost_process()
        if lost and not left.wait(GRACE) and not signals.received():
            code = end(lost)
            sys.stderr.flush()
            os._exit(code)


def lost_process(seconds: float = 0) -> LostProcess | None:
    """Return the first process that has ended with an error, waiting up to some seconds for it."""
    deadline = time.monotonic() + seconds
    while True:
        for number, child in enumerate(_children, 1):
            if child.poll():
                return LostProcess(number, child.returncode)
        if not _children or time.monotonic() > deadline:
            return None
        time.sleep(0.05)


def release() -> None:
    """Let the other processes end as they like: the training is complete."""
    _children.clear()
