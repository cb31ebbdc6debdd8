"""What a run does once it is trained: the second stage, the test, calibration, and the files and pictures of it all."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from scipy.special import softmax

from counterpoise.balance import Correction, FittedStrategy
from counterpoise.balance.counts import Targets
from counterpoise.data.batching import EmbeddingDataset
from counterpoise.data.datamodule import TextDataModule
from counterpoise.io import atomic_path
from counterpoise.metrics.calibration import Calibration, prior_correction
from counterpoise.metrics.calibration import measure as calibrate
from counterpoise.metrics.costs import least_cost, mean_cost, read_costs
from counterpoise.metrics.scoring import MultiLabelScoring
from counterpoise.model.embeddings import encode
from counterpoise.model.encoder import Encoder
from counterpoise.model.module import Classifier
from counterpoise.model.second_stage import FirstStage, Refined
from counterpoise.report.run.run_report import write_run_report
from counterpoise.terminal import console
from counterpoise.training.artifacts import draw_pictures, write_tables
from counterpoise.training.callbacks import FIRST_STAGE
from counterpoise.training.checkpoints import AtomicCheckpointIO, load_checkpoint
from counterpoise.training.results import RunResults
from counterpoise.training.run import folder, log, seconds
from counterpoise.training.summary import show_calibration, show_results
from counterpoise.training.trainer import progress, single_device

KEPT_LOGITS = 2**26
"""Logits of a split that are written into the run folder at most."""


class Evaluated(NamedTuple):
    """A split's logits, float32 [N, C], and targets, in the order of its rows."""

    logits: np.ndarray
    targets: Targets


class Trained(NamedTuple):
    """What training left. loss, balance: those of the best checkpoint's epoch, which its logits stand for. epochs,
    steps: of the optimiser.
    """

    trainer: pl.Trainer
    model: Classifier
    data: TextDataModule
    fitted: FittedStrategy
    config: DictConfig
    loss: torch.nn.Module
    correction: Correction
    epochs: int
    steps: int

    @property
    def effective_prior(self) -> np.ndarray:
        """Of classes by the loss, of labels by sampler and weights, float [C]."""
        if self.correction.multi_label:
            return self.correction.effective_prior
        return self.loss.effective_prior(self.correction)  # type: ignore[operator]


def finish(
    trainer: pl.Trainer, model: Classifier, data: TextDataModule, fitted: FittedStrategy, config: DictConfig
) -> dict:
    """Tests the best checkpoint, writes and shows the results. Returns what `metrics.json` holds."""
    start = time.monotonic()
    best, refined, epoch_correction = best_checkpoint(trainer), None, fitted.final
    epochs, steps = progress(trainer)
    if best and fitted.changes:
        epoch = load_checkpoint(best)["epoch"]
        _tell_of_schedule(epochs - 1, fitted, epoch)
        epoch_correction = fitted.at_epoch(epoch)
    loss, correction = epoch_correction.loss, epoch_correction.correction
    trained = Trained(trainer, model, data, fitted, config, loss, correction, epochs, steps)
    shift_quality = prior_correction(trained.loss, trained.correction)
    if shift_quality[0] and data.splits["train"].dataset.weights is not None:
        # The law knows nothing of the weights of single texts.
        shift_quality = "approximate", shift_quality[1]
    if best and fitted.strategy.second_stage is not None:
        refined, best = refine(trained, best, shift_quality[0])
        shift_quality = refined.shift_quality, np.zeros(len(data.labels)) if refined.shift is None else refined.shift
    tester = single_device(trainer)
    tester.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    if tester.fast_dev_run:  # type: ignore[attr-defined]
        console.print("one batch of training, validation and test ran; nothing is measured")
        return {}
    evaluated = {
        "test": Evaluated(_in_order(model.test_outputs), data.splits["test"].targets),
        "validation": _evaluate(tester, model, data, "validation"),
        "train_sample": _evaluate(tester, model, data, "train", limit=max(500, len(data.splits["validation"]))),
    }
    scoring = model.scoring
    decided = scoring.decide(evaluated["test"].logits) if isinstance(scoring, MultiLabelScoring) else None
    calibration = calibrate(
        data.labels, data.counts, evaluated["validation"], evaluated["test"], shift_quality, scoring.bounds, decided
    )
    metrics = _metrics(trained, evaluated) | {"best_checkpoint": str(best) if best else None}
    if refined:
        metrics["second_stage"] = refined.results
    if calibration:
        metrics["calibration"] = calibration.summary
    cheapest = _least_cost(trained, evaluated["test"], calibration, metrics)
    with atomic_path(folder() / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2))
    _write(_facts(trained, evaluated, decided, metrics, calibration), cheapest)
    show_results(metrics, model.scoring.bounds)
    show_calibration(metrics)
    console.print(f"[dim]tested and drawn in {time.monotonic() - start:.0f} s; everything is in[/dim] {folder()}")
    if console.quiet:
        settings = " ".join(HydraConfig.get().overrides.task)
        log.info("%s: test macro F1 %.4f", settings, metrics["test"]["macro_f1"])
    return metrics


