"""Losses for multi-label data: each label is a binary problem with y = 1 for a positive and 0 for a negative.

z is the logit of a label and p = sigma(z). Probabilities are computed in log space, so that losses and gradients are
finite for any finite logit. The class weights multiply every loss: w+ for a positive, w- for a negative.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from counterpoise.balance.correction import Correction
from counterpoise.balance.losses.protocol import BaseLoss
from counterpoise.balance.validation import (
    check_label_smoothing,
    check_non_negative,
    check_number,
    check_weight_scheme,
)
from counterpoise.balance.weights import WeightScheme


class MultiLabelLoss(BaseLoss):
    """Base class of the losses for multi-label data. A loss implements `unweighted`, which returns [B, C]."""

    task = "multi_label"
    positive_weights: Tensor
    negative_weights: Tensor

    def __init__(self, correction: Correction) -> None:
        super().__init__(correction)
        self.register_array("positive_weights", correction.class_weights)
        self.register_array("negative_weights", correction.negative_weights)

    def elements(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the weighted loss of each text and label, [B, C]."""
        return super().elements(logits, targets.bool())

    def element_weights(self, targets: Tensor) -> Tensor:
        """Return the weight of each text and label, [B, C]; targets: bool [B, C]."""
        return torch.where(targets, self.positive_weights, self.negative_weights)

    def weight_labels(self, correction: Correction, scheme: WeightScheme | None) -> None:
        """Multiply the weights of whole labels, positives and negatives alike, by those of a scheme.

        Args:
            correction: Sampling probabilities and class weights of the epoch.
            scheme: Weight scheme. It is computed from the expected positives among N draws, weighted by instance
                weights (at least 1), and scaled to mean 1 over labels. None: no label weights.
        """
        if scheme is None:
            return
        check_weight_scheme(scheme)
        effective_counts = np.maximum(correction.num_rows * correction.weighted_positive_rate, 1.0)
        by_label = scheme(correction.labels, effective_counts)
        by_label = by_label / by_label.mean()
        self.register_array("positive_weights", by_label * correction.class_weights)
        self.register_array("negative_weights", by_label * correction.negative_weights)

    def effective_prior(self, correction: Correction) -> np.ndarray:
        """Return the effective prior of sampler and weights, float64 [C]; sums to 1."""
        return correction.effective_prior

    def initial_logits(self, correction: Correction) -> np.ndarray:
        """Return the constant logit of least loss for each label, float64 [C].

        They are found on a grid of step 0.05, without weights that depend on the other labels of a text.
        """
        grid = torch.arange(-14, 8, 0.05)[:, None].expand(-1, len(self.positive_weights)).to(self.positive_weights)
        all_positive, all_negative = torch.ones_like(grid, dtype=torch.bool), torch.zeros_like(grid, dtype=torch.bool)
        least = 0.5 / correction.epoch_size
        rate = torch.from_numpy(np.clip(correction.weighted_positive_rate, least, 1 - least)).to(grid)
        risks = rate * self.positive_weights * self.unweighted(grid, all_positive)
        risks += (1 - rate) * self.negative_weights * self.unweighted(grid, all_negative)
        return grid[risks.argmin(0), 0].double().numpy()


