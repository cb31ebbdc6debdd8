import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from counterpoise.balance import (
    LDAM,
    ClassIndex,
    Correction,
    CrossEntropy,
    InverseFrequency,
    LogitAdjusted,
    ManualWeights,
    PowerSampler,
)
from counterpoise.balance.strategy import Strategy
from counterpoise.errors import UserError

COUNTS = np.array([6000, 300, 90, 10])
LAWS = [(0, 0), (0, 0.5), (0, 1), (0.5, 0), (0.5, 0.5), (1, 0), (0.3, 0.2)]


def counting(counts: np.ndarray = COUNTS, alpha: float = 0.0, beta: float = 0.0, **options) -> Correction:
    index = ClassIndex.from_targets(np.repeat(np.arange(len(counts)), counts), len(counts))
    labels = [f"class {c}" for c in range(len(counts))]
    return Strategy(PowerSampler(alpha), InverseFrequency(beta), **options).correction(labels, index)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(32, 4, generator=generator, dtype=torch.float64)
    return logits, torch.randint(4, (32,), generator=generator)


def exponent(prior: np.ndarray) -> float:
    """The x for which counts^-x has the same ratio of the largest and the rarest class as 1 / prior."""
    return np.log(prior[0] / prior[3]) / np.log(COUNTS[0] / COUNTS[3])


def shares(logits: np.ndarray) -> np.ndarray:
    return softmax(np.asarray(logits, np.float64))


def trained_constant(loss, correction: Correction) -> np.ndarray:
    """The constant logits that minimise the loss over what is drawn, found without the loss's own knowledge."""
    classes, drawn = torch.arange(len(correction.counts)), torch.from_numpy(correction.sampling_probs)

    def risk(z: np.ndarray) -> tuple[float, np.ndarray]:
        logits = torch.from_numpy(z).requires_grad_()
        value = drawn @ loss.elements(logits.expand(len(classes), -1), classes)
        (slopes,) = torch.autograd.grad(value, logits)
        return value.item(), slopes.numpy()

    return minimize(risk, np.zeros(len(classes)), jac=True, method="BFGS", options={"gtol": 1e-11}).x


