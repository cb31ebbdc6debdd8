"""Heads: from the pooled vector of a text to its logits."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(size: int, num_labels: int, bias: np.ndarray | None = None) -> nn.Linear:
    """Returns a linear head [size] -> [num_labels] with small weights, and the bias given (float [C]) or none yet."""
    head = nn.Linear(size, num_labels)
    nn.init.normal_(head.weight, std=0.02)
    with torch.no_grad():
        head.bias.copy_(torch.zeros(num_labels) if bias is None else torch.as_tensor(bias))
    return head


class CosineHead(nn.Linear):
    """Logits that are `scale` times the cosine of a text's vector and a vector for each class, without a bias.

    For losses with margins, which mean nothing to logits that can grow (Cao et al., NeurIPS 2019).
    """

    scale: Tensor

    def __init__(self, size: int, num_labels: int, scale: float) -> None:
        super().__init__(size, num_labels, bias=False)
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, vectors: Tensor) -> Tensor:
        """Returns logits [B, C] in [-scale, scale] of vectors [B, size]."""
        return self.scale * F.linear(F.normalize(vectors, dim=-1), F.normalize(self.weight, dim=-1))
