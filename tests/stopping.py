"""Callbacks that stop a training at a chosen moment."""

import os
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
    """Send this process a signal, at the n-th call of a hook."""

    def __init__(self, hook: str, n: int, number: int) -> None:
        super().__init__(hook, n)
        self.number = number

    def stop(self) -> None:
        os.kill(os.getpid(), self.number)
