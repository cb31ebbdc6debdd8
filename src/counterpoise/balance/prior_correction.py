"""Prior correction and post-hoc logit adjustment: logit shifts between the training and the natural distribution."""

import numpy as np
from scipy.special import logit

from counterpoise.balance.correction import Correction
from counterpoise.errors import UserError


def natural_prior_shift(correction: Correction, effective_prior: np.ndarray | None = None) -> np.ndarray:
    """Return the shift to subtract from the logits to restore the natural prior, float64 [C].

    Args:
        correction: Sampling probabilities and class weights of the training.
        effective_prior: Effective prior of a loss with its own weights or offsets, float [C], see
            `Loss.effective_prior`. Single-label only. Defaults to that of the correction.
    """
    if not correction.multi_label:
        prior = correction.effective_prior if effective_prior is None else effective_prior
        return prior_shift(prior, correction.counts)
    if effective_prior is not None:
        raise ValueError("effective_prior applies to single-label data only")
    return label_prior_shift(
        correction.weighted_positive_rate,
        correction.class_weights,
        correction.negative_weights,
        correction.counts,
        correction.num_rows,
    )


def prior_shift(effective_prior: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return log(e_c / pi_c) with pi_c = n_c / N, float64 [C].

    Logits trained with effective prior e minus this shift are the logits of the natural distribution. Sampler and
    weights change the class probabilities but not the distribution within a class. By Bayes' rule the trained posterior
    is then p'(c | x) ~ p(c | x) e_c / pi_c. This is exact for cross-entropy, and for `LogitAdjusted` with its own
    effective prior; it is approximate for focal loss. The logits of LDAM are no posterior, and no shift applies.

    In terms of the law the shift is -(alpha + beta) log n_c plus a constant.

    Args:
        effective_prior: Effective prior, float [C], up to a factor.
        counts: Class counts, [C].

    Returns:
        The shift; 0 for classes without examples or effective prior.

    References:
        Saerens et al., Neural Computation 2002.
    """
    effective_prior, counts = np.asarray(effective_prior, np.float64), np.asarray(counts, np.float64)
    if effective_prior.shape != counts.shape or effective_prior.ndim != 1 or not len(counts):
        raise ValueError(
            f"effective prior {effective_prior.shape} and counts {counts.shape} differ in shape, or are empty"
        )
    if not ((effective_prior >= 0).all() and (counts >= 0).all()):
        raise ValueError("an effective prior or a count is negative or NaN")
    known = (effective_prior > 0) & (counts > 0)
    shift = np.zeros(len(counts))
    if known.any():
        shift[known] = np.log(effective_prior[known] / effective_prior.sum()) - np.log(counts[known] / counts.sum())
    return shift


def label_prior_shift(
    sampling_probs: np.ndarray,
    weights: np.ndarray,
    negative_weights: np.ndarray,
    counts: np.ndarray,
    num_rows: int,
) -> np.ndarray:
    """Return log(w+ / w-) + logit(pi') - logit(pi) with pi = n / N, float64 [C].

    Logits of labels trained with these weights and sampling probabilities minus this shift are the logits of the
    natural distribution. Weights multiply the odds of every text by w+ / w-, which is exact for binary cross-entropy.
    The sampler multiplies them by its mean effect on the odds of the label. This is exact if the draws of a text depend
    on this label only; co-occurring labels make it approximate.

    Args:
        sampling_probs: Fraction pi' of drawn texts that carry the label, weighted by instance weights, [C].
        weights: Weights w+ of positives, above 0, [C].
        negative_weights: Weights w- of negatives, above 0, [C].
        counts: Positives n of each label, [C].
        num_rows: Number of texts N.

    Returns:
        The shift. The term of the sampler is 0 for labels of no text or of all texts.

    References:
        Elkan, IJCAI 2001, theorem 2.
    """
    natural, drawn = np.asarray(counts, np.float64) / num_rows, np.asarray(sampling_probs, np.float64)
    ratios = np.asarray(weights, np.float64) / np.asarray(negative_weights, np.float64)
    if not natural.shape == drawn.shape == ratios.shape or natural.ndim != 1:
        raise ValueError(f"counts {natural.shape}, sampling_probs {drawn.shape}, weights {ratios.shape} do not match")
    varies = (natural > 0) & (natural < 1) & (drawn > 0) & (drawn < 1)
    shift = np.log(ratios)
    shift[varies] += logit(drawn[varies]) - logit(natural[varies])
    return shift


def post_hoc(
    logits: np.ndarray, prior: np.ndarray, tau: float = 1.0, *, allow_overcorrection: bool = False
) -> np.ndarray:
    """Return the logits after post-hoc logit adjustment, z - tau log(prior), float64 [N, C].

    tau = 1 decides as if all classes were equally frequent, which is optimal for balanced accuracy.

    Args:
        logits: Logits z, float [N, C].
        prior: Class probabilities that the logits represent, float [C], up to a factor: the effective prior of the
            training. Class frequencies would repeat the correction of sampler and weights, and over-correct if
            alpha + beta + tau > 1. Classes with probability 0 are adjusted like the rarest of the others.
        tau: Fraction of the imbalance that is corrected, 0 to 1. Defaults to 1.
        allow_overcorrection: Permit tau > 1. Defaults to False.

    Raises:
        UserError: tau is out of range.

    References:
        Menon et al., ICLR 2021, eq. 9.
    """
    if not 0 <= tau < np.inf or (tau > 1 and not allow_overcorrection):
        raise UserError(f"tau={tau}: use 0 to 1; larger values turn the imbalance upside down")
    scores, probs = np.asarray(logits, np.float64), np.asarray(prior, np.float64)
    if scores.ndim != 2 or probs.shape != scores.shape[1:]:
        raise ValueError(f"logits {scores.shape} and prior {probs.shape} do not have the same classes")
    if not ((probs >= 0).all() and probs.any()):
        raise ValueError("the prior has a negative entry, or only zeros")
    probs = np.maximum(probs, probs[probs > 0].min())
    return scores - tau * np.log(probs / probs.sum())
