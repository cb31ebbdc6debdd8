"""Schedules: the strength of a strategy's correction in each epoch.

At strength 0 the data is sampled as it is and all examples have equal weight. At strength 1 the full correction is in
force. In between, the sampler is a mixture of both (`samplers.MixtureSampler`), and weights w become w^strength, so
that beta grows linearly. Margins, offsets and label weights of a loss are always in force; they are computed from the
correction of the current epoch.
"""

from dataclasses import dataclass
from typing import Protocol

from counterpoise.balance.validation import is_number
from counterpoise.errors import UserError


class Schedule(Protocol):
    """The strength of the correction over a training run."""

    def strength(self, epoch: int, epochs: int) -> float:
        """Return the strength of the correction in an epoch.

        Args:
            epoch: The epoch, starting at 0.
            epochs: Number of epochs of the whole run, at least 2.

        Returns:
            The strength, in [0, 1].
        """


@dataclass(frozen=True)
class Deferred:
    """No correction before epoch `start`, the full correction from then on.

    With class weights this is deferred re-weighting (DRW), with a sampler deferred re-sampling (DRS).

    Args:
        start: First corrected epoch (starting at 0), or, below 1, the fraction of epochs without correction, rounded.
            Defaults to 0.8, the value of the paper (160 of 200 epochs). A fraction leaves at least one epoch without
            and one with correction.

    Raises:
        UserError: `start` is neither a fraction nor a whole number.

    References:
        Cao et al., NeurIPS 2019, algorithm 1.
    """

    start: float = 0.8

    def __post_init__(self) -> None:
        whole = is_number(self.start) and self.start >= 1 and float(self.start).is_integer()
        if not whole and not (is_number(self.start) and 0 < self.start < 1):
            raise UserError(
                f"strategy.schedule.start={self.start}: use a fraction of the epochs between 0 and 1 (exclusive), or "
                "the number of an epoch, at least 1"
            )

    def strength(self, epoch: int, epochs: int) -> float:
        """Return 0 before the start and 1 from then on.

        Raises:
            UserError: The run ends before the start.
        """
        if self.start >= epochs:
            raise UserError(
                f"strategy.schedule.start={self.start:g} is never reached: trainer.max_epochs={epochs} ends the "
                f"training after epoch {epochs - 1} (epochs start at 0)"
            )
        start = self.start if self.start >= 1 else min(max(1, round(self.start * epochs)), epochs - 1)
        return float(epoch >= start)


@dataclass(frozen=True)
class Progressive:
    """Linear increase from no correction in the first epoch to the full correction in the last one.

    With a class-balanced sampler this is progressively balanced sampling.

    References:
        Kang et al., ICLR 2020, eq. 3.
    """

    def strength(self, epoch: int, epochs: int) -> float:
        """Return t / (T - 1) in epoch t of T, as in the authors' code. The t / T of the equation never reaches 1."""
        return min(1.0, epoch / (epochs - 1))
