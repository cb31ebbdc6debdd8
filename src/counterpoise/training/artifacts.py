"""The tables and pictures of a tested run, as files in its folder."""

import json
from pathlib import Path

import numpy as np

from counterpoise.analysis import plots
from counterpoise.io import atomic_path
from counterpoise.metrics import multi_label
from counterpoise.metrics.class_counts import precision_recall_f1
from counterpoise.metrics.single_label import confusion_matrix
from counterpoise.training import calibration_picture
from counterpoise.training.predictions import write_multilabel_predictions, write_predictions
from counterpoise.training.results import RunResults


def write_tables(run: Path, results: RunResults, least_cost: np.ndarray | None = None) -> None:
    """Writes per_class.csv and predictions.parquet, multi-label thresholds.json too, into the folder `run`.

    least_cost: int [N], single-label, the classes that cost least; they get a column of their own.
    """
    table = results.table.copy()
    table.insert(0, "class", results.labels)
    predictions = run / "predictions.parquet"
    if results.decided is None:
        truth, logits = results.test_targets, results.test_logits
        write_predictions(predictions, results.ids, results.labels, truth, logits, least_cost=least_cost)
    else:
        assert results.thresholds is not None
        table["threshold"] = results.thresholds
        by_label = dict(zip(results.labels, results.thresholds.tolist(), strict=True))
        with atomic_path(run / "thresholds.json") as path:
            path.write_text(json.dumps(by_label, indent=2, ensure_ascii=False), encoding="utf-8")
        write_multilabel_predictions(
            predictions, results.ids, results.labels, results.truth, results.test_logits, results.decided
        )
    table.to_csv(run / "per_class.csv", index=False)


def draw_pictures(run: Path, results: RunResults) -> None:
    """Draws recall_vs_count.png, single-label confusion.png, and curves.png and calibration.png where there is any."""
    recalls = {results.strategy: (results.counts, results.table["recall"].to_numpy())}
    if results.decided is None:
        predicted = results.test_logits.argmax(axis=1)
        confusion = confusion_matrix(results.test_targets, predicted, len(results.labels))
        plots.confusion(run / "confusion.png", confusion, results.labels)
    else:
        at_half = multi_label.tally(results.test_logits > 0, results.truth)
        recalls = {
            f"{results.strategy}, threshold 0.5": (results.counts, precision_recall_f1(*at_half)[1]),
            f"{results.strategy}, as decided": recalls[results.strategy],
        }
    plots.recall_vs_count(run / "recall_vs_count.png", recalls, *results.bounds, unit=results.noun)
    if results.history is not None:
        plots.curves(run / "curves.png", results.history)
    if results.calibration:
        calibration_picture.draw(run / "calibration.png", results.calibration)
