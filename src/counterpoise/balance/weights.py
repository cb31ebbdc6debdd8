"""Class weights from class counts, with cap and normalisation.

A weight scheme is a callable of the labels (C names) and their counts (int [C], all at least 1). It returns weights,
float64 [C], up to a constant factor, which `normalise` fixes.

In multi-label data each label is a binary problem, as in one-vs-rest. The scheme weights positives and negatives by
their counts; only the ratio of the two weights matters, see `positive_weight_ratios`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from counterpoise.balance.validation import check_exponent, check_number, is_number
from counterpoise.errors import UserError, nearest

WeightScheme = Callable[[Sequence[str], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class InverseFrequency:
    """Inverse-frequency weights: w_c = n_c^(-beta).

    Args:
        beta: Exponent, 0 to 10. 0: no weights; 1/2: square root; 1 (default): equal total weight per class
            ("balanced").
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        check_exponent("beta", self.beta, "weights")

    def __call__(self, labels: Sequence[str], counts: np.ndarray) -> np.ndarray:
        """Return the weights, float64 [C]."""
        return np.asarray(counts, np.float64) ** -self.beta


@dataclass(frozen=True)
class EffectiveNumber:
    """Inverse effective number of examples: w_c = (1 - beta) / (1 - beta^n_c).

    Close to 1/n_c for n_c well below 1 / (1 - beta), and constant above.

    Args:
        beta: Between 0 and 1 (exclusive). 0.9 is a mild correction, 0.9999 a strong one. Defaults to 0.999.

    References:
        Cui et al., CVPR 2019, eq. 2.
    """

    beta: float = 0.999

    def __post_init__(self) -> None:
        rule = "a number above 0 and below 1"
        check_number("beta", self.beta, lambda value: 0 < value < 1, rule, "weights")

    def __call__(self, labels: Sequence[str], counts: np.ndarray) -> np.ndarray:
        """Return the weights, float64 [C]."""
        # expm1 keeps the digits that 1 - beta^n loses for beta close to 1.
        return (1 - self.beta) / -np.expm1(np.asarray(counts, np.float64) * np.log(self.beta))


@dataclass(frozen=True)
class ManualWeights:
    """Weights set by the user.

    Args:
        by_label: Mapping from every label to its weight, or a list of weights in the order of the labels. Multi-label:
            weight of a positive relative to a negative.
    """

    by_label: Mapping[str, float] | Sequence[float]

    def __call__(self, labels: Sequence[str], counts: np.ndarray) -> np.ndarray:
        """Return the weights, float64 [C].

        Raises:
            UserError: A label is unknown or has no weight, or a weight is not a finite, non-negative number.
        """
        key = "strategy.weights.by_label"
        if isinstance(self.by_label, Mapping):
            by_label = {str(label): weight for label, weight in self.by_label.items()}
            for label in by_label:
                if label not in labels:
                    raise UserError(f"{key}: the training data has no class '{label}'.{nearest(label, labels)}")
            if missing := [label for label in labels if label not in by_label]:
                raise UserError(f"{key}: no weight for {quote_names(missing)}: add one for every class")
            values = [by_label[label] for label in labels]
        elif isinstance(self.by_label, str) or not isinstance(self.by_label, Sequence):
            raise UserError(f"{key}={self.by_label}: use a mapping from label to weight, or a list of weights")
        else:
            values = list(self.by_label)
            if len(values) != len(labels):
                raise UserError(f"{key}: {len(values)} weights for {len(labels)} classes ({quote_names(labels)})")
        for label, weight in zip(labels, values, strict=True):
            if not (is_number(weight) and 0 <= weight < np.inf):
                raise UserError(f"{key}: the weight of '{label}' is {weight}: use a finite number, at least 0")
        if not any(values):
            raise UserError(f"{key}: all weights are 0: at least one must be positive")
        return np.array(values, np.float64)


def positive_weight_ratios(
    scheme: WeightScheme, labels: Sequence[str], counts: np.ndarray, num_rows: int
) -> np.ndarray:
    """Return the weight of a positive relative to a negative of each label: scheme(n_c) / scheme(N - n_c).

    For `InverseFrequency` the ratio is ((N - n_c) / n_c)^beta, which is PyTorch's usual `pos_weight` at beta = 1. For
    `ManualWeights` the weights are the ratios.

    Args:
        scheme: The weight scheme.
        labels: Names of the C labels.
        counts: Positives of each label, int [C]; counts below 1 count as 1.
        num_rows: Number of texts N.

    Returns:
        The ratios, float64 [C].

    Raises:
        UserError: A manual weight is 0.
    """
    positive = scheme(labels, np.maximum(counts, 1))
    if not isinstance(scheme, ManualWeights):
        return positive / scheme(labels, np.maximum(num_rows - counts, 1))
    if not positive.all():
        label = labels[int(positive.argmin())]
        raise UserError(
            f"strategy.weights.by_label: the weight of '{label}' is 0: in multi-label data it is the weight of a "
            "positive relative to a negative; use a number above 0"
        )
    return positive


def cap(weights: np.ndarray, max_ratio: float | None) -> np.ndarray:
    """Return the weights limited to `max_ratio` times the smallest positive one."""
    return weights if max_ratio is None else np.minimum(weights, max_ratio * weights[weights > 0].min())


def cap_ratios(ratios: np.ndarray, max_ratio: float | None) -> np.ndarray:
    """Return the ratios limited to the range from 1 / `max_ratio` to `max_ratio`."""
    return ratios if max_ratio is None else np.clip(ratios, 1 / max_ratio, max_ratio)


def normalise(weights: np.ndarray, sampling_probs: np.ndarray) -> np.ndarray:
    """Return the weights scaled to a mean of 1 over drawn examples: sum_c q_c w_c = 1.

    With instance weights `sampling_probs` is q_c m_c, where m_c is the mean instance weight of the class.

    The gradient scale, and with it the right learning rate, is then equal for all strategies. A mean over classes would
    be dominated by the rarest class. With the natural q_c = n_c / N and w_c ~ 1 / n_c, the result is scikit-learn's
    "balanced" weight N / (C n_c).
    """
    return weights / (sampling_probs @ weights)


def normalise_label_weights(
    ratios: np.ndarray, positives: np.ndarray, negatives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights (w+, w-) of positives and negatives with ratio w+ / w- and mean 1 within each label.

    Args:
        ratios: Weight of a positive relative to a negative, float [C].
        positives: Fraction pi' of drawn texts that carry the label, times their mean instance weight, float [C].
        negatives: Fraction 1 - pi', times the mean instance weight of these texts, float [C].

    Returns:
        w+ and w-, float64 [C], with positives w+ + negatives w- = 1.
    """
    negative = 1 / (positives * ratios + negatives)
    return ratios * negative, negative


def effective_sample_size(weights: np.ndarray, sampling_probs: np.ndarray) -> float:
    """Return the effective sample size as a fraction: E[w]^2 / E[w^2] over drawn examples.

    1: all weights are equal. 0.01: the gradient is dominated by one example in a hundred.

    References:
        Kish, Survey Sampling, 1965.
    """
    return float((sampling_probs @ weights) ** 2 / (sampling_probs @ weights**2))


def quote_names(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names in quotes and the number of the others."""
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
