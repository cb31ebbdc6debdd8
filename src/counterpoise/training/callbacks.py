"""Lightning callbacks: progress, a stop at a loss that is not finite, a resumption that is exact."""

import math
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from torch import Tensor

from counterpoise.data.batching import trained_batches
from counterpoise.errors import UserError
from counterpoise.training.checkpoints import load_checkpoint

FIRST_STAGE = "first_stage.ckpt"
"""The best checkpoint as training left it, beside the one that a second stage made of it."""


class Progress(RichProgressBar):
    """Lightning's progress bar with the loss of the last step that was logged, without the version of a logger.

    A value that is logged with `prog_bar=True` makes the host wait for the device in every step.
    """

    _loss: float | None = None
    _looked = 0

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Returns what stands beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        logged = trainer.global_step // max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if logged != self._looked and "train/loss_step" in trainer.callback_metrics:
            self._looked, self._loss = logged, trainer.callback_metrics["train/loss_step"].item()
        shown = {name: value for name, value in metrics.items() if name != "v_num"}
        return shown if self._loss is None else shown | {"train/loss": self._loss}


class FiniteLoss(Callback):
    """Stops the run at the first loss that is not finite, naming step and batch.

    every_n_steps: how often losses are looked at; each look waits for the device, so "auto" is every batch on a CPU and
    every 50th on a GPU. All losses since the last look are checked, and always before a validation and a checkpoint;
    the validation's loss tells whether the last step of all spoilt the weights.
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

    def on_save_checkpoint(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._look(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        loss = trainer.callback_metrics.get("val/loss", torch.zeros(()))
        if not loss.isfinite():
            self._stop(trainer, f"the validation loss became {loss.item()} after step {trainer.global_step}")

    def _look(self, trainer: pl.Trainer) -> None:
        pending, self._pending = self._pending, []
        if not pending or bool(torch.stack([entry[3] for entry in pending]).isfinite().all()):
            return
        step, epoch, batch_idx, loss, rows = next(entry for entry in pending if not math.isfinite(entry[3].item()))
        self._stop(
            trainer,
            f"the training loss became {loss.item()} at step {step} (epoch {epoch}, batch {batch_idx}, training "
            f"examples {', '.join(str(row) for row in rows[:8].tolist())}{', ...' if len(rows) > 8 else ''})",
        )

    @staticmethod
    def _stop(trainer: pl.Trainer, what: str) -> NoReturn:
        for checkpoint in trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint):
                # What has been saved is better than weights that are not numbers.
                checkpoint.save_on_exception = False
        raise UserError(
            f"{what}: lower optim.encoder_lr and optim.head_lr, cap the class weights (strategy.max_ratio), or train "
            "in fp32 (trainer.precision=32-true)"
        )


class BestCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that takes the best so far along when a run is resumed in another folder.

    Lightning forgets the best score then: the first validation would be the best, however bad.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copies the best checkpoints into this run's folder, where they are still there.

        Those that training left: a second stage has put others in their place.
        """
        best = {Path(path): score for path, score in state_dict["best_k_models"].items()}
        if self.dirpath and all(path.is_file() for path in best):
            moved = {path: str(Path(self.dirpath, path.name)) for path in best}
            if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                for path, target in moved.items():
                    _restore(path, Path(target))
            state_dict = {
                **state_dict,
                "dirpath": self.dirpath,
                "best_k_models": {moved[path]: score for path, score in best.items()},
                **{
                    key: moved.get(Path(state_dict[key]), "")
                    for key in ("best_model_path", "kth_best_model_path", "last_model_path")
                },
            }
        super().load_state_dict(state_dict)


def _restore(best: Path, target: Path) -> None:
    """Copies a best checkpoint as training left it; in its own folder, takes back what a second stage made of it."""
    trained = best.with_name(FIRST_STAGE) if "second_stage" in load_checkpoint(best) else best
    if trained != target:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained, target)


class ExactResume(Callback):
    """Makes a run that is resumed equal the uninterrupted one, bit for bit on one device, wherever it was stopped.

    What Lightning's checkpoints lack: torch's random state, so that the same units drop out; the gradients of
    micro-batches that are not yet a step, which are taken back; and a validation that was cut short, which starts anew.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None
        self._state: dict[str, Any] | None = None
        self._validation_due = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the random state, after the setting up that draws random numbers of its own."""
        if self._restored is not None:
            torch.set_rng_state(self._restored["cpu"].cpu())
            if self._restored["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._restored["cuda"].cpu())
            self._restored = None
        self._state = _random_state()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the random state after each optimiser step."""
        if trained_batches(trainer) == batch_idx + 1:
            self._state = _random_state()
        ends = batch_idx + 1 == trainer.num_training_batches
        self._validation_due = ends and trainer.fit_loop.epoch_loop._should_check_val_epoch()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._validation_due = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._validation_due = False

    def state_dict(self) -> dict[str, Any]:
        """Returns the random state after the last optimiser step, of the CPU and of the GPU of this process."""
        return self._state or _random_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state for `on_train_start`."""
        self._restored = state_dict

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Takes back what Lightning counted since the last optimiser step, or of an unfinished validation."""
        loops = checkpoint["loops"]["fit_loop"]
        batches, validation = loops["epoch_loop.batch_progress"], loops["epoch_loop.val_loop.batch_progress"]
        done = trained_batches(trainer)
        if not batches["current"]["ready"] == batches["current"]["processed"] == done:
            batches["is_last_batch"] = False
            _set_progress(batches, done)
        elif self._validation_due:
            _set_progress(batches, done)
            _set_progress(validation, 0)
            # Started and not processed: so Lightning knows a validation that was cut short.
            validation["total"].update(ready=1, started=1, processed=0, completed=0)


def _set_progress(progress: dict[str, Any], count: int) -> None:
    for stage, counted in progress["current"].items():
        progress["total"][stage] += count - counted
        progress["current"][stage] = count


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}
