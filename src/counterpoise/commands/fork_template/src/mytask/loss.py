"""The project's own loss."""

from torch import Tensor
from torch.nn import functional as F

from counterpoise.balance import Correction
from counterpoise.balance.losses.single_label import SingleLabelLoss


class PolyLoss(SingleLabelLoss):
    """Poly-1 loss: cross-entropy plus epsilon (1 - p_y).

    References:
        Leng et al., PolyLoss, ICLR 2022, eq. 4.
    """

    def __init__(self, correction: Correction, epsilon: float = 1.0) -> None:
        super().__init__(correction)
        self.epsilon = epsilon

    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss [B] of logits [B, C] and classes [B], before class weights."""
        cross_entropy = F.cross_entropy(logits, targets, reduction="none")
        return cross_entropy + self.epsilon * (1 - (-cross_entropy).exp())
