"""Losses that exist for both tasks: the class is selected by the task of the data."""

from counterpoise.balance.correction import Correction
from counterpoise.balance.losses.multi_label import BinaryCrossEntropy, Focal
from counterpoise.balance.losses.protocol import Loss
from counterpoise.balance.losses.single_label import CrossEntropy, SoftmaxFocal
from counterpoise.balance.weights import WeightScheme


def cross_entropy(correction: Correction, label_smoothing: float = 0.0) -> Loss:
    """Return `CrossEntropy` for single-label data and `BinaryCrossEntropy` for multi-label data."""
    if correction.multi_label:
        return BinaryCrossEntropy(correction, label_smoothing=label_smoothing)
    return CrossEntropy(correction, label_smoothing=label_smoothing)


def focal(correction: Correction, gamma: float = 2.0, label_weights: WeightScheme | None = None) -> Loss:
    """Return `SoftmaxFocal` for single-label data and `Focal` for multi-label data."""
    if correction.multi_label:
        return Focal(correction, gamma=gamma, label_weights=label_weights)
    return SoftmaxFocal(correction, gamma=gamma, label_weights=label_weights)
