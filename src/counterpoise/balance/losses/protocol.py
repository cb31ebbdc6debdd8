"""The interface of a loss, and the base class of all losses.

A new loss derives from `SingleLabelLoss` or `MultiLabelLoss` and implements `unweighted(logits, targets)`.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from counterpoise.balance.correction import Correction

PriorCorrection: TypeAlias = Literal["exact", "approximate"]
"""Quality of the prior correction of a loss: exact at the optimum, or approximate."""


class Loss(Protocol):
    """What training, evaluation and second stages require of a loss.

    Attributes:
        prior_correction: How well `prior_correction.natural_prior_shift` maps the logits to the natural distribution.
            None: not at all.
        cosine_scale: A loss on scaled cosines requires a cosine head of this scale. None: any head.
    """

    prior_correction: PriorCorrection | None
    cosine_scale: float | None

    def __call__(
        self, logits: Tensor, targets: Tensor, denominator: float | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a micro-batch, see `BaseLoss.forward`."""

    def effective_prior(self, correction: Correction) -> np.ndarray:
        """Return the effective prior of the classes including the loss's own weights and offsets, float64 [C]."""

    def initial_logits(self, correction: Correction) -> np.ndarray:
        """Return the constant logits of least loss, float64 [C]: the initial bias of the head."""

    def to(self, device: torch.device | str, /) -> Any:
        """Move the buffers to a device."""


class BaseLoss(nn.Module, ABC):
    """Base class of the losses: a weighted sum over examples, divided once by a denominator independent of the weights.

    Weights and offsets are non-persistent buffers: they move with the module and are not saved, because they follow
    from the class counts.

    Args:
        correction: Sampling probabilities and class weights of the epoch.

    Raises:
        UserError: The data is not of the loss's task.
    """

    task: ClassVar[str]
    prior_correction: PriorCorrection | None = None
    cosine_scale: float | None = None

    def __init__(self, correction: Correction) -> None:
        super().__init__()
        correction.check_task(self.task, type(self).__name__)

    def forward(
        self, logits: Tensor, targets: Tensor, denominator: float | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a micro-batch: the sum over examples (multi-label: of the mean over labels) / denominator.

        Args:
            logits: Logits, float [B, C].
            targets: Classes, int64 [B]; multi-label: 1 for a positive and 0 for a negative, [B, C].
            denominator: Divides the sum. Defaults to B. With the nominal micro-batch size, all examples of a step have
                the same influence however the step is split.
            weights: Instance weights, float [B]. Defaults to ones.

        Returns:
            A scalar: float32, or float64 for float64 logits.
        """
        losses = self.elements(logits, targets)
        if losses.ndim > 1:
            losses = losses.mean(1)
        if weights is not None:
            losses = losses * weights.to(losses)
        return losses.sum() / (len(losses) if denominator is None else denominator)

    def elements(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the weighted loss of each example, [B] (multi-label: of each example and label, [B, C])."""
        # Half precision is too coarse for probabilities; float64 is kept.
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return self.element_weights(targets) * self.unweighted(logits, targets)

    @abstractmethod
    def element_weights(self, targets: Tensor) -> Tensor:
        """Return the class weight of each element of the loss."""

    @abstractmethod
    def unweighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return each element of the loss before class weights.

        Args:
            logits: Logits, float32 or float64 [B, C].
            targets: Classes, int64 [B]; multi-label: positives, bool [B, C].
        """

    def register_array(self, name: str, values: np.ndarray) -> None:
        """Store an array as a non-persistent float32 buffer."""
        self.register_buffer(name, torch.as_tensor(values).float(), persistent=False)
