"""Second stages: what becomes of the head after encoder and head were trained together.

Decoupled training learns the representation from the data as it is and then gives rare classes their due in the head
alone (Kang et al., ICLR 2020). The encoder stays as it is, so that a second stage takes seconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from counterpoise.balance import Correction, PowerSampler, Sampler, Strategy
from counterpoise.balance.counts import Targets
from counterpoise.balance.prior_correction import natural_prior_shift, post_hoc, prior_shift
from counterpoise.balance.validation import is_number
from counterpoise.errors import UserError
from counterpoise.model.heads import linear


class FirstStage(NamedTuple):
    """What training left, and the data.

    head: with its weight [C, H]. vectors: returns those of a split, float32 [N, H]. targets: of each split. weights:
    instance weights of the training rows, float [N], or None. balance: what was trained with. effective prior: float [C],
    the shares of the classes that the logits stand for; None where they stand for none. score: of logits [N, C] and
    their targets, higher is better. dropout: on the vectors in training. seed: of all that is random. correction: how
    well the logits are led back to the natural distribution, see `evaluate.calibration.prior_correction`.
    """

    head: nn.Linear
    vectors: Callable[[str], np.ndarray]
    targets: dict[str, Targets]
    weights: np.ndarray | None
    correction: Correction
    effective_prior: np.ndarray | None
    score: Callable[[np.ndarray, Targets], float]
    dropout: float
    seed: int
    shift_quality: str | None = "exact"


class Refined(NamedTuple):
    """head: the new one. shift: what its logits have over those of the natural distribution, float64 [C], None where
    nothing is known of it. facts: what was chosen, by name. correction: how well subtracting it leads back to them.
    """

    head: nn.Linear
    shift: np.ndarray | None
    results: dict[str, float]
    shift_quality: str | None


class SecondStage(Protocol):
    """Makes another head of what training left."""

    def check(self, correction: Correction, loss: nn.Module) -> None:
        """Raises UserError, before training, where it cannot be made of a model trained so."""

    def __call__(self, first: FirstStage) -> Refined:
        """Returns the new head. The first one stays as it is."""


@dataclass(frozen=True)
class PostHoc:
    """Logit adjustment after training: subtracts tau log(prior) from the logits, in the bias of the head.

    Menon et al., ICLR 2021, eq. 9. The prior is the effective prior of the training, so that after a plain training it is the
    share of the counts, and what sampler and weights corrected is not corrected again. Single-label.

    tau: from 0 to 1, or "auto": the best of 0, 0.1, ... 1 on the validation split.
    """

    tau: float | str = 1.0

    def __post_init__(self) -> None:
        _check_tau(self.tau, 1)

    def check(self, correction: Correction, loss: nn.Module) -> None:
        """Raises UserError for several labels a text, and for a loss whose logits stand for no shares of classes."""
        _check_head(correction, loss, "post-hoc logit adjustment")
        if getattr(loss, "prior_correction", None) is None:
            raise UserError(
                "strategy.second_stage: the logits of this loss stand for no shares of the classes, so that there is "
                "no prior to adjust them by: use a likelihood, as strategy=post_hoc does"
            )

    def __call__(self, first: FirstStage) -> Refined:
        """Returns the head with another bias."""
        head = first.head
        assert first.effective_prior is not None
        nothing, shares = (
            np.zeros((1, len(first.effective_prior))),
            np.maximum(first.effective_prior, 0.5 / first.correction.epoch_size),
        )

        def adjusted(tau: float) -> nn.Linear:
            return _with(head, bias=head.bias + torch.from_numpy(post_hoc(nothing, shares, tau)[0]).float())

        tau = _chosen(self.tau, np.linspace(0, 1, 11), adjusted, first)
        shift = prior_shift(shares ** (1 - tau), first.correction.counts)
        return Refined(adjusted(tau), shift, {"tau": tau}, first.shift_quality)


@dataclass(frozen=True)
class TauNormalised:
    """Tau-normalised classifier: divides each class's weights by their norm to the power of tau, and drops the bias.

    Kang et al., ICLR 2020, eq. 6: frequent classes have weights of larger norm. Single-label.

    tau: 0 or more, or "auto": the best of 0, 0.1, ... 2 on the validation split, the authors' choice.
    """

    tau: float | str = "auto"

    def __post_init__(self) -> None:
        _check_tau(self.tau, np.inf)

    def check(self, correction: Correction, loss: nn.Module) -> None:
        """Raises UserError for several labels a text, and for a head whose weights have no norms to speak of."""
        _check_head(correction, loss, "tau-normalisation")

    def __call__(self, first: FirstStage) -> Refined:
        """Returns the head with other weights. Its logits stand for no distribution that is known."""
        head = first.head
        norms = head.weight.norm(dim=1, keepdim=True)
        norms = norms.where(norms > 0, 1)  # a class without weights keeps none

        def normalised(tau: float) -> nn.Linear:
            return _with(head, weight=head.weight / norms**tau, bias=torch.zeros_like(head.bias))

        tau = _chosen(self.tau, np.linspace(0, 2, 21), normalised, first)
        return Refined(normalised(tau), None, {"tau": tau}, None)


@dataclass(frozen=True)
class Retrained:
    """Classifier re-training (cRT): a new head, trained on the vectors of the encoder as it is now.

    Kang et al., ICLR 2020, section 4.2: 10 epochs of class-balanced sampling. Here with AdamW and a cosine schedule.

    sampler: what is drawn; every class or label equally often unless told. epochs, lr: of the head. batch_size: texts
    of a step.
    """

    sampler: Sampler = field(default_factory=lambda: PowerSampler(1.0))
    epochs: int = 10
    lr: float = 1e-2
    batch_size: int = 128

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if not is_number(value) or value != int(value) or value < 1:
                raise UserError(f"strategy.second_stage.{name}={value}: use a whole number from 1 on")
        if not is_number(self.lr) or not self.lr > 0:
            raise UserError(f"strategy.second_stage.lr={self.lr}: use a number above 0")

    def check(self, correction: Correction, loss: nn.Module) -> None:
        """A new head can be trained whatever the first one was."""

    def __call__(self, first: FirstStage) -> Refined:
        """Returns the new head."""
        final = Strategy(self.sampler).fit(first.correction.labels, first.correction.index).final
        correction, loss = final.correction, final.loss
        vectors, targets, weights = first.vectors("train"), first.targets["train"], first.weights
        generator = torch.Generator().manual_seed(first.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(first.seed)
            head = linear(vectors.shape[1], len(correction.labels), correction.prior_logits)
        optimiser = torch.optim.AdamW(head.parameters(), lr=self.lr)
        steps = self.epochs * -(-correction.epoch_size // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        keep = 1 - first.dropout
        for epoch in range(self.epochs):
            drawn = self.sampler.draw(correction.index, np.random.default_rng([first.seed, epoch]))
            for rows in np.split(drawn, range(self.batch_size, len(drawn), self.batch_size)):
                inputs = torch.from_numpy(vectors[rows])
                inputs = inputs * torch.empty_like(inputs).bernoulli_(keep, generator=generator) / keep
                counted = None if weights is None else torch.from_numpy(weights[rows])
                optimiser.zero_grad()
                loss(head(inputs), _tensor(targets[rows]), denominator=self.batch_size, weights=counted).backward()
                optimiser.step()
                schedule.step()
        # A sampler of labels draws others along.
        shift_quality = "approximate" if correction.multi_label else "exact"
        return Refined(head, natural_prior_shift(correction), {"epochs": self.epochs, "steps": steps}, shift_quality)


def _check_tau(tau: float | str, most: float) -> None:
    if tau != "auto" and not (is_number(tau) and 0 <= tau <= most and tau < np.inf):  # type: ignore[operator]
        allowed = "a number from 0 to 1" if most == 1 else "a number, 0 or more"
        raise UserError(f"strategy.second_stage.tau={tau}: use {allowed}, or auto")


def _check_head(correction: Correction, loss: nn.Module, what: str) -> None:
    if correction.multi_label:
        raise UserError(
            f"strategy.second_stage: {what} is for texts of one class; where they have several labels each gets its "
            "threshold, and strategy/second_stage=retrained gives another head"
        )
    if getattr(loss, "normalised_head", False):
        raise UserError(
            "strategy.second_stage: a cosine head has neither bias nor norms: use strategy/loss=cross_entropy"
        )


def _chosen(
    tau: float | str, candidates: Sequence[float] | np.ndarray, made: Callable[[float], nn.Linear], first: FirstStage
) -> float:
    """Returns tau, or the first of the candidates with the best score on validation."""
    if not isinstance(tau, str):
        return float(tau)
    vectors, targets = torch.from_numpy(first.vectors("validation")), first.targets["validation"]
    with torch.no_grad():
        scores = [first.score(made(each)(vectors).numpy(), targets) for each in candidates]
    return round(float(candidates[int(np.argmax(scores))]), 10)


def _with(head: nn.Linear, weight: Tensor | None = None, bias: Tensor | None = None) -> nn.Linear:
    """Returns a head like `head` with another weight or bias."""
    made = nn.Linear(head.in_features, head.out_features).to(head.weight)
    with torch.no_grad():
        made.weight.copy_(head.weight if weight is None else weight)
        made.bias.copy_(head.bias if bias is None else bias)
    return made


def _tensor(targets: Targets) -> Tensor:
    return torch.from_numpy(targets if isinstance(targets, np.ndarray) else targets.toarray().astype(np.float32))
