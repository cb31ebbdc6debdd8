from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn

from counterpoise.balance import (
    Asymmetric,
    Balance,
    BinaryCrossEntropy,
    ClassIndex,
    CrossEntropy,
    DistributionBalanced,
    Focal,
    Power,
    PowerSampler,
    Strategy,
    likelihood,
)
from counterpoise.errors import UserError


def weighing(*weights: float) -> Balance:
    """A balance of single-label data with these class weights."""
    classes = ClassIndex.of(np.arange(len(weights)), len(weights))
    balance = Strategy().balance([f"class {c}" for c in range(len(weights))], classes)
    return replace(balance, weights=np.array(weights))


WEIGHTS = np.array([0.25, 1.0, 4.0, 0.5])
BALANCE = weighing(*WEIGHTS)
LABEL_SETS = csr_matrix(np.array([[1, 0], [1, 1], [0, 0], [1, 0], [1, 0]], bool))
MULTI_LABEL = Strategy(PowerSampler(), Power(1.0)).balance(["often", "once"], ClassIndex.of(LABEL_SETS, 2))


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
    likelihood = log_probabilities(logits)[np.arange(32), classes]
    expected = -(WEIGHTS[classes] * likelihood).sum() / 32
    assert CrossEntropy(BALANCE)(logits, classes).item() == pytest.approx(expected, rel=1e-14)
    assert CrossEntropy(BALANCE)(logits.float(), classes).item() == pytest.approx(expected, rel=1e-6)


def test_by_hand():
    # Both classes have probability 1/2: each example loses log 2 times its weight.
    loss = CrossEntropy(weighing(1.0, 3.0))(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(2 * np.log(2), rel=1e-6)


def test_a_denominator_takes_the_place_of_the_number_of_examples(batch):
    logits, classes = batch
    loss = CrossEntropy(BALANCE)
    assert 32 * loss(logits, classes).item() == pytest.approx(8 * loss(logits, classes, denominator=8).item())


def test_label_smoothing_is_weighted_by_the_true_class_alone(batch):
    logits, classes = batch
    log_p = log_probabilities(logits)
    smoothed = 0.9 * log_p[np.arange(32), classes] + 0.1 * log_p.mean(1)
    expected = -(WEIGHTS[classes] * smoothed).sum() / 32
    assert CrossEntropy(BALANCE, label_smoothing=0.1)(logits, classes).item() == pytest.approx(expected, rel=1e-14)


def test_smoothing_alone_draws_logits_to_no_class():
    # d loss / d logits = w[y] (softmax - target): the wrong classes get equal gradients whatever their weights.
    logits = torch.zeros(1, 4, requires_grad=True)
    CrossEntropy(BALANCE, label_smoothing=0.2)(logits, torch.tensor([1])).backward()
    np.testing.assert_allclose(logits.grad, [[0.2, -0.6, 0.2, 0.2]], rtol=1e-6)


def test_the_weighted_mean_is_that_of_torch(batch):
    logits, classes = batch
    ours = CrossEntropy(BALANCE, reduction="weighted_mean")(logits, classes)
    theirs = nn.CrossEntropyLoss(weight=torch.from_numpy(WEIGHTS))(logits, classes)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-14)


