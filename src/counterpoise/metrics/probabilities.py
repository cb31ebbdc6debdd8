"""What is done to logits after training, and how far their probabilities can be trusted. Pure numpy, in float64.

logits are float [N, C], or `AdjustedLogits`. targets are class numbers, int [N], or, multi-label, which labels each text
holds, bool [N, C], dense or sparse; then every pair of text and label is an outcome of its own. Shapes that do not fit,
and nothing at all, raise ValueError.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, expit, log_softmax, softmax

from counterpoise.balance.counts import Targets
from counterpoise.metrics.outcomes import Logits, ScoredOutcomes, at, order_statistics

TEMPERATURES = (0.01, 100.0)
"""Between which a temperature is looked for."""
# Sorted at a time: enough that little is searched twice.
_SORTED = 2**22
# Logits from which on a temperature is looked for among part of the texts first.
_MANY = 2**21


def fit_temperature(logits: Logits, targets: Targets) -> float:
    """Returns the T, within `TEMPERATURES`, at which logits / T have the least negative log-likelihood.

    Guo et al., ICML 2017, eq. 9. The likelihood is convex in 1 / T, so there is one minimum, found as the zero of its
    slope over log T. Above 1 the model was too sure of itself. A limit is returned where the likelihood improves up to
    it: the lower one where no decision is wrong, the upper one where the logits are no better than chance. 1 where
    they say nothing, all being equal.
    """
    outcomes = ScoredOutcomes.of(logits, targets)
    if not outcomes.finite:
        raise ValueError("no temperature fits logits that are infinite or no numbers")
    observed = 0.0
    for scores, truth in outcomes.blocks():
        observed += float(scores[truth].sum() if outcomes.pairs else (at(scores, truth) - scores.max(axis=1)).sum())

    def lowered() -> Iterator[np.ndarray]:
        """Yields the logits, single-label as far as they are below the highest of their text."""
        for scores in outcomes.scores():
            yield scores if outcomes.pairs else scores - scores.max(axis=1, keepdims=True)

    cells = int(np.prod(outcomes.logits.shape))
    kept = list(lowered()) if cells <= _MANY else None
    if not any(scores.any() for scores in kept or lowered()):
        return 1.0

    def slope(log_temperature: float) -> float:
        """Returns the derivative of the negative log-likelihood with respect to 1 / T, times the outcomes."""
        cooling, expected = np.exp(-log_temperature), 0.0
        for scores in kept or lowered():
            if outcomes.pairs:
                expected += float(np.vdot(expit(scores * cooling), scores))
            else:
                powers = np.exp(scores * cooling)
                expected += float((np.einsum("nc,nc->n", powers, scores) / powers.sum(axis=1)).sum())
        return expected - observed

    cold, hot = np.log(TEMPERATURES)
    if cells > _MANY:
        # A slope takes seconds: what some of the texts say is where to look first.
        some = slice(None, None, max(1, 8 * cells // _MANY))
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
    """Returns the mean of -log p_y over texts; multi-label of binary cross-entropy over pairs of text and label."""
    outcomes, total = ScoredOutcomes.of(logits, targets), 0.0
    for scores, truth in outcomes.blocks():
        if outcomes.pairs:
            total += float(np.logaddexp(0, np.where(truth, -scores, scores)).sum())
        else:
            total -= float(at(log_softmax(scores, axis=1), truth).sum())
    return total / outcomes.total


def brier_score(logits: Logits, targets: Targets) -> float:
    """Returns the mean over texts of sum_c (p_c - y_c)^2, from 0 to 2 (Brier, Monthly Weather Review 1950);
    multi-label the mean over pairs of (p - y)^2, from 0 to 1.
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
    """ScoredOutcomes by the confidence in them. edges: float64 [bins + 1]; the others [bins]: how many outcomes, their mean
    confidence, and the share of them that came true; 0 in bins without any.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """ECE, the calibration error: |accuracy - confidence|, averaged over outcomes (Naeini et al., AAAI 2015; Guo et
        al., 2017).
        """
        return float(self.counts @ np.abs(self.accuracy - self.confidence) / self.counts.sum())


def reliability(
    logits: Logits, targets: Targets, bins: int = 15, equal_mass: bool = False, decided: np.ndarray | None = None
) -> Reliability:
    """Returns how often what the model predicts comes true, by how sure it is.

    Single-label the outcomes are whether the class that is decided for is the true one (Guo et al., ICML 2017, eq. 3),
    and the confidence is its probability; multi-label whether a text holds a label, for all pairs, most of which are
    sure negatives. bins: how many; of equal width, including their upper edge, or, `equal_mass`, of an equal number of
    outcomes, with equal confidences in one. decided: int [N], the most probable class unless told.
    """
    outcomes = ScoredOutcomes.of(logits, targets, decided)
    if bins < 1:
        raise ValueError(f"{bins} bins")
    if equal_mass:
        ranks = np.ceil(outcomes.total * np.arange(1, bins) / bins).astype(np.int64) - 1
        inner = order_statistics(lambda: (confidence for confidence, _ in outcomes.confidences()), ranks)
    else:
        inner = np.linspace(0, 1, bins + 1)[1:-1]
    counts, sums = np.zeros(bins, np.int64), np.zeros((2, bins))
    for confidence, came_true in outcomes.confidences():
        of_bin = np.searchsorted(inner, confidence, side="left")
        counts += np.bincount(of_bin, minlength=bins)
        sums[0] += np.bincount(of_bin, confidence, minlength=bins)
        sums[1] += np.bincount(of_bin[came_true], minlength=bins)
    return Reliability(np.concatenate([[0.0], inner, [1.0]]), counts, *(sums / np.maximum(counts, 1)))


def adaptive_calibration_error(
    logits: Logits, targets: Targets, bins: int = 15, decided: np.ndarray | None = None
) -> float:
    """Returns the error of `reliability` in bins of equal mass (as in Nguyen & O'Connor, EMNLP 2015)."""
    return reliability(logits, targets, bins, True, decided).error


class RiskCurve(NamedTuple):
    """How many of the surest M decisions are wrong: linear between corners, which are as many as mistakes, not as M.

    covered, wrong: float64 [K], both ascending, from 0 to M and to all that are wrong.
    """

    covered: np.ndarray
    wrong: np.ndarray

    @property
    def total(self) -> int:
        """M."""
        return int(self.covered[-1])

    def risk(self, covered: np.ndarray) -> np.ndarray:
        """Returns the share of wrong ones among so many, 1 to M, of the surest, float64."""
        return np.interp(covered, self.covered, self.wrong) / covered

    @property
    def area(self) -> float:
        """AURC, the mean risk over all coverages 1 / M, 2 / M ... 1 (Geifman et al., ICLR 2019): 0 is best."""
        steps, start, wrong = np.diff(self.covered), self.covered[:-1], self.wrong[:-1]
        slopes = np.diff(self.wrong) / steps
        # The sum of (w + s (k - a)) / k over k from a + 1 to b is (w - s a) (H(b) - H(a)) + s (b - a).
        harmonic = np.diff(digamma(self.covered + 1))
        sums = (wrong - slopes * start) * harmonic + slopes * steps
        # Of one step it is what is wrong by then, without the rounding of differences.
        return float(np.where(steps == 1, self.wrong[1:] / self.covered[1:], sums).sum() / self.total)


def risk_coverage(logits: Logits, targets: Targets, decided: np.ndarray | None = None) -> RiskCurve:
    """Returns the curve of wrong decisions among the surest.

    Geifman & El-Yaniv, NeurIPS 2017. Single-label M = N decisions for a class, multi-label M = N C for or against a
    label; the confidence in one is its probability. Errors among equal confidences count as spread evenly over them.
    decided: int [N] or bool [N, C]; the most probable class, and the labels above 1/2, unless told.
    """
    outcomes = ScoredOutcomes.of(logits, targets, decided)
    mistakes = np.concatenate([confidence[wrong] for confidence, wrong in outcomes.decisions()])
    levels, wrong = np.unique(mistakes, return_counts=True)
    below, reached = np.zeros((2, len(levels)), np.int64)
    for confidence, _ in outcomes.decisions(_SORTED):
        confidence.sort()
        below += confidence.searchsorted(levels, "left")
        reached += confidence.searchsorted(levels, "right")
    # From the surest down: where each level begins and ends, and how many are wrong by then.
    ends = outcomes.total - np.stack([reached, below], axis=1)[::-1].ravel()
    total = np.cumsum(wrong[::-1])
    covered = np.concatenate([[0], ends, [outcomes.total]])
    counted = np.concatenate([[0], np.stack([total - wrong[::-1], total], axis=1).ravel(), [len(mistakes)]])
    corners = np.append(True, np.diff(covered) > 0)
    return RiskCurve(covered[corners].astype(np.float64), counted[corners].astype(np.float64))
