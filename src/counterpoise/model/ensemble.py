"""Ensembles: the weighted sum of the logits of several models."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

Model = TypeVar("Model")
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


def validation_factors(
    models: Sequence[np.ndarray], baseline: np.ndarray | None, baseline_weight: float, multi_label: bool
) -> np.ndarray:
    """Return the factors of models and baseline, whose spreads are those of these logits on validation."""
    spreads = [spread(each, multi_label) for each in models]
    if baseline is None:
        return factors(spreads, None, 0.0)
    return factors(spreads, spread(baseline, multi_label), baseline_weight)


def combine_held_out(
    models: Sequence[np.ndarray], folds: Sequence[int], baseline: np.ndarray | None, by: np.ndarray
) -> np.ndarray:
    """Return the combined logits of the validation texts of all folds, one fold after another, float32 [N, C].

    A text has the mean logits of the models that were validated on it, because the others were trained on it.

    Args:
        models: Logits of M models, each of the texts of one fold.
        folds: Number of this fold, M values. Equal for models with the same validation split.
        baseline: Logits of the baseline for the texts of all folds, float32 [N, C].
        by: Factors of the models, and of the baseline, for other texts. See `factors`.
    """
    parts = []
    for fold in sorted(set(folds)):
        inside = [number for number, other in enumerate(folds) if other == fold]
        share = len(models) / len(inside)
        parts.append(combine([models[number] for number in inside], share * by[inside]))
    total = np.concatenate(parts)
    return total if baseline is None else combine([total, baseline], np.array([1.0, by[-1]]))


def scores_by_size(models: Sequence[Model], score: Callable[[Sequence[Model]], float], choices: int = 3) -> list[float]:
    """Return the mean scores of ensembles of 1, 2, ... M of the models: what further models would add.

    Args:
        models: M models.
        score: Score of an ensemble of some of them.
        choices: Largest number of ensembles of each size.
    """
    means = []
    for size in range(1, len(models) + 1):
        starts = range(1 if size == len(models) else min(choices, len(models)))
        means.append(float(np.mean([score([*models[start:], *models[:start]][:size]) for start in starts])))
    return means


def choose_baseline_weight(score: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """Return the weight of the baseline with the best score, the smallest of several, and all scores by weight."""
    scores = {float(weight): score(float(weight)) for weight in BASELINE_WEIGHTS}
    return max(scores, key=lambda weight: (scores[weight], -weight)), scores
