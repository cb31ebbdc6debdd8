"""Files that a run writes into its folder: correction and splits before training, results after it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from counterpoise.analysis.leaderboard import BASELINE_PREDICTIONS
from counterpoise.balance import Correction
from counterpoise.csv_tables import write_csv
from counterpoise.data.datamodule import TextDataModule
from counterpoise.io import atomic_path
from counterpoise.training.predictions import write_multilabel_predictions, write_predictions
from counterpoise.training.results import RunResults

MAX_LOGITS = 2**26
"""`logits.npz` is written if no split has more logits (rows times classes) than this."""


def write_inputs(folder: Path, correction: Correction, data: TextDataModule) -> None:
    """Write `balance.csv`, the correction of each class, and `splits.npz`, the source rows of each split."""
    table = pd.DataFrame(
        {
            "class": correction.labels,
            "count": correction.counts,
            "draw_rate": correction.sampling_probs,
            "draws_per_example": correction.draws_per_example,
            **_instance_weights(correction),
            "weight": correction.class_weights,
            **({"negative_weight": correction.negative_weights} if correction.multi_label else {}),
            "effective_prior": correction.effective_prior,
        }
    )
    write_csv(table, folder / "balance.csv")
    data.save_splits(folder / "splits.npz")


def _instance_weights(correction: Correction) -> dict[str, np.ndarray]:
    """Return the mean instance weights as columns of `balance.csv`; none without instance weights."""
    if correction.index.weights is None:
        return {}
    negative = {"negative_instance_weight": correction.negative_instance_weights} if correction.multi_label else {}
    return {"instance_weight": correction.instance_weights, **negative}


def write_results(folder: Path, results: RunResults) -> None:
    """Write the files of a tested run.

    These are `metrics.json`, `per_class.csv`, `predictions.parquet`, `logits.npz` (up to `MAX_LOGITS`),
    `calibration.json` (if calibrated), `thresholds.json` (multi-label) and `baseline_predictions.parquet` (with a
    baseline).
    """
    with atomic_path(folder / "metrics.json") as path:
        path.write_text(json.dumps(results.metrics, indent=2), encoding="utf-8")
    logits = {"validation": results.validation_logits, "test": results.test_logits}
    if results.validation_logits.size and max(each.size for each in logits.values()) <= MAX_LOGITS:
        with atomic_path(folder / "logits.npz") as path, path.open("wb") as file:
            np.savez(file, **logits)  # type: ignore[arg-type]
    if results.calibration:
        results.calibration.save(folder / "calibration.json")
    table = results.table.copy()
    table.insert(0, "class", results.labels)
    if results.thresholds is not None:
        table["threshold"] = results.thresholds
        by_label = dict(zip(results.labels, results.thresholds.tolist(), strict=True))
        with atomic_path(folder / "thresholds.json") as path:
            path.write_text(json.dumps(by_label, indent=2, ensure_ascii=False), encoding="utf-8")
    write_csv(table, folder / "per_class.csv")
    _write_predictions(folder / "predictions.parquet", results, results.test_logits, results.decided)
    if results.baseline is not None:
        plain = replace(results, least_cost=None)
        _write_predictions(folder / BASELINE_PREDICTIONS, plain, results.baseline.logits, results.baseline.decided)


def _write_predictions(path: Path, results: RunResults, logits: np.ndarray, decided: np.ndarray | None) -> None:
    ids, labels = results.ids, results.labels
    if decided is None:
        write_predictions(path, ids, labels, results.test_targets, logits, least_cost=results.least_cost)
    else:
        write_multilabel_predictions(path, ids, labels, results.truth, logits, decided)
