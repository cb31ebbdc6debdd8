"""How a run stops at a signal.

A signal raises `Stopped` at once, except during training. There it is recorded, and `StopOnSignal` raises between two
batches, so that no checkpoint holds half an optimizer step.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from torch.multiprocessing import ProcessExitedException

from counterpoise import stop_signals
from counterpoise.stop_signals import SIGNALS, Stopped

IMPATIENCE = 1.0
"""Seconds after which a second Ctrl-C ends the process at once. Some launchers deliver one Ctrl-C twice."""

JOIN = 30.0
"""Seconds that spawned processes have after a signal to save and end before their parent kills them."""


class _State:
    """What this process knows about signals.

    Args:
        pid: The process that handles signals; a forked child inherits the handlers.
    """

    def __init__(self, pid: int | None = None) -> None:
        self.pid = pid
        self.received: signal.Signals | None = None
        self.since = 0.0
        self.deferred = False


_state = _State()


@contextmanager
def handled() -> Iterator[None]:
    """Handle the signals that stop a run within the block. Has no effect outside the main thread and if nested."""
    global _state
    if _state.pid == os.getpid() or threading.current_thread() is not threading.main_thread():
        yield
        return
    _state = _State(os.getpid())
    try:
        with stop_signals.handled(_handle):
            yield
    finally:
        _state = _State()


def received() -> signal.Signals | None:
    """Return the first signal that this process has received within `handled`."""
    return _state.received


def defer(deferred: bool = True) -> None:
    """Only record signals from now on, or raise `Stopped` again."""
    _state.deferred = deferred


def check() -> None:
    """Raise `Stopped` if a signal was received. Some callers swallow exceptions that a handler raises."""
    if _state.received:
        raise Stopped(_state.received)


class StopOnSignal(Callback):
    """Defer signals during training and stop between batches, on all devices if any process received one.

    The checkpoint of `callbacks.last` is then saved as after any other exception.
    """

    def __init__(self) -> None:
        self._handlers = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Defer signals. A process that a spawning strategy started handles none until now."""
        self._handlers.enter_context(handled())
        defer()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._stop(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop after the previous batch: its metrics are logged after `on_train_batch_end`."""
        self._stop(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:  # noqa: D102
        self._stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise `Stopped` for a signal since the last batch, which follows the last checkpoint."""
        defer(False)
        self._stop(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """In the parent of spawned processes, pass a signal on to them and wait until they have saved."""
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _MultiProcessingLauncher) or not launcher.procs:
            return
        if isinstance(exception, ProcessExitedException) and (number := exception.exit_code - 128) in SIGNALS:
            _state.received = _state.received or signal.Signals(number)
        if _state.received:
            launcher.kill(_state.received)
            end = time.monotonic() + JOIN
            for process in launcher.procs:
                process.join(max(0.0, end - time.monotonic()))
                process.kill()  # One that waits for a lost process would keep this one from ending.

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the handlers that `on_train_start` replaced."""
        self._handlers.close()

    @staticmethod
    def _stop(trainer: pl.Trainer) -> None:
        """Stop all processes of the training if one of them received a signal."""
        if trainer.world_size > 1:
            number = torch.tensor(float(_state.received or 0), device=trainer.strategy.root_device)
            largest = int(trainer.strategy.reduce(number, reduce_op="max"))
            _state.received = _state.received or (signal.Signals(largest) if largest else None)
        check()


def _handle(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _state.pid:
        # A forked child, such as a worker of a data loader: the parent ends it. Ctrl-C and SIGHUP reach both.
        if number == signal.SIGTERM:
            os._exit(128 + number)
        return
    if number == signal.SIGINT and _state.received and time.monotonic() - _state.since > IMPATIENCE:
        os._exit(128 + number)
    if _state.received is None:
        _state.received, _state.since = signal.Signals(number), time.monotonic()
    if not _state.deferred:
        raise Stopped(_state.received)
