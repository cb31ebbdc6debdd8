"""A rarer class never has a larger effective prior than a more frequent one, unless the user insists."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from counterpoise.balance import (
    ClassIndex,
    EffectiveNumber,
    InverseFrequency,
    ManualWeights,
    MixtureSampler,
    PowerSampler,
    Progressive,
    RepeatFactorSampler,
    SoftmaxFocal,
    Strategy,
)
from counterpoise.balance.over_correction import reversed_pair
from counterpoise.errors import UserError
from counterpoise.model.second_stage import Retrained
from refusals import user_error


def random_counts(seed: int) -> np.ndarray:
    """Between 2 and 80 counts, from all equal to spread over seven orders of magnitude, with ties."""
    rng = np.random.default_rng(seed)
    largest = 10 ** rng.uniform(0, 5)
    return np.maximum(1, np.round(np.exp(rng.uniform(0, np.log(largest), rng.integers(2, 80))))).astype(int)


def index_of(counts: np.ndarray, multi_label: bool = False) -> ClassIndex:
    classes = np.repeat(np.arange(len(counts)), counts)
    if multi_label:
        return ClassIndex.from_targets(
            csr_matrix((np.ones(len(classes), bool), (np.arange(len(classes)), classes))), len(counts)
        )
    return ClassIndex.from_targets(classes, len(counts))


def names(counts: np.ndarray) -> list[str]:
    return [f"class {c}" for c in range(len(counts))]


def refused(strategy: Strategy, counts: np.ndarray, **options) -> bool:
    try:
        strategy.correction(names(counts), index_of(np.asarray(counts), **options))
    except UserError as error:
        return "over-correct" in str(error) and "\n" not in str(error)
    return False


@dataclass(frozen=True)
class AnyWeights:
    values: np.ndarray

    def __call__(self, labels, counts):
        return self.values


def is_reversed(counts: np.ndarray, prior: np.ndarray) -> bool:
    """Whether any two classes are, by comparing all pairs."""
    return any(
        counts[c] > counts[d] and prior[c] < prior[d] * (1 - 2e-6)
        for c, d in itertools.permutations(range(len(counts)), 2)
    )


@pytest.mark.parametrize("seed", range(400))
def test_exactly_the_whole_correction_is_allowed_on_any_counts(seed):
    counts, alpha = random_counts(seed), np.random.default_rng(seed).uniform(0, 1)
    alpha = [alpha, 0.0, 0.5, 1.0, 1 / 3][seed % 5]
    assert not refused(Strategy(PowerSampler(alpha), InverseFrequency(1 - alpha)), counts)
    # Of the largest threshold, repeat factors are square roots throughout.
    threshold = counts.max() / counts.sum()
    assert not refused(Strategy(RepeatFactorSampler(threshold), InverseFrequency(0.5)), counts)
    assert not refused(Strategy(RepeatFactorSampler(1.0), InverseFrequency(0.5)), counts)


@pytest.mark.parametrize("seed", range(60))
def test_exactly_the_whole_correction_is_allowed_on_any_labels(seed):
    rng = np.random.default_rng(seed)
    num_rows = 300
    targets = csr_matrix(rng.random((num_rows, 12)) < rng.uniform(0, 1, 12) ** 4)
    index = ClassIndex.from_targets(targets, 12)
    for alpha, ratio in itertools.product([0, 0.3, 0.5, 1], [None, "auto"]):
        Strategy(PowerSampler(alpha), InverseFrequency(1 - alpha), max_ratio=ratio).correction(
            names(np.arange(12)), index
        )
    Strategy(RepeatFactorSampler(0.5), InverseFrequency(0.5)).correction(names(np.arange(12)), index)


@pytest.mark.parametrize("scale", [1, 10**4, 10**7])
@pytest.mark.parametrize("alpha", [0, 0.1, 1 / 3, 0.5, 0.9, 1])
def test_exactly_the_whole_correction_is_allowed_on_large_counts(scale, alpha):
    counts = np.array([997, 499, 101, 3, 1]) * scale
    rates = PowerSampler(alpha).draw_rates(counts, counts.sum()) * InverseFrequency(1 - alpha)([], counts)
    assert reversed_pair(counts, np.log(counts * rates), np.zeros(5)) is None
    above = rates * counts**-1e-4
    assert reversed_pair(counts, np.log(counts * above), np.zeros(5)) == (0, 4)


INVERTED_TAILS = [
    (RepeatFactorSampler(0.001), InverseFrequency(0.7)),
    (PowerSampler(0.5), EffectiveNumber(0.99)),
    (PowerSampler(0.5), EffectiveNumber(0.999)),
    (RepeatFactorSampler(0.01), EffectiveNumber(0.9)),
    (PowerSampler(0.9), InverseFrequency(0.2)),
    (PowerSampler(0.0), InverseFrequency(1.01)),
    (PowerSampler(1.01), InverseFrequency(0.0)),
]


@pytest.mark.parametrize(("sampler", "scheme"), INVERTED_TAILS, ids=str)
@pytest.mark.parametrize("multi_label", [False, True])
def test_a_reversed_tail_is_refused_though_the_extremes_are_in_order(sampler, scheme, multi_label):
    counts = np.array([200_000, 3_000, 60, 20, 6, 2])
    assert refused(Strategy(sampler, scheme, max_ratio=None), counts, multi_label=multi_label)
    assert not refused(Strategy(sampler, scheme, max_ratio=None, allow_overcorrection=True), counts)


@pytest.mark.parametrize("seed", range(150))
def test_what_is_refused_is_what_a_comparison_of_all_pairs_finds(seed):
    rng = np.random.default_rng(seed)
    counts = random_counts(seed)
    scheme = [
        InverseFrequency(rng.uniform(0, 1.2)),
        EffectiveNumber(1 - 10 ** -rng.uniform(0.5, 4)),
        AnyWeights(rng.uniform(0.5, 2, len(counts))),
    ][seed % 3]
    strategy = Strategy(PowerSampler(rng.uniform(0, 1.1)), scheme, max_ratio=[None, 5.0][seed % 2])
    free = Strategy(strategy.sampler, scheme, max_ratio=strategy.max_ratio, allow_overcorrection=True)
    prior = free.correction(names(counts), index_of(counts)).effective_prior
    assert refused(strategy, counts) == is_reversed(counts, prior)


@pytest.mark.parametrize("multi_label", [False, True])
def test_manual_weights_are_checked_like_any_other(multi_label):
    counts = [900, 90, 10]
    assert not refused(Strategy(weights=ManualWeights([1, 9, 50])), counts, multi_label=multi_label)
    assert refused(Strategy(weights=ManualWeights([1, 2, 30])), counts, multi_label=multi_label)
    assert refused(Strategy(weights=ManualWeights([1, 200, 30])), counts, multi_label=multi_label)
    assert refused(Strategy(PowerSampler(0.5), ManualWeights([1, 9, 50])), counts, multi_label=multi_label)


@pytest.mark.parametrize("train", [[130, 14], [130, 15], [129, 16], [132, 13]])
def test_manual_weights_that_balance_the_data_before_it_is_split_are_allowed(train):
    assert not refused(Strategy(weights=ManualWeights([1, 9])), train)
    assert refused(Strategy(weights=ManualWeights([1, 15])), train)


def test_a_weight_of_zero_for_a_large_class_is_refused():
    assert refused(Strategy(weights=ManualWeights([0, 1])), [90, 10])
    assert not refused(Strategy(weights=ManualWeights([1, 0])), [90, 10])


def test_a_cap_that_prevents_over_correction_allows_it():
    assert refused(Strategy(weights=InverseFrequency(1.5)), [100, 10])
    assert not refused(Strategy(weights=InverseFrequency(1.5), max_ratio=5), [100, 10])


def test_the_pair_and_its_exponents_are_named():
    strategy = Strategy(PowerSampler(0.25), InverseFrequency(1.25))
    error = user_error(strategy.correction, ["ham", "odd", "spam"], index_of(np.array([1000, 100, 10])))
    for part in ("'ham'", "'spam'", "1,000", "alpha=0.25", "beta=1.25", "alpha + beta = 1.5", "10 times"):
        assert part in error


def test_labels_that_occur_together_are_no_correction():
    # The rare label always occurs with the other one, which is drawn with it.
    targets = csr_matrix(np.array([[1, 1, 0]] * 10 + [[0, 0, 1]] * 11 + [[0, 0, 0]] * 80, bool))
    index = ClassIndex.from_targets(targets, 3)
    for sampler in (PowerSampler(1.0), RepeatFactorSampler(1.0)):
        Strategy(sampler).correction(list("abc"), index)


@pytest.mark.parametrize(
    ("label_weights", "is_refused"),
    [
        (InverseFrequency(1.0), False),
        (EffectiveNumber(0.99), False),
        (InverseFrequency(1.2), True),
        (ManualWeights([1, 2, 30]), True),
    ],
)
def test_weights_of_the_loss_are_checked_with_the_others(label_weights, is_refused):
    counts = np.array([1000, 100, 10])
    for allowed in (False, True):
        strategy = Strategy(
            loss=lambda correction: SoftmaxFocal(correction, label_weights=label_weights), allow_overcorrection=allowed
        )
        if is_refused and not allowed:
            with pytest.raises(UserError, match=r"over-correction by strategy\.loss"):
                strategy.fit(names(counts), index_of(counts))
        else:
            strategy.fit(names(counts), index_of(counts))


def test_the_sampler_of_a_retrained_head_is_checked_before_training():
    first = Strategy().correction(list("abc"), index_of(np.array([100, 20, 3])))
    Retrained(PowerSampler(1.0)).check(first, None, None)
    with pytest.raises(UserError, match=r"strategy\.second_stage\.sampler: .*alpha=1\.5"):
        Retrained(PowerSampler(1.5)).check(first, None, None)
    Retrained(PowerSampler(1.5), allow_overcorrection=True).check(first, None, None)


def test_no_strength_of_a_schedule_over_corrects_if_the_full_one_does_not():
    counts = np.array([5000, 300, 40, 2])
    for alpha, strength in itertools.product(np.linspace(0, 1, 5), np.linspace(0, 1, 9)):
        strategy = Strategy(PowerSampler(alpha), InverseFrequency(1 - alpha), schedule=Progressive())
        strategy.correction(names(counts), index_of(counts), strength)


def test_a_schedule_that_over_corrects_between_is_refused_before_training():
    class Bump:
        def strength(self, epoch: int, epochs: int) -> float:
            return [0.0, 1.0, 0.2][epoch]

    strategy = Strategy(PowerSampler(1.0), InverseFrequency(0.5), schedule=Bump())
    with pytest.raises(UserError, match="over-correct"):
        strategy.fit(list("ab"), index_of(np.array([100, 5])), 3)


@pytest.mark.parametrize(
    "sampler", [PowerSampler(0.7), RepeatFactorSampler(0.3), MixtureSampler(PowerSampler(1.0), 0.4)]
)
def test_draw_rates_are_the_draws_of_an_example_up_to_rounding(sampler):
    counts = np.array([4000, 900, 80, 15])
    index = index_of(counts)
    measured = sampler.expected_class_counts(index) / counts
    rates = sampler.draw_rates(counts, index.num_rows)
    np.testing.assert_allclose(measured / measured[0], rates / rates[0], rtol=2e-3)