class TestLogitAdjusted:
    def test_a_small_example_worked_by_hand(self):
        # Shares 0.9 and 0.1, logits 0: the adjusted probabilities are the shares.
        elements = LogitAdjusted(counting(np.array([9, 1]))).elements(torch.zeros(2, 2), torch.tensor([0, 1]))
        np.testing.assert_allclose(elements, [-np.log(0.9), -np.log(0.1)], rtol=1e-6)
        # tau 1/2: odds of 3 : 1.
        half = LogitAdjusted(counting(np.array([9, 1])), tau=0.5).elements(torch.zeros(2, 2), torch.tensor([0, 1]))
        np.testing.assert_allclose(half, [-np.log(0.75), -np.log(0.25)], rtol=1e-6)

    @pytest.mark.parametrize("tau", [0, 0.3, 1])
    def test_the_loss_is_equation_10_of_the_paper(self, tau, batch):
        # log[1 + sum_(j != y) (pi_j / pi_y)^tau exp(z_j - z_y)]
        logits, classes = batch
        pi, z = COUNTS / COUNTS.sum(), logits.numpy()
        expected = [
            np.log1p(sum((pi[j] / pi[y]) ** tau * np.exp(row[j] - row[y]) for j in range(4) if j != y))
            for row, y in zip(z, classes.tolist(), strict=True)
        ]
        ours = LogitAdjusted(counting(), tau=tau).elements(logits, classes)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)

    def test_tau_1_is_balanced_softmax(self, batch):
        # Ren et al.: n_y exp(z_y) / sum_j n_j exp(z_j)
        mass = COUNTS * np.exp(batch[0].numpy())
        expected = -np.log(mass[np.arange(32), batch[1]] / mass.sum(1))
        np.testing.assert_allclose(LogitAdjusted(counting()).elements(*batch), expected, rtol=1e-6)

    @pytest.mark.parametrize("law", LAWS)
    def test_tau_0_is_cross_entropy(self, law, batch):
        correction = counting(alpha=law[0], beta=law[1])
        ours, theirs = LogitAdjusted(correction, tau=0), CrossEntropy(correction)
        assert torch.equal(ours.elements(*batch), theirs.elements(*batch))

    @pytest.mark.parametrize("law", LAWS)
    def test_class_weights_multiply_the_loss_and_enter_the_prior(self, law, batch):
        correction, (logits, classes) = counting(alpha=law[0], beta=law[1]), batch
        prior = COUNTS ** (1.0 - sum(law))
        adjusted = log_softmax(logits.numpy() + np.log(prior), axis=1)[np.arange(32), classes]
        expected = -correction.class_weights[classes] * adjusted
        np.testing.assert_allclose(LogitAdjusted(correction).elements(logits, classes), expected, rtol=1e-5)

    @pytest.mark.parametrize("law", [(1, 0), (0, 1), (0.5, 0.5)])
    def test_a_full_correction_leaves_no_offset(self, law, batch):
        correction = counting(alpha=law[0], beta=law[1])
        ours, theirs = LogitAdjusted(correction), CrossEntropy(correction)
        np.testing.assert_allclose(ours.elements(*batch), theirs.elements(*batch), rtol=1e-5)

    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.parametrize("tau", [0, 0.25, 0.5, 1])
    def test_the_best_constant_is_the_prior_to_the_power_of_1_minus_tau(self, law, tau):
        correction = counting(alpha=law[0], beta=law[1])
        loss = LogitAdjusted(correction, tau=tau).double()
        learnt = trained_constant(loss, correction)
        expected = COUNTS ** ((1.0 - sum(law)) * (1 - tau))
        np.testing.assert_allclose(shares(learnt), expected / expected.sum(), rtol=1e-4)
        np.testing.assert_allclose(shares(loss.initial_logits(correction)), expected / expected.sum(), rtol=1e-9)
        np.testing.assert_allclose(loss.effective_prior(correction), expected / expected.sum(), rtol=1e-9)

    def test_the_best_constant_of_balanced_softmax_is_uniform(self):
        np.testing.assert_allclose(shares(trained_constant(LogitAdjusted(counting()), counting())), 1 / 4, rtol=1e-4)

    def test_tau_up_to_1_never_reverses_the_imbalance(self):
        for alpha, beta, tau in itertools.product(np.linspace(0, 1, 6), np.linspace(0, 1, 6), np.linspace(0, 1, 6)):
            if alpha + beta > 1:
                continue
            effective_prior = LogitAdjusted(counting(alpha=alpha, beta=beta), tau=tau).effective_prior(counting())
            assert (np.diff(effective_prior) < 1e-9).all()

    @pytest.mark.parametrize(("law", "tau"), [((0.5, 0.5), 1), ((0, 1), 0.5), ((0.5, 0), 0.75)])
    def test_an_offset_by_raw_counts_would_correct_twice(self, law, tau):
        # alpha + beta + tau > 1: offsets by the counts reverse the imbalance, those by the effective prior do not.
        correction = counting(alpha=law[0], beta=law[1])
        raw = correction.prior_logits - tau * np.log(COUNTS)
        assert exponent(shares(raw)) == pytest.approx(1 - sum(law) - tau)
        assert shares(raw).argmax() == 3
        residual = LogitAdjusted(correction, tau=tau).effective_prior(correction)
        assert exponent(residual) == pytest.approx((1 - sum(law)) * (1 - tau), abs=1e-9)

    def test_logit_adjustment_undoes_an_over_correction(self):
        twice = counting(alpha=1, beta=1, allow_overcorrection=True)
        np.testing.assert_allclose(LogitAdjusted(twice).effective_prior(twice), 1 / 4, rtol=1e-9)

    def test_a_tau_above_1_needs_allow_overcorrection(self):
        with pytest.raises(UserError, match=r"strategy\.loss\.tau=1\.5 .*strategy\.allow_overcorrection=true") as error:
            LogitAdjusted(counting(), tau=1.5)
        assert "\n" not in str(error.value)
        effective_prior = LogitAdjusted(counting(), tau=2, allow_overcorrection=True).effective_prior(counting())
        np.testing.assert_allclose(effective_prior, 1 / COUNTS / (1 / COUNTS).sum(), rtol=1e-9)

    @pytest.mark.parametrize("tau", [-0.1, float("nan"), float("inf"), "1", True, None])
    def test_an_invalid_tau_is_refused_in_one_line(self, tau):
        with pytest.raises(UserError, match=r"strategy\.loss\.tau=") as error:
            LogitAdjusted(counting(), tau=tau, allow_overcorrection=True)
        assert "\n" not in str(error.value)

    def test_a_class_without_training_examples_has_a_finite_offset(self):
        absent = LogitAdjusted(counting(np.array([50, 0, 50])))
        np.testing.assert_allclose(absent.offsets, np.log([0.5, 0.005, 0.5]), rtol=1e-6)
        index = ClassIndex.from_targets(np.arange(100) % 2, 2)
        unweighted = LogitAdjusted(Strategy(weights=ManualWeights([1, 0])).correction(["a", "b"], index))
        np.testing.assert_allclose(unweighted.offsets, np.log([1, 0.005]), rtol=1e-6, atol=1e-7)


