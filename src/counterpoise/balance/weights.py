"""Class weights from training counts, and what is done to them before the loss sees them.

A scheme is called with the labels (C names) and their counts (int [C], all at least 1) and returns
float64 weights [C], defined up to a constant factor: `normalise` fixes the factor.

Multi-label, each label is a problem of two classes, its positives and its negatives, as in one-vs-rest. The scheme
weighs both by their counts, and only the ratio of the two weights is left to choose: `ratios`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from counterpoise.errors import UserError, nearest

WeightScheme = Callable[[Sequence[str], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class InverseFrequency:
    """w_c = n_c^(-beta). beta 0 weighs all examples alike, 1 all classes alike ("balanced"), 1/2 is the
    square root in between.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise UserError(f"strategy.weights.beta={self.beta} favours the large classes: use 0 or more")

    def __call__(self, labels: Sequence[str], counts: np.ndarray) -> np.ndarray:
        """Returns the weights [C]."""
        return np.asarray(counts, np.float64) ** -self.beta


@dataclass(frozen=True)
class EffectiveNumber:
    """w_c = (1 - beta) / (1 - beta^n_c), the inverse effective number of examples (Cui et al., CVPR 2019, eq. 2).

    Close to 1/n_c for n_c well below 1 / (1 - beta), flat above: 0.9 is a mild correction, 0.9999 a strong one.
    """

    beta: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise UserError(f"strategy.weights.beta={self.beta}: the effective number needs 0 < beta < 1")

    def __call__(self, labels: Sequence[str], counts: np.ndarray) -> np.ndarray:
        """Returns the weights [C]."""
        # expm1 keeps the digits that 1 - beta^n loses for beta close to 1.
        return (1 - self.beta) / -np.expm1(np.asarray(counts, np.float64) * np.log(self.beta))


@dataclass(frozen=True)
class ManualWeights:
    """Weights given by hand: a mapping from label to weight, or a list in the order of the vocabulary.

    Multi-label, the weight of a positive over that of a negative of the label.
    """

    by_label: Mapping[str, float] | Sequence[float]

    def __call__(self, labels: Sequence[str], counts: np.ndarray) -> np.ndarray:
        """Returns the weights [C]."""
        key = "strategy.weights.by_label"
        if isinstance(self.by_label, Mapping):
            given = {str(label): weight for label, weight in self.by_label.items()}
            for label in given:
                if label not in labels:
                    raise UserError(f"{key}: the training data has no class '{label}'.{nearest(label, labels)}")
            if missing := [label for label in labels if label not in given]:
                raise UserError(f"{key}: no weight for {_some(missing)}: every class needs one")
            values = [given[label] for label in labels]
        elif isinstance(self.by_label, str) or not isinstance(self.by_label, Sequence):
            raise UserError(f"{key}={self.by_label}: give a mapping from label to weight, or a list of weights")
        else:
            values = list(self.by_label)
            if len(values) != len(labels):
                raise UserError(f"{key}: {len(values)} weights for {len(labels)} classes ({_some(labels)})")
        try:
            weights = np.array(values, np.float64)
        except (TypeError, ValueError):
            raise UserError(f"{key}: weights must be numbers, not {values}") from None
        for label, weight in zip(labels, weights, strict=True):
            if not (np.isfinite(weight) and weight >= 0):
                raise UserError(f"{key}: the weight of '{label}' is {weight:g}: it must be finite and not negative")
        if not weights.any():
            raise UserError(f"{key}: all weights are 0: at least one class must count")
        return weights


def ratios(scheme: WeightScheme, labels: Sequence[str], counts: np.ndarray, num_rows: int) -> np.ndarray:
    """Returns how much a positive of each label weighs over a negative, float64 [C].

    scheme(n_c) / scheme(N - n_c): for `Power` ((N - n_c) / n_c)^beta, at beta 1 PyTorch's usual `pos_weight`. No count
    is taken as less than 1. `Manual` weights are the ratios themselves.
    """
    positive = scheme(labels, np.maximum(counts, 1))
    if not isinstance(scheme, ManualWeights):
        return positive / scheme(labels, np.maximum(num_rows - counts, 1))
    if not positive.all():
        label = labels[int(positive.argmin())]
        raise UserError(
            f"strategy.weights.by_label: the weight of '{label}' is 0: in multi-label data it is how much a positive "
            "weighs over a negative, above 0"
        )
    return positive


def cap(weights: np.ndarray, max_ratio: float | None) -> np.ndarray:
    """Returns the weights with none larger than `max_ratio` times the smallest positive one."""
    return weights if max_ratio is None else np.minimum(weights, max_ratio * weights[weights > 0].min())


def cap_ratios(ratios: np.ndarray, max_ratio: float | None) -> np.ndarray:
    """Returns the ratios, none above `max_ratio` or below 1 / `max_ratio`."""
    return ratios if max_ratio is None else np.clip(ratios, 1 / max_ratio, max_ratio)


def normalise(weights: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the weights scaled so that a drawn example weighs 1 on average: sum_c q_c w_c = 1.

    The scale of the gradient, hence the learning rate that fits, is then the same for every strategy. An
    arithmetic mean over classes would be owned by the rarest class. With the natural q_c = n_c / N and
    w_c ~ 1 / n_c this is scikit-learn's "balanced" weight N / (C n_c).
    """
    return weights / (probabilities @ weights)


def normalise_ratios(ratios: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights (w+, w-) of positives and negatives, with w+ / w- = `ratios` and, within each label,
    a drawn example weighing 1 on average: pi' w+ + (1 - pi') w- = 1. shares: pi', float [C].
    """
    negative = 1 / (shares * ratios + (1 - shares))
    return ratios * negative, negative


def effective_sample_size(weights: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns E[w]^2 / E[w^2] over drawn examples (Kish 1965): 1 when all weigh alike, 0.01 when the training
    listens to one example in a hundred.
    """
    return float((probabilities @ weights) ** 2 / (probabilities @ weights**2))


def _some(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
