"""What a strategy comes to on given training data: all that a loss, a table or a run needs to know of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from counterpoise.balance.counts import ClassIndex
from counterpoise.balance.samplers import Sampler
from counterpoise.balance.weights import effective_sample_size
from counterpoise.errors import UserError


@dataclass(frozen=True)
class Correction:
    """What is drawn and how much it counts. Arrays are [C] unless told, in the order of `labels`.

    index: the training rows of each class or label. sampler: draws them. epoch_size: rows of an epoch.
    sampling_probs: positives per drawn text. Single-label that is q_c, which sums to 1; multi-label pi'_c, measured on
        the sampler, for labels ride along with those their text is drawn for.
    class_weights: of an example of the class; multi-label of a positive. negative_weights: of a negative of the label; ones
        for single-label. A drawn example weighs 1 on average; multi-label within each label.
    capped: whether the cap changed the weights.
    """

    labels: Sequence[str]
    index: ClassIndex
    sampler: Sampler
    epoch_size: int
    sampling_probs: np.ndarray
    class_weights: np.ndarray
    negative_weights: np.ndarray
    capped: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """n_c, the training examples of each class or positives of each label, int64."""
        return self.index.counts

    @property
    def num_rows(self) -> int:
        """N, the training texts."""
        return self.index.num_rows

    @property
    def multi_label(self) -> bool:
        """Whether a text may hold several labels, or none."""
        return self.index.multi_label

    @property
    def task(self) -> str:
        """Either single_label or multi_label."""
        return "multi_label" if self.multi_label else "single_label"

    @cached_property
    def rates(self) -> np.ndarray:
        """Expected draws of each row in an epoch, float64 [N]."""
        return self.sampler.rates(self.index)

    @property
    def expected_class_counts(self) -> np.ndarray:
        """The positives drawn in an epoch, in expectation."""
        return self.epoch_size * self.sampling_probs

    @property
    def draws_per_example(self) -> np.ndarray:
        """How often one positive is drawn in an epoch, averaged over those of the class or label."""
        return self.expected_class_counts / np.maximum(self.counts, 1)

    @property
    def effective_prior(self) -> np.ndarray:
        """e_c, the share of the training that goes to class c; multi-label that of all positives. Sums to 1."""
        mass = self.sampling_probs * self.class_weights
        return mass / mass.sum() if self.multi_label else mass

    @property
    def effective_positive_rate(self) -> np.ndarray:
        """The share of a label's weight that goes to its positives: 1/2 when balanced. Multi-label only."""
        positive = self.sampling_probs * self.class_weights
        return positive / (positive + (1 - self.sampling_probs) * self.negative_weights)

    @property
    def prior_logits(self) -> np.ndarray:
        """The logits at which the weighted loss of a constant predictor is least.

        Single-label log(e_c), multi-label log(pi' w+ / ((1 - pi') w-)). Shares below half a draw an epoch count as
        that, so that labels without positives get a finite number.
        """
        least = 0.5 / self.epoch_size
        if not self.multi_label:
            return np.log(np.maximum(self.effective_prior, least))
        share = np.clip(self.sampling_probs, least, 1 - least)
        return np.log(share * self.class_weights / ((1 - share) * self.negative_weights))

    @property
    def weight_ratio(self) -> float:
        """The largest class weight over the smallest positive one; multi-label the most that one side of a label
        weighs over the other.
        """
        if self.multi_label:
            ratios = self.class_weights / self.negative_weights
            return float(np.maximum(ratios, 1 / ratios).max())
        return float(self.class_weights.max() / self.class_weights[self.class_weights > 0].min())

    @property
    def effective_sample_size(self) -> float:
        """E[w]^2 / E[w^2] over drawn examples; multi-label over drawn pairs of text and label."""
        if not self.multi_label:
            return effective_sample_size(self.class_weights, self.sampling_probs)
        weights = np.concatenate([self.class_weights, self.negative_weights])
        shares = np.concatenate([self.sampling_probs, 1 - self.sampling_probs])
        return effective_sample_size(weights, shares / len(self.class_weights))

    def check_task(self, task: str, loss: str) -> None:
        """Raises UserError when the data is not of the task that `loss` is for."""
        if self.task != task:
            raise UserError(
                f"strategy.loss: {loss} is for {task} data and this data is {self.task}: use a strategy that fits both "
                "tasks, such as strategy=weighted, or the loss counterpoise.balance.cross_entropy"
            )
