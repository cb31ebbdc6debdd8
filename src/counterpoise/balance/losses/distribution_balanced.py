"""Distribution-balanced loss for multi-label data."""

import math

import numpy as np
import torch
from torch import Tensor

from counterpoise.balance.correction import Correction
from counterpoise.balance.losses.multi_label import MultiLabelLoss, binary_focal
from counterpoise.balance.validation import check_flag, check_non_negative, check_positive, is_number
from counterpoise.balance.weights import WeightScheme
from counterpoise.errors import UserError


class DistributionBalanced(MultiLabelLoss):
    """Distribution-balanced loss: focal loss with rebalanced weights and negative-tolerant regularisation.

    In the terms of Huang et al., R-FL is `rebalance` alone, NTR-FL `negative_tolerant` alone, CB-NTR-FL the same with
    `label_weights`, DB-0FL both with gamma = 0, and DB all three; with gamma = 0 and neither it is binary
    cross-entropy. (Their code omits the factor 1 / scale in NTR-FL.) Rebalancing and negative tolerance both distort
    the odds: there is no prior correction.

    Args:
        correction: Sampling probabilities and class weights of the epoch.
        rebalance: Multiply the loss of text i and label c by r^_ic = alpha + sigma(beta (r_ic - mu)), for positives and
            negatives. r_ic = P^C_c / P^I_i compares the draw rate of a positive under label-balanced sampling,
            P^C_c = 1 / (C n_c), with that of the text over all its labels, P^I_i = sum_c' y_ic' / (C n_c'). n_c are
            expected draws, weighted by instance weights and at least half a draw per epoch. A label rarer than all
            labels of the text gets up to alpha + 1. A text without labels gets the limit alpha + 1 for every label.
            Defaults to True.
        negative_tolerant: Shift the logits by v_c = kappa log(1 / pi_c - 1), with pi_c the fraction of drawn texts with
            label c, and use (1 / scale) times the loss at scale * (z - v) for negatives (EMNLP, eq. 6). pi_c stays half
            a draw per epoch away from 0 and 1. Defaults to True.
        gamma: Focusing parameter, at least 0; 0 disables the focal term. Defaults to 2.
        alpha: Smallest rebalancing weight, at least 0. Defaults to 0.1.
        beta: Steepness of the rebalancing weight, above 0. Defaults to 10.
        mu: Centre of the rebalancing weight: a number (0.9 on Reuters and 0.05 on PubMed in the paper), or "auto"
            (default) for the midpoint of mean and median of r over drawn positives, the authors' rule for 0.9.
        kappa: Strength of the logit shift, at least 0. Defaults to 0.05.
        scale: Slope on negatives, above 0. Defaults to 2.
        label_weights: Weight scheme for whole labels, see `weight_labels`. Defaults to None.

    References:
        Wu et al., ECCV 2020. Focal term and texts: Huang et al., EMNLP 2021.
    """

    inverse_counts: Tensor
    shifts: Tensor

    def __init__(
        self,
        correction: Correction,
        *,
        rebalance: bool = True,
        negative_tolerant: bool = True,
        gamma: float = 2.0,
        alpha: float = 0.1,
        beta: float = 10.0,
        mu: float | str = "auto",
        kappa: float = 0.05,
        scale: float = 2.0,
        label_weights: WeightScheme | None = None,
    ) -> None:
        super().__init__(correction)
        self.rebalance = check_flag("loss.rebalance", rebalance)
        self.negative_tolerant = check_flag("loss.negative_tolerant", negative_tolerant)
        self.gamma, self.alpha = check_non_negative("gamma", gamma), check_non_negative("alpha", alpha)
        self.beta = check_positive("beta", beta)
        self.scale = check_positive("scale", scale)
        kappa = check_non_negative("kappa", kappa)
        if mu != "auto" and not (is_number(mu) and abs(float(mu)) < math.inf):
            raise UserError(f"strategy.loss.mu={mu}: use auto or a number")
        least = 0.5 / correction.epoch_size
        inverse = 1 / np.maximum(correction.weighted_positive_rate, least)
        self.mu = default_mu(correction, inverse) if mu == "auto" else float(mu)
        self.register_array("inverse_counts", inverse / correction.epoch_size)
        rate = np.clip(correction.weighted_positive_rate, least, 1 - least)
        self.register_array("shifts", kappa * np.log(1 / rate - 1))
        if not (rebalance or negative_tolerant):
            self.prior_correction = "approximate" if gamma else "exact"
        self.weight_labels(correction, label_weights)

    def element_weights(self, targets: Tensor) -> Tensor:
        """Return the weight of each text and label including rebalancing, [B, C]; targets: bool [B, C]."""
        weights = super().element_weights(targets)
        return weights * self.rebalancing_weights(targets) if self.rebalance else weights

    def rebalancing_weights(self, targets: Tensor) -> Tensor:
        """Return r^, [B, C], between alpha and alpha + 1; targets: bool [B, C]."""
        # A sum rather than a matrix product: autocast computes products in half precision.
        per_text = torch.where(targets, self.inverse_counts, 0).sum(1, keepdim=True)
        # For a text without labels the quotient is infinite, and its sigmoid is 1.
        return self.alpha + torch.sigmoid(self.beta * (self.inverse_counts / per_text - self.mu))

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the focal loss with negative-tolerant regularisation, [B, C]."""
        if not self.negative_tolerant:
            return binary_focal(torch.where(targets, logits, -logits), self.gamma)
        shifted = logits - self.shifts
        losses = binary_focal(torch.where(targets, shifted, -self.scale * shifted), self.gamma)
        return torch.where(targets, losses, losses / self.scale)


def default_mu(correction: Correction, inverse_counts: np.ndarray) -> float:
    """Return the midpoint of mean and median of r_ic over all positives, weighted by draws and instance weights.

    Args:
        correction: Sampling probabilities and class weights of the epoch.
        inverse_counts: 1 / n_c up to a factor, float [C].

    Returns:
        The midpoint; 1, the r of a text with one label, if no positive is drawn.
    """
    index = correction.index
    inverse = np.repeat(inverse_counts, index.counts)
    per_text = np.bincount(index.rows, inverse, minlength=index.num_rows)
    draws_per_row = correction.draws_per_row if index.weights is None else correction.draws_per_row * index.weights
    ratios, draws = inverse / per_text[index.rows], draws_per_row[index.rows]
    if not draws.any():
        return 1.0
    order = np.argsort(ratios)
    cumulative = np.cumsum(draws[order]) / draws.sum()
    # The median lies between two positives if the cumulative draws reach exactly one half.
    around = np.searchsorted(cumulative, [0.5 - 1e-9, 0.5 + 1e-9])
    median = ratios[order][around].mean()
    return float((np.average(ratios, weights=draws) + median) / 2)
