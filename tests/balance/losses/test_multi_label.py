from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.balance import (
    Asymmetric,
    BinaryCrossEntropy,
    ClassIndex,
    Correction,
    DistributionBalanced,
    EffectiveNumber,
    Focal,
    InverseFrequency,
    PowerSampler,
    Strategy,
)
from counterpoise.errors import UserError
from refusals import user_error

mp.dps = 120

# Most texts have label a, none has label e, and the last two texts have no label.
TEXTS = np.array(
    [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ],
    bool,
)
N, C = TEXTS.shape
COUNTS = TEXTS.sum(0)

LOSSES: dict[str, Callable[[Correction], nn.Module]] = {
    "bce": BinaryCrossEntropy,
    "smoothed": lambda b: BinaryCrossEntropy(b, label_smoothing=0.1),
    "focal": Focal,
    "focal, gamma 0.5": lambda b: Focal(b, gamma=0.5),
    "class-balanced focal": lambda b: Focal(b, label_weights=EffectiveNumber(0.9)),
    "asymmetric": Asymmetric,
    "asymmetric, no margin": lambda b: Asymmetric(b, margin=0),
    "asymmetric, fractional": lambda b: Asymmetric(b, gamma_negative=0.3, gamma_positive=0.2, margin=0.01),
    "asymmetric, fractional, no margin": lambda b: Asymmetric(b, gamma_negative=0.3, gamma_positive=0, margin=0),
    "db": DistributionBalanced,
    "r-fl": lambda b: DistributionBalanced(b, negative_tolerant=False),
    "ntr-fl": lambda b: DistributionBalanced(b, rebalance=False, scale=5, kappa=1),
    "db-0fl": lambda b: DistributionBalanced(b, gamma=0),
    "db, mu 0.05": lambda b: DistributionBalanced(b, mu=0.05),
}
every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)


def balance_of(texts: np.ndarray = TEXTS, alpha: float = 0.0, beta: float = 0.0, **options) -> Correction:
    index = ClassIndex.from_targets(csr_matrix(texts.astype(bool)), texts.shape[1])
    labels = [f"label {c}" for c in range(texts.shape[1])]
    return Strategy(PowerSampler(alpha), InverseFrequency(beta), **options).correction(labels, index)


def weighing(positive: list[float], negative: list[float], texts: np.ndarray = TEXTS) -> Correction:
    return replace(balance_of(texts), class_weights=np.array(positive), negative_weights=np.array(negative))


