"""Lightning callback that stops a run at a non-finite loss."""

import math
from typing import Any, NamedTuple, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from counterpoise.errors import UserError

SHOWN_ROWS = 8
"""Training examples that the message about a non-finite loss lists."""


class _StepLoss(NamedTuple):
    """Training loss of one batch, and where it occurred."""

    step: int
    epoch: int
    batch: int
    loss: Tensor
    rows: Tensor


class FiniteLoss(Callback):
    """Stop the run at the first non-finite loss and name step and batch.

    All losses since the last check are checked, always before a validation and before a checkpoint is saved. The
    validation loss shows whether the last step made the weights non-finite.

    Args:
        every_n_steps: Batches between two checks. Each check waits for the device. "auto" (default): every batch on a
            CPU, every 50th batch on a GPU.
    """

    def __init__(self, every_n_steps: int | str = "auto") -> None:
        self.every_n_steps = every_n_steps
        self._unchecked: list[_StepLoss] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store the loss, and check all stored losses every `every_n_steps` batches."""
        loss = outputs["loss"].detach()
        self._unchecked.append(_StepLoss(trainer.global_step, trainer.current_epoch, batch_idx, loss, batch["rows"]))
        every = self.every_n_steps
        if every == "auto":
            every = 1 if pl_module.device.type == "cpu" else 50
        if len(self._unchecked) >= int(every):
            self._check(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._check(trainer)

    def on_save_checkpoint(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        loss = trainer.callback_metrics.get("val/loss", torch.zeros(()))
        if not loss.isfinite():
            self._stop(trainer, f"the validation loss is {loss.item()} after step {trainer.global_step}")

    def _check(self, trainer: pl.Trainer) -> None:
        unchecked, self._unchecked = self._unchecked, []
        if not unchecked or bool(torch.stack([entry.loss for entry in unchecked]).isfinite().all()):
            return
        first = next(entry for entry in unchecked if not math.isfinite(entry.loss.item()))
        rows = ", ".join(str(row) for row in first.rows[:SHOWN_ROWS].tolist())
        more = ", ..." if len(first.rows) > SHOWN_ROWS else ""
        self._stop(
            trainer,
            f"the training loss is {first.loss.item()} at step {first.step} (epoch {first.epoch}, batch {first.batch}, "
            f"training examples {rows}{more})",
        )

    @staticmethod
    def _stop(trainer: pl.Trainer, problem: str) -> NoReturn:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                # Keep the last checkpoint with finite weights.
                callback.save_on_exception = False
        raise UserError(
            f"{problem}: lower optim.encoder_lr and optim.head_lr, limit the class weights (strategy.max_ratio), or "
            "train in fp32 (trainer.precision=32-true)"
        )
