"""Instance weights are part of the effective prior, checked against sums over all rows in double precision."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.sparse import csr_matrix
from scipy.special import logsumexp, softmax

from counterpoise.balance import (
    ClassIndex,
    Correction,
    CrossEntropy,
    DistributionBalanced,
    EffectiveNumber,
    InverseFrequency,
    LogitAdjusted,
    ManualWeights,
    MixtureSampler,
    PowerSampler,
    RepeatFactorSampler,
    SoftmaxFocal,
    Strategy,
)
from counterpoise.balance.prior_correction import natural_prior_shift
from counterpoise.errors import UserError
from counterpoise.metrics.calibration import prior_correction

COUNTS = np.array([400, 90, 25, 4])
CLASSES = np.random.default_rng(7).permutation(np.repeat(np.arange(4), COUNTS))
HOLDS = np.stack([np.random.default_rng(c).permutation(600) < n for c, n in enumerate(COUNTS)], axis=1)
LABELS = list("abcd")
SAMPLERS = [PowerSampler(), PowerSampler(0.5), PowerSampler(1.0, "median"), RepeatFactorSampler(0.2)]
SAMPLERS += [MixtureSampler(PowerSampler(1.0), 0.3)]
SCHEMES = [InverseFrequency(0.0), InverseFrequency(0.5), EffectiveNumber(0.9), ManualWeights([1, 2, 3, 4])]
SHAPES = {
    "noise": lambda n, y: np.random.default_rng(0).uniform(0.2, 3, n),
    "heavy_tail": lambda n, y: np.random.default_rng(1).lognormal(0, 1.5, n),
    "some_zero": lambda n, y: np.random.default_rng(2).integers(0, 3, n) * 1.0,
    "favours_large": lambda n, y: np.where(y == 0, 3.0, 1.0),
    "balancing": lambda n, y: 1 / COUNTS[y],
    "constant": lambda n, y: np.full(n, 7.0),
}
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=str)


def class_index(shape: str) -> ClassIndex:
    return ClassIndex.from_targets(CLASSES, 4, SHAPES[shape](len(CLASSES), CLASSES))


def label_index(shape: str) -> ClassIndex:
    return ClassIndex.from_targets(csr_matrix(HOLDS), 4, SHAPES[shape](600, HOLDS.argmax(1)))


def corrected(index: ClassIndex, sampler, scheme) -> Correction:
    return Strategy(sampler, scheme, allow_overcorrection=True).correction(LABELS, index)


@every_shape
@every_sampler
@every_scheme
def test_the_effective_prior_of_classes_is_the_weight_that_their_rows_are_trained_with(shape, sampler, scheme):
    index = class_index(shape)
    correction = corrected(index, sampler, scheme)
    mass = sampler.draws_per_row(index) / sampler.size(index) * index.weights * correction.class_weights[CLASSES]
    assert mass.sum() == pytest.approx(1, rel=1e-12)
    expected = np.bincount(CLASSES, mass)
    np.testing.assert_allclose(correction.effective_prior, expected, rtol=1e-12)
    drawn = sampler.draws_per_row(index) / sampler.size(index)
    weights = index.weights * correction.class_weights[CLASSES]
    ess = (drawn @ weights) ** 2 / (drawn @ weights**2)
    assert correction.effective_sample_size == pytest.approx(ess, rel=1e-12)


@every_shape
@every_sampler
def test_the_gradient_of_the_expected_loss_has_the_weights_of_the_effective_prior(shape, sampler):
    index = class_index(shape)
    correction = corrected(index, sampler, InverseFrequency(0.5))
    draws = torch.from_numpy(sampler.draws_per_row(index))
    logits = torch.zeros(len(CLASSES), 4, dtype=torch.float64, requires_grad=True)
    loss = CrossEntropy(correction).double()
    loss(
        logits, torch.from_numpy(CLASSES), float(sampler.size(index)), draws * torch.from_numpy(index.weights)
    ).backward()
    # The gradient of an example at zero logits is its weight times (1/C - 1[y = c]), so that the sum over c != y of
    # column c is the weight / C.
    total = logits.grad.numpy()
    by_class = np.array([-total[c == CLASSES, c].sum() * 4 / 3 for c in range(4)])
    np.testing.assert_allclose(by_class, correction.effective_prior, rtol=1e-6)


@every_shape
@every_sampler
@pytest.mark.parametrize(
    "make",
    [
        CrossEntropy,
        lambda c: LogitAdjusted(c, tau=0.6),
        lambda c: SoftmaxFocal(c, gamma=0, label_weights=EffectiveNumber(0.9)),
    ],
)
def test_losses_know_the_prior_that_a_constant_model_learns(shape, sampler, make):
    index = class_index(shape)
    correction = corrected(index, sampler, InverseFrequency(0.3))
    loss = make(correction).double()
    weights = torch.from_numpy(np.bincount(CLASSES, sampler.draws_per_row(index) * index.weights) / sampler.size(index))

    def risk(z: np.ndarray) -> tuple[float, np.ndarray]:
        logits = torch.from_numpy(z).requires_grad_()
        value = loss(logits.expand(4, -1), torch.arange(4), 1.0, weights)
        return value.item(), torch.autograd.grad(value, logits)[0].numpy()

    best = minimize(risk, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(loss.effective_prior(correction), softmax(best), rtol=1e-4)
    shift = natural_prior_shift(correction, loss.effective_prior(correction))
    np.testing.assert_allclose(softmax(best - shift), COUNTS / COUNTS.sum(), rtol=1e-4)


@every_shape
@every_sampler
@every_scheme
def test_each_label_has_mean_weight_1_and_the_effective_rate_of_its_positives(shape, sampler, scheme):
    index = label_index(shape)
    correction = corrected(index, sampler, scheme)
    drawn = (sampler.draws_per_row(index) / sampler.size(index) * index.weights)[:, None]
    weights = np.where(HOLDS, correction.class_weights, correction.negative_weights)
    np.testing.assert_allclose((drawn * weights).sum(0), 1, rtol=1e-10)
    positive = (drawn * weights * HOLDS).sum(0)
    np.testing.assert_allclose(correction.effective_positive_rate, positive, rtol=1e-10)
    np.testing.assert_allclose(correction.effective_prior, positive / positive.sum(), rtol=1e-10)
    ratio = (correction.class_weights / correction.negative_weights)[0]
    if isinstance(scheme, InverseFrequency):
        assert ratio == pytest.approx((200 / 400) ** scheme.beta)
    pairs = sampler.draws_per_row(index)[:, None] / sampler.size(index) * (weights * index.weights[:, None]) ** 2
    assert correction.effective_sample_size == pytest.approx(1 / pairs.sum(0).mean(), rel=1e-10)
    for c in range(4):
        terms, signs = (drawn * weights)[:, c], np.where(HOLDS[:, c], -1, 1)
        best = minimize_scalar(lambda z, t=terms, s=signs: t @ np.logaddexp(0, s * z), bounds=(-20, 20))
        assert correction.prior_logits[c] == pytest.approx(best.x, abs=1e-3)


@every_shape
def test_the_shift_of_labels_restores_their_natural_rate(shape):
    correction = corrected(label_index(shape), PowerSampler(), InverseFrequency(0.5))
    natural = np.log(HOLDS.mean(0) / (1 - HOLDS.mean(0)))
    np.testing.assert_allclose(correction.prior_logits - natural_prior_shift(correction), natural, rtol=1e-9)


@pytest.mark.parametrize("index_of", [class_index, label_index])
@every_sampler
@every_scheme
def test_equal_weights_change_nothing(index_of, sampler, scheme):
    weighted = corrected(index_of("constant"), sampler, scheme)
    index = ClassIndex(*(getattr(weighted.index, name) for name in ("rows", "starts", "num_rows", "multi_label")))
    plain = corrected(index, sampler, scheme)
    for name in ("effective_prior", "prior_logits", "effective_sample_size"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(plain, name), rtol=1e-9)
    np.testing.assert_allclose(weighted.class_weights * 7, plain.class_weights, rtol=1e-9)


def test_weights_equal_within_classes_leave_the_prior_correction_exact():
    for shape, kind in (("balancing", "exact"), ("favours_large", "exact"), ("noise", "approximate")):
        correction = corrected(class_index(shape), PowerSampler(0.5), InverseFrequency(0.0))
        assert prior_correction(CrossEntropy(correction), correction).kind == kind


def test_the_rebalancing_of_labels_uses_the_weighted_draws():
    heavy = corrected(label_index("favours_large"), PowerSampler(), InverseFrequency(0.0))
    loss, plain = (
        DistributionBalanced(heavy),
        DistributionBalanced(corrected(label_index("constant"), PowerSampler(), InverseFrequency(0.0))),
    )
    rate = heavy.weighted_positive_rate
    np.testing.assert_allclose(loss.shifts, 0.05 * np.log(1 / rate - 1), rtol=1e-5)
    assert (loss.shifts != plain.shifts).any()


ONE_LABEL_EACH = ClassIndex.from_targets(csr_matrix(np.eye(4, dtype=bool)[CLASSES]), 4, 1 / COUNTS[CLASSES])


@pytest.mark.parametrize("index", [class_index("balancing"), ONE_LABEL_EACH], ids=["classes", "labels"])
@pytest.mark.parametrize(
    "strategy",
    [
        Strategy(PowerSampler(0.5), InverseFrequency(0.5)),
        Strategy(PowerSampler(0.2)),
        Strategy(weights=InverseFrequency(0.1)),
        Strategy(RepeatFactorSampler(0.2)),
    ],
)
def test_any_correction_on_top_of_balancing_weights_is_refused(strategy, index):
    with pytest.raises(UserError, match=r"data\.weight \("):
        strategy.correction(LABELS, index)


def test_balancing_weights_alone_are_a_full_correction():
    correction = Strategy().correction(LABELS, class_index("balancing"))
    np.testing.assert_allclose(correction.effective_prior, 1 / 4, rtol=1e-12)
    np.testing.assert_allclose(logsumexp(correction.prior_logits), 0, atol=1e-12)


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize("multi_label", [False, True])
def test_weights_that_do_not_depend_on_the_class_are_no_correction(seed, multi_label):
    rng = np.random.default_rng(seed)
    counts = np.sort(rng.geometric(10 ** -rng.uniform(0.3, 3), rng.integers(2, 60)))
    draw = [
        rng.uniform,
        lambda low, high, size: rng.lognormal(0, high, size),
        lambda *size: rng.integers(1, 6, size[2]),
    ]
    targets = np.repeat(np.arange(len(counts)), counts)
    weights = np.asarray(draw[seed % 3](0.1, 1.0, len(targets)), float)
    given = csr_matrix(np.eye(len(counts), dtype=bool)[targets]) if multi_label else targets
    index = ClassIndex.from_targets(given, len(counts), weights)
    alpha = rng.uniform(0, 1)
    Strategy(PowerSampler(alpha), InverseFrequency(1 - alpha)).correction([str(c) for c in range(len(counts))], index)


@pytest.mark.parametrize("train", [(130, 14), (130, 15), (129, 16), (132, 13)])
def test_weights_that_balance_the_data_before_it_is_split_are_allowed(train):
    classes = np.repeat([0, 1], train)
    index = ClassIndex.from_targets(classes, 2, np.array([1 / 180, 1 / 20])[classes])
    Strategy().correction(["ham", "spam"], index)
    with pytest.raises(UserError, match="over-correct"):
        Strategy(PowerSampler(0.3)).correction(["ham", "spam"], index)


def test_weights_of_zero_are_refused_where_nothing_is_left():
    index = ClassIndex.from_targets(CLASSES, 4, np.zeros(len(CLASSES)))
    with pytest.raises(UserError, match=r"data\.weight"):
        Strategy().correction(LABELS, index)