def test_the_weight_of_a_single_example_counts_unlike_in_the_weighted_mean():
    logits, classes = torch.tensor([[1.0, -1, 0, 2]]), torch.tensor([2])
    single = nn.CrossEntropyLoss()(logits, classes).item()
    assert CrossEntropy(BALANCE)(logits, classes).item() == pytest.approx(4 * single)
    assert CrossEntropy(BALANCE, reduction="weighted_mean")(logits, classes).item() == pytest.approx(single)


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_stay_finite_for_extreme_logits_and_weights(reduction, smoothing, dtype):
    logits = torch.tensor([[50.0, -50.0], [-50.0, 50.0]], dtype=dtype).repeat(2, 1).requires_grad_()
    loss = CrossEntropy(weighing(1e6, 1e-6), smoothing, reduction)(logits, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize(("parts", "smoothing"), [(4, 0.0), (4, 0.1), (8, 0.0), (32, 0.0)])
def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(batch, parts, smoothing):
    logits, classes = batch
    loss = CrossEntropy(BALANCE, smoothing)
    (whole,) = torch.autograd.grad(loss(logits, classes), logits)
    sum(
        loss(part, its_classes, denominator=32 / parts) / parts
        for part, its_classes in zip(logits.chunk(parts), classes.chunk(parts), strict=True)
    ).backward()
    np.testing.assert_allclose(logits.grad, whole, rtol=1e-12, atol=1e-15)


def test_half_precision_logits_are_computed_in_single_precision(batch):
    logits, classes = batch
    half = logits.detach().bfloat16()
    loss = CrossEntropy(BALANCE)(half, classes)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(CrossEntropy(BALANCE)(half.double(), classes).item(), rel=1e-6)


def test_the_class_weights_move_with_the_module_and_are_not_saved():
    loss = nn.Sequential(CrossEntropy(BALANCE))
    assert not loss.state_dict()
    assert not list(loss.parameters())
    assert loss.to("meta")[0].class_weights.device.type == "meta"
    assert loss.to(torch.float64)[0].class_weights.dtype == torch.float64


def test_the_loss_runs_on_the_meta_device():
    logits = torch.zeros(8, 4, device="meta", requires_grad=True)
    loss = CrossEntropy(BALANCE).to("meta")(logits, torch.zeros(8, dtype=torch.int64, device="meta"))
    loss.backward()
    assert loss.shape == ()
    assert logits.grad.shape == (8, 4)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_outside_0_to_1_is_refused(smoothing):
    with pytest.raises(UserError, match="label_smoothing"):
        CrossEntropy(BALANCE, label_smoothing=smoothing)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(UserError, match="use mean or weighted_mean"):
        CrossEntropy(BALANCE, reduction="sum")


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
def test_an_instance_weight_of_2_is_the_example_twice(batch, reduction):
    logits, classes = batch
    loss = CrossEntropy(BALANCE, 0.1, reduction)
    twice = torch.cat([torch.arange(32), torch.arange(8)])
    weights = torch.ones(32, dtype=torch.float64)
    weights[:8] = 2
    weighted = loss(logits, classes, denominator=40, weights=weights)
    assert weighted.item() == pytest.approx(loss(logits[twice], classes[twice]).item(), rel=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
def test_examples_that_all_weigh_nothing_lose_nothing(batch, reduction):
    logits, classes = batch
    loss = CrossEntropy(BALANCE, reduction=reduction)(logits, classes, weights=torch.zeros(32))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_the_elements_of_the_loss_are_the_weighted_losses_of_the_examples(batch):
    logits, classes = batch
    expected = -WEIGHTS[classes] * log_probabilities(logits)[np.arange(32), classes]
    np.testing.assert_allclose(CrossEntropy(BALANCE).elements(logits, classes).detach(), expected, rtol=1e-12)


def test_the_likelihood_is_that_of_the_task():
    single = likelihood(BALANCE, label_smoothing=0.1, reduction="weighted_mean")
    assert (type(single), single.label_smoothing, single.reduction) == (CrossEntropy, 0.1, "weighted_mean")
    multi = likelihood(MULTI_LABEL, label_smoothing=0.1, reduction="weighted_mean")
    assert (type(multi), multi.label_smoothing, multi.reduction) == (BinaryCrossEntropy, 0.1, "weighted_mean")


def test_the_likelihood_of_multi_label_data_weighs_both_sides_of_each_label():
    # 5 texts, of which 4 hold "often" and 1 "once"; balanced, their ratios are 1/4 and 4.
    logits, targets = torch.zeros(5, 2), torch.from_numpy(LABEL_SETS.toarray()).float()
    elements = likelihood(MULTI_LABEL).elements(logits, targets) / np.log(2)
    np.testing.assert_allclose(elements[:3], [[0.625, 0.625], [0.625, 2.5], [2.5, 0.625]], rtol=1e-6)
    assert likelihood(MULTI_LABEL)(logits, targets).item() == pytest.approx(np.log(2))


def test_a_loss_for_the_other_task_is_refused_in_one_line():
    with pytest.raises(UserError, match="CrossEntropy is for single_label data and this data is multi_label") as told:
        CrossEntropy(MULTI_LABEL)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy, Focal, Asymmetric, DistributionBalanced])
def test_a_loss_of_labels_is_refused_for_classes_in_one_line(loss):
    with pytest.raises(UserError, match=f"{loss.__name__} is for multi_label data") as told:
        loss(BALANCE)
    assert "\n" not in str(told.value)
