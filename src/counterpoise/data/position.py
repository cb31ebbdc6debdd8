"""The position of a training within its data, counted in optimizer steps, and the settings it depends on."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl

from counterpoise.errors import UserError

EARLIER = {"encoder.long_texts": "truncate"}
"""Settings that checkpoints of earlier versions do not have, and what these versions did."""


class Position(NamedTuple):
    """Position of a training.

    Args:
        epoch: The epoch, starting at 0.
        step: Completed optimizer steps of the epoch. Equal to `steps` only while the end of the epoch, with its
            validation and its callbacks, is still due.
        steps: Optimizer steps of each epoch.
    """

    epoch: int
    step: int
    steps: int

    @property
    def next(self) -> tuple[int, int]:
        """The epoch of the next optimizer step, and the completed steps of that epoch."""
        return (self.epoch + 1, 0) if self.step == self.steps else (self.epoch, self.step)


def training_position(trainer: pl.Trainer) -> Position:
    """Return the position after the last completed optimizer step."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    step = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.current.completed
    steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    epoch = max(0, epochs.started - 1)
    if step == steps and epochs.processed > epoch:
        return Position(epoch + 1, 0, steps)
    return Position(epoch, step, steps)


def check_same_order(saved: Mapping[str, Any], now: Mapping[str, Any], ckpt: str) -> None:
    """Raise UserError if a run would train on other examples than the checkpoint's run after the same position.

    Args:
        saved: `TextDataModule.order` of the checkpoint's run.
        now: The same of this run.
        ckpt: Path of the checkpoint, for the message.
    """
    settings = now["settings"]
    before = EARLIER | saved["settings"]
    changed = [f"{key}={settings[key]} (was {old})" for key, old in before.items() if settings[key] != old]
    if changed:
        raise UserError(
            f"ckpt={ckpt} cannot be resumed with other settings of the training data: {', '.join(changed)}. Use the "
            "old values, or start a new run"
        )
    # Checkpoints of earlier versions have no digest of the tokens.
    if now["examples"] != saved["examples"] or saved.get("tokens", now["tokens"]) != now["tokens"]:
        raise UserError(
            f"ckpt={ckpt} cannot be resumed with other training examples ({now['number']}, was {saved['number']}): "
            "data.* must give the same rows, texts and labels, and encoder.name the same tokens"
        )
    if now["steps"] != saved["steps"]:
        raise UserError(
            f"ckpt={ckpt} cannot be resumed with {now['steps']} optimizer steps per epoch (was {saved['steps']}): use "
            "the old values of trainer.limit_train_batches (micro-batches) and strategy.sampler"
        )
    if now["drawn"] != saved["drawn"]:
        raise UserError(
            f"ckpt={ckpt} was saved within epoch {saved['epoch']}, for which strategy.sampler now draws other "
            f"examples: {now['sampler']} (was {saved['sampler']}). Use the old strategy and, with a schedule, the old "
            "trainer.max_epochs"
        )


def array_digest(*arrays: np.ndarray) -> str:
    """Return a digest of integer arrays."""
    digest = hashlib.blake2b(digest_size=16)
    for values in arrays:
        digest.update(np.ascontiguousarray(values, np.int64).data)
    return digest.hexdigest()
