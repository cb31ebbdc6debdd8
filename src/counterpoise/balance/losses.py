"""The negative log-likelihood, weighted. A loss is a sum over examples, divided once by a denominator that does not
depend on the weights.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.balance.balance import Balance
from counterpoise.balance.binary_losses import BinaryCrossEntropy
from counterpoise.errors import UserError

REDUCTIONS = ("mean", "weighted_mean")


def likelihood(balance: Balance, label_smoothing: float = 0.0, reduction: str = "mean") -> nn.Module:
    """Returns the loss of maximum likelihood for the task: `CrossEntropy`, multi-label `BinaryCrossEntropy`."""
    if balance.multi_label:
        return BinaryCrossEntropy(balance, label_smoothing=label_smoothing, reduction=reduction)
    return CrossEntropy(balance, label_smoothing, reduction)


class CrossEntropy(nn.Module):
    """Softmax cross-entropy with class weights: sum_i w[y_i] l_i / B. Single-label.

    PyTorch's `CrossEntropyLoss(weight=w)` divides by sum_i w[y_i] over the micro-batch instead: the weight then
    cancels at batch size 1, and neither accumulation nor several processes reproduce the large batch. That is
    `reduction="weighted_mean"`, kept for comparison.

    Label smoothing is weighted by the true class alone. PyTorch weighs the smoothed mass of each wrong class by
    that class's own weight, so that rare classes attract probability from every example.

    balance: its weights are kept as a buffer (moves with the module, not saved: it follows from the counts).
    label_smoothing: mass spread evenly over all classes, in [0, 1).
    """

    class_weights: Tensor

    def __init__(self, balance: Balance, label_smoothing: float = 0.0, reduction: str = "mean") -> None:
        super().__init__()
        balance.require("single_label", "CrossEntropy")
        if reduction not in REDUCTIONS:
            raise UserError(f"strategy.loss.reduction={reduction}: use {' or '.join(REDUCTIONS)}")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"strategy.loss.label_smoothing={label_smoothing}: use 0 or more, below 1")
        self.register_buffer("class_weights", torch.from_numpy(balance.weights).float(), persistent=False)
        self.label_smoothing = label_smoothing
        self.reduction = reduction

    def forward(
        self, logits: Tensor, targets: Tensor, denominator: float | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Returns the loss of a micro-batch, a scalar.

        logits: [B, C]; targets: int64 [B]. denominator: what `reduction="mean"` divides the sum by, B unless told;
        with the nominal size of a micro-batch, equal examples get equal gradients however the step is divided.
        weights: of the examples, float [B], on top of those of their classes.
        """
        losses = self.elements(logits, targets)
        if weights is not None:
            losses = losses * weights
        if self.reduction == "weighted_mean":
            total = self.class_weights[targets] if weights is None else self.class_weights[targets] * weights
            return losses.sum() / total.sum().clamp_min(torch.finfo(total.dtype).tiny)
        return losses.sum() / (len(losses) if denominator is None else denominator)

    def initial_logits(self, balance: Balance) -> np.ndarray:
        """Returns the log of what each class emphasises, float64 [C]: the constant logits of the least loss."""
        return balance.prior_logits

    def elements(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the weighted loss of each example, [B]."""
        # Half precision is too coarse for a softmax; double is kept.
        logits = logits if logits.dtype == torch.float64 else logits.float()
        losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.label_smoothing)
        return self.class_weights[targets] * losses
