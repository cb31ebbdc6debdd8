"""The progress of training: a bar in a terminal, a line every so often elsewhere, and an estimate of the run's time."""

import math
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from counterpoise.data.datamodule import TextDataModule
from counterpoise.model.module import Classifier
from counterpoise.terminal import LINE_SECONDS, console, duration

SKIPPED_STEPS = 3
"""First steps that are not measured: they allocate memory and, on a GPU, select kernels."""
MEASURED_SECONDS = 5.0
"""Seconds of training that the estimate is measured on."""
FORWARD = 1 / 3
"""Time of evaluating a text relative to training on it: the forward pass without the backward pass."""
TRAIN_SAMPLE = 500
"""Training texts that are evaluated after training."""


class Progress(RichProgressBar):
    """Lightning's progress bar with the mean training loss of the epoch, and an estimate of the time of the run.

    The bar reads the loss only when a step is logged. Logging with `prog_bar=True` would synchronise with the device
    in every step. Where output is not a terminal, it prints a line instead of a bar.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loss: float | None = None
        self._last_logged = 0
        self._seconds, self._steps, self._since = 0.0, 0, 0.0
        self._first_step, self._estimated = 0, False
        self._line_at = 0.0
        if not console.is_terminal:
            self._refresh_rate = 0  # no bar

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._since = self._line_at = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the step, and print the estimate or a line when it is time."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        now, steps = time.monotonic(), trainer.global_step - self._first_step
        if steps > SKIPPED_STEPS:
            self._seconds, self._steps = self._seconds + now - self._since, steps - SKIPPED_STEPS
        self._since = now
        if trainer.is_global_zero and self._steps and self._seconds >= MEASURED_SECONDS:
            if not self._estimated:
                self._estimated = True
                self._print(self._estimate(trainer))
            elif self.is_disabled and now - self._line_at >= LINE_SECONDS:
                self._line_at = now
                self._print(self._line(trainer, pl_module, batch_idx))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the validation out of the time of a step."""
        super().on_validation_end(trainer, pl_module)
        self._since = time.monotonic()

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the values beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        logged = trainer.global_step // max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if logged != self._last_logged and isinstance(pl_module, Classifier):
            self._last_logged, self._loss = logged, pl_module.mean_loss()
        shown = {name: value for name, value in metrics.items() if name != "v_num"}
        return shown if self._loss is None else shown | {"mean loss": self._loss}

    def _get_train_description(self, current_epoch: int) -> str:
        """Return "Epoch 1 of 3", as wide as the description of a validation."""
        last = self.trainer.max_epochs
        text = f"Epoch {current_epoch + 1}" + (f" of {last}" if last is not None and last > 0 else "")
        return text.ljust(len(self.validation_description))

    def _print(self, line: str) -> None:
        # Only the console of an open bar prints above the bar instead of behind it.
        (self.progress.console if self.progress else console).print(line, highlight=False)

    def _estimate(self, trainer: pl.Trainer) -> str:
        step, left = self._seconds / self._steps, seconds_left(trainer, self._seconds / self._steps)
        early = ", less if it stops early" if trainer.early_stopping_callbacks and (trainer.max_epochs or 2) > 1 else ""
        rate = f"{step:.2g} s a step" if step >= 1 else f"{1 / step:.2g} steps a second"
        return f"about {duration(left)} until the results, evaluation included ({rate}{early})"

    def _line(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch_idx: int) -> str:
        loss = pl_module.mean_loss() if isinstance(pl_module, Classifier) else None
        epoch = self._get_train_description(trainer.current_epoch).strip()
        return (
            f"{epoch}, batch {batch_idx + 1:,} of {self.total_train_batches:,}: "
            + (f"mean loss {loss:.3f}, " if loss is not None else "")
            + f"about {duration(seconds_left(trainer, self._seconds / self._steps))} left"
        )


def seconds_left(trainer: pl.Trainer, step: float) -> float:
    """Return the estimated seconds until a run ends: the remaining steps, validations, and the evaluation after them.

    Args:
        trainer: The trainer, during training.
        step: Seconds of an optimizer step.
    """
    steps = max(0, trainer.estimated_stepping_batches - trainer.global_step)
    data = trainer.datamodule  # type: ignore[attr-defined]
    if math.isinf(steps) or not isinstance(data, TextDataModule):
        return step * (0 if math.isinf(steps) else steps)
    batches = trainer.val_check_batch or trainer.num_training_batches
    between = batches * (trainer.check_val_every_n_epoch or 1) / trainer.accumulate_grad_batches
    validations = math.ceil(steps / max(1.0, between))
    held_out = len(data.splits["validation"])
    texts = held_out * (validations + 1) + len(data.splits["test"]) + max(TRAIN_SAMPLE, held_out)
    return step * (steps + FORWARD * texts / data.batch_size)
