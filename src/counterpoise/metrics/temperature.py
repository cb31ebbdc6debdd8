"""The temperature of a calibration, and its quality on texts that it was not fitted on."""

import numpy as np

from counterpoise.balance.counts import Targets
from counterpoise.metrics import probabilities
from counterpoise.metrics.outcomes import AdjustedLogits
from counterpoise.metrics.probabilities import TEMPERATURES

FOLDS = 5
"""Folds of the cross-validation."""
MANY_LOGITS = 2**22
"""Number of logits above which two folds are used, because a fit takes seconds and one parameter hardly overfits."""


def temperature(logits: AdjustedLogits, targets: Targets) -> float:
    """Return the fitted temperature; 1 if no mistake bounds it from below."""
    found = probabilities.fit_temperature(logits, targets)
    return 1.0 if found == TEMPERATURES[0] else found


def num_folds(logits: np.ndarray) -> int:
    """Return the number of folds for logits [N, C]; 0 if there is only one text."""
    folds = min(FOLDS if logits.size <= MANY_LOGITS else 2, len(logits))
    return folds if folds > 1 else 0


def cross_validated_nll(logits: np.ndarray, targets: Targets, shift: np.ndarray) -> float:
    """Return the NLL of shifted logits with a temperature that is fitted on the other folds.

    Args:
        logits: Logits, float [N, C].
        targets: Classes, int [N], or labels, bool csr [N, C].
        shift: What to subtract from the logits, float [C].

    Returns:
        The mean over all texts, each of which is in one fold at random; infinity if there is only one text.
    """
    folds = num_folds(logits)
    if not folds:
        return float("inf")
    fold_of_text = np.random.default_rng(0).permutation(len(logits)) % folds
    total = 0.0
    for fold in range(folds):
        fitted, held_out = np.flatnonzero(fold_of_text != fold), np.flatnonzero(fold_of_text == fold)
        found = temperature(AdjustedLogits(logits[fitted], shift), targets[fitted])
        adjusted = AdjustedLogits(logits[held_out], shift, found)
        total += len(held_out) * probabilities.negative_log_likelihood(adjusted, targets[held_out])
    return total / len(logits)
