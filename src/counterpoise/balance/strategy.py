"""A strategy: the sampler, the weights and the loss that together correct the imbalance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
from torch import nn

from counterpoise.balance.correction import Correction
from counterpoise.balance.counts import ClassIndex
from counterpoise.balance.losses.single_label import cross_entropy
from counterpoise.balance.samplers import Blend, PowerSampler, Sampler
from counterpoise.balance.schedule import Plan, Schedule
from counterpoise.balance.weights import (
    InverseFrequency,
    ManualWeights,
    WeightScheme,
    cap,
    cap_ratios,
    normalise,
    normalise_ratios,
    ratios,
)
from counterpoise.errors import UserError

MULTI_LABEL_RATIO = 10.0
"""The most that a positive may weigh over a negative unless told. With raw ratios, up to N, a few positives of rare
labels outweigh all else; the losses that win on long-tailed texts stay within 11 (Huang et al., EMNLP 2021)."""


@dataclass(frozen=True)
class Strategy:
    """How the imbalance is corrected, before the counts are known.

    sampler: what is drawn. weights: how much a drawn example counts, a scheme of `balance.weights`.
    loss: makes the module that is trained with from the `Balance`. max_ratio: the most that one class may weigh over
    another; multi-label, one side of a label over the other. None: no limit. "auto": 10 for multi-label data, else
    none; weights given by hand are left alone. schedule: how much of sampler and weights is in force in which epoch;
    None: all of it, always. second_stage: what becomes of the head after training, see `model.second_stage`.
    allow_overcorrection: permit alpha + beta > 1, which turns the imbalance upside down.
    """

    sampler: Sampler = field(default_factory=PowerSampler)
    weights: WeightScheme = field(default_factory=lambda: InverseFrequency(0.0))
    loss: Callable[[Correction], nn.Module] = cross_entropy
    max_ratio: float | str | None = "auto"
    schedule: Schedule | None = None
    second_stage: Any = None
    allow_overcorrection: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.loss, partial):
            _check_settings(self.loss)
        if self.max_ratio in ("auto", None):
            return
        if isinstance(self.max_ratio, str) or not self.max_ratio >= 1:
            raise UserError(f"strategy.max_ratio={self.max_ratio}: a ratio of weights is 1 or more; or auto, or null")

    def plan(self, labels: Sequence[str], index: ClassIndex, epochs: int | None = None) -> Plan:
        """Returns what the strategy comes to in each of so many epochs."""
        return Plan(self, labels, index, epochs)

    def correction(self, labels: Sequence[str], index: ClassIndex, strength: float = 1.0) -> Correction:
        """Returns what the strategy comes to on this training data.

        strength: how much of the correction is in force, in [0, 1], see `balance.schedule`. Raises UserError when
        sampler and weights together correct more than the whole imbalance.
        """
        sampler = self.sampler if strength == 1 else Blend(self.sampler, strength)
        size = sampler.size(index)
        probabilities = sampler.expected_class_counts(index) / size
        if index.multi_label:
            raw = ratios(self.weights, labels, index.counts, index.num_rows)
            raw = raw**strength
            limited = cap_ratios(raw, self._limit(index))
            weights, negative_weights = normalise_ratios(limited, probabilities)
        else:
            raw = self.weights(labels, np.maximum(index.counts, 1)) ** strength
            limited = cap(raw, self._limit(index))
            weights, negative_weights = normalise(limited, probabilities), np.ones(len(raw))
        if strength == 1:
            self._check_correction(raw, size * probabilities, index)
        return Correction(labels, index, sampler, size, probabilities, weights, negative_weights, limited != raw)

    def _limit(self, index: ClassIndex) -> float | None:
        if self.max_ratio == "auto":
            return MULTI_LABEL_RATIO if index.multi_label and not isinstance(self.weights, ManualWeights) else None
        return self.max_ratio  # type: ignore[return-value]

    def _check_correction(self, raw: np.ndarray, drawn: np.ndarray, index: ClassIndex) -> None:
        # Manual weights may express costs rather than counts: the user has already insisted.
        if self.allow_overcorrection or isinstance(self.weights, ManualWeights):
            return
        present = index.counts > 0
        counts = index.counts[present]
        odds = counts / np.maximum(index.num_rows - counts, 1) if index.multi_label else counts
        alpha = getattr(self.sampler, "alpha", None)
        if alpha is None:
            alpha = power_law_exponent(drawn[present] / counts, counts)
        beta = power_law_exponent(raw[present], odds)
        if alpha + beta > 1 + 1e-6:
            raise UserError(
                f"the sampler (alpha={alpha:.3g}) and the class weights (beta={beta:.3g}) correct twice: "
                f"alpha + beta = {alpha + beta:.3g} is above 1 and would turn the imbalance upside down; "
                "lower one of them, or set strategy.allow_overcorrection=true"
            )


def _check_settings(loss: partial[nn.Module]) -> None:
    """Raises UserError for a setting that the loss does not take, as the settings of another one leave behind."""
    for name in loss.keywords:
        try:
            signature(loss.func).bind_partial(**{name: None})
        except TypeError as error:
            key, what = f"strategy.loss.{name}", getattr(loss.func, "__name__", "this loss")
            raise UserError(f"{key}: {what} takes no such setting; ~{key} leaves it out") from error


def power_law_exponent(values: np.ndarray, counts: np.ndarray) -> float:
    """Returns the x for which counts^(-x) spans the same range as the values; 0 where all counts are equal or none.

    Of the weights of `Power` this is beta, of the draws per example of `PowerSampler` alpha; of any other function of
    the counts, what it amounts to on these counts.
    """
    if not len(counts):
        return 0.0
    largest, smallest = counts.argmax(), counts.argmin()
    if counts[largest] == counts[smallest]:
        return 0.0
    return float(np.log(values[smallest] / values[largest]) / np.log(counts[largest] / counts[smallest]))
