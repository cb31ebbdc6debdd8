"""The state of a finished training that the evaluation reads."""

from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl

from counterpoise.balance import Correction, FittedStrategy
from counterpoise.balance.losses.protocol import Loss
from counterpoise.data.datamodule import TextDataModule
from counterpoise.model.module import Classifier
from counterpoise.training.run import RunContext


@dataclass(frozen=True)
class TrainingOutcome:
    """A finished training.

    Args:
        run: The run's context.
        trainer: The trainer after `fit`.
        model: The model after training.
        data: The data of all splits.
        fitted: The fitted strategy.
        loss: Loss of the best checkpoint's epoch.
        correction: Correction of the best checkpoint's epoch, which its logits reflect.
        epochs: Number of finished epochs.
        steps: Number of optimizer steps.
    """

    run: RunContext
    trainer: pl.Trainer
    model: Classifier
    data: TextDataModule
    fitted: FittedStrategy
    loss: Loss
    correction: Correction
    epochs: int
    steps: int

    @property
    def effective_prior(self) -> np.ndarray:
        """Effective prior that the model was trained with, float [C]; single-label with the loss's own offsets."""
        if self.correction.multi_label:
            return self.correction.effective_prior
        return self.loss.effective_prior(self.correction)
