"""A strategy: the sampler, class weights and loss that together correct the imbalance, and the schedule they follow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import signature
from typing import Any

import numpy as np

from counterpoise.balance.correction import Correction
from counterpoise.balance.counts import ClassIndex
from counterpoise.balance.losses.by_task import cross_entropy
from counterpoise.balance.losses.protocol import Loss
from counterpoise.balance.over_correction import refuse_over_correcting_loss, refuse_over_correction
from counterpoise.balance.samplers import MixtureSampler, PowerSampler, Sampler
from counterpoise.balance.schedule import Schedule
from counterpoise.balance.validation import check_flag, is_number
from counterpoise.balance.weights import (
    InverseFrequency,
    ManualWeights,
    WeightScheme,
    cap,
    cap_ratios,
    normalise,
    normalise_label_weights,
    positive_weight_ratios,
)
from counterpoise.errors import UserError

MULTI_LABEL_MAX_RATIO = 10.0
"""Default limit of the positive weight relative to the negative weight of a label. Uncapped ratios reach N: a few
positives of rare labels then dominate the gradient. The losses that perform best on long-tailed texts stay within 11
(Huang et al., EMNLP 2021)."""


@dataclass(frozen=True)
class Strategy:
    """Correction of class imbalance, before the class counts are known.

    Args:
        sampler: Draws the rows of an epoch. Defaults to the data as it is.
        weights: Weight scheme of `balance.weights`. Defaults to no weights.
        loss: Builds the loss from the `Correction` of an epoch. Defaults to cross-entropy.
        max_ratio: Largest ratio of two class weights (multi-label: of the two weights of a label). None: no limit.
            "auto" (default): 10 for multi-label data, except for manual weights; otherwise no limit.
        schedule: Strength of sampler and weights in each epoch. None (default): always the full correction.
        second_stage: What is done to the head after training, see `model.second_stage`. Defaults to nothing.
        allow_overcorrection: Permit a rarer class to have a larger effective prior than a more frequent one. Defaults
            to False.

    Raises:
        UserError: `max_ratio` or `allow_overcorrection` is invalid, or the loss does not accept one of its options.
    """

    sampler: Sampler = field(default_factory=PowerSampler)
    weights: WeightScheme = field(default_factory=lambda: InverseFrequency(0.0))
    loss: Callable[[Correction], Loss] = cross_entropy
    max_ratio: float | str | None = "auto"
    schedule: Schedule | None = None
    second_stage: Any = None
    allow_overcorrection: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.loss, partial):
            reject_unknown_options(self.loss)
        check_flag("allow_overcorrection", self.allow_overcorrection)
        ratio = self.max_ratio
        if ratio not in ("auto", None) and not (is_number(ratio) and 1 <= ratio < np.inf):  # type: ignore[operator]
            raise UserError(f"strategy.max_ratio={ratio}: use a number, at least 1, auto or null")

    def fit(self, labels: Sequence[str], index: ClassIndex, epochs: int | None = None) -> "FittedStrategy":
        """Return the correction and the loss of every epoch for given training data.

        Args:
            labels: Names of the C classes or labels.
            index: Training rows of each class or label.
            epochs: Number of epochs of the whole run. Required by a schedule only.

        Raises:
            UserError: Sampler and weights over-correct, the loss does not fit the task, or the schedule does not fit
                the number of epochs.
        """
        return FittedStrategy(self, labels, index, epochs)

    def correction(self, labels: Sequence[str], index: ClassIndex, strength: float = 1.0) -> Correction:
        """Return sampling probabilities and class weights for given training data.

        Args:
            labels: Names of the C classes or labels.
            index: Training rows of each class or label.
            strength: Strength of the correction, in [0, 1], see `balance.schedule`. Defaults to 1.

        Raises:
            UserError: Sampler, class weights and instance weights together exceed the full correction, or all drawn
                rows have an instance weight of 0.
        """
        sampler = self.sampler if strength == 1 else MixtureSampler(self.sampler, strength)
        epoch_size = sampler.size(index)
        sampling_probs = sampler.expected_class_counts(index) / epoch_size
        positives, negatives = _mean_instance_weights(sampler, index, sampling_probs, epoch_size)
        drawn_positives, drawn_negatives = sampling_probs * positives, (1 - sampling_probs) * negatives
        max_ratio = self._max_ratio(index)
        if index.multi_label:
            raw = positive_weight_ratios(self.weights, labels, index.counts, index.num_rows) ** strength
            capped = cap_ratios(raw, max_ratio)
            weights, negative_weights = normalise_label_weights(capped, drawn_positives, drawn_negatives)
        else:
            raw = self.weights(labels, np.maximum(index.counts, 1)) ** strength
            capped = cap(raw, max_ratio)
            if not drawn_positives @ capped > 0:
                raise UserError("strategy.weights: all examples that the sampler draws have weight 0")
            weights, negative_weights = normalise(capped, drawn_positives), np.ones(len(raw))
        correction = Correction(
            labels=labels,
            index=index,
            sampler=sampler,
            epoch_size=epoch_size,
            sampling_probs=sampling_probs,
            instance_weights=positives,
            negative_instance_weights=negatives,
            class_weights=weights,
            negative_weights=negative_weights,
            capped=capped != raw,
        )
        if not self.allow_overcorrection:
            refuse_over_correction(correction, isinstance(self.weights, ManualWeights))
        return correction

    def _max_ratio(self, index: ClassIndex) -> float | None:
        if self.max_ratio == "auto":
            return MULTI_LABEL_MAX_RATIO if index.multi_label and not isinstance(self.weights, ManualWeights) else None
        return self.max_ratio  # type: ignore[return-value]


@dataclass(frozen=True)
class EpochCorrection:
    """Correction and loss of one epoch.

    Args:
        epoch: The epoch, starting at 0.
        strength: Strength of the correction, in [0, 1].
        correction: Sampling probabilities and class weights.
        loss: The loss. Epochs of equal strength share it where possible.
    """

    epoch: int
    strength: float
    correction: Correction
    loss: Loss

    @property
    def sampler(self) -> Sampler:
        """The sampler of the epoch."""
        return self.correction.sampler


class FittedStrategy:
    """A strategy with the corrections that it gives for one training set.

    Args:
        strategy: The strategy.
        labels: Names of the C classes or labels.
        index: Training rows of each class or label.
        epochs: Number of epochs of the whole run. Required by a schedule only.

    Attributes:
        strengths: Strength of the correction in each epoch; one number without a schedule.
        final: The correction of the last epoch, which the trained model represents.
    """

    def __init__(self, strategy: Strategy, labels: Sequence[str], index: ClassIndex, epochs: int | None = None) -> None:
        self.strategy, self.labels, self.index = strategy, labels, index
        self.strengths = [1.0]
        if strategy.schedule is not None:
            if epochs is None or epochs < 2:
                raise UserError(
                    f"strategy.schedule needs at least two epochs, but trainer.max_epochs={epochs}: raise it, or set "
                    "strategy.schedule=null"
                )
            self.strengths = [strategy.schedule.strength(epoch, epochs) for epoch in range(epochs)]
            # Over-correction is refused before training, in whichever epoch it would occur.
            strategy.correction(labels, index, max(self.strengths))
        self.final = self._correct(len(self.strengths) - 1)
        # One epoch is kept besides the last: a correction may hold a number per row.
        self._latest = self.final

    @property
    def changes(self) -> bool:
        """Whether the strength differs between epochs."""
        return len(set(self.strengths)) > 1

    def strength(self, epoch: int) -> float:
        """Return the strength of the correction in an epoch (starting at 0); after the last one, that of the last."""
        if epoch < 0:
            raise ValueError(f"epoch={epoch} is negative")
        return self.strengths[min(epoch, len(self.strengths) - 1)]

    def at_epoch(self, epoch: int) -> EpochCorrection:
        """Return correction and loss of an epoch (starting at 0); after the last one, those of the last."""
        strength = self.strength(epoch)
        for known in (self._latest, self.final):
            if known.strength == strength:
                return replace(known, epoch=epoch)
        self._latest = self._correct(epoch)
        return self._latest

    # Methods rather than lambdas in train.py: spawned training processes pickle what they call.
    def sampler(self, epoch: int) -> Sampler:
        """Return the sampler of an epoch."""
        return self.at_epoch(epoch).sampler

    def loss(self, epoch: int) -> Loss:
        """Return the loss of an epoch."""
        return self.at_epoch(epoch).loss

    def _correct(self, epoch: int) -> EpochCorrection:
        strength = self.strength(epoch)
        correction = self.strategy.correction(self.labels, self.index, strength)
        loss = self.strategy.loss(correction)
        if not (correction.multi_label or self.strategy.allow_overcorrection):
            refuse_over_correcting_loss(loss, correction)
        return EpochCorrection(epoch, strength, correction, loss)


def _mean_instance_weights(
    sampler: Sampler, index: ClassIndex, sampling_probs: np.ndarray, epoch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean instance weights of drawn positives and negatives of each class, float64 [C].

    They are 1 without instance weights, for classes that are not drawn, and for negatives of single-label data.
    """
    positives, negatives = np.ones((2, len(sampling_probs)))
    if index.weights is None:
        return positives, negatives
    drawn = sampler.draws_per_row(index) * index.weights / epoch_size
    if not drawn.sum() > 0:
        raise UserError("data.weight: all training rows that the sampler draws have weight 0")
    by_class, present = index.sum(drawn), sampling_probs > 0
    positives[present] = by_class[present] / sampling_probs[present]
    if index.multi_label:
        varies = sampling_probs < 1 - 1e-12
        negatives[varies] = np.maximum(drawn.sum() - by_class[varies], 0) / (1 - sampling_probs[varies])
    return positives, negatives


def reject_unknown_options(loss: partial[Loss]) -> None:
    """Raise an error for an option that the loss does not accept, such as one left over from another loss.

    Raises:
        UserError: Names the option and how to remove it.
    """
    for name in loss.keywords:
        try:
            signature(loss.func).bind_partial(**{name: None})
        except TypeError as error:
            key, function = (f"strategy.loss.{name}", getattr(loss.func, "__name__", "this loss"))
            raise UserError(f"{key}: {function} takes no such setting; ~{key} leaves it out") from error
