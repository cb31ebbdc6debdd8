"""The over-correction check: sampler and class weights together must not exceed the full correction."""

import numpy as np

from counterpoise.balance.counts import ClassIndex
from counterpoise.balance.samplers import PowerSampler, Sampler
from counterpoise.errors import UserError

TOLERANCE = 1e-6
"""Rounding error allowed in alpha + beta."""


def refuse_over_correction(sampler: Sampler, weights: np.ndarray, class_draws: np.ndarray, index: ClassIndex) -> None:
    """Raise an error if alpha + beta exceeds 1.

    The effective prior is n_c^(1 - alpha - beta). Above 1 the exponent is negative, and the rarest class becomes the
    most frequent one.

    Args:
        sampler: The sampler. A `PowerSampler` has its own alpha; for any other, alpha is the power law that spans the
            draws per example.
        weights: Class weights before cap and normalisation, [C]; multi-label: weight of a positive relative to a
            negative. beta is the power law that spans them.
        class_draws: Expected draws of each class per epoch, [C].
        index: Training rows of each class.

    Raises:
        UserError: alpha + beta exceeds 1.
    """
    present = index.counts > 0
    counts = index.counts[present]
    odds = counts / np.maximum(index.num_rows - counts, 1) if index.multi_label else counts
    if isinstance(sampler, PowerSampler):
        alpha = sampler.alpha
    else:
        alpha = power_law_exponent(class_draws[present] / counts, counts)
    beta = power_law_exponent(weights[present], odds)
    if alpha + beta > 1 + TOLERANCE:
        raise UserError(
            f"the sampler (alpha={alpha:.3g}) and the class weights (beta={beta:.3g}) correct twice: "
            f"alpha + beta = {alpha + beta:.3g} exceeds 1 and reverses the imbalance; "
            "lower one of them, or set strategy.allow_overcorrection=true"
        )


def power_law_exponent(values: np.ndarray, counts: np.ndarray) -> float:
    """Return the exponent x for which counts^(-x) spans the same range as the values.

    The result is beta for the weights of `InverseFrequency` and alpha for the draws per example of `PowerSampler`.

    Args:
        values: A positive function of the counts, [C].
        counts: Class counts or odds, above 0, [C].

    Returns:
        The exponent between the largest and the smallest count; 0 if all counts are equal or there are none.
    """
    if not len(counts):
        return 0.0
    largest, smallest = counts.argmax(), counts.argmin()
    if counts[largest] == counts[smallest]:
        return 0.0
    return float(np.log(values[smallest] / values[largest]) / np.log(counts[largest] / counts[smallest]))
