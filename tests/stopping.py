"""A callback that stops a training at a chosen moment."""

from typing import Any

from pytorch_lightning.callbacks import Callback


class StopAt(Callback):
    """Stop the run like a signal, at the n-th call of a hook."""

    def __init__(self, hook: str, n: int) -> None:
        self.left = n
        setattr(self, hook, self.count)

    def count(self, *hooked: Any, **named: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise SystemExit(3)
