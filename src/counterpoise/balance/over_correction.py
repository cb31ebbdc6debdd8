"""The over-correction check: a rarer class must not have a larger effective prior than a more frequent one.

The rule compares all pairs of classes, whatever makes up the effective prior: sampler, class weights, instance weights
or the loss. If all parts are powers of the class counts, it is alpha + beta <= 1.
"""

import numpy as np

from counterpoise.balance.correction import Correction
from counterpoise.balance.counts import ClassIndex
from counterpoise.balance.losses.protocol import Loss
from counterpoise.errors import UserError

TOLERANCE = 1e-6
"""Relative difference of two effective priors that is rounding."""
STANDARD_ERRORS = 4.0
"""Half width of the interval of a class's mean instance weight. Weights that do not depend on the class still differ in
their class means, the more the rarer the class. This is no correction."""
SPLIT_ROUNDING = 2
"""Training examples that a class may have more or less after splitting. Weights by hand and instance weights that
balance the whole data balance its training split up to that."""


def refuse_over_correction(correction: Correction, weights_by_hand: bool = False) -> None:
    """Raise an error if sampler, class weights and instance weights reverse the order of two classes.

    Multi-label: the effective prior is the ratio of the weight on positives to the weight on negatives of a label,
    without the draws that co-occurring labels add.

    Args:
        correction: The correction at full strength.
        weights_by_hand: Whether the user gave the class weights, rather than a function of the counts.

    Raises:
        UserError: A rarer class has a larger effective prior than a more frequent one.
    """
    index = correction.index
    present = np.flatnonzero(index.counts)
    if not len(present):
        return
    counts = index.counts[present]
    with np.errstate(divide="ignore"):
        parts = {
            "sampler (alpha=": np.log(correction.sampler.draw_rates(counts, index.num_rows)),
            "class weights (beta=": np.log(correction.class_weights / correction.negative_weights)[present],
            "data.weight (": np.log(correction.instance_weights / correction.negative_instance_weights)[present],
        }
    odds = counts / np.maximum(index.num_rows - counts, 1) if index.multi_label else counts
    log_prior = np.log(odds) + sum(parts.values())
    pair = reversed_pair(counts, log_prior, _uncertainty(index, weights_by_hand)[present])
    if pair is None:
        return
    frequent, rare = pair
    # The power of the counts that each part is, between these two classes.
    scales = {"sampler (alpha=": np.log(counts[frequent] / counts[rare])}
    exponents = {
        name: (values[rare] - values[frequent]) / scales.get(name, np.log(odds[frequent] / odds[rare]))
        for name, values in parts.items()
    }
    shown = [f"{name}{value:.3g})" for name, value in exponents.items() if abs(value) > TOLERANCE]
    names = [correction.labels[present[c]] for c in pair]
    raise UserError(
        f"over-correction: '{names[1]}' has fewer training examples than '{names[0]}' ({counts[rare]:,} against "
        f"{counts[frequent]:,}), but {_factor(log_prior, pair)} its effective prior; "
        f"alpha + beta = {sum(exponents.values()):.4g} exceeds 1: {', '.join(shown)}. Lower one of them, or set "
        "strategy.allow_overcorrection=true"
    )


def refuse_over_correcting_loss(loss: Loss, correction: Correction) -> None:
    """Raise an error if a loss with weights or offsets of its own reverses the order of two classes.

    Args:
        loss: The loss. Single-label only, because losses for multi-label data leave the order of labels.
        correction: The correction at full strength.

    Raises:
        UserError: Of two classes, the one with the smaller effective prior of sampler and weights has the larger one
            with the loss.
    """
    before, after = correction.effective_prior, loss.effective_prior(correction)
    present = (correction.counts > 0) & (before > 0)
    with np.errstate(divide="ignore"):
        log_prior = np.log(after[present])
    pair = reversed_pair(before[present], log_prior, np.zeros(len(log_prior)))
    if pair is not None:
        names = np.array(correction.labels, object)[present]
        raise UserError(
            f"over-correction by strategy.loss: sampler and weights leave '{names[pair[1]]}' a smaller effective prior "
            f"than '{names[pair[0]]}', but with the weights of the loss it has {_factor(log_prior, pair)} its "
            "effective prior: lower the correction of the loss, or set strategy.allow_overcorrection=true"
        )


def reversed_pair(sizes: np.ndarray, log_prior: np.ndarray, slack: np.ndarray) -> tuple[int, int] | None:
    """Return the larger and the smaller class of the pair whose order the prior reverses most.

    Args:
        sizes: Sizes of the classes, above 0, [C].
        log_prior: Logarithms of their effective priors, up to a constant, [C].
        slack: Uncertainty of each logarithm, [C]. A pair is not reversed if the intervals overlap.

    Returns:
        The positions of both classes; None if the larger of any two has at least the prior of the smaller.
    """
    order = np.argsort(sizes, kind="stable")
    lower, upper = (log_prior - slack)[order], (log_prior + slack)[order]
    # For each class the largest prior among all strictly smaller ones.
    smaller = np.searchsorted(sizes[order], sizes[order])
    best = np.maximum.accumulate(np.append(-np.inf, lower))[smaller]
    with np.errstate(invalid="ignore"):
        excess = np.where(best > -np.inf, best - upper, -np.inf)
    worst = int(excess.argmax())
    if excess[worst] <= np.log1p(TOLERANCE):
        return None
    return int(order[worst]), int(order[lower[: smaller[worst]].argmax()])


def _uncertainty(index: ClassIndex, weights_by_hand: bool) -> np.ndarray:
    """Return how far the log of each class's effective prior is uncertain by given weights, float64 [C].

    The standard error of a class's mean weight follows from the relative standard deviation of the weights within
    classes, pooled over all classes.
    """
    counts = np.maximum(index.counts, 1)
    if index.weights is None:
        return np.log1p(SPLIT_ROUNDING / counts) if weights_by_hand else np.zeros(len(counts))
    means, squares = index.sum(index.weights) / counts, index.sum(index.weights**2) / counts
    known = means > 0
    relative_variances = np.maximum(squares[known] / means[known] ** 2 - 1, 0)
    variance = counts[known] @ relative_variances / max((counts[known] - 1).sum(), 1)
    return STANDARD_ERRORS * np.sqrt(variance / counts) + np.log1p(SPLIT_ROUNDING / counts)


def _factor(log_prior: np.ndarray, pair: tuple[int, int]) -> str:
    frequent, rare = pair
    return f"{np.exp(log_prior[rare] - log_prior[frequent]):.4g} times"
