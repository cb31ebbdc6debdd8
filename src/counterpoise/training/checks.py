"""Checks before training for settings that would otherwise fail after minutes."""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor, StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from counterpoise.balance import FittedStrategy
from counterpoise.balance.counts import ClassIndex
from counterpoise.data.batching import optimizer_steps
from counterpoise.data.datamodule import TextDataModule
from counterpoise.errors import UserError, nearest
from counterpoise.metrics import registry
from counterpoise.metrics.costs import read_costs
from counterpoise.model.module import Classifier
from counterpoise.training.ignored_settings import warn_of_ignored_settings
from counterpoise.training.label_texts import NAMES
from counterpoise.training.monitors import check_monitors, set_modes
from counterpoise.training.processes import check_memory
from counterpoise.training.resume import BestCheckpoint
from counterpoise.training.resume_checks import check_resumable
from counterpoise.training.run import RunContext


def check_before_data(config: DictConfig) -> None:
    """Choose the modes of callbacks, and raise UserError for settings that are wrong whatever the data are."""
    set_modes(config.callbacks)
    known = [f"val/{metric.name}" for task in registry.TASKS for metric in registry.select(task)]
    if config.monitor not in known:
        raise UserError(f"monitor={config.monitor}: no such metric.{_choice(config.monitor, known)}")
    for key, also in (("ckpt", ()), ("costs", ()), ("label_texts", (NAMES,)), ("decision.file", ())):
        value = OmegaConf.select(config, key)
        if isinstance(value, str) and value not in also and not Path(value).is_file():
            raise UserError(f"{key}={value}: no such file")


def check_metrics(config: DictConfig, data: TextDataModule) -> None:
    """Raise UserError for a monitored metric or costs that do not fit the data."""
    known = _validation_metrics(config, data)
    if config.monitor not in known:
        raise UserError(
            f"monitor={config.monitor}: no such metric of this validation split.{_choice(config.monitor, known)}"
        )
    if config.costs:
        if data.task == "multi_label":
            raise UserError("costs: a cost matrix is for single-label data; for several labels use decision.*")
        read_costs(config.costs, data.labels)


def _validation_metrics(config: DictConfig, data: TextDataModule) -> list[str]:
    """Return the names of the metrics of the validation split, such as "val/macro_f1"."""
    support = ClassIndex.from_targets(data.splits["validation"].targets, len(data.labels)).counts
    bounds = instantiate(config.buckets)
    metrics = registry.select("multi_label" if data.task == "multi_label" else "single_label")
    return [f"val/{each.name}" for each in metrics if each.exists(support, data.counts, bounds)]


def _choice(monitor: str, known: Sequence[str]) -> str:
    return f"{nearest(monitor, known)} Available: {', '.join(dict.fromkeys(known))}"


def check_before_training(
    run: RunContext, trainer: pl.Trainer, model: Classifier, data: TextDataModule, fitted: FittedStrategy
) -> None:
    """Raise UserError for settings that would fail only during or after training."""
    config = run.config
    check_monitors(trainer.callbacks, _validation_metrics(config, data))  # type: ignore[attr-defined]
    _check_second_stage(trainer, model, fitted)
    _check_weight_averaging(trainer)
    if not trainer.loggers and any(isinstance(each, LearningRateMonitor) for each in trainer.callbacks):  # type: ignore[attr-defined]
        raise UserError("callbacks.learning_rate needs a logger: add one, or set callbacks.learning_rate=null")
    _check_devices(run, trainer, config)
    check_memory(trainer, model)
    steps = steps_per_epoch(trainer, data)
    _check_length(trainer, steps * trainer.accumulate_grad_batches)
    if config.ckpt:
        check_resumable(config.ckpt, trainer, model, data, steps)
    if run.rank == 0:
        warn_of_ignored_settings(run, data, fitted)


