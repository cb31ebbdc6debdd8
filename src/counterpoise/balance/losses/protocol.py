"""What a training loss provides."""

from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from counterpoise.balance.correction import Correction

PriorCorrection = Literal["exact", "approximate"]


class Loss(Protocol):
    """A training loss, built as `factory(correction)` for each epoch whose correction differs from the last.

    Attributes:
        prior_correction: How well subtracting `natural_prior_shift` from the logits restores the natural prior: "exact"
            at the optimum, "approximate", or None if no shift does.
        cosine_scale: Scale of the cosine head that the loss needs; None if it takes any logits.
    """

    prior_correction: PriorCorrection | None
    cosine_scale: float | None

    def __call__(
        self,
        logits: Tensor,
        targets: Tensor,
        denominator: float | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a micro-batch, a scalar.

        Args:
            logits: Float [B, C].
            targets: Class numbers, int64 [B]; multi-label: 1 for a positive and 0 for a negative, [B, C].
            denominator: Divisor of the sum over examples. Defaults to B. With the nominal size of a micro-batch, equal
                examples have equal gradients however a step is divided.
            weights: Instance weights, float [B]. Defaults to ones.
        """

    def effective_prior(self, correction: Correction) -> np.ndarray:
        """Return the effective prior of each class or label under this loss, float64 [C], summing to 1."""

    def initial_logits(self, correction: Correction) -> np.ndarray:
        """Return the constant logits that minimise the loss, float64 [C]."""

    def to(self, device: torch.device | str) -> "Loss":
        """Move the buffers to a device."""