def refine(trained: Trained, best: Path, shift_quality: str | None) -> tuple[Refined, Path]:
    """Gives the best checkpoint the head that the strategy's second stage makes of it, and returns both.

    The checkpoint of the first stage is kept beside it, as first_stage.ckpt. correction: as `FirstStage` has it.
    """
    trainer, model, data, fitted, config = trained[:5]
    checkpoint = load_checkpoint(best)
    model.load_state_dict(checkpoint["state_dict"])
    device, encoded = trainer.strategy.root_device, {}

    def vectors(split: str) -> np.ndarray:
        dataset = data.splits[split].dataset
        if split not in encoded and isinstance(dataset, EmbeddingDataset):
            encoded[split] = np.asarray(dataset.vectors[dataset.store_rows])
        elif split not in encoded:
            assert isinstance(model.encoder, Encoder)
            with trainer.precision_plugin.forward_context():
                encoded[split] = encode(model.encoder, dataset, data.eval_batch_size, device)
        return encoded[split]

    first = FirstStage(
        head=model.head.cpu(),
        vectors=vectors,
        targets={name: part.targets for name, part in data.splits.items()},
        weights=data.splits["train"].dataset.weights,
        correction=trained.correction,
        effective_prior=trained.effective_prior if shift_quality and not trained.correction.multi_label else None,
        score=lambda logits, targets: model.scoring.measure(logits, targets)["macro_f1"],
        dropout=config.dropout,
        seed=config.seed,
        shift_quality=shift_quality,
    )
    console.print("second stage: a new head on the encoder as it is now")
    refined = fitted.strategy.second_stage(first)
    model.head = refined.head
    if isinstance(model.scoring, MultiLabelScoring):
        with torch.no_grad():
            logits = refined.head(torch.from_numpy(vectors("validation"))).numpy()
        model.scoring.tune(logits, data.splits["validation"].targets)
    target = best.with_name("best.ckpt")
    if target == best:
        best.replace(best.with_name(FIRST_STAGE))
    changed = {"state_dict": model.state_dict(), "second_stage": refined.results}
    AtomicCheckpointIO().save_checkpoint(checkpoint | changed, target)
    return refined, target


def _tell_of_schedule(last: int, fitted: FittedStrategy, epoch: int) -> None:
    """Says so where a schedule's correction had not come into force in the best checkpoint, which is of `epoch`.

    last: the epoch in which training ended.
    """
    if fitted.strength(max(last, 0)) < 1:
        log.warning(
            "training ended after epoch %d, before the schedule's correction was in full force: raise "
            "callbacks.early_stopping.patience, or set callbacks.early_stopping=null",
            last,
        )
    elif fitted.strength(epoch) < 1:
        log.warning(
            "the best checkpoint is of epoch %d, before the schedule's correction was in full force (%s)",
            epoch,
            ", ".join(f"epoch {e}: {strength:.2g}" for e, strength in enumerate(fitted.strengths[: last + 1])),
        )


def best_checkpoint(trainer: pl.Trainer) -> Path | None:
    """Returns the path of the best checkpoint, None where there is none."""
    best = trainer.checkpoint_callback
    if isinstance(best, ModelCheckpoint) and best.best_model_path and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        return Path(best.best_model_path)
    return None


