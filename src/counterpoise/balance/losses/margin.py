"""Cross-entropy with an offset on the logits, for single-label data: the loss asks more of rare classes.

The offsets are in the loss alone. The logits that a model returns are those without them.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from counterpoise.balance.correction import Correction
from counterpoise.balance.losses.single_label import ClassLoss, is_target
from counterpoise.balance.validation import above_0, setting
from counterpoise.errors import UserError


class LogitAdjusted(ClassLoss):
    """Logit-adjusted cross-entropy: -w_y log softmax(z + tau log prior)_y.

    Menon et al., ICLR 2021, eq. 10. tau 0 is cross-entropy, tau 1 balanced softmax (Ren et al., NeurIPS 2020). Trained
    to the optimum, softmax(z + tau log prior) is the posterior of the distribution that is trained on, and z alone
    gives that of a distribution in which class c has a share ~ prior^(1 - tau): at tau 1 the same for every class,
    which is best for balanced accuracy.

    The prior is the effective prior e_c ~ n_c^(1 - alpha - beta) of sampler and weights, what they leave uncorrected, not the
    share of the counts. That share would correct once more what they corrected: the logits would end at
    n_c^(1 - alpha - beta - tau), upside down where alpha + beta + tau is above 1. With what is left they end at
    n_c^((1 - alpha - beta) (1 - tau)), and no tau up to 1 turns the imbalance around. On balanced training the
    adjustment does nothing.

    tau: how much of the rest is corrected, from 0 to 1. allow_overcorrection: permit more than 1.
    """

    prior_correction = "exact"
    offsets: Tensor

    def __init__(self, correction: Correction, *, tau: float = 1.0, allow_overcorrection: bool = False) -> None:
        super().__init__(correction)
        self.tau = setting("tau", tau, lambda value: 0 <= value < math.inf, "a number, 0 to 1")
        if tau > 1 and not allow_overcorrection:
            raise UserError(
                f"strategy.loss.tau={tau} corrects more than sampler and weights leave to correct: above 1 the "
                "imbalance is turned upside down; use 0 to 1, or set strategy.allow_overcorrection=true"
            )
        self._keep("offsets", tau * correction.prior_logits)

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the adjusted cross-entropy of each example, [B]."""
        return F.cross_entropy(logits + self.offsets, targets, reduction="none")

    def effective_prior(self, correction: Correction) -> np.ndarray:
        """Returns the shares of the classes that the logits stand for, ~ e_c^(1 - tau), float64 [C], summing to 1."""
        shares = np.exp(self.initial_logits(correction))
        return shares / shares.sum()

    def initial_logits(self, correction: Correction) -> np.ndarray:
        """Returns (1 - tau) log e_c, float64 [C]: the constant logits of the least loss."""
        return (1 - self.tau) * correction.prior_logits


class LDAM(ClassLoss):
    """Label-distribution-aware margin loss: -w_y log softmax(z - s m_y 1[y])_y, where z = s cos(text, class).

    Cao et al., NeurIPS 2019. The true class has to win by a margin m_c ~ n_c^(-1/4), `max_margin` for the rarest.
    n_c are the training examples, however often they are drawn: the margin is there because few examples say little,
    and drawing them again says no more. A class without any counts as having one.

    A margin means nothing to logits that can grow: they have to be `scale` times the cosines between the text's vector
    and one vector a class, without a bias. `cosine_scale` says so to the model, which multiplies by it, so that
    its logits are those of a softmax like any others. They decide and do not estimate: the margins drive them apart by
    about scale * m_c however narrow the majority, so that the probabilities are too sure and no prior correction holds.

    max_margin: m of the rarest class, in cosines, 0 or more, at most 2. scale: s.
    """

    margins: Tensor

    def __init__(self, correction: Correction, *, max_margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__(correction)
        setting("max_margin", max_margin, lambda value: 0 <= value <= 2, "a difference of cosines, 0 to 2")
        self.cosine_scale = self.scale = above_0("scale", scale)
        rarity = np.maximum(correction.counts, 1) ** -0.25
        self._keep("margins", max_margin * rarity / rarity.max())

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the cross-entropy of each example with its margin, [B]; logits: [B, C], in [-scale, scale]."""
        lowered = torch.where(is_target(logits, targets), logits - self.scale * self.margins, logits)
        return F.cross_entropy(lowered, targets, reduction="none")
