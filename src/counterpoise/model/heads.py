"""Heads: from the pooled vectors of texts, [B, H], to logits, [B, C].

A head is any `nn.Module`, built by a factory `factory(in_features, num_classes)`.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.balance.losses.protocol import Loss
from counterpoise.errors import UserError, check_whole_number

HeadFactory = Callable[[int, int], nn.Module]
AnyHead = TypeVar("AnyHead", bound=nn.Module)


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
        check_whole_number("head.hidden_features", hidden_features, null=True)
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


def build_head(factory: HeadFactory, in_features: int, num_classes: int, loss: Loss | None = None) -> nn.Module:
    """Return the head of a model.

    Args:
        factory: Builds the head.
        in_features: Size H of the vectors.
        num_classes: Number C of logits.
        loss: Training loss; None if it takes any logits.

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
    return head


def rebuild_head(factory: HeadFactory, in_features: int, num_classes: int, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a head of the architecture that a checkpoint holds. The caller loads its weights.

    Args:
        factory: Factory of the run's configuration.
        in_features: Size H of the vectors.
        num_classes: Number C of logits.
        state: State dict of the whole model.
    """
    saved = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
    if isinstance(factory, AutoHead):
        scale = saved.get("scale", saved.get("head.scale"))
        head = factory(in_features, num_classes, None if scale is None else float(scale))
    else:
        head = factory(in_features, num_classes)
    shifted = ShiftedHead(head, torch.zeros(num_classes))
    # All names are compared, because a head can have a parameter named `shift` of its own.
    return shifted if saved.keys() == shifted.state_dict().keys() else head


@torch.no_grad()
def set_output_bias(head: nn.Module, bias: np.ndarray, in_features: int) -> bool:
    """Set the bias that is added to the logits of a head.

    It is found by its effect on the logits, because the order in which a head registers its layers does not show which
    one comes last.

    Args:
        head: Its output bias is changed in place.
        bias: New value, float [C].
        in_features: Size H of the vectors.

    Returns:
        Whether the head has an output bias. A head without one stays as it is.
    """
    value = torch.as_tensor(bias)
    for name, parameter in reversed(list(head.named_parameters())):
        if parameter.shape == value.shape and _is_output_bias(head, name, in_features):
            parameter.copy_(value)
            return True
    return False


@torch.no_grad()
def start_at_class_vectors(head: nn.Module, classes: Tensor, texts: Tensor, scale: float = 5.0) -> bool:
    """Set the weights of the last linear layer so that a text's first logits are its similarities to the classes.

    With the mean m of the text vectors h and their mean distance s to it, and class vectors v_c that are centred and of
    length 1, the logit of class c is `scale * (h - m) . v_c / s` plus the bias that the head had.

    Args:
        head: A linear layer, or an `nn.Sequential` that ends with one. Changed in place.
        classes: Vector of each class, [C, H].
        texts: Vectors of some training texts, [N, H].
        scale: Logit of a text at the mean distance in the direction of the class.

    Returns:
        Whether the head has such a layer with a bias. Another head stays as it is.
    """
    last = head[-1] if isinstance(head, nn.Sequential) and len(head) else head
    if not is_linear(last) or last.bias is None:
        return False
    if isinstance(head, nn.Sequential):
        training, features = head.training, nn.Sequential(*list(head)[:-1]).eval()
        classes, texts = features(classes), features(texts)
        head.train(training)
    mean = texts.mean(0)
    distance = (texts - mean).norm(dim=1).mean()
    weight = scale * F.normalize(classes - classes.mean(0), dim=1) / distance
    last.weight.copy_(weight)
    last.bias.copy_(last.bias - weight @ mean)
    return True


def is_linear(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Return whether the head is a linear layer, with or without a bias, whose weight is a parameter."""
    return type(head) is nn.Linear and "weight" in dict(head.named_parameters())


def shift_logits(head: nn.Module, shift: Tensor) -> nn.Module:
    """Return a head whose logits are those of `head` plus `shift`, float [C]; the given head stays as it is."""
    if is_linear(head) and head.bias is not None:
        return linear_like(head, bias=head.bias + shift)
    return ShiftedHead(_copied(head), shift)


def linear_like(head: nn.Linear, weight: Tensor | None = None, bias: Tensor | None = None) -> nn.Linear:
    """Return a copy of a linear head with another weight or bias."""
    copy = _copied(head)
    with torch.no_grad():
        if weight is not None:
            copy.weight.copy_(weight)
        if bias is not None:
            copy.bias.copy_(bias)
    return copy


def _copied(head: AnyHead) -> AnyHead:
    """Return a copy of a head. Weights that hooks compute, as of weight normalisation, need a copy of their own."""
    attributes = [value for module in head.modules() for value in vars(module).values()]
    computed = {id(value): value.detach().clone() for value in attributes if isinstance(value, Tensor)}
    return deepcopy(head, computed)


def _is_output_bias(head: nn.Module, name: str, in_features: int) -> bool:
    """Return whether adding a vector to this parameter, float [C], adds the same vector to the logits."""
    copy = _copied(head).eval()
    parameter = copy.get_parameter(name)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(4, in_features, generator=generator).to(parameter)
    added = torch.randn(len(parameter), generator=generator).to(parameter)
    before = _seeded(copy, vectors)
    parameter.add_(added)
    return torch.allclose(_seeded(copy, vectors), before + added, rtol=1e-4, atol=1e-4)


def _seeded(head: nn.Module, vectors: Tensor) -> Tensor:
    """Return the logits of a head, with fixed random numbers for a head that draws some in evaluation mode too."""
    with torch.random.fork_rng(devices=[]):
        # Unlike torch.manual_seed, this leaves the generators of GPUs as they are.
        torch.default_generator.manual_seed(0)
        return head(vectors)