class BinaryCrossEntropy(MultiLabelLoss):
    """Binary cross-entropy: -w+ log p for a positive, -w- log(1 - p) for a negative.

    With w- = 1 this is PyTorch's `BCEWithLogitsLoss(pos_weight=w+)`.

    Args:
        correction: Sampling probabilities and class weights of the epoch.
        label_smoothing: Smoothing s, in [0, 1): targets become 1 - s/2 and s/2, weighted by the true side only.
            Defaults to 0. Rare labels need much smaller values than a softmax, because p is pulled up to s/2.
    """

    def __init__(self, correction: Correction, *, label_smoothing: float = 0.0) -> None:
        super().__init__(correction)
        self.label_smoothing = check_label_smoothing(label_smoothing)
        self.prior_correction = "approximate" if label_smoothing else "exact"

    def initial_logits(self, correction: Correction) -> np.ndarray:
        """Return the log odds of the weighted priors, float64 [C]; with label smoothing, a grid search."""
        return super().initial_logits(correction) if self.label_smoothing else correction.prior_logits

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return -log p_t with label smoothing, [B, C]."""
        signed_logits = torch.where(targets, logits, -logits)
        losses = -F.logsigmoid(signed_logits)
        return losses + self.label_smoothing / 2 * signed_logits if self.label_smoothing else losses


class Focal(MultiLabelLoss):
    """Focal loss: -(1 - p_t)^gamma log p_t, where p_t is p for a positive and 1 - p for a negative.

    w+ and w- replace the alpha of eq. 5. gamma = 0 is binary cross-entropy.

    Args:
        correction: Sampling probabilities and class weights of the epoch.
        gamma: Focusing parameter, at least 0. Defaults to 2.
        label_weights: Weight scheme for whole labels, see `weight_labels`. With `EffectiveNumber(0.9)` this is
            class-balanced focal loss. Defaults to None.

    References:
        Lin et al., ICCV 2017, eq. 4. Class-balanced: Cui et al., CVPR 2019; for texts Huang et al., EMNLP 2021.
    """

    def __init__(
        self, correction: Correction, *, gamma: float = 2.0, label_weights: WeightScheme | None = None
    ) -> None:
        super().__init__(correction)
        self.gamma = check_non_negative("gamma", gamma)
        self.prior_correction = "approximate" if gamma else "exact"
        self.weight_labels(correction, label_weights)

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the focal loss, [B, C]."""
        return binary_focal(torch.where(targets, logits, -logits), self.gamma)


class Asymmetric(MultiLabelLoss):
    """Asymmetric loss (ASL): -(1 - p)^gamma+ log p for a positive, -p_m^gamma- log(1 - p_m) for a negative.

    p_m = max(p - margin, 0): negatives less probable than the margin have no loss. With margin = 0 and equal gammas
    this is focal loss; with all three 0, binary cross-entropy. Otherwise it distorts the odds, and there is no prior
    correction.

    Args:
        correction: Sampling probabilities and class weights of the epoch.
        gamma_negative: Focusing parameter of negatives, at least 0. Defaults to 4.
        gamma_positive: Focusing parameter of positives, at least 0. Defaults to 1, as in the authors' code; the paper
            recommends 0.
        margin: Probability margin of negatives, in [0, 1). Defaults to 0.05.

    References:
        Ridnik et al., ICCV 2021.
    """

    def __init__(
        self,
        correction: Correction,
        *,
        gamma_negative: float = 4.0,
        gamma_positive: float = 1.0,
        margin: float = 0.05,
    ) -> None:
        super().__init__(correction)
        self.gamma_negative = check_non_negative("gamma_negative", gamma_negative)
        self.gamma_positive = check_non_negative("gamma_positive", gamma_positive)
        check_number("margin", margin, lambda value: 0 <= value < 1, "a probability, at least 0 and below 1")
        self.log_margin = math.log(margin) if margin else -math.inf
        if not margin and gamma_negative == gamma_positive:
            self.prior_correction = "approximate" if gamma_positive else "exact"

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the asymmetric loss, [B, C]."""
        log_complement = F.logsigmoid(-logits)
        # log(1 - p_m) = min(log(1 - p + margin), 0)
        log_shifted = torch.logaddexp(log_complement, log_complement.new_full((), self.log_margin)).clamp_max(0)
        # For p_m = 0 and gamma- < 1 the power has an infinite gradient at 0 but not at the smallest positive number.
        shifted = (-torch.expm1(log_shifted)).clamp_min(torch.finfo(log_shifted.dtype).tiny)
        negatives = shifted**self.gamma_negative * log_shifted
        positives = torch.exp(self.gamma_positive * log_complement) * F.logsigmoid(logits)
        return -torch.where(targets, positives, negatives)


def binary_focal(signed_logits: Tensor, gamma: float) -> Tensor:
    """Return -(1 - p)^gamma log p for p = sigma(signed_logits)."""
    losses = -F.logsigmoid(signed_logits)
    return torch.exp(gamma * F.logsigmoid(-signed_logits)) * losses if gamma else losses
