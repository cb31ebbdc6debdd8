"""The checkpoint to resume from: when it is saved, and which file a setting of `ckpt` means."""

import logging
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from counterpoise.terminal import console
from counterpoise.training.checkpoints import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT, damage

log = logging.getLogger(__name__)

LARGEST_SHARE = 0.005
"""Largest share of the time that is spent on checkpoints by time."""


class LastCheckpoint(ModelCheckpoint):
    """Save `last.ckpt` after validations, at intervals of time, at the end of training and when it is interrupted.

    Args:
        *options: As of `ModelCheckpoint`.
        minutes: Time between two checkpoints during training; longer if saving takes more than `LARGEST_SHARE` of it.
            None: only after validations.
        **named: As of `ModelCheckpoint`.
    """

    def __init__(self, *options: Any, minutes: float | None = 15.0, **named: Any) -> None:
        super().__init__(*options, **named)
        self.minutes = minutes
        self._saved_at = self._seconds = 0.0
        self._training = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        super().on_train_start(trainer, pl_module)
        self._saved_at, self._training = time.monotonic(), True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        """Save if the time has come; rank 0 and the other processes decide together."""
        super().on_train_batch_end(trainer, pl_module, *batch)
        if self.minutes is None:
            return
        interval = max(60 * self.minutes, self._seconds / LARGEST_SHARE)
        due = time.monotonic() - self._saved_at >= interval
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self._save_now(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if training ended after the last validation, so that a resumed run goes straight to its test."""
        super().on_train_end(trainer, pl_module)
        self._save_now(trainer)
        self._training = False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save during training only. Before, the state may be half restored; after, the model has other weights."""
        if self._training:
            super().on_exception(trainer, pl_module, exception)

    def _save_now(self, trainer: pl.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        started = time.monotonic()
        super()._save_checkpoint(trainer, filepath)
        self._saved_at = time.monotonic()
        self._seconds = self._saved_at - started


def checkpoint_to_resume(ckpt: str, folder: Path) -> str | None:
    """Return the path of the checkpoint that a setting of `ckpt` means, and print which one was found.

    Args:
        ckpt: "last", or the path of a checkpoint. If its name is last.ckpt and it is damaged or missing, the
            previous.ckpt beside it is used.
        folder: Run folder, whose last checkpoint "last" means.

    Returns:
        The path; None if "last" has found no checkpoint, so that the run starts afresh.
    """
    path = folder / "checkpoints" / LAST_CHECKPOINT if ckpt == "last" else Path(ckpt)
    previous = path.with_name(PREVIOUS_CHECKPOINT)
    if ckpt == "last" and not path.exists() and not previous.exists():
        console.print(
            f"ckpt=last: no checkpoint in {path.parent}: training starts from the beginning. To continue a run, repeat "
            "its command with its folder: hydra.run.dir=FOLDER",
            markup=False,
            highlight=False,
        )
        return None
    reason = damage(path) if path.name == LAST_CHECKPOINT else None
    if reason and not damage(previous):
        log.warning("%s: %s; resuming from %s", path, reason, previous)
        path = previous
    if ckpt == "last" and path.exists():
        saved = datetime.fromtimestamp(path.stat().st_mtime)
        console.print(
            f"ckpt=last: resuming from {path}, saved {saved:%Y-%m-%d %H:%M:%S}", markup=False, highlight=False
        )
    return str(path)