@pytest.fixture
def logits() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(N, C, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def targets() -> Tensor:
    return torch.from_numpy(TEXTS[::-1].copy()).float()


def in_high_precision(loss: Callable[[mpf, int, bool], mpf], logits: Tensor, targets: Tensor) -> np.ndarray:
    """Return loss(z, c, y) of every text and label, computed with 120 digits."""
    values = logits.detach().numpy()
    return np.array(
        [
            [float(loss(mpf(float(z)), c, bool(y))) for c, (z, y) in enumerate(zip(row, ys, strict=True))]
            for row, ys in zip(values, targets.tolist(), strict=True)
        ]
    )


def sigma(z: mpf) -> mpf:
    return 1 / (1 + mp.exp(-z))


def focal(z: mpf, y: bool, gamma: float) -> mpf:
    right, wrong = (sigma(z), sigma(-z)) if y else (sigma(-z), sigma(z))
    return -(wrong**gamma) * mp.log(right)


def wide_logits() -> Tensor:
    return torch.linspace(-80, 80, N * C, dtype=torch.float64).reshape(C, N).T.contiguous()


def as_numpy(values: Tensor) -> np.ndarray:
    return values.detach().numpy()


@every_loss
class TestEveryLoss:
    """Properties of every loss for multi-label data."""

    def test_the_loss_is_the_mean_over_labels_and_texts_or_divided_by_the_denominator(self, make, logits, targets):
        loss = make(balance_of(beta=0.5))
        elements = as_numpy(loss.elements(logits, targets))
        assert elements.shape == (N, C)
        assert loss(logits, targets).item() == pytest.approx(elements.sum() / C / N, rel=1e-12)
        assert loss(logits, targets, denominator=3).item() == pytest.approx(elements.sum() / C / 3, rel=1e-12)

    def test_instance_weights_multiply_the_losses(self, make, logits, targets):
        loss = make(balance_of(beta=0.5))
        weights = torch.arange(N).float()
        rows = as_numpy(loss.elements(logits, targets)).mean(1)
        assert loss(logits, targets, None, weights).item() == pytest.approx(rows @ weights.numpy() / N, rel=1e-12)
        assert loss(logits, targets, weights=torch.ones(N)).item() == pytest.approx(loss(logits, targets).item())

    def test_class_weights_multiply_positives_and_negatives(self, make, logits, targets):
        positive, negative = [0.5, 2, 4, 8, 16], [1, 0.25, 0.5, 1, 2]
        plain = make(weighing([1] * C, [1] * C)).elements(logits, targets)
        weighted = make(weighing(positive, negative)).elements(logits, targets)
        expected = np.where(targets.bool(), positive, negative) * as_numpy(plain)
        np.testing.assert_allclose(as_numpy(weighted), expected, rtol=1e-6)

    def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(self, make, logits, targets):
        loss, weights = make(balance_of(beta=0.5)), torch.linspace(0, 2, N)
        (whole,) = torch.autograd.grad(loss(logits, targets, weights=weights), logits)
        for parts in (2, 8):
            logits.grad = None
            pieces = (each.chunk(parts) for each in (logits, targets, weights))
            sum(loss(z, y, N / parts, w) / parts for z, y, w in zip(*pieces, strict=True)).backward()
            np.testing.assert_allclose(logits.grad, whole, rtol=1e-6, atol=1e-16)

    def test_gradients_match_finite_differences(self, make, logits, targets):
        loss = make(balance_of(beta=0.5))
        assert torch.autograd.gradcheck(lambda z: loss.elements(z, targets), logits, eps=1e-6, atol=1e-7)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("size", [0.0, 50.0, 1e4])
    @pytest.mark.parametrize("held", ["some", "none", "all"])
    def test_losses_and_gradients_are_finite_for_extreme_logits_and_weights(self, make, dtype, size, held, targets):
        loss = make(weighing([1e6, 1e-6, 1e6, 1, 1e6], [1e-6, 1e6, 1e6, 1, 1e6]))
        targets = {"some": targets, "none": torch.zeros(N, C), "all": torch.ones(N, C)}[held]
        signs = torch.tensor([1.0, -1.0]).repeat(N * C // 2).reshape(C, N).T
        logits = (size * signs).to(dtype).requires_grad_()
        value = loss(logits, targets)
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()
        assert loss.elements(logits, targets).isfinite().all()

    @pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("beta", [0.0, 1.0])
    def test_labels_of_no_or_all_texts_and_texts_without_labels_give_finite_losses(self, make, alpha, beta, targets):
        # Texts without any label but one, and texts with every label but one.
        for texts in (TEXTS, np.eye(C)[:1].repeat(3, 0), np.ones((4, C)) - np.eye(C)[0]):
            loss = make(balance_of(texts, alpha, beta, allow_overcorrection=True, max_ratio=None))
            logits = torch.zeros(N, C, requires_grad=True)
            value = loss(logits, targets)
            value.backward()
            assert value.isfinite()
            assert logits.grad.isfinite().all()

    def test_the_gradient_of_a_clearly_missed_positive_is_its_weight(self, make):
        loss, targets = make(balance_of(beta=0.5)), torch.ones(1, C)
        logits = torch.full((1, C), -50.0, requires_grad=True)
        loss.elements(logits, targets).sum().backward()
        smoothing = getattr(loss, "label_smoothing", 0)
        pull = (1 - smoothing / 2) * as_numpy(loss.element_weights(targets.bool()))
        np.testing.assert_allclose(-logits.grad, pull, rtol=1e-5)

    def test_half_precision_logits_are_computed_in_single_precision(self, make, logits, targets):
        loss = make(balance_of(beta=0.5))
        for dtype in (torch.bfloat16, torch.float16):
            half = logits.detach().to(dtype)
            assert loss(half, targets).dtype == torch.float32
            np.testing.assert_allclose(
                loss.elements(half, targets), loss.elements(half.double(), targets), rtol=2e-5, atol=1e-9
            )
        assert loss(logits, targets).dtype == torch.float64

    def test_autocast_does_not_change_the_loss(self, make, logits, targets):
        loss, single = make(balance_of(beta=0.5)), logits.detach().float()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(single, targets)
        assert value.item() == pytest.approx(loss(single, targets).item(), rel=1e-6)

    def test_targets_may_have_any_dtype(self, make, logits, targets):
        loss = make(balance_of())
        for dtype in (torch.bool, torch.int64, torch.float64, torch.bfloat16):
            assert loss(logits, targets.to(dtype)).item() == loss(logits, targets).item()

    def test_inputs_and_buffers_are_not_modified(self, make, logits, targets):
        loss, weights = make(balance_of(beta=0.5)), torch.linspace(0, 2, N)
        given = [each.detach().clone() for each in (logits, targets, weights, *loss.buffers())]
        loss(logits, targets, 4.0, weights).backward()
        for before, after in zip(given, (logits, targets, weights, *loss.buffers()), strict=True):
            assert torch.equal(before, after)

    def test_buffers_move_with_the_module_and_are_not_saved(self, make):
        loss = nn.Sequential(make(balance_of(beta=0.5)))
        assert not loss.state_dict()
        assert not list(loss.parameters())
        assert {buffer.dtype for buffer in loss.to(torch.float64).buffers()} == {torch.float64}
        assert {buffer.device.type for buffer in loss.to("meta").buffers()} == {"meta"}

    def test_the_loss_runs_on_the_meta_device(self, make):
        logits = torch.zeros(N, C, device="meta", requires_grad=True)
        loss = make(balance_of()).to("meta")
        value = loss(logits, torch.zeros(N, C, device="meta"), weights=torch.ones(N, device="meta"))
        value.backward()
        assert value.shape == ()
        assert logits.grad.shape == (N, C)

    def test_single_label_data_is_refused_in_one_line(self, make):
        index = ClassIndex.from_targets(np.array([0, 1, 1]), 2)
        with pytest.raises(UserError, match="is for multi_label data") as error:
            make(Strategy().correction(["a", "b"], index))
        assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(z=st.floats(-1e3, 1e3), y=st.booleans(), name=st.sampled_from([name for name in LOSSES if name != "smoothed"]))
def test_a_loss_is_never_negative_and_never_rewards_a_mistake(z, y, name):
    logits = torch.full((1, C), z, requires_grad=True)
    loss = LOSSES[name](balance_of(beta=0.5))(logits, torch.full((1, C), float(y)))
    loss.backward()
    assert loss.item() >= 0
    assert ((logits.grad <= 0) if y else (logits.grad >= 0)).all()


class TestBinaryCrossEntropy:
    def test_a_small_example_worked_by_hand(self):
        # Every p is 1/2. A positive of label 0 loses 3 log 2, its negative log 2; of label 1 one loses log 2.
        loss = BinaryCrossEntropy(weighing([3, 1], [1, 1], np.eye(2)))
        value = loss(torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        assert value.item() == pytest.approx(6 * np.log(2) / 2 / 2, rel=1e-6)

    def test_the_loss_matches_120_digit_arithmetic(self, targets):
        logits = wide_logits()
        expected = in_high_precision(lambda z, c, y: focal(z, y, 0), logits, targets)
        np.testing.assert_allclose(
            BinaryCrossEntropy(balance_of()).elements(logits, targets), expected, rtol=1e-14, atol=0
        )

    def test_with_negative_weights_of_1_the_loss_equals_that_of_torch(self, logits, targets):
        pos_weight = [0.25, 1, 4, 1e4, 1e6]
        ours = BinaryCrossEntropy(weighing(pos_weight, [1] * C))(logits, targets)
        theirs = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(pos_weight).double())(logits, targets.double())
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)

    def test_balanced_weights_are_the_usual_pos_weight_up_to_a_factor_per_label(self, logits, targets):
        correction = balance_of(beta=1.0, max_ratio=None)
        usual = torch.from_numpy((N - COUNTS) / np.maximum(COUNTS, 1))
        theirs = F.binary_cross_entropy_with_logits(logits, targets.double(), pos_weight=usual, reduction="none")
        ours = BinaryCrossEntropy(correction).elements(logits, targets)
        np.testing.assert_allclose(as_numpy(ours), correction.negative_weights * as_numpy(theirs), rtol=1e-6)

    def test_the_log_odds_of_the_priors_are_the_constant_of_least_loss(self):
        correction = balance_of(beta=0.5)
        prior = torch.from_numpy(np.broadcast_to(correction.prior_logits, (N, C)).copy()).requires_grad_()
        BinaryCrossEntropy(correction)(prior, torch.from_numpy(TEXTS)).backward()
        np.testing.assert_allclose(prior.grad.sum(0)[:-1], 0, atol=1e-8)

    def test_label_smoothing_has_the_weight_of_the_true_side_only(self, logits, targets):
        positive, negative = [0.5, 2, 4, 8, 16], [1, 0.25, 0.5, 1, 2]
        loss = BinaryCrossEntropy(weighing(positive, negative), label_smoothing=0.2)
        soft = F.binary_cross_entropy_with_logits(logits, 0.8 * targets.double() + 0.1, reduction="none")
        expected = np.where(targets.bool(), positive, negative) * as_numpy(soft)
        np.testing.assert_allclose(as_numpy(loss.elements(logits, targets)), expected, rtol=1e-12)

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_the_initial_logits_are_the_constants_of_least_loss(self, smoothing):
        correction = balance_of(beta=0.5)
        loss, logits = (
            BinaryCrossEntropy(correction, label_smoothing=smoothing),
            torch.linspace(-14, 8, 22_001).double(),
        )
        share = np.maximum(correction.sampling_probs, 0.5 / correction.epoch_size)[:, None]
        yes, no = (as_numpy(loss.unweighted(logits, torch.full((22_001,), side))) for side in (True, False))
        risks = (
            share * correction.class_weights[:, None] * yes + (1 - share) * correction.negative_weights[:, None] * no
        )
        np.testing.assert_allclose(loss.initial_logits(correction), logits[risks.argmin(1)], atol=0.05)


class TestFocal:
    def test_a_small_example_worked_by_hand(self):
        loss = Focal(balance_of(), gamma=2)
        half = loss.elements(torch.zeros(1, C), torch.ones(1, C))
        np.testing.assert_allclose(half, 0.25 * np.log(2), rtol=1e-6)
        # p = 0.9: an easy positive counts a hundredth, the same score a negative 0.81 of its log 10.
        logits = torch.full((1, C), float(np.log(9)), dtype=torch.float64)
        np.testing.assert_allclose(loss.elements(logits, torch.ones(1, C)), -0.01 * np.log(0.9), rtol=1e-12)
        np.testing.assert_allclose(loss.elements(logits, torch.zeros(1, C)), 0.81 * np.log(10), rtol=1e-12)

    @pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
    def test_the_loss_matches_120_digit_arithmetic(self, gamma, targets):
        logits = wide_logits()
        expected = in_high_precision(lambda z, c, y: focal(z, y, gamma), logits, targets)
        ours = Focal(balance_of(), gamma=gamma).elements(logits, targets)
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=0)

    def test_the_loss_matches_the_formula_in_probabilities(self, logits, targets):
        z, y = as_numpy(logits), targets.numpy()
        p = 1 / (1 + np.exp(-z))
        p_t = p * y + (1 - p) * (1 - y)
        expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)) * (1 - p_t) ** 2
        np.testing.assert_allclose(as_numpy(Focal(balance_of()).elements(logits, targets)), expected, rtol=1e-9)

    def test_gamma_0_gives_binary_cross_entropy(self, logits, targets):
        correction = balance_of(beta=1.0)
        ours, bce = Focal(correction, gamma=0), BinaryCrossEntropy(correction)
        assert torch.equal(ours.elements(logits, targets), bce.elements(logits, targets))

    def test_label_weights_are_the_inverse_effective_numbers_with_mean_1(self, logits, targets):
        # n = 5, 3, 1, 1 and 0, which counts as 1: (1 - 0.9) / (1 - 0.9^n)
        raw = np.array([0.1 / 0.40951, 0.1 / 0.271, 1, 1, 1])
        correction = balance_of(beta=0.5)
        plain, balanced = Focal(correction), Focal(correction, label_weights=EffectiveNumber(0.9))
        ratios = as_numpy(balanced.elements(logits, targets) / plain.elements(logits, targets))
        np.testing.assert_allclose(ratios, np.broadcast_to(raw / raw.mean(), (N, C)), rtol=1e-6)

    def test_label_weights_follow_the_expected_draws(self, logits, targets):
        # Each label and the texts without one are drawn equally often: little is left to correct.
        texts = np.repeat(np.eye(3), [60, 30, 10], axis=0)
        drawn = Focal(balance_of(texts, alpha=1.0), label_weights=InverseFrequency(1.0))
        np.testing.assert_allclose(drawn.positive_weights, 1, rtol=1e-6)
        raw = Focal(balance_of(texts), label_weights=InverseFrequency(1.0))
        np.testing.assert_allclose(raw.positive_weights, 3 * np.array([1, 2, 6]) / 9, rtol=1e-6)
        np.testing.assert_allclose(raw.negative_weights, raw.positive_weights)


