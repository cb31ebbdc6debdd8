"""Losses for single-label data, and those that choose by the task. A loss is a sum over examples, divided once by a
denominator that does not depend on the weights.
"""

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.balance.correction import Correction
from counterpoise.balance.losses.multi_label import BinaryCrossEntropy, Focal, weighted_mean
from counterpoise.balance.losses.protocol import PriorCorrection
from counterpoise.balance.validation import at_least_0, check_likelihood, check_scheme
from counterpoise.balance.weights import WeightScheme, normalise


def cross_entropy(
    correction: Correction, label_smoothing: float = 0.0, reduction: str = "mean"
) -> "CrossEntropy | BinaryCrossEntropy":
    """Returns the loss of maximum likelihood for the task: `CrossEntropy`, multi-label `BinaryCrossEntropy`."""
    if correction.multi_label:
        return BinaryCrossEntropy(correction, label_smoothing=label_smoothing, reduction=reduction)
    return CrossEntropy(correction, label_smoothing, reduction)


def focal(
    correction: Correction, gamma: float = 2.0, label_weights: WeightScheme | None = None
) -> "SoftmaxFocal | Focal":
    """Returns the focal loss for the task: `SoftmaxFocal`, multi-label `Focal`."""
    kind = Focal if correction.multi_label else SoftmaxFocal
    return kind(correction, gamma=gamma, label_weights=label_weights)


