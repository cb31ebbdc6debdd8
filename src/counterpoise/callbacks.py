"""Lightning callbacks: progress, a stop at a loss that is not finite, random numbers that resume."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from torch import Tensor

from counterpoise.errors import UserError


class Progress(RichProgressBar):
    """Lightning's progress bar without the version number of a logger."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Returns what stands beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}


class FiniteLoss(Callback):
    """Stops the run at the first loss that is not finite, naming step and batch.

    every_n_steps: how often losses are looked at; each look waits for the device, so "auto" is every batch on a CPU and
    every 50th on a GPU. All losses since the last look are checked, and always before a validation.
    """

    def __init__(self, every_n_steps: int | str = "auto") -> None:
        self.every_n_steps = every_n_steps
        self._pending: list[tuple[int, int, int, Tensor, Tensor]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the loss and looks when it is time."""
        self._pending.append(
            (trainer.global_step, trainer.current_epoch, batch_idx, outputs["loss"].detach(), batch["rows"])
        )
        every = self.every_n_steps
        if every == "auto":
            every = 1 if pl_module.device.type == "cpu" else 50
        if len(self._pending) >= int(every):
            self._look(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._look(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._look(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        pending, self._pending = self._pending, []
        if not pending or bool(torch.stack([entry[3] for entry in pending]).isfinite().all()):
            return
        step, epoch, batch_idx, loss, rows = next(entry for entry in pending if not math.isfinite(entry[3].item()))
        for checkpoint in trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint):
                # What has been saved is better than weights that are not numbers.
                checkpoint.save_on_exception = False
        raise UserError(
            f"the training loss became {loss.item()} at step {step} (epoch {epoch}, batch {batch_idx}, training "
            f"examples {', '.join(str(row) for row in rows[:8].tolist())}{', ...' if len(rows) > 8 else ''}): "
            "lower optim.encoder_lr and optim.head_lr, cap the class weights (strategy.max_ratio), or train in fp32 "
            "(trainer.precision=32-true)"
        )


class RandomState(Callback):
    """Keeps torch's random state in the checkpoint, so that a resumed run drops out what the uninterrupted one would.

    On one device a resumed run then equals the uninterrupted one bit for bit.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the random state of the CPU and of each GPU."""
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": gpus}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state for the start of training: setting up draws random numbers of its own."""
        self._restored = state_dict

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the state once."""
        if self._restored is None:
            return
        torch.set_rng_state(self._restored["cpu"].cpu())
        if self._restored["cuda"] and len(self._restored["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in self._restored["cuda"]])
        self._restored = None
