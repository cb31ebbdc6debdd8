"""Resuming a run from `last.ckpt`: exact training state, and the best checkpoint so far."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason
from torch.optim.lr_scheduler import LambdaLR

from counterpoise.data.position import Position, training_position
from counterpoise.training.checkpoints import FIRST_STAGE_CHECKPOINT, copy_checkpoint, load_checkpoint
from counterpoise.training.metrics_log import MetricsLog

STATE = "exact_resume"
"""Key of the state of `ExactResume` in a checkpoint."""


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
        copy_checkpoint(trained, target)


class ExactResume(Callback):
    """Make a resumed run equal to an uninterrupted one, bit for bit on one device, wherever it stopped.

    The position is counted in optimizer steps, so that a run may continue with other devices and micro-batches. Micro-
    batches that have not become an optimizer step are discarded. A validation that was interrupted is repeated. Torch's
    random state is restored, so that dropout repeats.

    Settings of the optimizer, its schedule and early stopping are those of the resumed run. With more epochs, the
    learning rate continues on the schedule of the new length.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None
        self._random_state: dict[str, Any] | None = None
        self._recorded_step = 0
        self._validation_due = False
        self._settings: list[list[dict[str, Any]]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the settings of the optimizers, which Lightning replaces by those of the checkpoint."""
        self._settings = [
            [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]
        for callback in trainer.early_stopping_callbacks if self._restored else ():
            if isinstance(callback, EarlyStopping) and _has_stopped(callback):
                trainer.should_stop = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the random state, after the set-up that draws random numbers itself."""
        if self._restored is not None:
            _restore_random_state(self._restored["random_state"])
            # Callbacks read the latest scores at the end of an epoch, after its validation.
            trainer._logger_connector._callback_metrics.update(self._restored["metrics"])
            self._continue_epoch(trainer, Position(*self._restored["position"]), self._restored["validation_due"])
            for optimizer, settings in zip(trainer.optimizers, self._settings, strict=True):
                _restore_schedule(trainer, optimizer, settings)
            self._restored = None
        self._record(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the epoch start with its first batch. With `max_steps`, Lightning takes it for one to be continued."""
        trainer.fit_loop.epoch_loop.restarting = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the random state after each optimizer step."""
        if trainer.global_step != self._recorded_step:
            self._record(trainer)
        self._validation_due = _is_validation_due(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._validation_due = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._validation_due = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the position after the last optimizer step, and the random state there (of the first device)."""
        if self._restored is not None:
            # A resumed run has not started to train.
            checkpoint[STATE] = self._restored
            return
        if self._random_state is None:
            self._record(trainer)
        elif trainer.global_step != self._recorded_step:
            # The run stopped between the optimizer step and `on_train_batch_end`.
            self._record(trainer)
            self._validation_due = _is_validation_due(trainer)
        checkpoint[STATE] = {
            "position": tuple(training_position(trainer)),
            "validation_due": self._validation_due,
            "random_state": self._random_state,
            "precision": str(trainer.precision),
            "metrics": {name: value.cpu() for name, value in trainer.callback_metrics.items()},
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set Lightning's counters to the position, in micro-batches of this run, and cut the log of metrics there."""
        self._restored = checkpoint[STATE]
        position = Position(*self._restored["position"])
        _set_progress(checkpoint, position, trainer.accumulate_grad_batches, self._restored["validation_due"])
        for logger in trainer.loggers:
            if isinstance(logger, MetricsLog):
                logger.continue_after(position.epoch * position.steps + position.step)
        for callback in trainer.early_stopping_callbacks:
            if isinstance(callback, EarlyStopping) and callback.state_key in checkpoint["callbacks"]:
                checkpoint["callbacks"][callback.state_key]["patience"] = callback.patience

    def _record(self, trainer: pl.Trainer) -> None:
        self._random_state, self._recorded_step = _random_state(), trainer.global_step

    def _continue_epoch(self, trainer: pl.Trainer, position: Position, validation_due: bool) -> None:
        """Continue within an epoch: with a validation that is due, the next batch, or the end of the epoch."""
        loop = trainer.fit_loop.epoch_loop
        follows_validation = position.step > 0 and _is_validation_due(trainer)
        self._validation_due = validation_due and follows_validation
        if position.step == position.steps and not self._validation_due:
            # Lightning would train one more batch, unless the validation has run.
            loop.val_loop._has_run = True
        elif follows_validation:
            # Lightning counts the step before a validation again.
            loop._batches_that_stepped -= 1


def _has_stopped(callback: EarlyStopping) -> bool:
    """Return whether early stopping had ended the resumed run and, by patience, would still end it."""
    by_patience = EarlyStoppingReason.PATIENCE_EXHAUSTED
    by_value = callback.stopping_reason not in (EarlyStoppingReason.NOT_STOPPED, by_patience)
    return by_value or callback.wait_count >= callback.patience


def _is_validation_due(trainer: pl.Trainer) -> bool:
    """Return whether a validation follows the current batch."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def _set_progress(checkpoint: dict[str, Any], position: Position, accumulate: int, validation_due: bool) -> None:
    """Set Lightning's counters in a checkpoint to a position.

    Lightning derives from their differences where a run stopped, in many more cases than matter here: a new epoch, or
    an epoch to be continued after a completed batch, with or without a validation first.
    """
    epoch, step, steps = position
    total = epoch * steps + step
    # A new epoch is the end of the previous one.
    current = step or (steps if epoch else 0)
    loops = checkpoint["loops"]["fit_loop"]
    for counters in loops["epoch_progress"].values():
        counters.update(ready=epoch + (step > 0), started=epoch + (step > 0), processed=epoch, completed=epoch)
    optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    for progress in (optimizer["step"], optimizer["zero_grad"], loops["epoch_loop.scheduler_progress"]):
        _set_counters(progress, total, current)
    batches = loops["epoch_loop.batch_progress"]
    _set_counters(batches, total * accumulate, current * accumulate)
    batches["is_last_batch"] = current == steps
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = total
    validation = loops["epoch_loop.val_loop.batch_progress"]
    _set_counters(validation, 0, 0)
    if validation_due:
        # Lightning recognises an interrupted validation by a batch that was started and not processed.
        validation["total"].update(ready=1, started=1)
    for scheduler in checkpoint["lr_schedulers"]:
        scheduler.update(last_epoch=total, _step_count=total + 1)


def _set_counters(progress: dict[str, Any], total: int, current: int) -> None:
    for name, count in (("total", total), ("current", current)):
        progress[name] = dict.fromkeys(progress[name], count)


def _restore_schedule(trainer: pl.Trainer, optimizer: torch.optim.Optimizer, settings: list[dict[str, Any]]) -> None:
    """Give the optimizer the settings of this run, and the learning rates of its schedule at the current step."""
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        if not isinstance(scheduler, LambdaLR) or scheduler.optimizer is not optimizer:
            continue
        scheduler.base_lrs = [group["initial_lr"] for group in settings]
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        scheduler._last_lr = [lr * factor for lr, factor in zip(scheduler.base_lrs, factors, strict=True)]
        for group, saved, lr in zip(optimizer.param_groups, settings, scheduler._last_lr, strict=True):
            group.update(saved, lr=lr)


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
