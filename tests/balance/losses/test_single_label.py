from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from scipy.optimize import brentq
from scipy.sparse import csr_matrix
from torch import nn

from counterpoise.balance import (
    LDAM,
    Asymmetric,
    BinaryCrossEntropy,
    ClassIndex,
    Correction,
    CrossEntropy,
    DistributionBalanced,
    EffectiveNumber,
    Focal,
    InverseFrequency,
    LogitAdjusted,
    ManualWeights,
    PowerSampler,
    SoftmaxFocal,
    Strategy,
    cross_entropy,
    focal,
)
from counterpoise.errors import UserError


def weighing(*weights: float) -> Correction:
    """Return a correction of single-label data with these class weights."""
    classes = ClassIndex.from_targets(np.arange(len(weights)), len(weights))
    correction = Strategy().correction([f"class {c}" for c in range(len(weights))], classes)
    return replace(correction, class_weights=np.array(weights))


WEIGHTS = np.array([0.25, 1.0, 4.0, 0.5])
BALANCE = weighing(*WEIGHTS)
LABEL_SETS = csr_matrix(np.array([[1, 0], [1, 1], [0, 0], [1, 0], [1, 0]], bool))
MULTI_LABEL = Strategy(PowerSampler(), InverseFrequency(1.0)).correction(
    ["often", "once"], ClassIndex.from_targets(LABEL_SETS, 2)
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(32, 4, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(4, (32,), generator=generator)


def log_probabilities(logits: torch.Tensor) -> np.ndarray:
    values = logits.detach().numpy().astype(np.float64)
    shifted = values - values.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def test_the_loss_is_the_weighted_sum_over_the_number_of_examples(batch):
    logits, classes = batch
    cross_entropy = log_probabilities(logits)[np.arange(32), classes]
    expected = -(WEIGHTS[classes] * cross_entropy).sum() / 32
    assert CrossEntropy(BALANCE)(logits, classes).item() == pytest.approx(expected, rel=1e-14)
    assert CrossEntropy(BALANCE)(logits.float(), classes).item() == pytest.approx(expected, rel=1e-6)


def test_a_small_example_worked_by_hand():
    # Both classes have probability 1/2: each example loses log 2 times its weight.
    loss = CrossEntropy(weighing(1.0, 3.0))(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(2 * np.log(2), rel=1e-6)


def test_a_denominator_replaces_the_number_of_examples(batch):
    logits, classes = batch
    loss = CrossEntropy(BALANCE)
    assert 32 * loss(logits, classes).item() == pytest.approx(8 * loss(logits, classes, denominator=8).item())


def test_label_smoothing_has_the_weight_of_the_true_class_only(batch):
    logits, classes = batch
    log_p = log_probabilities(logits)
    smoothed = 0.9 * log_p[np.arange(32), classes] + 0.1 * log_p.mean(1)
    expected = -(WEIGHTS[classes] * smoothed).sum() / 32
    assert CrossEntropy(BALANCE, label_smoothing=0.1)(logits, classes).item() == pytest.approx(expected, rel=1e-14)


def test_smoothed_mass_is_equal_for_all_wrong_classes():
    # d loss / d logits = w[y] (softmax - target): all wrong classes have equal gradients.
    logits = torch.zeros(1, 4, requires_grad=True)
    CrossEntropy(BALANCE, label_smoothing=0.2)(logits, torch.tensor([1])).backward()
    np.testing.assert_allclose(logits.grad, [[0.2, -0.6, 0.2, 0.2]], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_outside_0_to_1_is_refused(smoothing):
    with pytest.raises(UserError, match="label_smoothing"):
        CrossEntropy(BALANCE, label_smoothing=smoothing)


def test_an_instance_weight_of_2_equals_the_example_twice(batch):
    logits, classes = batch
    loss = CrossEntropy(BALANCE, label_smoothing=0.1)
    twice = torch.cat([torch.arange(32), torch.arange(8)])
    weights = torch.ones(32, dtype=torch.float64)
    weights[:8] = 2
    weighted = loss(logits, classes, denominator=40, weights=weights)
    assert weighted.item() == pytest.approx(loss(logits[twice], classes[twice]).item(), rel=1e-12)


def test_instance_weights_of_0_give_a_loss_of_0(batch):
    logits, classes = batch
    loss = CrossEntropy(BALANCE)(logits, classes, weights=torch.zeros(32))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_the_elements_of_the_loss_are_the_weighted_losses_of_the_examples(batch):
    logits, classes = batch
    expected = -WEIGHTS[classes] * log_probabilities(logits)[np.arange(32), classes]
    np.testing.assert_allclose(CrossEntropy(BALANCE).elements(logits, classes).detach(), expected, rtol=1e-12)


def test_cross_entropy_selects_the_loss_of_the_task():
    single = cross_entropy(BALANCE, label_smoothing=0.1)
    assert (type(single), single.label_smoothing) == (CrossEntropy, 0.1)
    multi = cross_entropy(MULTI_LABEL, label_smoothing=0.1)
    assert (type(multi), multi.label_smoothing) == (BinaryCrossEntropy, 0.1)


def test_binary_cross_entropy_has_weights_of_positives_and_negatives():
    # 5 texts, of which 4 hold "often" and 1 "once"; balanced, their ratios are 1/4 and 4.
    logits, targets = torch.zeros(5, 2), torch.from_numpy(LABEL_SETS.toarray()).float()
    elements = cross_entropy(MULTI_LABEL).elements(logits, targets) / np.log(2)
    np.testing.assert_allclose(elements[:3], [[0.625, 0.625], [0.625, 2.5], [2.5, 0.625]], rtol=1e-6)
    assert cross_entropy(MULTI_LABEL)(logits, targets).item() == pytest.approx(np.log(2))


def test_a_loss_for_the_other_task_is_refused_in_one_line():
    with pytest.raises(UserError, match="CrossEntropy is for single_label data") as error:
        CrossEntropy(MULTI_LABEL)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy, Focal, Asymmetric, DistributionBalanced])
def test_a_multi_label_loss_is_refused_for_single_label_data_in_one_line(loss):
    with pytest.raises(UserError, match=f"{loss.__name__} is for multi_label data") as error:
        loss(BALANCE)
    assert "\n" not in str(error.value)


def counting(*counts: int, alpha: float = 0.0, beta: float = 0.0, **options) -> Correction:
    """Return the correction of classes with these counts; a count may be 0."""
    index = ClassIndex.from_targets(np.repeat(np.arange(len(counts)), counts), len(counts))
    labels = [f"class {c}" for c in range(len(counts))]
    return Strategy(PowerSampler(alpha), InverseFrequency(beta), **options).correction(labels, index)


LOSSES: dict[str, Callable[[Correction], nn.Module]] = {
    "cross-entropy": CrossEntropy,
    "smoothed": lambda b: CrossEntropy(b, label_smoothing=0.1),
    "focal": SoftmaxFocal,
    "focal, gamma 0": lambda b: SoftmaxFocal(b, gamma=0),
    "focal, gamma 0.5": lambda b: SoftmaxFocal(b, gamma=0.5),
    "focal, gamma 5": lambda b: SoftmaxFocal(b, gamma=5),
    "class-balanced focal": lambda b: SoftmaxFocal(b, label_weights=EffectiveNumber(0.9)),
    "logit-adjusted": lambda b: LogitAdjusted(b, tau=0.5),
    "balanced softmax": LogitAdjusted,
    "ldam": LDAM,
    "ldam, no margin": lambda b: LDAM(b, max_margin=0),
}
COUNTS = (600, 300, 90, 10)


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
class TestEveryLossOfClasses:
    """Properties of every loss for single-label data."""

    def test_the_loss_is_the_mean_over_examples_or_divided_by_the_denominator(self, make, batch):
        loss = make(counting(*COUNTS, beta=0.5))
        elements = loss.elements(*batch).detach().numpy()
        assert elements.shape == (32,)
        assert loss(*batch).item() == pytest.approx(elements.mean(), rel=1e-12)
        assert loss(*batch, denominator=3).item() == pytest.approx(elements.sum() / 3, rel=1e-12)

    def test_class_weights_multiply_by_the_true_class(self, make, batch):
        correction = counting(*COUNTS)
        plain = make(correction)
        weighted = make(correction)
        weighted.class_weights = weighted.class_weights * torch.from_numpy(WEIGHTS)
        expected = WEIGHTS[batch[1]] * plain.elements(*batch).detach().numpy()
        np.testing.assert_allclose(weighted.elements(*batch).detach(), expected, rtol=1e-12)

    def test_instance_weights_multiply_the_losses(self, make, batch):
        loss, weights = make(counting(*COUNTS, beta=0.5)), torch.arange(32.0)
        elements = loss.elements(*batch).detach().numpy()
        assert loss(*batch, None, weights).item() == pytest.approx(elements @ weights.numpy() / 32, rel=1e-12)
        assert loss(*batch, weights=torch.ones(32)).item() == pytest.approx(loss(*batch).item(), rel=1e-12)

    def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(self, make, batch):
        logits, classes = batch
        loss, weights = make(counting(*COUNTS, beta=0.5)), torch.linspace(0, 2, 32)
        (whole,) = torch.autograd.grad(loss(logits, classes, weights=weights), logits)
        for parts in (2, 8, 32):
            logits.grad = None
            pieces = (each.chunk(parts) for each in (logits, classes, weights))
            sum(loss(z, y, 32 / parts, w) / parts for z, y, w in zip(*pieces, strict=True)).backward()
            np.testing.assert_allclose(logits.grad, whole, rtol=1e-10, atol=1e-16)

    def test_gradients_match_finite_differences(self, make, batch):
        loss = make(counting(*COUNTS, beta=0.5))
        assert torch.autograd.gradcheck(lambda z: loss.elements(z, batch[1]), batch[0], eps=1e-6, atol=1e-7)

    def test_a_constant_added_to_the_logits_of_a_text_does_not_change_the_loss(self, make, batch):
        loss = make(counting(*COUNTS, beta=0.5))
        for constant in (7, -1e4, 1e4):
            shifted = loss.elements(batch[0] + constant, batch[1]).detach()
            np.testing.assert_allclose(shifted, loss.elements(*batch).detach(), rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("size", [0.0, 50.0, 1e4])
    def test_losses_and_gradients_are_finite_for_extreme_logits_and_weights(self, make, dtype, size):
        correction = replace(counting(*COUNTS), class_weights=np.array([1e-6, 1, 1e5, 1e3]))
        logits = (size * torch.tensor([[1.0, -1, -1, -1], [-1, 1, 1, -1], [1, 1, 1, 1]])).repeat(4, 1)
        logits = logits.to(dtype).requires_grad_()
        loss, classes = make(correction), torch.arange(4).repeat_interleave(3)
        value = loss(logits, classes)
        value.backward()
        assert value.isfinite()
        assert value.item() >= 0
        assert logits.grad.isfinite().all()

    @pytest.mark.parametrize("counts", [(90, 10), (1, 1), (5, 0), (0, 0, 7, 2), (100_000, 1, 0)])
    @pytest.mark.parametrize(("alpha", "beta"), [(0, 0), (1, 0), (0, 1), (0.5, 0.5)])
    def test_two_classes_and_classes_without_examples_give_finite_losses(self, make, counts, alpha, beta):
        correction = counting(*counts, alpha=alpha, beta=beta)
        loss, c = make(correction), len(counts)
        logits = torch.randn(2 * c, c, generator=torch.Generator().manual_seed(0)).requires_grad_()
        value = loss(logits, torch.arange(2 * c) % c)
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()
        for numbers in (loss.initial_logits(correction), loss.effective_prior(correction)):
            assert numbers.shape == (c,)
            assert numbers.dtype == np.float64
            assert np.isfinite(numbers).all()
        assert loss.effective_prior(correction).sum() == pytest.approx(1, rel=1e-9)

    def test_half_precision_logits_are_computed_in_single_precision(self, make, batch):
        loss, classes = make(counting(*COUNTS, beta=0.5)), batch[1]
        for dtype in (torch.bfloat16, torch.float16):
            half = batch[0].detach().to(dtype)
            assert loss(half, classes).dtype == torch.float32
            np.testing.assert_allclose(
                loss.elements(half, classes), loss.elements(half.double(), classes), rtol=1e-4, atol=1e-6
            )
        assert loss(*batch).dtype == torch.float64

    def test_autocast_does_not_change_the_loss(self, make, batch):
        loss, single = make(counting(*COUNTS, beta=0.5)), batch[0].detach().float()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(single, batch[1])
        assert value.item() == pytest.approx(loss(single, batch[1]).item(), rel=1e-6)

    def test_inputs_and_buffers_are_not_modified(self, make, batch):
        loss, weights = make(counting(*COUNTS, beta=0.5)), torch.linspace(0, 2, 32)
        given = [each.detach().clone() for each in (*batch, weights, *loss.buffers())]
        loss(*batch, 4.0, weights).backward()
        for before, after in zip(given, (*batch, weights, *loss.buffers()), strict=True):
            assert torch.equal(before, after)

    def test_buffers_move_with_the_module_and_are_not_saved(self, make):
        loss = nn.Sequential(make(counting(*COUNTS, beta=0.5)))
        assert not loss.state_dict()
        assert not list(loss.parameters())
        assert {buffer.dtype for buffer in loss.to(torch.float64).buffers()} == {torch.float64}
        assert {buffer.device.type for buffer in loss.to("meta").buffers()} == {"meta"}

    def test_the_loss_runs_on_the_meta_device(self, make):
        logits = torch.zeros(8, 4, device="meta", requires_grad=True)
        classes = torch.zeros(8, dtype=torch.int64, device="meta")
        value = make(counting(*COUNTS)).to("meta")(logits, classes, weights=torch.ones(8, device="meta"))
        value.backward()
        assert value.shape == ()
        assert logits.grad.shape == (8, 4)

    def test_multi_label_data_is_refused_in_one_line(self, make):
        with pytest.raises(UserError, match="is for single_label data") as error:
            make(MULTI_LABEL)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(("alpha", "beta"), [(0, 0), (0.5, 0.25), (0, 1)])
    @pytest.mark.parametrize("counts", [COUNTS, (2840, 1)])
    def test_the_initial_logits_are_the_constant_of_least_loss(self, make, counts, alpha, beta):
        correction = counting(*counts, alpha=alpha, beta=beta)
        loss = make(correction)
        logits = torch.from_numpy(loss.initial_logits(correction)).requires_grad_()
        drawn = torch.from_numpy(correction.sampling_probs)
        (drawn @ loss.elements(logits.expand(len(counts), -1), torch.arange(len(counts)))).backward()
        # The slope over the curvature, about the share of the class, is how far the best logit is.
        assert np.abs(logits.grad.numpy() / loss.effective_prior(correction)).max() < 1e-3


class TestSoftmaxFocal:
    def test_a_small_example_worked_by_hand(self):
        # p_y = 1/4: (3/4)^2 log 4. p_y = 9/10 of two classes: a hundredth of log(10/9); the other class 0.81 log 10.
        quarter = SoftmaxFocal(counting(*COUNTS)).elements(torch.zeros(1, 4), torch.tensor([3]))
        assert quarter.item() == pytest.approx(9 / 16 * np.log(4), rel=1e-6)
        logits = torch.tensor([[np.log(9), 0.0]]).repeat(2, 1)
        two = SoftmaxFocal(counting(5, 5)).elements(logits, torch.tensor([0, 1]))
        np.testing.assert_allclose(two, [0.01 * np.log(10 / 9), 0.81 * np.log(10)], rtol=1e-12)

    @pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
    def test_the_loss_matches_100_digit_arithmetic(self, gamma):
        generator = torch.Generator().manual_seed(1)
        logits = 25 * torch.randn(40, 4, generator=generator, dtype=torch.float64)
        classes = torch.randint(4, (40,), generator=generator)
        expected = []
        with mp.workdps(100):
            for row, y in zip(logits.tolist(), classes.tolist(), strict=True):
                powers = [mp.exp(mpf(z)) for z in row]
                p = powers[y] / sum(powers)
                expected.append(float(-((1 - p) ** mpf(gamma)) * mp.log(p)))
        ours = SoftmaxFocal(counting(*COUNTS), gamma=gamma).elements(logits, classes)
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=0)

    def test_gamma_0_gives_cross_entropy(self, batch):
        ours, theirs = SoftmaxFocal(BALANCE, gamma=0), CrossEntropy(BALANCE)
        np.testing.assert_allclose(ours.elements(*batch).detach(), theirs.elements(*batch).detach(), rtol=1e-12)

    def test_two_classes_give_the_loss_of_one_label(self, batch):
        labels = Strategy().correction(["yes"], ClassIndex.from_targets(csr_matrix(np.arange(10)[:, None] < 3), 1))
        binary = Focal(labels).elements(batch[0][:, :1], batch[1][:, None] % 2)[:, 0]
        two = torch.stack([torch.zeros_like(batch[0][:, 0]), batch[0][:, 0]], 1)
        ours = SoftmaxFocal(counting(7, 3)).elements(two, batch[1] % 2)
        np.testing.assert_allclose(ours.detach(), binary.detach(), rtol=1e-10)

    def test_the_focal_term_uses_the_unweighted_probability(self, batch):
        log_p = log_probabilities(batch[0])[np.arange(32), batch[1]]
        expected = -WEIGHTS[batch[1]] * (1 - np.exp(log_p)) ** 2 * log_p
        np.testing.assert_allclose(SoftmaxFocal(BALANCE).elements(*batch).detach(), expected, rtol=1e-9)

    def test_label_weights_are_the_inverse_effective_numbers_over_drawn_examples(self):
        # n = 5, 3, 1: (1 - 0.9) / (1 - 0.9^n), and a drawn example weighs 1 on average.
        raw = np.array([0.1 / 0.40951, 0.1 / 0.271, 1])
        loss = SoftmaxFocal(counting(5, 3, 1), label_weights=EffectiveNumber(0.9))
        np.testing.assert_allclose(loss.class_weights, raw / (np.array([5, 3, 1]) @ raw / 9), rtol=1e-6)

    def test_label_weights_multiply_the_class_weights(self):
        correction = counting(*COUNTS, beta=0.5)
        loss = SoftmaxFocal(correction, label_weights=InverseFrequency(0.5))
        # What is left of the weights, n^(1/2), is halved: n^(1/4).
        law = np.array(COUNTS) ** 0.25
        np.testing.assert_allclose(loss.effective_prior(correction), law / law.sum(), rtol=1e-6)
        assert correction.sampling_probs @ loss.class_weights.double().numpy() == pytest.approx(1, rel=1e-6)

    @pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (0, 1), (0.5, 0.5)])
    def test_label_weights_are_1_after_a_full_correction(self, alpha, beta):
        correction = counting(*COUNTS, alpha=alpha, beta=beta)
        for scheme in (InverseFrequency(1.0), EffectiveNumber(0.999)):
            loss = SoftmaxFocal(correction, label_weights=scheme)
            np.testing.assert_allclose(loss.class_weights, correction.class_weights, rtol=1e-6)

    def test_the_best_constant_solves_the_stationary_equation(self):
        # sum_c e_c phi(p_c) on the simplex: e_c phi'(p_c) is the same for all classes.
        correction = counting(*COUNTS)
        z = SoftmaxFocal(correction).initial_logits(correction)
        p = np.exp(z) / np.exp(z).sum()

        def slope(p: float) -> float:
            return 2 * (1 - p) * np.log(p) - (1 - p) ** 2 / p

        level = correction.effective_prior[0] * slope(p[0])
        for e, share in zip(correction.effective_prior, p, strict=True):
            exact = brentq(lambda q, e=e: e * slope(q) - level, 1e-9, 1 - 1e-9, xtol=1e-14)
            assert share == pytest.approx(exact, rel=1e-3)

    @pytest.mark.parametrize("gamma", [-1, float("nan"), float("inf"), "2", True, None])
    def test_an_invalid_gamma_is_refused_in_one_line(self, gamma):
        with pytest.raises(UserError, match=r"strategy\.loss\.gamma=") as error:
            SoftmaxFocal(BALANCE, gamma=gamma)
        assert "\n" not in str(error.value)

    def test_label_weights_that_are_not_a_weight_scheme_are_refused_in_one_line(self):
        with pytest.raises(UserError, match=r"strategy\.loss\.label_weights=0\.9") as error:
            SoftmaxFocal(BALANCE, label_weights=0.9)
        assert "\n" not in str(error.value)


def test_focal_selects_the_loss_of_the_task():
    assert isinstance(focal(BALANCE, gamma=1, label_weights=InverseFrequency(0.5)), SoftmaxFocal)
    assert isinstance(focal(MULTI_LABEL, gamma=1, label_weights=InverseFrequency(0.5)), Focal)
    assert focal(BALANCE, gamma=1).gamma == focal(MULTI_LABEL, gamma=1).gamma == 1


def test_a_class_of_weight_0_has_effective_prior_0_and_finite_initial_logits():
    correction = Strategy(weights=ManualWeights([0, 1, 1])).correction(
        ["a", "b", "c"], ClassIndex.from_targets(np.arange(30) % 3, 3)
    )
    for make in LOSSES.values():
        loss = make(correction)
        assert np.isfinite(loss.initial_logits(correction)).all()
    np.testing.assert_allclose(CrossEntropy(correction).effective_prior(correction), [0, 0.5, 0.5])
