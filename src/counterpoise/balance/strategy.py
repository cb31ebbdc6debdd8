"""A strategy: the sampler, the class weights and the loss that together correct the imbalance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from counterpoise.balance.losses import CrossEntropy
from counterpoise.balance.samplers import PowerSampler
from counterpoise.balance.weights import Manual, Power, cap, effective_sample_fraction, normalise
from counterpoise.errors import UserError

WeightScheme = Callable[[Sequence[str], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Balance:
    """What a strategy comes to on given counts. All arrays are [C], in the order of `labels`."""

    labels: Sequence[str]
    counts: np.ndarray
    probabilities: np.ndarray
    weights: np.ndarray
    capped: np.ndarray
    sampler: PowerSampler
    loss: nn.Module

    @property
    def emphasis(self) -> np.ndarray:
        """e_c = q_c w_c, the share of the training that goes to class c. Sums to 1."""
        return self.probabilities * self.weights

    @property
    def expected_draws(self) -> np.ndarray:
        """How often one example of each class is drawn in an epoch, on average."""
        return self.sampler.size(self.counts) * self.probabilities / self.counts

    @property
    def weight_ratio(self) -> float:
        """The largest class weight over the smallest positive one."""
        return float(self.weights.max() / self.weights[self.weights > 0].min())

    @property
    def effective_sample_fraction(self) -> float:
        """E[w]^2 / E[w^2] over drawn examples."""
        return effective_sample_fraction(self.weights, self.probabilities)


@dataclass(frozen=True)
class Strategy:
    """How the imbalance is corrected, before the counts are known.

    sampler: what is drawn. weights: how much a drawn example counts, a scheme of `balance.weights`.
    loss: made from the class weights. max_ratio: the most that one class may weigh over another.
    allow_overcorrection: permit alpha + beta > 1, which turns the imbalance upside down.
    """

    sampler: PowerSampler = field(default_factory=PowerSampler)
    weights: WeightScheme = field(default_factory=lambda: Power(0.0))
    loss: Callable[[Tensor], nn.Module] = CrossEntropy
    max_ratio: float | None = None
    allow_overcorrection: bool = False

    def balance(self, labels: Sequence[str], counts: np.ndarray) -> Balance:
        """Returns the strategy for these training counts (int [C], all at least 1).

        Raises UserError when sampler and weights together correct more than the whole imbalance.
        """
        counts = np.asarray(counts)
        raw = self.weights(labels, counts)
        probabilities = self.sampler.probabilities(counts)
        # Manual weights may express costs rather than counts: the user has already insisted.
        if not self.allow_overcorrection and not isinstance(self.weights, Manual):
            alpha, beta = self.sampler.alpha, weight_exponent(raw, counts)
            if alpha + beta > 1 + 1e-6:
                raise UserError(
                    f"the sampler (alpha={alpha:g}) and the class weights (beta={beta:.3g}) correct twice: "
                    f"alpha + beta = {alpha + beta:.3g} is above 1 and would turn the imbalance upside down; "
                    "lower one of them, or set strategy.allow_overcorrection=true"
                )
        limited = cap(raw, self.max_ratio)
        weights = normalise(limited, probabilities)
        return Balance(
            labels, counts, probabilities, weights, limited < raw, self.sampler, self.loss(torch.from_numpy(weights))
        )


def weight_exponent(weights: np.ndarray, counts: np.ndarray) -> float:
    """Returns the beta for which n_c^(-beta) spans the same range as the weights; 0 where all counts are equal.

    For `Power` this is its beta; for any other function of the counts, the beta it amounts to on these counts.
    """
    largest, smallest = counts.argmax(), counts.argmin()
    if counts[largest] == counts[smallest]:
        return 0.0
    return float(np.log(weights[smallest] / weights[largest]) / np.log(counts[largest] / counts[smallest]))
