"""Cross-entropy with class-dependent offsets on the logits, for single-label data.

The offsets exist in the loss only. The model returns the logits without them.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from counterpoise.balance.correction import Correction
from counterpoise.balance.losses.single_label import SingleLabelLoss, target_mask
from counterpoise.balance.validation import check_flag, check_number, check_positive
from counterpoise.errors import UserError


class LogitAdjusted(SingleLabelLoss):
    """Logit-adjusted cross-entropy: -w_y log softmax(z + tau log prior)_y.

    At the optimum, softmax(z + tau log prior) is the posterior of the training distribution, and softmax(z) that of a
    distribution with class probabilities ~ prior^(1 - tau). At tau = 1 these are uniform, which is optimal for balanced
    accuracy. tau = 0 is cross-entropy, tau = 1 balanced softmax.

    The prior is the effective prior e_c ~ n_c^(1 - alpha - beta) of sampler and weights rather than the class
    frequencies. The class frequencies would repeat the correction of sampler and weights: the logits would represent
    n_c^(1 - alpha - beta - tau), over-corrected if alpha + beta + tau > 1. With the effective prior they represent
    n_c^((1 - alpha - beta) (1 - tau)), and no tau up to 1 over-corrects. On balanced training the adjustment is zero.

    Args:
        correction: Sampling probabilities and class weights of the epoch.
        tau: Fraction of the remaining imbalance that is corrected, 0 to 1. Defaults to 1.
        allow_overcorrection: Permit tau > 1. Defaults to False.

    References:
        Menon et al., ICLR 2021, eq. 10. Balanced softmax: Ren et al., NeurIPS 2020.
    """

    prior_correction = "exact"
    offsets: Tensor

    def __init__(self, correction: Correction, *, tau: float = 1.0, allow_overcorrection: bool = False) -> None:
        super().__init__(correction)
        check_flag("loss.allow_overcorrection", allow_overcorrection)
        self.tau = check_number("tau", tau, lambda value: 0 <= value < math.inf, "a number from 0 to 1")
        if tau > 1 and not allow_overcorrection:
            raise UserError(
                f"strategy.loss.tau={tau} over-corrects and turns the imbalance upside down: use 0 to 1, or set "
                "strategy.allow_overcorrection=true"
            )
        self.register_array("offsets", tau * correction.prior_logits)

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the adjusted cross-entropy of each example, [B]."""
        return F.cross_entropy(logits + self.offsets, targets, reduction="none")

    def effective_prior(self, correction: Correction) -> np.ndarray:
        """Return the class probabilities that the logits represent, ~ e_c^(1 - tau), float64 [C]; sums to 1."""
        prior = np.exp(self.initial_logits(correction))
        return prior / prior.sum()

    def initial_logits(self, correction: Correction) -> np.ndarray:
        """Return (1 - tau) log e_c, float64 [C]: the constant logits of least loss."""
        return (1 - self.tau) * correction.prior_logits


class LDAM(SingleLabelLoss):
    """Label-distribution-aware margin loss: -w_y log softmax(z - s m_y 1[y])_y with z = s cos(text, class).

    The true class must win by a margin m_c ~ n_c^(-1/4). n_c is the number of training examples, whatever the sampler:
    the margin compensates for few distinct examples, and repeated draws add none. A class without examples counts as
    having one.

    A margin has no effect on unbounded logits. The loss therefore requires a head without bias whose logits are
    `cosine_scale` times the cosine between embedding and class vector. These logits are not log-probabilities: the
    margins separate them by about scale * m_c however rare errors are, so that probabilities are overconfident and
    there is no prior correction.

    Args:
        correction: Sampling probabilities and class weights of the epoch.
        max_margin: Margin m of the rarest class, as a difference of cosines, 0 to 2. Defaults to 0.5.
        scale: Scale s of the cosines, above 0. Defaults to 30.

    References:
        Cao et al., NeurIPS 2019.
    """

    cosine_scale: float
    margins: Tensor

    def __init__(self, correction: Correction, *, max_margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__(correction)
        check_number("max_margin", max_margin, lambda value: 0 <= value <= 2, "a difference of cosines, 0 to 2")
        self.cosine_scale = check_positive("scale", scale)
        margins = np.maximum(correction.counts, 1) ** -0.25
        self.register_array("margins", max_margin * margins / margins.max())

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of each example with its margin, [B]; logits: [B, C], in [-scale, scale]."""
        with_margin = torch.where(target_mask(logits, targets), logits - self.cosine_scale * self.margins, logits)
        return F.cross_entropy(with_margin, targets, reduction="none")
