"""Losses for multi-label data: every label is a binary problem of its own, y = 1 for a positive, else 0.

z is the logit of a label and p = sigma(z). All logarithms of probabilities are taken of logits, in log space, so that
losses and gradients are finite for any finite logit. The weights of the balance multiply whatever loss there is: w+ a
positive, w- a negative.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.balance.correction import Correction
from counterpoise.balance.losses.protocol import PriorCorrection
from counterpoise.balance.validation import above_0, at_least_0, check_likelihood, check_scheme, is_number
from counterpoise.balance.weights import WeightScheme
from counterpoise.errors import UserError


class BinaryLoss(nn.Module):
    """What the losses of this module share. They differ in `unweighted`.

    The weights are buffers: they move with the module and are not saved, for they follow from the counts.
    Raises UserError for the balance of single-label data.

    prior_correction: how well `adjust.natural_shift` takes its logits to the natural distribution, as far as weights
    go: "exact" at the optimum, "approximate", or None, not at all.
    """

    prior_correction: PriorCorrection | None = None
    cosine_scale: float | None = None
    positive_weights: Tensor
    negative_weights: Tensor

    def __init__(self, correction: Correction) -> None:
        super().__init__()
        correction.check_task("multi_label", type(self).__name__)
        self._keep("positive_weights", correction.class_weights)
        self._keep("negative_weights", correction.negative_weights)

    def forward(
        self, logits: Tensor, targets: Tensor, denominator: float | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Returns the loss of a micro-batch, a scalar: the mean over labels, summed over texts, over the denominator.

        logits: [B, C]. targets: [B, C], 1 for a positive and 0 for a negative. denominator: what the sum is divided
        by, B unless told; with the nominal size of a micro-batch, equal texts get equal gradients however the step is
        divided. weights: float [B], how much each text counts, 1 unless told.
        """
        losses = self.elements(logits, targets).mean(1)
        if weights is not None:
            losses = losses * weights.to(losses)
        return losses.sum() / (len(losses) if denominator is None else denominator)

    def elements(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the weighted loss of each text and label, [B, C]: float32, or float64 where the logits are."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        positive = targets.bool()
        return self.element_weights(positive) * self.unweighted(logits, positive)

    def element_weights(self, positive: Tensor) -> Tensor:
        """Returns what each text and label weighs, [B, C]; positive: bool [B, C]."""
        return torch.where(positive, self.positive_weights, self.negative_weights)

    def unweighted(self, logits: Tensor, positive: Tensor) -> Tensor:
        """Returns the loss of each text and label before weights, [B, C]; positive: bool [B, C]."""
        raise NotImplementedError

    def effective_prior(self, correction: Correction) -> np.ndarray:
        """Return the share of each label among all weighted positives, float64 [C]."""
        return correction.effective_prior

    def initial_logits(self, correction: Correction) -> np.ndarray:
        """Returns the logit of each label at which the loss of a constant prediction is least, float64 [C].

        To within 0.05, from the draw rates of `balance`, and without weights that depend on a text's other labels.
        """
        logits = torch.arange(-14, 8, 0.05)[:, None].expand(-1, len(self.positive_weights)).to(self.positive_weights)
        yes, no = torch.ones_like(logits, dtype=torch.bool), torch.zeros_like(logits, dtype=torch.bool)
        least = 0.5 / correction.epoch_size
        share = torch.from_numpy(np.clip(correction.sampling_probs, least, 1 - least)).to(logits)
        losses = share * self.positive_weights * self.unweighted(logits, yes)
        losses += (1 - share) * self.negative_weights * self.unweighted(logits, no)
        return logits[losses.argmin(0), 0].double().numpy()

    def _keep(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.as_tensor(values).float(), persistent=False)


class BinaryCrossEntropy(BinaryLoss):
    """Binary cross-entropy: -w+ log p for a positive, -w- log(1 - p) for a negative.

    With w- = 1 this is torch's `BCEWithLogitsLoss(pos_weight=w+)`.

    label_smoothing: the share s of a target, in [0, 1), that is spread evenly over yes and no: targets are 1 - s/2 and
        s/2, weighted by the true side alone. Rare labels want far less of it than softmax classes: p is held near s/2
        or above.
    reduction: "mean" as in `BinaryLoss`, or "weighted_mean", the sum divided by the weights of the micro-batch instead,
        for comparison.
    """

    def __init__(self, correction: Correction, *, label_smoothing: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(correction)
        check_likelihood(label_smoothing, reduction)
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.prior_correction = "approximate" if label_smoothing or reduction != "mean" else "exact"

    def forward(
        self, logits: Tensor, targets: Tensor, denominator: float | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Returns the loss of a micro-batch, a scalar, as `BinaryLoss.forward` does."""
        if self.reduction == "mean":
            return super().forward(logits, targets, denominator, weights)
        losses, counted = self.elements(logits, targets), self.element_weights(targets.bool())
        if weights is not None:
            weights = weights.to(losses)[:, None]
            losses, counted = losses * weights, counted * weights
        return weighted_mean(losses, counted, denominator)

    def initial_logits(self, correction: Correction) -> np.ndarray:
        """Returns the log odds of the weighted priors, float64 [C]; with smoothing as `BinaryLoss` finds them."""
        return super().initial_logits(correction) if self.label_smoothing else correction.prior_logits

    def unweighted(self, logits: Tensor, positive: Tensor) -> Tensor:
        """Returns -log p_t, smoothed, [B, C]."""
        margins = torch.where(positive, logits, -logits)
        losses = -F.logsigmoid(margins)
        return losses + self.label_smoothing / 2 * margins if self.label_smoothing else losses


def weighted_mean(losses: Tensor, counted: Tensor, denominator: float | None) -> Tensor:
    """Returns sum losses / sum counted, both [B] or [B, C], times B / denominator where there is one: a part of a
    step counts as much as it has texts.
    """
    # Where nothing in the micro-batch counts, the sum is 0 as well.
    mean = losses.sum() / counted.sum().clamp_min(torch.finfo(counted.dtype).tiny)
    return mean if denominator is None else mean * (len(losses) / denominator)


class Focal(BinaryLoss):
    """Focal loss: -(1 - p_t)^gamma log p_t, where p_t is p for a positive and 1 - p for a negative.

    Lin et al., ICCV 2017, eq. 4; w+ and w- take the place of the alpha of eq. 5. The modulator sees the unweighted
    probability. gamma 0 is binary cross-entropy.

    label_weights: a scheme of `balance.weights` that weighs whole labels, positives and negatives alike. With
        EffectiveNumber(0.9) this is class-balanced focal loss (Cui et al., CVPR 2019) as Huang et al., EMNLP 2021, use
        it on texts. Made from the counts as drawn (positives in as many draws as there are texts, at least 1), and
        normalised to a mean of 1 over labels: the mean over drawn pairs of text and label.
    """

    def __init__(
        self, correction: Correction, *, gamma: float = 2.0, label_weights: WeightScheme | None = None
    ) -> None:
        super().__init__(correction)
        self.gamma = at_least_0("gamma", gamma)
        self.prior_correction = "approximate" if gamma else "exact"
        if label_weights is None:
            return
        check_scheme(label_weights)
        by_label = label_weights(correction.labels, np.maximum(correction.num_rows * correction.sampling_probs, 1.0))
        by_label = by_label / by_label.mean()
        self._keep("positive_weights", by_label * correction.class_weights)
        self._keep("negative_weights", by_label * correction.negative_weights)

    def unweighted(self, logits: Tensor, positive: Tensor) -> Tensor:
        """Returns the focal loss, [B, C]."""
        return _focal(torch.where(positive, logits, -logits), self.gamma)


class Asymmetric(BinaryLoss):
    """Asymmetric loss (ASL): -(1 - p)^gamma+ log p for a positive, -p_m^gamma- log(1 - p_m) for a negative.

    p_m = max(p - margin, 0): negatives that are less probable than the margin count nothing (Ridnik et al., ICCV 2021).
    The paper recommends gamma+ = 0, its authors' code 1, which is the default here. With margin 0 and equal gammas
    this is focal loss, with all three 0 binary cross-entropy. Otherwise it moves the odds itself, in a way that no
    prior correction knows of.
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
        self.gamma_negative = at_least_0("gamma_negative", gamma_negative)
        self.gamma_positive = at_least_0("gamma_positive", gamma_positive)
        if not 0 <= margin < 1:
            raise UserError(f"strategy.loss.margin={margin}: a probability, 0 or more, below 1")
        self.log_margin = math.log(margin) if margin else -math.inf
        if not margin and gamma_negative == gamma_positive:
            self.prior_correction = "approximate" if gamma_positive else "exact"

    def unweighted(self, logits: Tensor, positive: Tensor) -> Tensor:
        """Returns the asymmetric loss, [B, C]."""
        log_rest = F.logsigmoid(-logits)
        # log(1 - p_m) = min(log(1 - p + margin), 0)
        log_shifted = torch.logaddexp(log_rest, log_rest.new_full((), self.log_margin)).clamp_max(0)
        # Where p_m is 0 the loss is; the power of the smallest number, not of 0, has a finite slope for gamma below 1.
        shifted = (-torch.expm1(log_shifted)).clamp_min(torch.finfo(log_shifted.dtype).tiny)
        negatives = shifted**self.gamma_negative * log_shifted
        positives = torch.exp(self.gamma_positive * log_rest) * F.logsigmoid(logits)
        return -torch.where(positive, positives, negatives)


class DistributionBalanced(BinaryLoss):
    """Distribution-balanced loss: focal loss with rebalanced weights and negative-tolerant regularisation.

    Wu et al., ECCV 2020; with the focal term and for texts Huang et al., EMNLP 2021. Its parts are switched one by one:

    rebalance: multiplies text i's loss of label c by r^_ic = alpha + sigma(beta (r_ic - mu)). r_ic = P^C_c / P^I_i
        compares how often one positive would be drawn if labels were drawn evenly, P^C_c = 1 / (C n_c), with how often
        text i is when that is done for each of its labels, P^I_i = sum_c' y_ic' / (C n_c'). n_c are the counts drawn,
        at least half a draw an epoch. In both papers r^ multiplies positives and negatives of the text alike, and so
        it does here: a label rarer than all those of the text gets up to alpha + 1, a more frequent one little. For a
        text without labels P^I = 0; r^ is then its limit alpha + 1 for every label.
    negative_tolerant: shifts every logit by v_c = kappa log(1 / pi_c - 1), pi_c the share of drawn texts with label c,
        and makes negatives steeper but slower, (1 / scale) times the loss at scale * (z - v) (EMNLP eq. 6). pi_c is
        kept half a draw an epoch away from 0 and 1.
    gamma: of the focal term, 0 for none.

    The names of Huang et al.: R-FL is rebalance alone, NTR-FL negative_tolerant alone, DB-0FL both with gamma 0, and DB
    all; with gamma 0 and neither it is binary cross-entropy. (Their code leaves 1 / scale out of NTR-FL.) Either
    moves the odds itself, by what else a text holds or by a slope: no prior correction leads back.

    mu: a number (they use 0.9 on Reuters, 0.05 on PubMed), or "auto", the middle between mean and median of r over the
        positives as drawn, which is how they arrived at 0.9. `self.mu` is what it came to.
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
    ) -> None:
        super().__init__(correction)
        self.rebalance, self.negative_tolerant = rebalance, negative_tolerant
        self.gamma, self.alpha = at_least_0("gamma", gamma), at_least_0("alpha", alpha)
        self.beta, self.scale = above_0("beta", beta), above_0("scale", scale) if negative_tolerant else 1.0
        kappa = at_least_0("kappa", kappa)
        if mu != "auto" and not (is_number(mu) and abs(float(mu)) < math.inf):
            raise UserError(f"strategy.loss.mu={mu}: use auto or a number")
        least = 0.5 / correction.epoch_size
        inverse = 1 / np.maximum(correction.sampling_probs, least)
        self.mu = middle_of_ratios(correction, inverse) if mu == "auto" else float(mu)
        self._keep("inverse_counts", inverse / correction.epoch_size)
        share = np.clip(correction.sampling_probs, least, 1 - least)
        self._keep("shifts", kappa * np.log(1 / share - 1))
        if not (rebalance or negative_tolerant):
            self.prior_correction = "approximate" if gamma else "exact"

    def element_weights(self, positive: Tensor) -> Tensor:
        """Returns what each text and label weighs, r^ included, [B, C]; positive: bool [B, C]."""
        weights = super().element_weights(positive)
        return weights * self.rebalanced(positive) if self.rebalance else weights

    def rebalanced(self, positive: Tensor) -> Tensor:
        """Returns r^, [B, C], between alpha and alpha + 1; positive: bool [B, C]."""
        # A sum, not a matrix product: autocast would take that in half precision.
        of_text = torch.where(positive, self.inverse_counts, 0).sum(1, keepdim=True)
        # The quotient is infinite for a text without labels, and its sigmoid 1.
        return self.alpha + torch.sigmoid(self.beta * (self.inverse_counts / of_text - self.mu))

    def unweighted(self, logits: Tensor, positive: Tensor) -> Tensor:
        """Returns the focal loss with negative-tolerant regularisation, [B, C]."""
        if not self.negative_tolerant:
            return _focal(torch.where(positive, logits, -logits), self.gamma)
        shifted = logits - self.shifts
        losses = _focal(torch.where(positive, shifted, -self.scale * shifted), self.gamma)
        return torch.where(positive, losses, losses / self.scale)


def middle_of_ratios(correction: Correction, inverse_counts: np.ndarray) -> float:
    """Returns the middle between mean and median of r_ic over all positives, weighted by how often each is drawn.

    inverse_counts: float [C], 1 / n_c up to a factor. 1, the r of a text with one label, where no positive is drawn.
    """
    index = correction.index
    inverse = np.repeat(inverse_counts, index.counts)
    of_text = np.bincount(index.rows, inverse, minlength=index.num_rows)
    ratios, rates = inverse / of_text[index.rows], correction.rates[index.rows]
    if not rates.any():
        return 1.0
    order = np.argsort(ratios)
    below = np.cumsum(rates[order]) / rates.sum()
    # Equal rates put an even number of positives on both sides of the half: the median is then between the two.
    around = np.searchsorted(below, [0.5 - 1e-9, 0.5 + 1e-9])
    median = ratios[order][around].mean()
    return float((np.average(ratios, weights=rates) + median) / 2)


def _focal(margins: Tensor, gamma: float) -> Tensor:
    """Returns -(1 - p)^gamma log p for p = sigma(margins)."""
    losses = -F.logsigmoid(margins)
    return torch.exp(gamma * F.logsigmoid(-margins)) * losses if gamma else losses
