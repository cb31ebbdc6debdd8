"""Losses for single-label data: cross-entropy and focal loss of a softmax."""

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from counterpoise.balance.correction import Correction
from counterpoise.balance.losses.protocol import BaseLoss
from counterpoise.balance.validation import check_label_smoothing, check_non_negative, check_weight_scheme
from counterpoise.balance.weights import WeightScheme, normalise


class SingleLabelLoss(BaseLoss):
    """Base class of the losses for single-label data. A loss implements `unweighted`, which returns [B]."""

    task = "single_label"
    class_weights: Tensor

    def __init__(self, correction: Correction) -> None:
        super().__init__(correction)
        self.register_array("class_weights", correction.class_weights)

    def element_weights(self, targets: Tensor) -> Tensor:
        """Return the class weight of each example, [B]."""
        return self.class_weights[targets]

    def effective_prior(self, correction: Correction) -> np.ndarray:
        """Return the effective prior with this loss, float64 [C]; sums to 1.

        It equals `correction.effective_prior` unless the loss has weights or offsets of its own.
        """
        mass = correction.sampling_probs * correction.instance_weights * self.class_weights.double().cpu().numpy()
        return mass / mass.sum()

    def initial_logits(self, correction: Correction) -> np.ndarray:
        """Return the constant logits of least loss, float64 [C], up to an additive constant.

        They are found numerically, to about 0.001. The effective prior is bounded below by half a draw per epoch, so
        that all logits are finite.
        """
        prior = np.maximum(self.effective_prior(correction), 0.5 / correction.epoch_size)
        # In these units the curvature of cross-entropy is equal for rare and frequent classes.
        start, units = np.log(prior), 1 / np.sqrt(prior)
        probabilities, classes = torch.from_numpy(prior / prior.sum()), torch.arange(len(prior))

        def risk_and_gradient(steps: np.ndarray) -> tuple[float, np.ndarray]:
            logits = torch.from_numpy(start + units * steps).requires_grad_()
            with torch.enable_grad():
                risk = probabilities @ self.unweighted(logits.expand(len(prior), -1), classes)
            (gradient,) = torch.autograd.grad(risk, logits)
            return risk.item(), gradient.numpy() * units

        options = {"maxiter": 1000, "ftol": 0, "gtol": 1e-8}
        best = minimize(risk_and_gradient, np.zeros(len(prior)), jac=True, method="L-BFGS-B", options=options)
        return start + units * best.x


class CrossEntropy(SingleLabelLoss):
    """Softmax cross-entropy with class weights: sum_i w[y_i] l_i / B.

    PyTorch's `CrossEntropyLoss(weight=w)` divides by sum_i w[y_i] of the micro-batch instead. The weights then cancel
    at batch size 1, and neither gradient accumulation nor several processes reproduce the large batch.

    Args:
        correction: Sampling probabilities and class weights of the epoch.
        label_smoothing: Probability mass spread evenly over all classes, in [0, 1). Defaults to 0. It is weighted by
            the true class only. PyTorch weights the mass of each wrong class by that class's own weight, which moves
            probability to rare classes in every example.
    """

    def __init__(self, correction: Correction, *, label_smoothing: float = 0.0) -> None:
        super().__init__(correction)
        self.label_smoothing = check_label_smoothing(label_smoothing)
        self.prior_correction = "approximate" if label_smoothing else "exact"

    def initial_logits(self, correction: Correction) -> np.ndarray:
        """Return the log of the smoothed effective prior, float64 [C]."""
        if not self.label_smoothing:
            return correction.prior_logits
        prior = np.exp(correction.prior_logits)
        return np.log((1 - self.label_smoothing) * prior / prior.sum() + self.label_smoothing / len(prior))

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return -log p_y with label smoothing, [B]."""
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.label_smoothing)


class SoftmaxFocal(SingleLabelLoss):
    """Focal loss of a softmax: -w_y (1 - p_y)^gamma log p_y.

    p_y is the softmax probability of the true class, and the class weights replace the alpha of eq. 5. gamma = 0 is
    `CrossEntropy`. Focal loss is not a proper score: its probabilities are less extreme than the frequencies. The prior
    correction is therefore approximate, and temperature scaling is worthwhile.

    Args:
        correction: Sampling probabilities and class weights of the epoch.
        gamma: Focusing parameter, at least 0. Defaults to 2.
        label_weights: Weight scheme that multiplies the class weights. With `EffectiveNumber(0.9)` this is
            class-balanced focal loss. It is computed from the effective counts N e_c (at least 1), so that it corrects
            only what sampler and weights leave; the mean over drawn examples is 1. Defaults to None.

    References:
        Lin et al., ICCV 2017, eq. 4. Class-balanced: Cui et al., CVPR 2019.
    """

    def __init__(
        self, correction: Correction, *, gamma: float = 2.0, label_weights: WeightScheme | None = None
    ) -> None:
        super().__init__(correction)
        self.gamma = check_non_negative("gamma", gamma)
        self.prior_correction = "approximate" if gamma else "exact"
        if label_weights is None:
            return
        check_weight_scheme(label_weights)
        prior = correction.effective_prior
        by_class = label_weights(correction.labels, np.maximum(correction.num_rows * prior, 1.0))
        self.register_array("class_weights", correction.class_weights * normalise(by_class, prior))

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the focal loss of each example, [B]."""
        # p_y = sigma(z_y - log sum_(j != y) exp z_j). This form is exact for p and for 1 - p close to 0.
        others = logits.masked_fill(target_mask(logits, targets), torch.finfo(logits.dtype).min / 2)
        log_odds = logits.gather(1, targets[:, None])[:, 0] - others.logsumexp(1)
        losses = -F.logsigmoid(log_odds)
        return torch.exp(self.gamma * F.logsigmoid(-log_odds)) * losses if self.gamma else losses


def target_mask(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the one-hot mask of the true classes, bool [B, C]."""
    return targets[:, None] == torch.arange(logits.shape[1], device=logits.device)
