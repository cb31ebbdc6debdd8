"""Shifts between the training distribution and the natural one: prior correction and post-hoc logit adjustment."""

import numpy as np
from scipy.special import logit

from counterpoise.balance.correction import Correction
from counterpoise.errors import UserError


def natural_prior_shift(correction: Correction, effective_prior: np.ndarray | None = None) -> np.ndarray:
    """Returns what to subtract from the logits to get those of the natural distribution, float64 [C].

    `prior_shift`, multi-label `odds_shift`, of what `balance` says was drawn and how it was weighted. effective prior: float
    [C], of a loss that has weights or offsets of its own, its `effective prior(balance)`; single-label only.
    """
    if not correction.multi_label:
        return prior_shift(
            correction.effective_prior if effective_prior is None else effective_prior, correction.counts
        )
    if effective_prior is not None:
        raise ValueError("an effective prior of classes means nothing to multi-label data")
    return label_prior_shift(
        correction.sampling_probs,
        correction.class_weights,
        correction.negative_weights,
        correction.counts,
        correction.num_rows,
    )


def prior_shift(effective_prior: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns log(e_c / pi_c), pi_c = n_c / N, float64 [C]: subtracted from logits that were trained with effective prior e
    they are the logits of the natural distribution.

    Sampler and weights change how often a class counts and nothing within it, so that by Bayes the posterior they lead
    to is p'(c | x) ~ p(c | x) e_c / pi_c (Saerens et al., Neural Computation 2002). Exact for cross-entropy, and for
    `LogitAdjusted` with its own effective prior. An approximation for focal loss. LDAM gives no posterior at all: its logits
    are driven to the margins, and no shift leads back.

    effective prior: float [C], up to a factor; counts: [C]. A class without examples or effective prior is left alone: training
    said nothing about it. In terms of the law it is -(alpha + beta) log n_c and a constant.
    """
    effective_prior, counts = np.asarray(effective_prior, np.float64), np.asarray(counts, np.float64)
    if effective_prior.shape != counts.shape or effective_prior.ndim != 1 or not len(counts):
        raise ValueError(
            f"effective prior {effective_prior.shape} and counts {counts.shape} are not of the same classes"
        )
    if not ((effective_prior >= 0).all() and (counts >= 0).all()):
        raise ValueError("an effective prior or a count is negative or not a number")
    known = (effective_prior > 0) & (counts > 0)
    shift = np.zeros(len(counts))
    if known.any():
        shift[known] = np.log(effective_prior[known] / effective_prior.sum()) - np.log(counts[known] / counts.sum())
    return shift


def label_prior_shift(
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

    prior: the shares that the logits stand for, float [C], up to a factor. That is the effective prior of the training
    (`ClassLoss.effective prior`): with the share of the counts instead, what sampler and weights corrected would be corrected
    again, beyond balance where alpha + beta + tau is above 1. With the effective prior no tau up to 1 overcorrects. A class
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
