"""The correction in force during one epoch: sampling probabilities, class weights and the effective prior."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from counterpoise.balance.counts import ClassIndex
from counterpoise.balance.samplers import Sampler
from counterpoise.balance.weights import effective_sample_size
from counterpoise.errors import UserError


@dataclass(frozen=True)
class Correction:
    """Sampling probabilities and class weights for given class counts.

    Arrays have shape [C] and follow the order of `labels`.

    Args:
        labels: Names of the C classes or labels.
        index: Training rows of each class or label.
        sampler: Draws the rows of an epoch.
        epoch_size: Number of rows per epoch.
        sampling_probs: Single-label: probability q_c that a drawn text belongs to the class; sums to 1. Multi-label:
            fraction pi'_c of drawn texts that carry the label. Co-occurring labels are included, so this is measured
            on the sampler rather than derived from the counts.
        instance_weights: Mean instance weight m_c of drawn examples of the class (multi-label: of positives). All ones
            without instance weights.
        negative_instance_weights: Mean instance weight of drawn negatives of the label. All ones for single-label data.
        class_weights: Loss weight of an example of the class (multi-label: of a positive). The mean over drawn
            examples, including instance weights, is 1 (multi-label: per label).
        negative_weights: Loss weight of a negative of the label. All ones for single-label data.
        capped: Whether `max_ratio` limited the weight, bool.
    """

    labels: Sequence[str]
    index: ClassIndex
    sampler: Sampler
    epoch_size: int
    sampling_probs: np.ndarray
    instance_weights: np.ndarray
    negative_instance_weights: np.ndarray
    class_weights: np.ndarray
    negative_weights: np.ndarray
    capped: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Class counts n_c (multi-label: positives of each label), int64."""
        return self.index.counts

    @property
    def num_rows(self) -> int:
        """Number of training texts N."""
        return self.index.num_rows

    @property
    def multi_label(self) -> bool:
        """Whether a text may have any number of labels."""
        return self.index.multi_label

    @property
    def task(self) -> Literal["single_label", "multi_label"]:
        """The task: single_label or multi_label."""
        return "multi_label" if self.multi_label else "single_label"

    @cached_property
    def draws_per_row(self) -> np.ndarray:
        """Expected draws of each row per epoch, float64 [N]."""
        return self.sampler.draws_per_row(self.index)

    @property
    def expected_class_counts(self) -> np.ndarray:
        """Expected draws of each class or label per epoch."""
        return self.epoch_size * self.sampling_probs

    @property
    def draws_per_example(self) -> np.ndarray:
        """Expected draws of an example per epoch, as the mean over the examples of the class or label."""
        return self.expected_class_counts / np.maximum(self.counts, 1)

    @property
    def effective_prior(self) -> np.ndarray:
        """Effective prior e_c ~ q_c m_c w_c of the classes (multi-label: of the positives); sums to 1."""
        mass = self.sampling_probs * self.instance_weights * self.class_weights
        return mass / mass.sum() if self.multi_label else mass

    @property
    def effective_positive_rate(self) -> np.ndarray:
        """Fraction of a label's total weight on positives; 1/2 when balanced. Multi-label only."""
        positive = self.sampling_probs * self.instance_weights * self.class_weights
        negative = (1 - self.sampling_probs) * self.negative_instance_weights * self.negative_weights
        return positive / (positive + negative)

    @property
    def weighted_positive_rate(self) -> np.ndarray:
        """Fraction of the instance weight of drawn texts on positives of the label, before class weights.

        Equal to `sampling_probs` without instance weights. Multi-label only.
        """
        positive = self.sampling_probs * self.instance_weights
        return positive / (positive + (1 - self.sampling_probs) * self.negative_instance_weights)

    @property
    def prior_logits(self) -> np.ndarray:
        """Constant logits that minimise the weighted cross-entropy.

        Single-label: log(e_c). Multi-label: log(pi' w+ / ((1 - pi') w-)), with pi' the weighted positive rate.
        Probabilities are bounded by half a draw per epoch, so that labels without positives have finite logits.
        """
        least = 0.5 / self.epoch_size
        if not self.multi_label:
            return np.log(np.maximum(self.effective_prior, least))
        rate = np.clip(self.weighted_positive_rate, least, 1 - least)
        return np.log(rate * self.class_weights / ((1 - rate) * self.negative_weights))

    @property
    def weight_ratio(self) -> float:
        """Largest class weight over the smallest positive one (multi-label: largest ratio of a label's two weights)."""
        if self.multi_label:
            ratios = self.class_weights / self.negative_weights
            return float(np.maximum(ratios, 1 / ratios).max())
        return float(self.class_weights.max() / self.class_weights[self.class_weights > 0].min())

    @property
    def effective_sample_size(self) -> float:
        """E[w]^2 / E[w^2] over drawn examples (multi-label: over drawn pairs of text and label).

        w is the class weight times the instance weight.
        """
        if self.index.weights is not None:
            # The mean weight is 1, so that E[w]^2 / E[w^2] = 1 / E[w^2].
            squares = self.draws_per_row * self.index.weights**2 / self.epoch_size
            by_class = self.index.sum(squares)
            mean_square = by_class @ self.class_weights**2
            if self.multi_label:
                mean_square += (squares.sum() - by_class) @ self.negative_weights**2
                mean_square /= len(self.labels)
            return float(1 / mean_square)
        if not self.multi_label:
            return effective_sample_size(self.class_weights, self.sampling_probs)
        weights = np.concatenate([self.class_weights, self.negative_weights])
        probs = np.concatenate([self.sampling_probs, 1 - self.sampling_probs])
        return effective_sample_size(weights, probs / len(self.class_weights))

    def check_task(self, task: str, loss: str) -> None:
        """Raise an error if the data is not of the task of a loss.

        Args:
            task: The task of the loss, single_label or multi_label.
            loss: Name of the loss, for the message.

        Raises:
            UserError: The tasks differ.
        """
        if self.task != task:
            raise UserError(
                f"strategy.loss: {loss} is for {task} data, but the data is {self.task}: use a strategy for both "
                "tasks, such as strategy=weighted, or the loss counterpoise.balance.cross_entropy"
            )
