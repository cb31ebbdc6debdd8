"""The Lightning Trainer with this project's defaults, and the change from training to evaluation."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, Timer
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from counterpoise.balance.validation import is_number
from counterpoise.errors import UserError, check_whole_number
from counterpoise.training.checkpoints import AtomicCheckpointIO
from counterpoise.training.launcher import ProcessLauncher, release
from counterpoise.training.precision import accelerator_precision
from counterpoise.training.processes import check_launch
from counterpoise.training.signals import StopOnSignal


def build(
    accelerator: str = "auto",
    devices: int | str | Sequence[int] = "auto",
    precision: str = "auto",
    max_time: str | None = None,
    callbacks: Sequence[Callback] | None = None,
    timeout: float = 30,
    **flags: Any,
) -> pl.Trainer:
    """Return a Trainer with atomic checkpoints that stops at signals as `signals` describes.

    Args:
        accelerator: As of `pytorch_lightning.Trainer`.
        devices: As of `pytorch_lightning.Trainer`.
        precision: As of `pytorch_lightning.Trainer`. "auto" (default) selects bf16-mixed on a GPU with bfloat16 units
            and fp32 elsewhere; `choose_precision` also selects bf16-mixed on CPUs.
        max_time: Time limit of the training, days:hours:minutes:seconds; None: no limit.
        callbacks: Lightning callbacks.
        timeout: Minutes that a process waits for the other processes of the run. Defaults to 30.
        **flags: Further arguments of `pytorch_lightning.Trainer`.

    Raises:
        UserError: For flags that would bypass the sampler or make results incomplete, and for invalid values.
    """
    _check_flags(flags)
    if str(precision) in ("16-true", "bf16-true"):
        raise UserError(
            f"trainer.precision={precision} rounds weights, metrics and thresholds: use {precision[:-4]}mixed, whose "
            "matrix products are as fast"
        )
    if not timeout > 0:
        raise UserError(f"trainer.timeout={timeout}: use a number of minutes above 0")
    try:
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,  # type: ignore[arg-type]
            precision=accelerator_precision(accelerator) if precision == "auto" else precision,  # type: ignore[arg-type]
            # Lightning would replace the weighted sampler; BucketBatchSampler distributes rows to processes itself.
            use_distributed_sampler=False,
            plugins=[AtomicCheckpointIO()],
            callbacks=[*_time_limit(max_time), ValidateAtEnd(), *(callbacks or []), StopOnSignal()],
            **flags,
        )
        # Lightning's handler of SIGTERM waits for other processes within the handler. `StopOnSignal` replaces both.
        trainer._signal_connector.register_signal_handlers = _do_nothing  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _do_nothing  # type: ignore[method-assign]
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    check_launch(trainer)
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        strategy._timeout = timedelta(minutes=timeout)
        if isinstance(launcher := strategy.launcher, _SubprocessScriptLauncher):
            strategy._launcher = ProcessLauncher(
                launcher.cluster_environment, launcher.num_processes, strategy.num_nodes
            )
    return trainer


def _do_nothing() -> None:
    """Do nothing; a function of a module, because `ddp_spawn` pickles the Trainer."""


class ValidateAtEnd(Callback):
    """Validate after the last step, wherever a limit ends the training: its weights may be the best ones."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the last epoch, also if it is not a multiple of `check_val_every_n_epoch`."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            _validate_this_epoch(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at `max_steps` as at other limits: Lightning validates when `should_stop` is set."""
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True
        if trainer.should_stop:
            _validate_this_epoch(trainer)


def _validate_this_epoch(trainer: pl.Trainer) -> None:
    if trainer.check_val_every_n_epoch is not None:
        trainer.check_val_every_n_epoch = 1


def _time_limit(max_time: str | None) -> list[Callback]:
    """Return the callback that ends the training after `max_time`. It has to come before `ValidateAtEnd`."""
    if max_time is None:
        return []
    timer = Timer(duration=max_time, interval="step")
    if not timer.time_remaining():
        raise ValueError(f"max_time={max_time} trains nothing")
    return [timer]


def _check_flags(flags: Mapping[str, Any]) -> None:
    """Raise UserError for arguments of Lightning's Trainer that are not supported, or that it does not check itself."""
    if flags.get("overfit_batches"):
        raise UserError("trainer.overfit_batches replaces the sampler: use debug=overfit or loader.train_limit")
    for flag in ("limit_test_batches", "limit_predict_batches"):
        if flags.get(flag) is not None:
            raise UserError(
                f"trainer.{flag} is not supported: results must cover whole splits. For a quick check use debug=fast."
            )
    if (limit := flags.get("limit_val_batches")) not in (None, 0) and (limit != 1 or isinstance(limit, int)):
        raise UserError(
            f"trainer.limit_val_batches={limit} is not supported: it would validate on the longest texts, and "
            "thresholds, early stopping and the best checkpoint would follow them. Use loader.validation_limit"
        )
    if not str(strategy := flags.get("strategy") or "auto").startswith(("auto", "ddp")):
        raise UserError(f"trainer.strategy={strategy} is not supported: use auto, ddp or ddp_spawn")
    if flags.get("reload_dataloaders_every_n_epochs"):
        raise UserError("trainer.reload_dataloaders_every_n_epochs is not supported: the data are read once")
    for flag in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        check_whole_number(f"trainer.{flag}", flags.get(flag), null=True)
    for flag in ("val_check_interval", "limit_train_batches"):
        value = flags.get(flag)
        if value is not None and not (is_number(value) and value > 0):
            raise UserError(f"trainer.{flag}={value}: use a fraction of an epoch above 0, or a number of batches")
    clip = flags.get("gradient_clip_val")
    if clip is not None and not (is_number(clip) and clip >= 0):
        raise UserError(f"trainer.gradient_clip_val={clip}: use a number of 0 or more; 0 or null: no limit")


def leave_process_group() -> None:
    """Wait until all training processes have finished and close their process group, if there is one.

    Evaluation then runs in the process of rank 0 alone, on one device, so that every row counts once.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        release()


def evaluation_trainer(trainer: pl.Trainer) -> pl.Trainer:
    """Return a Trainer on one device; `trainer` itself if it uses one device."""
    if trainer.world_size == 1:
        return trainer
    return pl.Trainer(
        accelerator="cpu" if trainer.strategy.root_device.type == "cpu" else "gpu",
        devices=1,
        precision=trainer.precision,
        # A new process's CSVLogger overwrites its file, and the learning curves with it.
        logger=[logger for logger in trainer.loggers if not isinstance(logger, CSVLogger)],
        callbacks=[trainer.progress_bar_callback] if trainer.progress_bar_callback else None,
        enable_progress_bar=trainer.progress_bar_callback is not None,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def finished_epochs_and_steps(trainer: pl.Trainer) -> tuple[int, int]:
    """Return the numbers of epochs and optimizer steps of a finished training.

    After training in spawned processes, the counters of this process are 0; their logged values are used instead.
    """
    logged = trainer.callback_metrics
    epochs, steps = (int(logged.get(name, 0)) for name in ("epochs", "steps"))
    return trainer.current_epoch or epochs, trainer.global_step or steps
