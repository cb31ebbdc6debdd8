"""Ensembles: the weighted sum of the logits of several models."""

from collections.abc import Callable, Sequence

import numpy as np

from counterpoise.balance.counts import Targets

BASELINE_WEIGHTS = tuple(np.arange(10) / 10)
"""Weights of the linear baseline that `choose_baseline_weight` tries."""


def spread(logits: np.ndarray, multi_label: bool) -> float:
    """Return the standard deviation of logits, float [N, C].

    Single-label logits are centred within each text, because a constant added to all of them has no effect.
    """
    wide = logits.astype(np.float64)
    centre = wide.mean() if multi_label else wide.mean(axis=1, keepdims=True)
    return float(np.sqrt(np.square(wide - centre).mean()))


def factors(spreads: Sequence[float], baseline_spread: float | None, baseline_weight: float) -> np.ndarray:
    """Return the factors of the logits of M models and of the baseline, float64 [M] or [M + 1].

    Logits are divided by their spread, so that a weight means the same for models whose logits differ in scale. The
    models share a weight of `1 - baseline_weight` equally. The sum is multiplied by the mean spread of the models.

    Args:
        spreads: Spread of each model's logits on validation, M values.
        baseline_spread: That of the baseline; None: no baseline.
        baseline_weight: Weight of the baseline, in [0, 1).
    """
    scale = float(np.mean(spreads))
    models = (1 - baseline_weight) * scale / (len(spreads) * np.asarray(spreads, np.float64))
    return models if baseline_spread is None else np.append(models, baseline_weight * scale / baseline_spread)


def combine(logits: Sequence[np.ndarray], by: np.ndarray) -> np.ndarray:
    """Return the sum of M arrays of logits, float [N, C], each times its factor, as float32 [N, C]."""
    total = np.zeros(logits[0].shape, np.float32)
    for each, factor in zip(logits, by, strict=True):
        total += np.float32(factor) * each
    return total


def choose_baseline_weight(
    models: Sequence[np.ndarray],
    baseline: np.ndarray,
    targets: Targets,
    score: Callable[[np.ndarray, Targets], float],
    multi_label: bool,
) -> tuple[float, dict[float, float]]:
    """Return the weight of the baseline with the best validation score, the smallest of several, and all scores.

    Args:
        models: Validation logits of M models, float [N, C] each.
        baseline: Validation logits of the baseline, float [N, C].
        targets: Validation targets.
        score: Score of logits [N, C] and targets; higher is better.
        multi_label: Whether the data are multi-label.
    """
    spreads, own = [spread(each, multi_label) for each in models], spread(baseline, multi_label)
    scores = {
        float(weight): score(combine([*models, baseline], factors(spreads, own, weight)), targets)
        for weight in BASELINE_WEIGHTS
    }
    return max(scores, key=lambda weight: (scores[weight], -weight)), scores
