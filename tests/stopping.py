"""Callbacks that stop a training at a chosen moment."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback


class StopAt(Callback):
    """Raise an exception that ends the run, at the n-th call of a hook."""

    def __init__(self, hook: str, n: int) -> None:
        self.left = n
        setattr(self, hook, self.count)

    def count(self, *hooked: Any, **named: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.stop()

    def stop(self) -> None:
        raise SystemExit(3)


class SignalAt(StopAt):
    """Send this process a signal, at the n-th call of a hook.

    devices: The processes that receive it, by number of their device. mark: A file that is written before.
    """

    def __init__(self, hook: str, n: int, number: int, devices: Sequence[int] = (0,), mark: str | None = None) -> None:
        super().__init__(hook, n)
        self.number, self.devices, self.mark = number, devices, mark

    def stop(self) -> None:
        if int(os.environ.get("LOCAL_RANK", 0)) in self.devices:
            if self.mark:
                Path(self.mark).touch()
            os.kill(os.getpid(), self.number)
