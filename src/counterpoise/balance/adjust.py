"""What is done to logits after training, and how far their probabilities can be trusted. Pure numpy, in float64.

logits are float [N, C], or `Adjusted`. targets are class numbers, int [N], or, multi-label, which labels each text
holds, bool [N, C], dense or sparse; then every pair of text and label is an outcome of its own. Shapes that do not fit,
and nothing at all, raise ValueError.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, expit, log_softmax, logit, softmax

from counterpoise.balance.balance import Balance
from counterpoise.balance.outcomes import Logits, Outcomes, at, of_ranks
from counterpoise.balance.samplers import Targets
from counterpoise.errors import UserError

TEMPERATURES = (0.01, 100.0)
"""Between which a temperature is looked for."""
# Sorted at a time: enough that little is searched twice.
_SORTED = 2**22
# Logits from which on a temperature is looked for among part of the texts first.
_MANY = 2**21


def natural_shift(balance: Balance, emphasis: np.ndarray | None = None) -> np.ndarray:
    """Returns what to subtract from the logits to get those of the natural distribution, float64 [C].

    `prior_shift`, multi-label `odds_shift`, of what `balance` says was drawn and how it was weighted. emphasis: float
    [C], of a loss that has weights or offsets of its own, its `emphasis(balance)`; single-label only.
    """
    if not balance.multi_label:
        return prior_shift(balance.emphasis if emphasis is None else emphasis, balance.counts)
    if emphasis is not None:
        raise ValueError("an emphasis of classes means nothing to multi-label data")
    return odds_shift(
        balance.probabilities, balance.weights, balance.negative_weights, balance.counts, balance.num_rows
    )


def prior_shift(emphasis: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns log(e_c / pi_c), pi_c = n_c / N, float64 [C]: subtracted from logits that were trained with emphasis e
    they are the logits of the natural distribution.

    Sampler and weights change how often a class counts and nothing within it, so that by Bayes the posterior they lead
    to is p'(c | x) ~ p(c | x) e_c / pi_c (Saerens et al., Neural Computation 2002). Exact for cross-entropy, and for
    `LogitAdjusted` with its own emphasis. An approximation for focal loss. LDAM gives no posterior at all: its logits
    are driven to the margins, and no shift leads back.

    emphasis: float [C], up to a factor; counts: [C]. A class without examples or emphasis is left alone: training
    said nothing about it. In terms of the law it is -(alpha + beta) log n_c and a constant.
    """
    emphasis, counts = np.asarray(emphasis, np.float64), np.asarray(counts, np.float64)
    if emphasis.shape != counts.shape or emphasis.ndim != 1 or not len(counts):
        raise ValueError(f"emphasis {emphasis.shape} and counts {counts.shape} are not of the same classes")
    if not ((emphasis >= 0).all() and (counts >= 0).all()):
        raise ValueError("an emphasis or a count is negative or not a number")
    known = (emphasis > 0) & (counts > 0)
    shift = np.zeros(len(counts))
    if known.any():
        shift[known] = np.log(emphasis[known] / emphasis.sum()) - np.log(counts[known] / counts.sum())
    return shift


def odds_shift(
    probabilities: np.ndarray,
    weights: np.ndarray,
    negative_weights: np.ndarray,
    counts: np.ndarray,
    num_rows: int,
) -> np.ndarray:
    """Returns log(w+ / w-) + logit(pi') - logit(pi), pi = n / N, float64 [C]: subtracted from the logits of labels
    that were trained with these weights and draws they are those of the natural distribution.

    Weights multiply the odds of every text by w+ / w-, which is exact for binary cross-entropy. The sampler multiplies
    them by what it does to the label's odds on average (Elkan, IJCAI 2001, theorem 2): exact where its rates depend on
    this label alone, else an approximation, for labels ride along with those that their text is drawn for.

    probabilities: pi', share of the draws that hold the label, [C]; weights, negative_weights: w+ and w-, above 0, [C];
    counts: n, [C]. The sampler's part is 0 for labels of no text or of all.
    """
    share, drawn = np.asarray(counts, np.float64) / num_rows, np.asarray(probabilities, np.float64)
    ratios = np.asarray(weights, np.float64) / np.asarray(negative_weights, np.float64)
    if not share.shape == drawn.shape == ratios.shape or share.ndim != 1:
        raise ValueError(f"counts {share.shape}, probabilities {drawn.shape} and weights {ratios.shape} do not fit")
    varies = (share > 0) & (share < 1) & (drawn > 0) & (drawn < 1)
    shift = np.log(ratios)
    shift[varies] += logit(drawn[varies]) - logit(share[varies])
    return shift


def post_hoc(
    logits: np.ndarray, prior: np.ndarray, tau: float = 1.0, *, allow_overcorrection: bool = False
) -> np.ndarray:
    """Returns z - tau log(prior), float64 [N, C]: its argmax is the decision of logit adjustment after training.

    Menon et al., ICLR 2021, eq. 9. tau 1 decides as if all classes were equally frequent, best for balanced accuracy.

    prior: the shares that the logits stand for, float [C], up to a factor. That is the emphasis of the training
    (`ClassLoss.emphasis`): with the share of the counts instead, what sampler and weights corrected would be corrected
    again, beyond balance where alpha + beta + tau is above 1. With the emphasis no tau up to 1 overcorrects. A class
    of no share gets the adjustment of the rarest that has one. Raises UserError for a tau below 0, and above 1 unless
    `allow_overcorrection`.
    """
    if not 0 <= tau < np.inf or (tau > 1 and not allow_overcorrection):
        raise UserError(f"tau={tau}: use 0 to 1; above 1 the imbalance is turned upside down")
    scores, shares = np.asarray(logits, np.float64), np.asarray(prior, np.float64)
    if scores.ndim != 2 or shares.shape != scores.shape[1:]:
        raise ValueError(f"logits {scores.shape} and prior {shares.shape} are not of the same classes")
    if not ((shares >= 0).all() and shares.any()):
        raise ValueError("a prior has a share below 0, or none above")
    shares = np.maximum(shares, shares[shares > 0].min())
    return scores - tau * np.log(shares / shares.sum())


def fit_temperature(logits: Logits, targets: Targets) -> float:
    """Returns the T, within `TEMPERATURES`, at which logits / T have the least negative log-likelihood.

    Guo et al., ICML 2017, eq. 9. The likelihood is convex in 1 / T, so there is one minimum, found as the zero of its
    slope over log T. Above 1 the model was too sure of itself. A limit is returned where the likelihood improves up to
    it: the lower one where no decision is wrong, the upper one where the logits are no better than chance. 1 where
    they say nothing, all being equal.
    """
    outcomes = Outcomes.of(logits, targets)
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
    outcomes, total = Outcomes.of(logits, targets), 0.0
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
    outcomes, total = Outcomes.of(logits, targets), 0.0
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
    """Outcomes by the confidence in them. edges: float64 [bins + 1]; the others [bins]: how many outcomes, their mean
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
    outcomes = Outcomes.of(logits, targets, decided)
    if bins < 1:
        raise ValueError(f"{bins} bins")
    if equal_mass:
        ranks = np.ceil(outcomes.total * np.arange(1, bins) / bins).astype(np.int64) - 1
        inner = of_ranks(lambda: (confidence for confidence, _ in outcomes.confidences()), ranks)
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
    outcomes = Outcomes.of(logits, targets, decided)
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
