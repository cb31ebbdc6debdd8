"""The settings of a run as hyperparameters of its loggers."""

import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from counterpoise.data.datamodule import TextDataModule
from counterpoise.metrics import registry
from counterpoise.model.module import Classifier
from counterpoise.training.run import RunContext


def log_hyperparameters(run: RunContext, trainer: pl.Trainer, model: Classifier, data: TextDataModule) -> None:
    """Send all settings to every logger of the trainer, before training, so that a failed run has them, too.

    TensorBoard shows hyperparameters beside metrics that are declared with them; these are the test metrics of the
    report's headline. They are NaN until the test. Other loggers show all logged metrics.

    Args:
        run: The run's context.
        trainer: The trainer before `fit`.
        model: The model, which knows its metrics.
        data: The data of all splits.
    """
    settings = hyperparameters(run)
    shown = {metric.name for metric in registry.columns("headline")}
    measured = model.scoring.names(data.splits["test"].targets)
    metrics = {f"test/{name}": math.nan for name in measured if name in shown}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(settings, metrics, step=0)
        else:
            logger.log_hyperparams(settings)


def hyperparameters(run: RunContext) -> dict[str, Any]:
    """Return the resolved configuration by dotted key, and the option of each group, such as strategy: weighted."""
    chosen = {group: option for group, option in run.choices.items() if option and not group.startswith("hydra/")}
    # MLflow stores a key with a slash in a folder, which cannot have the name of another key.
    return {group.replace("/", "."): option for group, option in chosen.items()} | run.flat_config
