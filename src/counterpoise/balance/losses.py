"""Losses. Each returns a sum over examples, divided once by a denominator that does not depend on the weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.errors import UserError

REDUCTIONS = ("mean", "weighted_mean")


class CrossEntropy(nn.Module):
    """Softmax cross-entropy with class weights: sum_i w[y_i] l_i / B.

    PyTorch's `CrossEntropyLoss(weight=w)` divides by sum_i w[y_i] over the micro-batch instead: the weight then
    cancels at batch size 1, and neither accumulation nor several processes reproduce the large batch. That is
    `reduction="weighted_mean"`, kept for comparison.

    Label smoothing is weighted by the true class alone. PyTorch weighs the smoothed mass of each wrong class by
    that class's own weight, so that rare classes attract probability from every example.

    class_weights: float [C], kept as a buffer (moves with the module, not saved: it follows from the counts).
    label_smoothing: mass spread evenly over all classes, in [0, 1).
    """

    class_weights: Tensor

    def __init__(self, class_weights: Tensor, label_smoothing: float = 0.0, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise UserError(f"strategy.loss.reduction={reduction}: use {' or '.join(REDUCTIONS)}")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"strategy.loss.label_smoothing={label_smoothing}: use 0 or more, below 1")
        self.register_buffer("class_weights", torch.as_tensor(class_weights).float(), persistent=False)
        self.label_smoothing = label_smoothing
        self.reduction = reduction

    def forward(self, logits: Tensor, classes: Tensor, denominator: float | None = None) -> Tensor:
        """Returns the loss of a micro-batch, a scalar.

        logits: [B, C]; classes: int64 [B]. denominator: what `reduction="mean"` divides the sum by, B unless told;
        with the nominal size of a micro-batch, equal examples get equal gradients however the step is divided.
        """
        # Half precision is too coarse for a softmax; double is kept.
        logits = logits if logits.dtype == torch.float64 else logits.float()
        losses = F.cross_entropy(logits, classes, reduction="none", label_smoothing=self.label_smoothing)
        weights = self.class_weights[classes]
        if self.reduction == "weighted_mean":
            return (weights * losses).sum() / weights.sum()
        return (weights * losses).sum() / (len(losses) if denominator is None else denominator)
