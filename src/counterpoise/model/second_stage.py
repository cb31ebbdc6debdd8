"""Second stages: replace the head after encoder and head were trained together.

Decoupled training learns the representation from the natural distribution and corrects the imbalance in the head alone
(Kang et al., ICLR 2020). The encoder does not change, so a second stage takes seconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from counterpoise.balance import Correction, EpochCorrection, PowerSampler, Sampler, Strategy
from counterpoise.balance.counts import Targets
from counterpoise.balance.losses.protocol import Loss, PriorCorrection
from counterpoise.balance.prior_correction import post_hoc, prior_shift
from counterpoise.balance.validation import check_flag, check_number, is_number
from counterpoise.errors import UserError, check_whole_number
from counterpoise.metrics.calibration import prior_correction
from counterpoise.model.heads import (
    AutoHead,
    HeadFactory,
    build_head,
    is_linear,
    linear_like,
    set_output_bias,
    shift_logits,
)


@dataclass(frozen=True)
class FirstStage:
    """The trained model and its data.

    Args:
        head: Trained head.
        head_factory: Builds a new head of the configured kind.
        embeddings: Returns the embeddings of a split, float32 [N, H].
        targets: Targets of each split.
        correction: Correction that the best checkpoint was trained with.
        effective_prior: Effective prior of the logits, float [C]; None if it is unknown.
        score: Score of logits [N, C] and targets; higher is better.
        dropout: Dropout probability of the embeddings in training.
        seed: Seed of everything random.
        shift_quality: How well subtracting a shift restores the natural prior: "exact", "approximate" or None.
    """

    head: nn.Module
    embeddings: Callable[[str], np.ndarray]
    targets: dict[str, Targets]
    correction: Correction
    effective_prior: np.ndarray | None
    score: Callable[[np.ndarray, Targets], float]
    dropout: float
    seed: int
    shift_quality: PriorCorrection | None = "exact"
    head_factory: HeadFactory = field(default_factory=AutoHead)


@dataclass(frozen=True)
class SecondStageResult:
    """A new head.

    Args:
        head: The head.
        shift: What to subtract from its logits to restore the natural prior, float64 [C]; None if it is unknown.
        settings: Chosen values by name, for metrics.json.
        shift_quality: How well the shift restores the natural prior.
    """

    head: nn.Module
    shift: np.ndarray | None
    settings: Mapping[str, float]
    shift_quality: PriorCorrection | None


class SecondStage(Protocol):
    """Replaces the head of a trained model. The encoder does not change."""

    def check(self, correction: Correction, loss: Loss, head: nn.Module) -> None:
        """Raise UserError before training if the stage cannot be applied to a model trained with these."""

    def __call__(self, first: FirstStage) -> SecondStageResult:
        """Return the new head. The first one does not change."""


@dataclass(frozen=True)
class PostHoc:
    """Logit adjustment after training: subtracts tau log(prior) from the logits. Single-label.

    The prior is the effective prior of the training, so that what sampler and weights have corrected is not corrected
    again.

    Args:
        tau: Fraction of the imbalance that is corrected, in [0, 1]. "auto": the best of 0, 0.1, ... 1 on validation.

    References:
        Menon et al., ICLR 2021, eq. 9.
    """

    tau: float | str = 1.0

    def __post_init__(self) -> None:
        _check_tau(self.tau, 1)

    def check(self, correction: Correction, loss: Loss, head: nn.Module) -> None:
        """Raise UserError for multi-label data and for a loss whose logits have no known prior."""
        _check_single_label(correction, "post-hoc logit adjustment")
        if loss.prior_correction is None:
            raise UserError(
                "strategy.second_stage: the logits of this loss have no known prior to adjust by. Use "
                "strategy/loss=cross_entropy, as strategy=post_hoc does"
            )

    def __call__(self, first: FirstStage) -> SecondStageResult:
        """Return the head with shifted logits."""
        assert first.effective_prior is not None
        zeros = np.zeros((1, len(first.effective_prior)))
        prior = np.maximum(first.effective_prior, 0.5 / first.correction.epoch_size)

        def adjusted(tau: float) -> nn.Module:
            return shift_logits(first.head, torch.from_numpy(post_hoc(zeros, prior, tau)[0]).float())

        tau = _choose_tau(self.tau, np.linspace(0, 1, 11), adjusted, first)
        shift = prior_shift(prior ** (1 - tau), first.correction.counts)
        return SecondStageResult(adjusted(tau).eval(), shift, {"tau": tau}, first.shift_quality)


@dataclass(frozen=True)
class TauNormalised:
    """Tau-normalised classifier: divides each class vector by its norm to the power of tau, and drops the bias.

    Single-label, for linear heads. Frequent classes have vectors of larger norm.

    Args:
        tau: Exponent, at least 0. "auto": the best of 0, 0.1, ... 2 on validation, as in the paper.

    References:
        Kang et al., ICLR 2020, eq. 6.
    """

    tau: float | str = "auto"

    def __post_init__(self) -> None:
        _check_tau(self.tau, np.inf)

    def check(self, correction: Correction, loss: Loss, head: nn.Module) -> None:
        """Raise UserError for multi-label data and for a head that is not linear."""
        _check_single_label(correction, "tau-normalisation")
        if not is_linear(head):
            raise UserError(
                f"strategy.second_stage: tau-normalisation needs a linear head, not {type(head).__name__}. Use "
                "head=linear and strategy/loss=cross_entropy"
            )

    def __call__(self, first: FirstStage) -> SecondStageResult:
        """Return the head with normalised class vectors. The prior of its logits is unknown."""
        head = first.head
        assert is_linear(head)
        norms = head.weight.norm(dim=1, keepdim=True)
        norms = norms.where(norms > 0, 1)

        def normalised(tau: float) -> nn.Module:
            bias = None if head.bias is None else torch.zeros_like(head.bias)
            return linear_like(head, weight=head.weight / norms**tau, bias=bias)

        tau = _choose_tau(self.tau, np.linspace(0, 2, 21), normalised, first)
        return SecondStageResult(normalised(tau).eval(), None, {"tau": tau}, None)


@dataclass(frozen=True)
class Retrained:
    """Classifier re-training (cRT): a new head trained on the embeddings of the trained encoder.

    The paper trains 10 epochs with class-balanced sampling. Here the optimizer is AdamW with a cosine schedule.

    Args:
        sampler: Draws the training rows. Defaults to class-balanced sampling.
        epochs: Number of epochs.
        lr: Peak learning rate.
        batch_size: Examples per step.
        allow_overcorrection: Permit a sampler that gives a rarer class a larger effective prior than a more frequent
            one. Defaults to False.

    References:
        Kang et al., ICLR 2020, section 4.2.
    """

    sampler: Sampler = field(default_factory=lambda: PowerSampler(1.0))
    epochs: int = 10
    lr: float = 1e-2
    batch_size: int = 128
    allow_overcorrection: bool = False

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            check_whole_number(f"strategy.second_stage.{name}", value)
        check_number("lr", self.lr, lambda lr: 0 < lr < np.inf, "a number above 0", "second_stage")
        check_flag("second_stage.allow_overcorrection", self.allow_overcorrection)

    def check(self, correction: Correction, loss: Loss, head: nn.Module) -> None:
        """Raise UserError for a sampler that over-corrects."""
        self._fit(correction)

    def _fit(self, first: Correction) -> EpochCorrection:
        """Return correction and loss of the new head, for the training data of the first stage."""
        strategy = Strategy(self.sampler, allow_overcorrection=self.allow_overcorrection)
        try:
            return strategy.fit(first.labels, first.index).final
        except UserError as error:
            raise UserError(f"strategy.second_stage.sampler: {error}") from error

    def __call__(self, first: FirstStage) -> SecondStageResult:
        """Return a new head of the configured kind. It depends on the seed alone, not on what ran before."""
        fitted = self._fit(first.correction)
        correction = fitted.correction
        steps = self.epochs * -(-correction.epoch_size // self.batch_size)
        # The head draws random numbers for its initial weights and, in each step, for its dropout. Unlike
        # torch.manual_seed, the seeding leaves the generators of GPUs as they are.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(first.seed)
            head = self._train(first, correction, fitted.loss, steps)
        quality, shift = prior_correction(fitted.loss, correction)
        return SecondStageResult(head.eval(), shift, {"epochs": self.epochs, "steps": steps}, quality)

    def _train(self, first: FirstStage, correction: Correction, loss: Loss, steps: int) -> nn.Module:
        """Return a new head, trained for `steps` steps."""
        embeddings, targets, weights = first.embeddings("train"), first.targets["train"], correction.index.weights
        head = build_head(first.head_factory, embeddings.shape[1], len(correction.labels))
        set_output_bias(head, correction.prior_logits, embeddings.shape[1])
        optimizer = torch.optim.AdamW(head.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(first.seed)
        keep = 1 - first.dropout
        for epoch in range(self.epochs):
            drawn = self.sampler.draw(correction.index, np.random.default_rng([first.seed, epoch]))
            for rows in np.split(drawn, range(self.batch_size, len(drawn), self.batch_size)):
                inputs = torch.from_numpy(embeddings[rows])
                inputs = inputs * torch.empty_like(inputs).bernoulli_(keep, generator=generator) / keep
                row_weights = None if weights is None else torch.from_numpy(weights[rows])
                optimizer.zero_grad()
                value = loss(head(inputs), _tensor(targets[rows]), denominator=self.batch_size, weights=row_weights)
                value.backward()
                optimizer.step()
                schedule.step()
        return head


def _check_tau(tau: float | str, largest: float) -> None:
    if tau != "auto" and not (is_number(tau) and 0 <= tau <= largest and tau < np.inf):  # type: ignore[operator]
        allowed = "a number between 0 and 1" if largest == 1 else "a number of at least 0"
        raise UserError(f"strategy.second_stage.tau={tau}: use {allowed}, or auto")


def _check_single_label(correction: Correction, stage: str) -> None:
    if correction.multi_label:
        raise UserError(
            f"strategy.second_stage: {stage} is for single-label data. For multi-label data use "
            "strategy/second_stage=retrained"
        )


def _choose_tau(
    tau: float | str, candidates: np.ndarray, head_of: Callable[[float], nn.Module], first: FirstStage
) -> float:
    """Return tau; for "auto" the first of the candidates with the best validation score."""
    if not isinstance(tau, str):
        return float(tau)
    embeddings, targets = torch.from_numpy(first.embeddings("validation")), first.targets["validation"]
    with torch.no_grad():
        scores = [first.score(head_of(each).eval()(embeddings).numpy(), targets) for each in candidates]
    return round(float(candidates[int(np.argmax(scores))]), 10)


def _tensor(targets: Targets) -> Tensor:
    return torch.from_numpy(targets if isinstance(targets, np.ndarray) else targets.toarray().astype(np.float32))
