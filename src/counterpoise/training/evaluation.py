"""Evaluation after training: second stage, test of the best checkpoint, calibration and decision costs."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from scipy.special import softmax

from counterpoise.balance import FittedStrategy
from counterpoise.balance.counts import Targets
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.text_lengths import length_percentiles, truncated_fraction
from counterpoise.metrics.calibration import Calibration, PriorShift, prior_correction
from counterpoise.metrics.calibration import measure as calibrate
from counterpoise.metrics.costs import least_cost, mean_cost, read_costs
from counterpoise.model.module import Classifier
from counterpoise.model.second_stage import SecondStageResult
from counterpoise.terminal import console
from counterpoise.training.checkpoints import best_checkpoint, load_checkpoint
from counterpoise.training.outcome import TrainingOutcome
from counterpoise.training.results import RunResults
from counterpoise.training.run import RunContext
from counterpoise.training.second_stage_run import run_second_stage
from counterpoise.training.trainer import evaluation_trainer, finished_epochs_and_steps

log = logging.getLogger(__name__)

TRAIN_SAMPLE = 500
"""Training examples that are evaluated at least, to compare training and validation scores."""


class SplitLogits(NamedTuple):
    """Logits, float32 [N, C], and targets of a split, in the order of its rows."""

    logits: np.ndarray
    targets: Targets


def evaluate_best_checkpoint(
    run: RunContext, trainer: pl.Trainer, model: Classifier, data: TextDataModule, fitted: FittedStrategy
) -> RunResults | None:
    """Apply the second stage, test the best checkpoint and calibrate its probabilities.

    Args:
        run: The run's context.
        trainer: The trainer after `fit`.
        model: The model after training; it holds the weights of the tested checkpoint afterwards.
        data: The data of all splits.
        fitted: The fitted strategy.

    Returns:
        The results, or None after `debug=fast`, which measures nothing.
    """
    outcome, best = finished_training(run, trainer, model, data, fitted)
    prior = prior_correction(outcome.loss, outcome.correction)
    second_stage: SecondStageResult | None = None
    if best and fitted.strategy.second_stage is not None:
        second_stage, best = run_second_stage(outcome, best, prior.kind)
        shift = np.zeros(len(data.labels)) if second_stage.shift is None else second_stage.shift
        prior = PriorShift(second_stage.shift_quality, shift)
    tester = evaluation_trainer(trainer)
    tester.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    if tester.fast_dev_run:  # type: ignore[attr-defined]
        console.print("one batch of training, validation and test ran; nothing is measured")
        return None
    train_rows = max(TRAIN_SAMPLE, len(data.splits["validation"]))
    evaluated = {
        "test": SplitLogits(_in_row_order(model.test_outputs), data.splits["test"].targets),
        "validation": _predict(tester, model, data, "validation"),
        "train_sample": _predict(tester, model, data, "train", limit=train_rows),
    }
    scoring = model.scoring
    decided = scoring.decide(evaluated["test"].logits) if scoring.multi_label else None
    calibration = calibrate(
        data.labels, data.counts, evaluated["validation"], evaluated["test"], prior, scoring.bounds, decided
    )
    metrics = _metrics(outcome, evaluated) | {"best_checkpoint": str(best) if best else None}
    if second_stage:
        metrics["second_stage"] = second_stage.settings
    if calibration:
        metrics["calibration"] = calibration.summary
    cheapest = None
    if run.config.costs and calibration:
        cheapest, metrics["costs"] = _least_cost(outcome, evaluated["test"], calibration)
    return _results(outcome, evaluated, metrics, decided, cheapest, calibration)


def finished_training(
    run: RunContext, trainer: pl.Trainer, model: Classifier, data: TextDataModule, fitted: FittedStrategy
) -> tuple[TrainingOutcome, Path | None]:
    """Return the outcome of a training and the path of its best checkpoint (None after `debug=fast`).

    Loss and correction are those of the epoch of the best checkpoint, or of the last epoch without one. The model gets
    this loss: `test/loss_weighted` is a loss of the tested weights.
    """
    best = best_checkpoint(trainer)
    epochs, steps = finished_epochs_and_steps(trainer)
    last = max(epochs - 1, 0)
    tested = fitted.final
    if fitted.changes:
        tested = fitted.at_epoch(load_checkpoint(best)["epoch"] if best else last)
        model.loss = tested.loss
        if best:
            warn_about_schedule(fitted, last=last, best=tested.epoch)
    return TrainingOutcome(run, trainer, model, data, fitted, tested.loss, tested.correction, epochs, steps), best


def warn_about_schedule(fitted: FittedStrategy, last: int, best: int) -> None:
    """Warn if a schedule's correction was not at full strength in the best checkpoint.

    Args:
        fitted: The fitted strategy, with a schedule.
        last: Last epoch of the training.
        best: Epoch of the best checkpoint.
    """
    if fitted.strength(last) < 1:
        log.warning(
            "training ended after epoch %d, before the schedule reached full strength: raise "
            "callbacks.early_stopping.patience, or set callbacks.early_stopping=null",
            last,
        )
    elif fitted.strength(best) < 1:
        strengths = ", ".join(f"epoch {e}: {strength:.2g}" for e, strength in enumerate(fitted.strengths[: last + 1]))
        log.warning(
            "the best checkpoint is from epoch %d, before the schedule reached full strength (%s)", best, strengths
        )


def _predict(
    tester: pl.Trainer, model: Classifier, data: TextDataModule, split: str, limit: int | None = None
) -> SplitLogits:
    loader = data.evaluation_dataloader(split, limit)
    outputs: Any = tester.predict(model, loader, weights_only=True)
    return SplitLogits(_in_row_order(outputs), loader.dataset.targets)  # type: ignore[attr-defined]


def _in_row_order(outputs: list[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
    """Return logits, float32 [N, C], in row order. Empties `outputs`, so that memory holds the logits once."""
    logits = np.empty((sum(len(rows) for rows, _ in outputs), outputs[0][1].shape[1]), np.float32)
    while outputs:
        rows, block = outputs.pop()
        logits[rows.cpu().numpy()] = block.cpu().numpy()
    return logits


def _metrics(outcome: TrainingOutcome, evaluated: dict[str, SplitLogits]) -> dict[str, Any]:
    """Return the scores of the splits and facts about strategy, data and training, as `metrics.json` holds them."""
    scoring, correction = outcome.model.scoring, outcome.fitted.final.correction
    metrics: dict[str, Any] = {name: scoring.measure(*split) for name, split in evaluated.items()}
    if scoring.multi_label:
        metrics["test_at_half"] = scoring.measure(*evaluated["test"], threshold=0.5)
    return metrics | {
        "probe": outcome.run.config.probe,
        "precision": str(outcome.trainer.precision),
        "strategy": {
            "name": outcome.run.choices.get("strategy"),
            "weight_ratio": correction.weight_ratio,
            "effective_sample_size": correction.effective_sample_size,
            "epoch_size": correction.epoch_size,
        },
        "data": {
            name: {
                "examples": len(split),
                "dropped": split.split.dropped,
                "unseen": split.unseen,
                "tokens": length_percentiles(split.dataset.full_lengths),
                "truncated": truncated_fraction(split.dataset.full_lengths, outcome.data.readable_length),
            }
            for name, split in outcome.data.splits.items()
        },
        "data_warnings": outcome.data.data_warnings,
        "epochs": outcome.epochs,
        "steps": outcome.steps,
    }


def _least_cost(
    outcome: TrainingOutcome, test: SplitLogits, calibration: Calibration
) -> tuple[np.ndarray, dict[str, float]]:
    """Return the classes of least expected cost, int64 [N], and the mean costs with and without them."""
    costs = read_costs(outcome.run.config.costs, outcome.data.labels)
    if calibration.summary["prior_correction"] is None:
        log.warning(
            "costs: the probabilities of this model cannot be corrected to the natural prior; expected costs use them "
            "uncorrected, with a temperature"
        )
    decided = least_cost(softmax(calibration.chosen(test.logits), axis=1), costs)
    return decided, {
        "most_probable": mean_cost(test.targets, test.logits.argmax(axis=1), costs),
        "least_cost": mean_cost(test.targets, decided, costs),
    }


def _data_name(run: RunContext) -> str:
    """Return the title of the data: the training file of `data=files`, otherwise the option of the group `data`."""
    train, option = run.config.data.get("train"), str(run.choices.get("data"))
    return Path(train).name if option == "files" and isinstance(train, str) else option


def _results(
    outcome: TrainingOutcome,
    evaluated: dict[str, SplitLogits],
    metrics: dict[str, Any],
    decided: np.ndarray | None,
    cheapest: np.ndarray | None,
    calibration: Calibration | None,
) -> RunResults:
    run, data, scoring = outcome.run, outcome.data, outcome.model.scoring
    test, train, history = (data.splits["test"], data.splits["train"].dataset, run.folder / "csv" / "metrics.csv")
    return RunResults(
        name=_data_name(run),
        strategy=run.strategy_name,
        probe=run.config.probe,
        config=run.resolved_config,
        metrics=metrics,
        seconds=run.seconds - run.cache_seconds,
        correction=outcome.correction,
        effective_prior=outcome.effective_prior,
        bounds=scoring.bounds,
        ids=test.ids,
        texts=test.texts,
        test_targets=test.targets,
        test_logits=evaluated["test"].logits,
        validation_targets=data.splits["validation"].targets,
        validation_logits=evaluated["validation"].logits,
        lengths=train.full_lengths,
        max_length=data.readable_length,
        decided=decided,
        thresholds=None if scoring.thresholds is None else scoring.thresholds.numpy(),
        least_cost=cheapest,
        calibration=calibration,
        history=pd.read_csv(history) if history.is_file() else None,
        data_warnings=data.data_warnings,
    )
