"""Heads: from the pooled vectors of texts, [B, H], to logits, [B, C].

A head is any `nn.Module`, built by a factory `factory(in_features, num_classes)`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.balance.losses.protocol import Loss
from counterpoise.errors import UserError

HeadFactory = Callable[[int, int], nn.Module]


def linear(in_features: int, num_classes: int) -> nn.Linear:
    """Return a linear head with weights of standard deviation 0.02 and zero bias, as in BERT's classifier."""
    head = nn.Linear(in_features, num_classes)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


class CosineHead(nn.Linear):
    """Logits are `scale` times the cosine between a vector and the class vector. There is no bias.

    Margin losses need bounded logits (Cao et al., NeurIPS 2019).

    Args:
        in_features: Size H of the vectors.
        num_classes: Number C of classes.
        scale: Factor of the cosines.
    """

    scale: Tensor

    def __init__(self, in_features: int, num_classes: int, scale: float = 30.0) -> None:
        super().__init__(in_features, num_classes, bias=False)
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return logits [B, C] in [-scale, scale] of vectors [B, H]."""
        return self.scale * F.linear(F.normalize(vectors, dim=-1), F.normalize(self.weight, dim=-1))


class NormalisedHead(nn.Sequential):
    """Layer normalisation and a linear layer.

    Args:
        in_features: Size H of the vectors.
        num_classes: Number C of classes.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__(nn.LayerNorm(in_features), linear(in_features, num_classes))


class MLPHead(nn.Sequential):
    """A hidden layer with GELU and dropout, and a linear layer.

    Args:
        in_features: Size H of the vectors.
        num_classes: Number C of classes.
        hidden_features: Size of the hidden layer. Defaults to H.
        dropout: Dropout probability of the hidden layer, in [0, 1).
    """

    def __init__(
        self, in_features: int, num_classes: int, hidden_features: int | None = None, dropout: float = 0.1
    ) -> None:
        if not 0 <= dropout < 1:
            raise UserError(f"head.dropout={dropout}: use a number of at least 0 and below 1")
        if hidden_features is not None and hidden_features < 1:
            raise UserError(f"head.hidden_features={hidden_features}: use a whole number of at least 1, or null")
        hidden = hidden_features or in_features
        super().__init__(nn.Linear(in_features, hidden), nn.GELU(), nn.Dropout(dropout), linear(hidden, num_classes))


class ShiftedHead(nn.Module):
    """A head whose logits are shifted by a constant.

    Args:
        head: The head.
        shift: Added to its logits, [C].
    """

    shift: Tensor

    def __init__(self, head: nn.Module, shift: Tensor) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("shift", shift)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return logits [B, C] of vectors [B, H]."""
        return self.head(vectors) + self.shift


@dataclass(frozen=True)
class AutoHead:
    """Factory of a linear head, or of a cosine head for a loss that needs one."""

    def __call__(self, in_features: int, num_classes: int, cosine_scale: float | None = None) -> nn.Module:
        """Return the head; `cosine_scale` is that of the loss."""
        if cosine_scale is None:
            return linear(in_features, num_classes)
        return CosineHead(in_features, num_classes, cosine_scale)


def build_head(
    factory: HeadFactory, in_features: int, num_classes: int, loss: Loss | None = None, bias: np.ndarray | None = None
) -> nn.Module:
    """Return the head of a model.

    Args:
        factory: Builds the head.
        in_features: Size H of the vectors.
        num_classes: Number C of logits.
        loss: Training loss; None if it takes any logits.
        bias: Initial bias, float [C]. It is ignored if the head does not end in a linear layer with a bias.

    Raises:
        UserError: The loss needs a cosine head and the factory builds another one.
    """
    scale = None if loss is None else loss.cosine_scale
    head = (
        factory(in_features, num_classes, scale) if isinstance(factory, AutoHead) else factory(in_features, num_classes)
    )
    if scale is not None and not (isinstance(head, CosineHead) and float(head.scale) == float(scale)):
        raise UserError(
            f"this loss needs a cosine head of scale {scale:g}: use head=auto, or head=cosine head.scale={scale:g}"
        )
    if bias is not None and (layer := output_layer(head)) is not None:
        with torch.no_grad():
            layer.bias.copy_(torch.as_tensor(bias))
    return head


def rebuild_head(
    factory: HeadFactory, in_features: int, num_classes: int, state: Mapping[str, Tensor], prefix: str = "head."
) -> nn.Module:
    """Return a head of the architecture that a checkpoint holds. The caller loads its weights.

    Args:
        factory: Factory of the run's configuration.
        in_features: Size H of the vectors.
        num_classes: Number C of logits.
        state: State dict of the whole model.
        prefix: Prefix of the head's keys.
    """
    if f"{prefix}shift" in state:
        inner = rebuild_head(factory, in_features, num_classes, state, f"{prefix}head.")
        return ShiftedHead(inner, torch.zeros(num_classes))
    if isinstance(factory, AutoHead):
        scale = state.get(f"{prefix}scale")
        return factory(in_features, num_classes, None if scale is None else float(scale))
    return factory(in_features, num_classes)


def output_layer(head: nn.Module) -> nn.Linear | None:
    """Return the linear layer with a bias that the head ends in, or None."""
    last = list(head.modules())[-1]
    return last if isinstance(last, nn.Linear) and last.bias is not None else None


def shift_logits(head: nn.Module, shift: Tensor) -> nn.Module:
    """Return a head whose logits are those of `head` plus `shift`, float [C]; the given head stays as it is."""
    if type(head) is not nn.Linear:
        return ShiftedHead(head, shift)
    return linear_like(head, bias=head.bias + shift)


def linear_like(head: nn.Linear, weight: Tensor | None = None, bias: Tensor | None = None) -> nn.Linear:
    """Return a copy of a linear head with another weight or bias."""
    copy = nn.Linear(head.in_features, head.out_features).to(head.weight)
    with torch.no_grad():
        copy.weight.copy_(head.weight if weight is None else weight)
        copy.bias.copy_(head.bias if bias is None else bias)
    return copy
