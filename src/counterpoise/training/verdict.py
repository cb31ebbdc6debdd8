"""Verdicts on a trained model in sentences: against constant predictions, and on the length of the training."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from counterpoise.metrics.registry import title
from counterpoise.training.monitors import better_mode


def baseline_verdict(test: Mapping[str, float]) -> str:
    """Return a sentence if the model is worse than constant predictions, otherwise an empty string.

    The constant prediction is the largest training class; for multi-label data, the most frequent training labels, as
    many as a text has on average.

    Args:
        test: Scores on the test split.
    """
    if "majority_accuracy" in test:
        main, constant, baseline = "accuracy", "majority", "always predicting the largest class"
    else:
        main, constant, baseline = "micro_f1", "constant", "predicting the most frequent labels for every text"
        if test.get("micro_f1") == 0:
            return "The model predicts no correct label."
    pairs = {name: (test.get(name, np.nan), test.get(f"{constant}_{name}", np.nan)) for name in (main, "macro_f1")}
    worse = [name for name, (own, other) in pairs.items() if own < other]
    if main not in worse:
        return ""
    shown = [f"{title(name)} {own:.3f} against {other:.3f}" for name, (own, other) in pairs.items()]
    if len(worse) == len(pairs):
        return f"The model is worse than {baseline}: {' and '.join(shown)}."
    return f"By {title(main)} the model is worse than {baseline}: {shown[0]}; {shown[1]}."


def peaked_early(history: pd.DataFrame | None, monitor: str) -> tuple[int, float, float] | None:
    """Return step, best and last value of a monitored validation score whose best value is not the last one.

    Args:
        history: Content of `csv/metrics.csv`.
        monitor: Name of the score, such as "val/macro_f1".

    Returns:
        None if the last value is the best, or there are fewer than two.
    """
    if history is None or monitor not in history:
        return None
    rows = history[history[monitor].notna()]
    values = rows[monitor].to_numpy(float)
    if len(values) < 2:
        return None
    best = int(values.argmin() if better_mode(monitor) == "min" else values.argmax())
    if values[best] == values[-1]:
        return None
    return int(rows["step"].to_numpy()[best]) + 1, float(values[best]), float(values[-1])
