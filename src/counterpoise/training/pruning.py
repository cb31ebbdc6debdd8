"""Lightning callback that stops a trial of `sweep=optuna` whose validation scores are worse than those of others."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from counterpoise.errors import UserError
from counterpoise.sweep.trial_storage import DATABASE, STUDY, open_storage
from counterpoise.training.trackers import mark_pruned

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.pruners import BasePruner


class TrialPruned(Exception):  # noqa: N818 - it is no error
    """The run was stopped, because its scores were worse than those of other trials."""


class TrialPruning(Callback):
    """Report each validation to the trial in the sweep's database, and stop the run if the pruner says so.

    Does nothing outside a search. The last validation is reported and does not stop the run, which has ended.

    Args:
        folder: Run folder, inside the folder of the sweep.
        trial: Number of the trial; None outside a sweep.
        monitor: Score that is compared.
        pruner: Decides whether a trial is stopped.
    """

    def __init__(self, folder: str, trial: int | None, monitor: str, pruner: "BasePruner") -> None:
        self.sweep_dir, self.number, self.score, self.pruner = Path(folder).parent, trial, monitor, pruner
        self._trial: Trial | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the trial."""
        if self.number is None or not trainer.is_global_zero:
            return
        if not (self.sweep_dir / DATABASE).is_file():
            raise UserError(f"callbacks.pruning: {self.sweep_dir / DATABASE} is missing; set callbacks.pruning=null")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # a repeated trial reports its steps again
        study = optuna.load_study(study_name=STUDY, storage=open_storage(self.sweep_dir), pruner=self.pruner)
        identifier = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, self.number)
        self._trial = optuna.Trial(study, identifier)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the score.

        Raises:
            TrialPruned: The trial is stopped.
        """
        if self.number is None or trainer.sanity_checking:
            return
        score, stop = float(trainer.callback_metrics[self.score]), False
        if self._trial is not None:
            # The share of the training, because trials may differ in batch size and epochs.
            share = round(1000 * trainer.global_step / trainer.estimated_stepping_batches)
            self._trial.report(score, share)
            stop = trainer.global_step < trainer.estimated_stepping_batches and self._trial.should_prune()
        if trainer.strategy.broadcast(stop):
            reason = f"{self.score} {score:.4f} after {trainer.global_step:,} steps, worse than other trials"
            mark_pruned(trainer.loggers, reason)
            raise TrialPruned(reason)