class TestAsymmetric:
    @staticmethod
    def reference(z: mpf, y: bool, negative: float, positive: float, margin: float) -> mpf:
        if y:
            return -(sigma(-z) ** positive) * mp.log(sigma(z))
        p = max(sigma(z) - mpf(margin), mpf(0))
        return -(p**negative) * mp.log(1 - p) if p else mpf(0)

    def test_a_small_example_worked_by_hand(self):
        loss = Asymmetric(balance_of())
        logits = torch.zeros(1, C, dtype=torch.float64)
        np.testing.assert_allclose(loss.elements(logits, torch.ones(1, C)), 0.5 * np.log(2), rtol=1e-12)
        np.testing.assert_allclose(loss.elements(logits, torch.zeros(1, C)), 0.45**4 * -np.log(0.55), rtol=1e-12)

    @pytest.mark.parametrize("negative", [0, 0.5, 1, 4])
    @pytest.mark.parametrize("positive", [0, 0.5, 1])
    @pytest.mark.parametrize("margin", [0, 1e-6, 0.05, 0.2])
    def test_the_loss_matches_120_digit_arithmetic(self, negative, positive, margin, targets):
        logits = wide_logits()
        loss = Asymmetric(balance_of(), gamma_negative=negative, gamma_positive=positive, margin=margin)
        expected = in_high_precision(lambda z, c, y: self.reference(z, y, negative, positive, margin), logits, targets)
        # The difference of p and the margin, where they are close, has the precision of 1.
        np.testing.assert_allclose(loss.elements(logits, targets), expected, rtol=1e-9, atol=1e-15 if margin else 0)

    def test_negatives_below_the_margin_have_no_loss(self):
        logits = torch.linspace(-50, float(np.log(0.05 / 0.95)) - 1e-3, 5 * C).reshape(5, C).requires_grad_()
        value = Asymmetric(balance_of())(logits, torch.zeros(5, C))
        value.backward()
        assert value.item() < 1e-30
        assert not logits.grad.any()

    def test_gammas_and_margin_of_0_give_binary_cross_entropy(self, logits, targets):
        correction = balance_of(beta=1.0)
        ours = Asymmetric(correction, gamma_negative=0, gamma_positive=0, margin=0).elements(logits, targets)
        theirs = BinaryCrossEntropy(correction).elements(logits, targets)
        np.testing.assert_allclose(as_numpy(ours), as_numpy(theirs), rtol=1e-14)

    @pytest.mark.parametrize("gamma", [0.5, 1, 2, 3.7])
    def test_equal_gammas_without_a_margin_give_focal_loss(self, gamma, logits, targets):
        correction = balance_of(beta=1.0)
        ours = Asymmetric(correction, gamma_negative=gamma, gamma_positive=gamma, margin=0).elements(logits, targets)
        theirs = Focal(correction, gamma=gamma).elements(logits, targets)
        np.testing.assert_allclose(as_numpy(ours), as_numpy(theirs), rtol=1e-12)


