"""Checks before training of what would otherwise fail after minutes."""

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from counterpoise.balance import FittedStrategy
from counterpoise.data.batching import optimizer_steps
from counterpoise.data.datamodule import TextDataModule
from counterpoise.errors import UserError, nearest
from counterpoise.metrics.costs import read_costs
from counterpoise.metrics.scoring import MultiLabelScoring
from counterpoise.model.module import Classifier, check_labels
from counterpoise.training.callbacks import BestCheckpoint
from counterpoise.training.checkpoints import load_checkpoint


def check(
    trainer: pl.Trainer, model: Classifier, data: TextDataModule, fitted: FittedStrategy, config: DictConfig
) -> None:
    """Raises UserError for what would fail only after minutes of training."""
    known = [f"val/{name}" for name in model.scoring.names(data.splits["validation"].targets)]
    if config.monitor not in known:
        raise UserError(
            f"monitor={config.monitor}: no such metric of this validation split.{nearest(config.monitor, known)} "
            f"There are {', '.join(known)}"
        )
    if config.probe and config.encoder.unfreeze_at_epoch is not None:
        raise UserError("encoder.unfreeze_at_epoch: the encoder of a probe stays as it is; use train=finetune")
    if fitted.strategy.second_stage is not None:
        fitted.strategy.second_stage.check(fitted.final.correction, model.loss)
        if not any(isinstance(each, BestCheckpoint) for each in trainer.checkpoint_callbacks):
            raise UserError("strategy.second_stage goes on from the best checkpoint: leave callbacks.best as it is")
    if config.costs:
        if isinstance(model.scoring, MultiLabelScoring):
            raise UserError("costs: a matrix of costs is for texts of one class; use decision.* for several labels")
        read_costs(config.costs, data.labels)
    if config.ckpt:
        checkpoint = load_checkpoint(config.ckpt)
        check_labels(checkpoint, data.labels)
        if "optimizer_states" not in checkpoint:
            raise UserError(f"ckpt={config.ckpt} holds the weights alone: resume from the last.ckpt beside it")
    if not trainer.loggers and any(isinstance(each, LearningRateMonitor) for each in trainer.callbacks):  # type: ignore[attr-defined]
        raise UserError("callbacks.learning_rate needs a logger to write to: leave one, or set it to null too")
    _check_length(trainer, data)
    launches_itself = isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)
    if launches_itself and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            "several devices in a sweep: each process would start the sweep anew; use trainer.strategy=ddp_spawn"
        )
    if trainer.world_size > 1 and model.encoder.unfreeze_at_epoch is not None:
        raise UserError("encoder.unfreeze_at_epoch works on one device: DDP fixes what is trained when it starts")


def _check_length(trainer: pl.Trainer, data: TextDataModule) -> None:
    """Raises UserError for a training without an end, and for one that ends before its first validation."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    accumulate = trainer.accumulate_grad_batches
    steps = optimizer_steps(data.sampler(0).size(data.index), data.batch_size, accumulate * trainer.world_size)
    if not steps:
        return  # `BatchOrder` says so
    limit, interval, every = trainer.limit_train_batches, trainer.val_check_interval, trainer.check_val_every_n_epoch
    epoch = int(limit * steps * accumulate) if isinstance(limit, float) else min(limit, steps * accumulate)
    first = interval if isinstance(interval, int) else max(1, int(epoch * interval))
    if every is not None:
        if first > epoch:
            raise UserError(
                f"trainer.val_check_interval={first} is more than the {epoch} batches of an epoch: lower it, or set "
                "trainer.check_val_every_n_epoch=null to count on over epochs"
            )
        first += (every - 1) * epoch
    ends = {
        "trainer.max_steps": (trainer.max_steps, trainer.max_steps * accumulate),
        "trainer.max_epochs": (trainer.max_epochs, (-1 if trainer.max_epochs is None else trainer.max_epochs) * epoch),
    }
    ends = {name: end for name, end in ends.items() if end[1] >= 0}
    if not ends:
        raise UserError(
            "trainer.max_epochs=-1 has no end, and the learning rate goes down to one: set trainer.max_steps"
        )
    for name, (value, last) in ends.items():
        if last < first:
            instead = (
                f"trainer.val_check_interval={last} too"
                if every in (None, 1)
                else f"trainer.check_val_every_n_epoch={max(1, last // epoch)}"
            )
            raise UserError(
                f"{name}={value} ends the training before the first validation, which is after {first} batches"
                + (f": set {instead}" if last else "")
            )
    if trainer.limit_val_batches == 0:
        raise UserError("trainer.limit_val_batches=0: without a validation no checkpoint is the best")
