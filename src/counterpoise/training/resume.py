"""Resuming a run from `last.ckpt`: exact training state, the best checkpoint so far, and a check before training."""

import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from counterpoise.data.batching import trained_batches
from counterpoise.errors import UserError
from counterpoise.model.module import check_labels
from counterpoise.training.checkpoints import FIRST_STAGE_CHECKPOINT, load_checkpoint


def check_resumable(path: str, labels: list[str]) -> None:
    """Raise UserError if training cannot be resumed from the checkpoint at `path` with these labels."""
    checkpoint = load_checkpoint(path)
    check_labels(checkpoint, labels)
    if "optimizer_states" not in checkpoint:
        raise UserError(
            f"ckpt={path} contains model weights only and cannot be resumed. Use checkpoints/last.ckpt of the same run."
        )


class BestCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that keeps the best checkpoint and its score when a run is resumed in another folder.

    Lightning resets the best score in a new folder, so that the first validation after resuming would count as the
    best one.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy the best checkpoints into this run's folder, if they still exist, and restore their scores."""
        best = {Path(path): score for path, score in state_dict["best_k_models"].items()}
        if self.dirpath and all(path.is_file() for path in best):
            moved = {path: str(Path(self.dirpath, path.name)) for path in best}
            if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                for path, target in moved.items():
                    _copy_best(path, Path(target))
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


def _copy_best(best: Path, target: Path) -> None:
    """Copy a best checkpoint as training wrote it, without the head of a second stage."""
    trained = best.with_name(FIRST_STAGE_CHECKPOINT) if "second_stage" in load_checkpoint(best) else best
    if trained != target:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained, target)


class ExactResume(Callback):
    """Make a resumed run equal to an uninterrupted one, bit for bit on one device, wherever it stopped.

    Adds to Lightning's checkpoints what they lack: torch's random state, so that dropout repeats; discarding
    micro-batches that have not become an optimiser step; and repeating a validation that was interrupted.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None
        self._state: dict[str, Any] | None = None
        self._validation_due = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the random state, after the set-up that draws random numbers itself."""
        if self._restored is not None:
            torch.set_rng_state(self._restored["cpu"].cpu())
            if self._restored["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._restored["cuda"].cpu())
            self._restored = None
        self._state = _random_state()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the random state after each optimiser step."""
        if trained_batches(trainer) == batch_idx + 1:
            self._state = _random_state()
        last = batch_idx + 1 == trainer.num_training_batches
        self._validation_due = last and trainer.fit_loop.epoch_loop._should_check_val_epoch()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._validation_due = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._validation_due = False

    def state_dict(self) -> dict[str, Any]:
        """Return the random states of the CPU and of this process's GPU after the last optimiser step."""
        return self._state or _random_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state for `on_train_start`."""
        self._restored = state_dict

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set the progress back to the last optimiser step, or to the start of an unfinished validation."""
        loops = checkpoint["loops"]["fit_loop"]
        batches, validation = (loops["epoch_loop.batch_progress"], loops["epoch_loop.val_loop.batch_progress"])
        done = trained_batches(trainer)
        if not batches["current"]["ready"] == batches["current"]["processed"] == done:
            batches["is_last_batch"] = False
            _set_progress(batches, done)
        elif self._validation_due:
            _set_progress(batches, done)
            _set_progress(validation, 0)
            # Lightning recognises an interrupted validation by a batch that was started and not processed.
            validation["total"].update(ready=1, started=1, processed=0, completed=0)


def _set_progress(progress: dict[str, Any], count: int) -> None:
    """Set Lightning's batch counters of the current epoch to `count` and correct the totals."""
    for stage, counted in progress["current"].items():
        progress["total"][stage] += count - counted
        progress["current"][stage] = count


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}