class TestLDAM:
    def test_margins_of_a_small_example_worked_by_hand(self):
        # n = 1, 16, 81: fourth roots 1, 2, 3.
        loss = LDAM(counting(np.array([81, 16, 1])))
        np.testing.assert_allclose(loss.margins, [0.5 / 3, 0.5 / 2, 0.5], rtol=1e-6)
        np.testing.assert_allclose(LDAM(counting(np.array([81, 16])), max_margin=0.3).margins, [0.2, 0.3], rtol=1e-6)

    def test_the_loss_of_a_small_example_worked_by_hand(self):
        # Cosines 0.5 and 0.2, times 30: 15 and 6. Margins 0.25 and 0.5: the true class keeps 7.5, or loses to -9.
        loss = LDAM(counting(np.array([16, 1])))
        elements = loss.elements(torch.tensor([[15.0, 6.0]] * 2, dtype=torch.float64), torch.tensor([0, 1]))
        np.testing.assert_allclose(elements, [np.log1p(np.exp(6 - 7.5)), np.log1p(np.exp(15 + 9))], rtol=1e-6)

    @pytest.mark.parametrize("scale", [1.0, 30.0])
    def test_the_loss_is_the_formula_of_the_paper_on_cosines(self, scale, batch):
        cosines, classes = np.tanh(batch[0].numpy()), batch[1].numpy()
        margins = 0.5 * (COUNTS / 10) ** -0.25
        expected = []
        for row, y in zip(cosines, classes, strict=True):
            true = np.exp(scale * (row[y] - margins[y]))
            expected.append(-np.log(true / (true + np.exp(scale * np.delete(row, y)).sum())))
        loss = LDAM(counting(), scale=scale)
        ours = loss.elements(torch.from_numpy(scale * cosines), batch[1])
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
        weighted = LDAM(counting(beta=1), scale=scale)
        expected = counting(beta=1).class_weights[classes] * ours.numpy()
        np.testing.assert_allclose(weighted.elements(torch.from_numpy(scale * cosines), batch[1]), expected, rtol=1e-5)

    def test_without_margins_the_loss_is_cross_entropy(self, batch):
        correction = counting(beta=0.5)
        assert torch.equal(LDAM(correction, max_margin=0).elements(*batch), CrossEntropy(correction).elements(*batch))

    def test_repeated_draws_do_not_change_the_margin(self):
        once, again = LDAM(counting()), LDAM(counting(alpha=1))
        assert torch.equal(once.margins, again.margins)

    def test_a_class_without_examples_has_the_margin_of_one(self):
        np.testing.assert_allclose(LDAM(counting(np.array([16, 0, 1]))).margins, [0.25, 0.5, 0.5], rtol=1e-6)

    def test_the_loss_requires_a_cosine_head_of_equal_scale(self):
        assert LDAM(counting(), scale=16).cosine_scale == 16
        assert CrossEntropy(counting()).cosine_scale is None

    def test_the_initial_logits_are_the_constant_of_least_loss(self):
        correction = counting(beta=0.5)
        loss = LDAM(correction)
        best, found = trained_constant(loss, correction), loss.initial_logits(correction)
        np.testing.assert_allclose(found - found.mean(), best - best.mean(), atol=2e-3)

    @pytest.mark.parametrize(
        "setting", [{"max_margin": -0.1}, {"max_margin": 2.1}, {"max_margin": "x"}, {"scale": 0}, {"scale": True}]
    )
    def test_an_invalid_setting_is_refused_in_one_line(self, setting):
        with pytest.raises(UserError, match=f"strategy.loss.{next(iter(setting))}=") as error:
            LDAM(counting(), **setting)
        assert "\n" not in str(error.value)