def _check_second_stage(trainer: pl.Trainer, model: Classifier, fitted: FittedStrategy) -> None:
    second_stage = fitted.strategy.second_stage
    if second_stage is None:
        return
    second_stage.check(fitted.final.correction, model.loss, model.head)
    if not any(isinstance(each, BestCheckpoint) for each in trainer.checkpoint_callbacks):
        raise UserError("strategy.second_stage starts from the best checkpoint and needs callbacks.best")


def _check_weight_averaging(trainer: pl.Trainer) -> None:
    """Raise UserError for a callback whose averaged weights would not be tested.

    Lightning 2.6 does not write the averages into checkpoints with `save_weights_only`, or writes them after the last
    validation.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, (WeightAveraging, StochasticWeightAveraging)):
            raise UserError(
                f"callbacks: {type(callback).__name__} has no effect, because the best checkpoint, which is tested, "
                "holds weights that are not averaged; remove the callback"
            )


def _check_devices(run: RunContext, trainer: pl.Trainer, config: DictConfig) -> None:
    unfreezes = config.encoder.unfreeze_at_epoch is not None
    if unfreezes and config.probe:
        raise UserError("encoder.unfreeze_at_epoch: the encoder of a linear probe stays frozen; use train=finetune")
    if unfreezes and trainer.world_size > 1:
        raise UserError("encoder.unfreeze_at_epoch needs one device: DDP fixes the trained parameters at its start")
    if run.sweep and isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        raise UserError(
            "several devices in a sweep: each process would start the sweep again; use trainer.strategy=ddp_spawn"
        )


def steps_per_epoch(trainer: pl.Trainer, data: TextDataModule) -> int:
    """Return the number of optimizer steps of an epoch.

    Raises:
        UserError: An epoch or the time between validations is not a whole number of optimizer steps.
    """
    accumulate, limit = trainer.accumulate_grad_batches, trainer.limit_train_batches
    batches = optimizer_steps(data.sampler(0).size(data.index), data.batch_size) * accumulate
    limited = int(limit * batches) if isinstance(limit, float) else min(limit, batches)
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return 1
    interval = trainer.val_check_interval
    if isinstance(interval, float):
        interval = max(1, int(limited * interval))
    for name, value, number in (
        ("limit_train_batches", limit, limited),
        ("val_check_interval", trainer.val_check_interval, interval),
    ):
        if number % accumulate:
            raise UserError(
                f"trainer.{name}={value} is {number} batches, which is not a multiple of "
                f"trainer.accumulate_grad_batches={accumulate}: it would divide an optimizer step. Use a multiple such "
                f"as {-(-number // accumulate) * accumulate}"
            )
    return limited // accumulate


def _check_length(trainer: pl.Trainer, batches: int) -> None:
    """Raise UserError for a training without an end, without steps, or without a validation.

    Args:
        trainer: The trainer.
        batches: Micro-batches of an epoch.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    if trainer.limit_val_batches == 0:
        raise UserError("trainer.limit_val_batches=0: the best checkpoint is chosen by validation")
    limits = {"trainer.max_steps": trainer.max_steps, "trainer.max_epochs": trainer.max_epochs}
    ends = {name: limit for name, limit in limits.items() if limit is not None and limit >= 0}
    if not ends:
        raise UserError(
            "trainer.max_epochs=-1: training never ends, and the learning-rate schedule needs an end; set "
            "trainer.max_steps"
        )
    for name, limit in ends.items():
        if limit == 0:
            raise UserError(f"{name}={limit} trains nothing: use a number of 1 or more")
    _check_interval(trainer, batches)


def _check_interval(trainer: pl.Trainer, batches: int) -> None:
    """Raise UserError for a time between validations that exceeds the batches of an epoch."""
    interval = trainer.val_check_interval
    if isinstance(interval, int) and trainer.check_val_every_n_epoch is not None and interval > batches:
        raise UserError(
            f"trainer.val_check_interval={interval} exceeds the {batches} batches of an epoch: lower it, or set "
            "trainer.check_val_every_n_epoch=null to count batches across epochs"
        )
