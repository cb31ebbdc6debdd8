"""The tables and pictures of a tested run, as files in its folder."""

import json
from pathlib import Path

import numpy as np

from counterpoise.analysis import plots
from counterpoise.io import replacing
from counterpoise.metrics import multi_label
from counterpoise.metrics.single_label import confusion_matrix, precision_recall_f1
from counterpoise.training import calibration_picture
from counterpoise.training.predictions import write_multilabel_predictions, write_predictions
from counterpoise.training.results import RunFacts


def write_tables(run: Path, facts: RunFacts, least_cost: np.ndarray | None = None) -> None:
    """Writes per_class.csv and predictions.parquet, multi-label thresholds.json too, into the folder `run`.

    least_cost: int [N], single-label, the classes that cost least; they get a column of their own.
    """
    table = facts.table.copy()
    table.insert(0, "class", facts.labels)
    predictions = run / "predictions.parquet"
    if facts.decided is None:
        truth, logits = facts.test_targets, facts.test_logits
        write_predictions(predictions, facts.ids, facts.labels, truth, logits, least_cost=least_cost)
    else:
        assert facts.thresholds is not None
        table["threshold"] = facts.thresholds
        by_label = dict(zip(facts.labels, facts.thresholds.tolist(), strict=True))
        with replacing(run / "thresholds.json") as path:
            path.write_text(json.dumps(by_label, indent=2, ensure_ascii=False), encoding="utf-8")
        write_multilabel_predictions(
            predictions, facts.ids, facts.labels, facts.truth, facts.test_logits, facts.decided
        )
    table.to_csv(run / "per_class.csv", index=False)


def draw_pictures(run: Path, facts: RunFacts) -> None:
    """Draws recall_vs_count.png, single-label confusion.png, and curves.png and calibration.png where there is any."""
    recalls = {facts.strategy: (facts.counts, facts.table["recall"].to_numpy())}
    if facts.decided is None:
        predicted = facts.test_logits.argmax(axis=1)
        confusion = confusion_matrix(facts.test_targets, predicted, len(facts.labels))
        plots.confusion(run / "confusion.png", confusion, facts.labels)
    else:
        at_half = multi_label.tally(facts.test_logits > 0, facts.truth)
        recalls = {
            f"{facts.strategy}, threshold 0.5": (facts.counts, precision_recall_f1(*at_half)[1]),
            f"{facts.strategy}, as decided": recalls[facts.strategy],
        }
    plots.recall_vs_count(run / "recall_vs_count.png", recalls, *facts.bounds, unit=facts.noun)
    if facts.history is not None:
        plots.curves(run / "curves.png", facts.history)
    if facts.calibration:
        calibration_picture.draw(run / "calibration.png", facts.calibration)
