"""The project's own head."""

import torch
from torch import Tensor, nn


class GatedHead(nn.Module):
    """Linear head on features scaled by a learned gate.

    Args:
        in_features: Size H of the pooled vectors.
        num_classes: Number C of logits.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.gate = nn.Linear(in_features, in_features)
        self.output = nn.Linear(in_features, num_classes)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return logits [B, C] of vectors [B, H]."""
        return self.output(torch.sigmoid(self.gate(vectors)) * vectors)
