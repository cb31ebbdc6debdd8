"""Temperature scaling, proper scoring rules, reliability and risk-coverage curves. Pure numpy, in float64.

Logits are float [N, C] or `AdjustedLogits`. Targets are class numbers, int [N], or, multi-label, labels, bool [N, C],
dense or sparse; then every pair of text and label is one outcome. All functions raise ValueError if the shapes do not
match or nothing is given.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, expit, log_softmax, softmax

from counterpoise.balance.counts import Targets
from counterpoise.metrics.outcomes import Logits, ScoredOutcomes, at, order_statistics

TEMPERATURES = (0.01, 100.0)
"""Limits of a fitted temperature."""
# Confidences sorted at a time.
_SORTED_CELLS = 2**22
# With more logits than this, a part of the texts narrows the search for the temperature.
_MANY_CELLS = 2**21


def fit_temperature(logits: Logits, targets: Targets) -> float:
    """Return the temperature T at which logits / T have the lowest negative log-likelihood.

    The negative log-likelihood is convex in 1 / T, so that there is one minimum: the zero of its slope. A temperature
    above 1 means that the model is overconfident.

    Returns:
        T within `TEMPERATURES`. The lower limit if no decision is wrong, the upper one if the logits are no better
        than chance, and 1 if all logits are equal.

    Raises:
        ValueError: A logit is not finite.

    Reference:
        Guo et al., ICML 2017, eq. 9.
    """
    outcomes = ScoredOutcomes.of(logits, targets)
    if not outcomes.finite:
        raise ValueError("a temperature needs finite logits")
    observed = 0.0
    for scores, truth in outcomes.blocks():
        observed += float(scores[truth].sum() if outcomes.pairs else (at(scores, truth) - scores.max(axis=1)).sum())

    def relative() -> Iterator[np.ndarray]:
        """Yield the logits; single-label: minus the highest of their text."""
        for scores in outcomes.scores():
            yield scores if outcomes.pairs else scores - scores.max(axis=1, keepdims=True)

    cells = int(np.prod(outcomes.logits.shape))
    kept = list(relative()) if cells <= _MANY_CELLS else None
    if not any(scores.any() for scores in kept or relative()):
        return 1.0

    def slope(log_temperature: float) -> float:
        """Return the derivative of the summed negative log-likelihood with respect to 1 / T."""
        cooling, expected = np.exp(-log_temperature), 0.0
        for scores in kept or relative():
            if outcomes.pairs:
                expected += float(np.vdot(expit(scores * cooling), scores))
            else:
                powers = np.exp(scores * cooling)
                expected += float((np.einsum("nc,nc->n", powers, scores) / powers.sum(axis=1)).sum())
        return expected - observed

    cold, hot = np.log(TEMPERATURES)
    if cells > _MANY_CELLS:
        # A slope takes seconds: search near the temperature of some of the texts first.
        some = slice(None, None, max(1, 8 * cells // _MANY_CELLS))
        near = np.log(fit_temperature(logits[some], targets[some]))
        around = max(near - 0.1, cold), min(near + 0.1, hot)
        if slope(around[0]) > 0 > slope(around[1]):
            return float(np.exp(brentq(slope, *around, xtol=1e-12)))
    if slope(cold) <= 0:
        return TEMPERATURES[0]
    if slope(hot) >= 0:
        return TEMPERATURES[1]
    return float(np.exp(brentq(slope, cold, hot, xtol=1e-12)))


def negative_log_likelihood(logits: Logits, targets: Targets) -> float:
    """Return the mean of -log p_y over texts; multi-label: mean binary cross-entropy over pairs of text and label."""
    outcomes, total = ScoredOutcomes.of(logits, targets), 0.0
    for scores, truth in outcomes.blocks():
        if outcomes.pairs:
            total += float(np.logaddexp(0, np.where(truth, -scores, scores)).sum())
        else:
            total -= float(at(log_softmax(scores, axis=1), truth).sum())
    return total / outcomes.total


def brier_score(logits: Logits, targets: Targets) -> float:
    """Return the Brier score (Brier, Monthly Weather Review 1950).

    Single-label: mean over texts of sum_c (p_c - y_c)^2, from 0 to 2. Multi-label: mean over pairs of text and label of
    (p - y)^2, from 0 to 1.
    """
    outcomes, total = ScoredOutcomes.of(logits, targets), 0.0
    for scores, truth in outcomes.blocks():
        if outcomes.pairs:
            errors = expit(scores)
            errors -= truth
        else:
            errors = softmax(scores, axis=1)
            errors[np.arange(len(truth)), truth] -= 1
        total += float(np.vdot(errors, errors))
    return total / outcomes.total


class Reliability(NamedTuple):
    """Outcomes binned by confidence.

    Args:
        edges: Float64 [bins + 1].
        counts: Outcomes of each bin, int64 [bins].
        confidence: Mean confidence of each bin, float64 [bins]; 0 if it is empty.
        accuracy: Fraction of outcomes that occurred, float64 [bins]; 0 if the bin is empty.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error (ECE): |accuracy - confidence|, averaged over outcomes.

        Reference:
            Naeini et al., AAAI 2015; Guo et al., ICML 2017, eq. 3.
        """
        return float(self.counts @ np.abs(self.accuracy - self.confidence) / self.counts.sum())


def reliability(
    logits: Logits, targets: Targets, bins: int = 15, equal_mass: bool = False, decided: np.ndarray | None = None
) -> Reliability:
    """Compare predicted probabilities with observed frequencies.

    Single-label: the outcome is whether the decision is correct and the confidence is the probability of the decided
    class. Multi-label: the outcome is whether a text has a label, for all pairs, most of which are confident
    negatives.

    Args:
        logits: Float [N, C].
        targets: Int [N] or bool [N, C].
        bins: Number of bins. Defaults to 15.
        equal_mass: Give the bins equal numbers of outcomes instead of equal widths. Equal confidences share a bin.
        decided: Single-label decisions, int [N]. Defaults to the most probable class.
    """
    outcomes = ScoredOutcomes.of(logits, targets, decided)
    if bins < 1:
        raise ValueError(f"bins={bins}: use 1 or more")
    if equal_mass:
        ranks = np.ceil(outcomes.total * np.arange(1, bins) / bins).astype(np.int64) - 1
        inner = order_statistics(lambda: (confidence for confidence, _ in outcomes.confidences()), ranks)
    else:
        inner = np.linspace(0, 1, bins + 1)[1:-1]
    counts, sums = np.zeros(bins, np.int64), np.zeros((2, bins))
    for confidence, occurred in outcomes.confidences():
        bin_of_outcome = np.searchsorted(inner, confidence, side="left")
        counts += np.bincount(bin_of_outcome, minlength=bins)
        sums[0] += np.bincount(bin_of_outcome, confidence, minlength=bins)
        sums[1] += np.bincount(bin_of_outcome[occurred], minlength=bins)
    return Reliability(np.concatenate([[0.0], inner, [1.0]]), counts, *(sums / np.maximum(counts, 1)))


def adaptive_calibration_error(
    logits: Logits, targets: Targets, bins: int = 15, decided: np.ndarray | None = None
) -> float:
    """Return the calibration error with bins of equal mass (Nguyen and O'Connor, EMNLP 2015)."""
    return reliability(logits, targets, bins, True, decided).error


class RiskCurve(NamedTuple):
    """Number of wrong decisions among the most confident ones, piecewise linear.

    The curve has one corner for each distinct confidence of a mistake.

    Args:
        covered: Number of decisions at each corner, float64 [K], ascending from 0 to M.
        wrong: Wrong decisions among them, float64 [K], ascending from 0 to all.
    """

    covered: np.ndarray
    wrong: np.ndarray

    @property
    def total(self) -> int:
        """Number of decisions, M."""
        return int(self.covered[-1])

    def risk(self, covered: np.ndarray) -> np.ndarray:
        """Return the fraction of wrong decisions among the `covered` (1 to M) most confident ones, float64."""
        return np.interp(covered, self.covered, self.wrong) / covered

    @property
    def area(self) -> float:
        """AURC: mean risk over the coverages 1 / M, 2 / M ... 1; 0 is best (Geifman et al., ICLR 2019)."""
        steps, start, wrong = np.diff(self.covered), self.covered[:-1], self.wrong[:-1]
        slopes = np.diff(self.wrong) / steps
        # The sum of (w + s (k - a)) / k over k from a + 1 to b is (w - s a) (H(b) - H(a)) + s (b - a).
        harmonic = np.diff(digamma(self.covered + 1))
        sums = (wrong - slopes * start) * harmonic + slopes * steps
        # A single step needs no difference, which would round.
        return float(np.where(steps == 1, self.wrong[1:] / self.covered[1:], sums).sum() / self.total)


def risk_coverage(logits: Logits, targets: Targets, decided: np.ndarray | None = None) -> RiskCurve:
    """Return the risk-coverage curve (Geifman and El-Yaniv, NeurIPS 2017).

    Single-label data have M = N decisions for a class, multi-label data M = N C decisions for or against a label. The
    confidence in a decision is its probability. Mistakes among equal confidences count as spread evenly over them.

    Args:
        logits: Float [N, C].
        targets: Int [N] or bool [N, C].
        decided: Int [N] or bool [N, C]. Defaults to the most probable class, or the labels above 1/2.
    """
    outcomes = ScoredOutcomes.of(logits, targets, decided)
    mistakes = np.concatenate([confidence[wrong] for confidence, wrong in outcomes.decisions()])
    levels, wrong = np.unique(mistakes, return_counts=True)
    below, reached = np.zeros((2, len(levels)), np.int64)
    for confidence, _ in outcomes.decisions(_SORTED_CELLS):
        confidence.sort()
        below += confidence.searchsorted(levels, "left")
        reached += confidence.searchsorted(levels, "right")
    # From the most confident down: where each level begins and ends, and how many decisions are wrong by then.
    ends = outcomes.total - np.stack([reached, below], axis=1)[::-1].ravel()
    total = np.cumsum(wrong[::-1])
    covered = np.concatenate([[0], ends, [outcomes.total]])
    counted = np.concatenate([[0], np.stack([total - wrong[::-1], total], axis=1).ravel(), [len(mistakes)]])
    corners = np.append(True, np.diff(covered) > 0)
    return RiskCurve(covered[corners].astype(np.float64), counted[corners].astype(np.float64))
