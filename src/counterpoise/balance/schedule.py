"""Schedules: how much of a strategy's correction is in force in which epoch.

At strength 0 the data is drawn as it is and every example weighs alike, at strength 1 the whole correction applies.
Between, the sampler draws from a mixture of both (`samplers.Blend`) and weights w become w^strength, so that beta grows
in proportion. What a loss adds of its own, margins, offsets and label weights, is in force from the start, computed
from what the sampler and the weights leave to correct at the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import nn

from counterpoise.balance.correction import Correction
from counterpoise.balance.counts import ClassIndex
from counterpoise.balance.samplers import Sampler
from counterpoise.balance.validation import is_number
from counterpoise.errors import UserError

if TYPE_CHECKING:
    from counterpoise.balance.strategy import Strategy


class Schedule(Protocol):
    """How the strength goes over a training."""

    def strength(self, epoch: int, epochs: int) -> float:
        """Returns the strength of the correction in an epoch (0-based) of so many, in [0, 1]."""


@dataclass(frozen=True)
class Deferred:
    """No correction first, all of it from `start` on: deferred re-weighting (DRW) of weights, deferred re-sampling
    (DRS) of a sampler (Cao et al., NeurIPS 2019, algorithm 1).

    start: the epoch (0-based, a whole number), or below 1 the fraction of all epochs, rounded, that go before; 0.8 is
    the paper's, 160 of 200 epochs. At least the first epoch goes before, and at least the last one is corrected.
    """

    start: float = 0.8

    def __post_init__(self) -> None:
        whole = is_number(self.start) and self.start >= 1 and float(self.start).is_integer()
        if not whole and not (is_number(self.start) and 0 < self.start < 1):
            raise UserError(
                f"strategy.schedule.start={self.start}: use a fraction of the epochs, above 0 and below 1, or the "
                "number of an epoch from 1 on"
            )

    def strength(self, epoch: int, epochs: int) -> float:
        """Returns 0 before the start and 1 from there on."""
        if self.start >= epochs:
            raise UserError(
                f"strategy.schedule.start={self.start:g} is never reached: trainer.max_epochs={epochs} ends the "
                f"training after epoch {epochs - 1}, counted from 0"
            )
        start = self.start if self.start >= 1 else min(max(1, round(self.start * epochs)), epochs - 1)
        return float(epoch >= start)


@dataclass(frozen=True)
class Progressive:
    """From no correction in the first epoch to all of it in the last, in equal steps: of a class-balanced sampler,
    progressively balanced sampling (Kang et al., ICLR 2020, eq. 3).
    """

    def strength(self, epoch: int, epochs: int) -> float:
        """Returns t / (T - 1) in epoch t of T, as the authors' code does: the equation's t / T is never balanced."""
        return min(1.0, epoch / (epochs - 1))


class Plan:
    """What a strategy comes to on given training data, epoch by epoch.

    epochs: of the whole training, which a schedule depends on. Raises UserError where a schedule has no room in them.
    """

    def __init__(
        self, strategy: "Strategy", labels: Sequence[str], index: ClassIndex, epochs: int | None = None
    ) -> None:
        self.strategy, self.labels, self.index, self.epochs = strategy, labels, index, epochs
        if strategy.schedule is not None and (epochs is None or epochs < 2):
            raise UserError(
                f"strategy.schedule: a schedule needs two epochs or more, and trainer.max_epochs={epochs}: raise it, "
                "or set strategy.schedule=null"
            )
        self.strengths = [1.0]
        if strategy.schedule is not None and epochs is not None:
            self.strengths = [strategy.schedule.strength(epoch, epochs) for epoch in range(epochs)]
        # One of each at a time: a balance holds a number for each row.
        self._balance: tuple[float, Correction] | None = None
        self._loss: tuple[float, nn.Module] | None = None
        self.final = self.correction(-1)
        """The balance of the last epoch, which the trained model stands for."""

    @property
    def changes(self) -> bool:
        """Whether the strength is not the same in all epochs."""
        return len(set(self.strengths)) > 1

    def strength(self, epoch: int) -> float:
        """Returns the strength of the correction in an epoch."""
        return self.strengths[min(epoch, len(self.strengths) - 1)]

    def correction(self, epoch: int) -> Correction:
        """Returns the balance of an epoch."""
        strength = self.strength(epoch)
        if self._balance is None or self._balance[0] != strength:
            self._balance = strength, self.strategy.correction(self.labels, self.index, strength)
        return self._balance[1]

    def sampler(self, epoch: int) -> Sampler:
        """Returns what draws the rows of an epoch."""
        return self.correction(epoch).sampler

    def loss(self, epoch: int) -> nn.Module:
        """Returns the loss of an epoch: the same module as long as the strength is the same."""
        strength = self.strength(epoch)
        if self._loss is None or self._loss[0] != strength:
            self._loss = strength, self.strategy.loss(self.correction(epoch))
        return self._loss[1]