class ClassLoss(nn.Module):
    """What the losses for single-label data share. They differ in `unweighted`.

    The class weights are a buffer: it moves with the module and is not saved, for it follows from the counts.
    Raises UserError for the balance of multi-label data.

    prior_correction: how well `adjust.natural_shift` takes its logits to the natural distribution: "exact" at the
    optimum, "approximate", or None, not at all.
    """

    prior_correction: PriorCorrection | None = None
    cosine_scale: float | None = None
    class_weights: Tensor

    def __init__(self, correction: Correction) -> None:
        super().__init__()
        correction.check_task("single_label", type(self).__name__)
        self._keep("class_weights", correction.class_weights)

    def forward(
        self, logits: Tensor, targets: Tensor, denominator: float | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Returns the loss of a micro-batch, a scalar: the sum over examples over the denominator.

        logits: [B, C]; targets: int64 [B]. denominator: what the sum is divided by, B unless told; with the nominal
        size of a micro-batch, equal examples get equal gradients however the step is divided. weights: of the
        examples, float [B], on top of those of their classes.
        """
        losses = self.elements(logits, targets)
        if weights is not None:
            losses = losses * weights.to(losses)
        return losses.sum() / (len(losses) if denominator is None else denominator)

    def elements(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the weighted loss of each example, [B]: float32, or float64 where the logits are."""
        # Half precision is too coarse for a softmax; double is kept.
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return self.class_weights[targets] * self.unweighted(logits, targets)

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of each example before weights, [B]."""
        raise NotImplementedError

    def effective_prior(self, correction: Correction) -> np.ndarray:
        """Returns the share of the training that goes to each class with this loss, float64 [C], summing to 1.

        That is e_c of `balance`, unless the loss has weights or offsets of its own.
        """
        mass = correction.sampling_probs * self.class_weights.double().cpu().numpy()
        return mass / mass.sum()

    def initial_logits(self, correction: Correction) -> np.ndarray:
        """Returns the constant logits of the least loss, float64 [C], up to a constant and to within about 0.001.

        Shares of the effective prior below half a draw an epoch count as that, so that all are finite.
        """
        shares = np.maximum(self.effective_prior(correction), 0.5 / correction.epoch_size)
        # Steps in units in which the likelihood curves alike for rare and frequent classes.
        start, units = np.log(shares), 1 / np.sqrt(shares)
        of_class, classes = torch.from_numpy(shares / shares.sum()), torch.arange(len(shares))

        def risk(steps: np.ndarray) -> tuple[float, np.ndarray]:
            logits = torch.from_numpy(start + units * steps).requires_grad_()
            with torch.enable_grad():
                value = of_class @ self.unweighted(logits.expand(len(shares), -1), classes)
            (slopes,) = torch.autograd.grad(value, logits)
            return value.item(), slopes.numpy() * units

        best = minimize(
            risk, np.zeros(len(shares)), jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 0, "gtol": 1e-8}
        )
        return start + units * best.x

    def _keep(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.as_tensor(values).float(), persistent=False)


class CrossEntropy(ClassLoss):
    """Softmax cross-entropy with class weights: sum_i w[y_i] l_i / B.

    PyTorch's `CrossEntropyLoss(weight=w)` divides by sum_i w[y_i] over the micro-batch instead: the weight then
    cancels at batch size 1, and neither accumulation nor several processes reproduce the large batch. That is
    `reduction="weighted_mean"`, kept for comparison.

    Label smoothing is weighted by the true class alone. PyTorch weighs the smoothed mass of each wrong class by
    that class's own weight, so that rare classes attract probability from every example.

    label_smoothing: mass spread evenly over all classes, in [0, 1).
    """

    def __init__(self, correction: Correction, label_smoothing: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(correction)
        check_likelihood(label_smoothing, reduction)
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.prior_correction = "approximate" if label_smoothing or reduction != "mean" else "exact"

    def forward(
        self, logits: Tensor, targets: Tensor, denominator: float | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Returns the loss of a micro-batch, a scalar, as `ClassLoss.forward` does."""
        if self.reduction == "mean":
            return super().forward(logits, targets, denominator, weights)
        losses, counted = self.elements(logits, targets), self.class_weights[targets]
        if weights is not None:
            losses, counted = losses * weights.to(losses), counted * weights.to(counted)
        return weighted_mean(losses, counted, denominator)

    def initial_logits(self, correction: Correction) -> np.ndarray:
        """Returns the log of each class's effective prior, smoothed, float64 [C]: the constant logits of the least loss."""
        if not self.label_smoothing:
            return correction.prior_logits
        shares = np.exp(correction.prior_logits)
        return np.log((1 - self.label_smoothing) * shares / shares.sum() + self.label_smoothing / len(shares))

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns -log p_y, smoothed, [B]."""
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.label_smoothing)


class SoftmaxFocal(ClassLoss):
    """Focal loss of a softmax: -(1 - p_y)^gamma log p_y, times the class weight.

    Lin et al., ICCV 2017, eq. 4, with the softmax probability of the true class for p_t; the class weights take the
    place of the alpha of eq. 5. The modulator sees the unweighted probability. gamma 0 is `CrossEntropy`.

    Focal loss is no proper score: its probabilities are less sure than the frequencies they stand for, so the prior
    correction of `balance.adjust` is approximate, and a temperature is worth fitting.

    label_weights: a scheme of `balance.weights` that weighs the classes on top of the weights of the balance; with
        EffectiveNumber(0.9) class-balanced focal loss (Cui et al., CVPR 2019). Made from the counts as drawn and
        weighted, N e_c and at least 1, so that it only corrects what sampler and weights leave; normalised so that a
        drawn example weighs 1 on average.
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
        by_class = label_weights(correction.labels, np.maximum(correction.num_rows * correction.effective_prior, 1.0))
        self._keep("class_weights", correction.class_weights * normalise(by_class, correction.effective_prior))

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the focal loss of each example, [B]."""
        # p_y = sigma(z_y - log sum_(j != y) exp z_j): both p and 1 - p are then exact, however close to 1.
        others = logits.masked_fill(is_target(logits, targets), torch.finfo(logits.dtype).min / 2)
        margins = logits.gather(1, targets[:, None])[:, 0] - others.logsumexp(1)
        losses = -F.logsigmoid(margins)
        return torch.exp(self.gamma * F.logsigmoid(-margins)) * losses if self.gamma else losses


def is_target(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns where the true classes are, bool [B, C]."""
    return targets[:, None] == torch.arange(logits.shape[1], device=logits.device)