def _metrics(trained: Trained, evaluated: dict[str, Evaluated]) -> dict[str, Any]:
    model, correction = trained.model, trained.fitted.final.correction
    metrics: dict[str, Any] = {name: model.scoring.measure(*split) for name, split in evaluated.items()}
    if isinstance(model.scoring, MultiLabelScoring):
        metrics["test_at_half"] = model.scoring.measure(*evaluated["test"], threshold=0.5)
    return metrics | {
        "probe": trained.config.probe,
        "strategy": {
            "name": HydraConfig.get().runtime.choices.get("strategy"),
            "weight_ratio": correction.weight_ratio,
            "effective_sample_size": correction.effective_sample_size,
            "epoch_size": correction.epoch_size,
        },
        "data": {
            name: {"examples": len(part), "dropped": part.split.dropped, "unseen": part.unseen}
            for name, part in trained.data.splits.items()
        },
        "epochs": trained.epochs,
        "steps": trained.steps,
    }


def _least_cost(
    trained: Trained, test: Evaluated, calibration: Calibration | None, metrics: dict[str, Any]
) -> np.ndarray | None:
    """Returns the classes of least expected cost, int64 [N], where there are costs, and notes what they come to."""
    if not trained.config.costs or calibration is None:
        return None
    costs = read_costs(trained.config.costs, trained.data.labels)
    if calibration.summary["prior_correction"] is None:
        log.warning(
            "costs: no shift of its logits leads this model's probabilities back to the natural distribution; they are "
            "weighed as they are, with a temperature"
        )
    decided = least_cost(softmax(calibration.chosen(test.logits), axis=1), costs)
    metrics["costs"] = {
        "most_probable": mean_cost(test.targets, test.logits.argmax(axis=1), costs),
        "least_cost": mean_cost(test.targets, decided, costs),
    }
    return decided


def _facts(
    trained: Trained,
    evaluated: dict[str, Evaluated],
    decided: np.ndarray | None,
    metrics: dict[str, Any],
    calibration: Calibration | None,
) -> RunResults:
    data, scoring = trained.data, trained.model.scoring
    test, train, history = data.splits["test"], data.splits["train"].dataset, folder() / "csv" / "metrics.csv"
    several = scoring if isinstance(scoring, MultiLabelScoring) else None
    return RunResults(
        name=str(HydraConfig.get().runtime.choices.get("data")),
        strategy=HydraConfig.get().runtime.choices.get("strategy") or "run",
        probe=trained.config.probe,
        config=OmegaConf.to_container(trained.config, resolve=True),  # type: ignore[arg-type]
        metrics=metrics,
        seconds=seconds(),
        correction=trained.correction,
        effective_prior=trained.effective_prior,
        bounds=scoring.bounds,
        ids=test.ids,
        texts=test.texts,
        test_targets=test.targets,
        test_logits=evaluated["test"].logits,
        validation_targets=data.splits["validation"].targets,
        validation_logits=evaluated["validation"].logits,
        lengths=train.lengths,
        max_length=data.max_length,
        cut=train.store.truncated / len(train.store),
        decided=decided,
        thresholds=several.thresholds.numpy() if several else None,
        calibration=calibration,
        history=pd.read_csv(history) if history.is_file() else None,
        audit=data.data_warnings,
    )


def _write(results: RunResults, least_cost: np.ndarray | None) -> None:
    """Writes the files of the run folder; pictures and report not in a sweep of probes, whose comparison is read."""
    kept = {"validation": results.validation_logits, "test": results.test_logits}
    if max(each.size for each in kept.values()) <= KEPT_LOGITS:
        with atomic_path(folder() / "logits.npz") as path, path.open("wb") as file:
            np.savez(file, **kept)  # type: ignore[arg-type]
    if results.calibration:
        results.calibration.save(folder() / "calibration.json")
    write_tables(folder(), results, least_cost)
    if not (results.probe and HydraConfig.get().mode == RunMode.MULTIRUN):
        draw_pictures(folder(), results)
        write_run_report(folder() / "report.html", results)


def _evaluate(
    tester: pl.Trainer, model: Classifier, data: TextDataModule, split: str, limit: int | None = None
) -> Evaluated:
    loader = data.evaluation_dataloader(split, limit)
    outputs: Any = tester.predict(model, loader, weights_only=True)
    return Evaluated(_in_order(outputs), loader.dataset.targets)  # type: ignore[attr-defined]


def _in_order(outputs: list[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
    """Returns logits, float32 [N, C], in row order, and empties the list: they are large, and kept once."""
    logits = np.empty((sum(len(rows) for rows, _ in outputs), outputs[0][1].shape[1]), np.float32)
    while outputs:
        rows, block = outputs.pop()
        logits[rows.cpu().numpy()] = block.cpu().numpy()
    return logits