class TestDistributionBalanced:
    # n = 3 and 1 in four texts {a}, {a, b}, {a}, {}.
    SMALL = np.array([[1, 0], [1, 1], [1, 0], [0, 0]])

    def test_ratios_of_a_small_example_worked_by_hand(self):
        # {a}: r = 1, (1/1) / (1/3) = 3; {a, b}: r = 1/4, 3/4 of 1/3 + 1; {}: without bound.
        loss = DistributionBalanced(balance_of(self.SMALL), alpha=0.1, beta=10, mu=0.5)
        ratios = np.array([[1, 3], [0.25, 0.75], [1, 3], [np.inf, np.inf]])
        expected = 0.1 + 1 / (1 + np.exp(-10 * (ratios - 0.5)))
        np.testing.assert_allclose(loss.rebalancing_weights(torch.from_numpy(self.SMALL).bool()), expected, rtol=1e-6)

    def test_mu_of_a_small_example_worked_by_hand(self):
        # Positives have r = 1, 1/4, 1 of a and 3/4 of b: mean 3/4, median 7/8.
        assert DistributionBalanced(balance_of(self.SMALL)).mu == pytest.approx(0.8125, rel=1e-12)

    def test_mu_of_texts_with_one_label_each_is_1(self):
        assert DistributionBalanced(balance_of(np.eye(3).repeat(4, 0))).mu == pytest.approx(1)

    @pytest.mark.parametrize("rates", [[1, 1, 1, 1, 1, 1, 1, 1], [3, 1, 2, 0, 5, 1, 4, 2], [0, 2, 1, 7, 0, 3, 0, 1]])
    def test_all_parts_follow_the_expected_draws(self, rates, logits, targets):
        """Drawing a text twice is like having it twice."""
        size = sum(rates)
        drawn = replace(
            balance_of(),
            epoch_size=size,
            sampler=SimpleNamespace(draws_per_row=lambda index: np.array(rates, float)),
            sampling_probs=balance_of().index.sum(np.array(rates, float)) / size,
        )
        repeated = balance_of(TEXTS.repeat(rates, 0))
        assert repeated.epoch_size == size
        assert DistributionBalanced(drawn).mu == pytest.approx(DistributionBalanced(repeated).mu, rel=1e-12)
        ours = DistributionBalanced(drawn).elements(logits, targets)
        theirs = DistributionBalanced(repeated).elements(logits, targets)
        np.testing.assert_allclose(as_numpy(ours), as_numpy(theirs), rtol=1e-5)

    def test_mu_is_the_midpoint_of_mean_and_median_over_drawn_positives(self):
        rng = np.random.default_rng(0)
        texts, rates = rng.random((40, 7)) < 0.3, rng.integers(0, 5, 40)
        drawn = np.maximum((texts * rates[:, None]).sum(0), 0.5)
        ratios = [
            (1 / drawn[c]) / sum(1 / drawn[k] for k in np.flatnonzero(texts[i]))
            for i in range(40)
            for c in np.flatnonzero(texts[i])
            for _ in range(rates[i])
        ]
        correction = balance_of(texts)
        correction = replace(
            correction,
            epoch_size=int(rates.sum()),
            sampler=SimpleNamespace(draws_per_row=lambda index: rates.astype(float)),
            sampling_probs=correction.index.sum(rates.astype(float)) / rates.sum(),
        )
        assert DistributionBalanced(correction).mu == pytest.approx(
            (np.mean(ratios) + np.median(ratios)) / 2, rel=1e-12
        )

    @pytest.mark.parametrize("gamma", [0, 2])
    @pytest.mark.parametrize("rebalance", [True, False])
    @pytest.mark.parametrize("tolerant", [True, False])
    def test_the_loss_matches_120_digit_arithmetic(self, gamma, rebalance, tolerant, targets):
        alpha, beta, mu, kappa, scale = 0.1, 10, 0.7, 0.05, 2
        options = {"alpha": alpha, "beta": beta, "mu": mu, "kappa": kappa, "scale": scale}
        loss = DistributionBalanced(
            balance_of(), rebalance=rebalance, negative_tolerant=tolerant, gamma=gamma, **options
        )
        counts = [mpf(max(float(n), 0.5)) for n in COUNTS]

        def reference(z: mpf, c: int, y: bool) -> mpf:
            v = kappa * mp.log(N / counts[c] - 1)
            if not tolerant:
                return focal(z, y, gamma)
            return focal(z - v, y, gamma) if y else focal(scale * (z - v), y, gamma) / scale

        logits = wide_logits()
        expected = in_high_precision(reference, logits, targets)
        if rebalance:
            for i, held in enumerate(targets.bool().numpy()):
                by_text = sum(1 / counts[k] for k in np.flatnonzero(held))
                for c in range(C):
                    r = (1 / counts[c]) / by_text if by_text else mp.inf
                    expected[i, c] *= float(alpha + sigma(beta * (r - mu)))
        np.testing.assert_allclose(loss.elements(logits, targets), expected, rtol=2e-6, atol=0)

    def test_texts_without_labels_have_the_largest_weight_for_every_label(self):
        none = torch.zeros(2, C, dtype=torch.bool)
        np.testing.assert_allclose(
            DistributionBalanced(balance_of(), alpha=0.1).rebalancing_weights(none), 1.1, rtol=1e-6
        )

    def test_the_rebalanced_weight_is_bounded(self):
        everything = torch.tensor(np.array(np.meshgrid(*[[0, 1]] * C)).reshape(C, -1).T, dtype=torch.bool)
        for alpha in (0.0, 0.5, 1.0):
            weights = DistributionBalanced(balance_of(alpha=alpha), alpha=0.1).rebalancing_weights(everything)
            assert weights.min() >= 0.1
            assert weights.max() <= 1.1 + 1e-6

    def test_the_rarer_of_two_labels_of_a_text_has_the_larger_weight(self):
        both = DistributionBalanced(balance_of(self.SMALL)).rebalancing_weights(torch.ones(1, 2, dtype=torch.bool))
        assert both[0, 1] > both[0, 0]

    def test_without_all_parts_the_loss_is_binary_cross_entropy(self, logits, targets):
        correction = balance_of(beta=1.0)
        ours = DistributionBalanced(correction, rebalance=False, negative_tolerant=False, gamma=0)
        assert torch.equal(ours.elements(logits, targets), BinaryCrossEntropy(correction).elements(logits, targets))

    def test_without_rebalancing_and_tolerance_the_loss_is_focal_loss(self, logits, targets):
        correction = balance_of(beta=1.0)
        ours = DistributionBalanced(correction, rebalance=False, negative_tolerant=False)
        assert torch.equal(ours.elements(logits, targets), Focal(correction).elements(logits, targets))

    def test_a_scale_of_1_without_a_shift_has_no_tolerance(self, logits, targets):
        correction = balance_of(beta=1.0)
        ours = DistributionBalanced(correction, kappa=0, scale=1).elements(logits, targets)
        theirs = DistributionBalanced(correction, negative_tolerant=False).elements(logits, targets)
        np.testing.assert_allclose(as_numpy(ours), as_numpy(theirs), rtol=1e-14)

    def test_tolerance_reduces_the_loss_of_easy_negatives(self):
        # At the same slope around the shift, the gradient falls off as e^(scale z) instead of e^z.
        logits = torch.full((1, C), -3.0, dtype=torch.float64, requires_grad=True)
        gradients = {}
        for tolerant in (True, False):
            loss = DistributionBalanced(balance_of(), rebalance=False, negative_tolerant=tolerant, gamma=0, kappa=0)
            (gradient,) = torch.autograd.grad(loss(logits, torch.zeros(1, C)), logits)
            gradients[tolerant] = as_numpy(gradient)
        ratio = (1 / (1 + np.exp(6))) / (1 / (1 + np.exp(3)))
        np.testing.assert_allclose(gradients[True], ratio * gradients[False], rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (BinaryCrossEntropy, {"label_smoothing": 1}, "strategy.loss.label_smoothing=1"),
        (BinaryCrossEntropy, {"label_smoothing": -0.1}, "strategy.loss.label_smoothing=-0.1"),
        (Focal, {"gamma": -1}, "strategy.loss.gamma=-1"),
        (Focal, {"gamma": "high"}, "strategy.loss.gamma=high"),
        (Focal, {"gamma": float("nan")}, "strategy.loss.gamma=nan"),
        (Focal, {"label_weights": "balanced"}, "strategy.loss.label_weights=balanced"),
        (Asymmetric, {"gamma_negative": -1}, "strategy.loss.gamma_negative=-1"),
        (Asymmetric, {"gamma_positive": -1}, "strategy.loss.gamma_positive=-1"),
        (Asymmetric, {"margin": 1}, "strategy.loss.margin=1"),
        (Asymmetric, {"margin": -0.1}, "strategy.loss.margin=-0.1"),
        (DistributionBalanced, {"gamma": -2}, "strategy.loss.gamma=-2"),
        (DistributionBalanced, {"alpha": -1}, "strategy.loss.alpha=-1"),
        (DistributionBalanced, {"beta": 0}, "strategy.loss.beta=0"),
        (DistributionBalanced, {"kappa": -1}, "strategy.loss.kappa=-1"),
        (DistributionBalanced, {"scale": 0}, "strategy.loss.scale=0"),
        (DistributionBalanced, {"mu": "median"}, "strategy.loss.mu=median: use auto or a number"),
        (DistributionBalanced, {"mu": float("inf")}, "strategy.loss.mu=inf"),
    ],
)
def test_an_option_out_of_range_is_refused_in_one_line(make, options, message):
    error = user_error(make, balance_of(), **options)
    assert message in error
