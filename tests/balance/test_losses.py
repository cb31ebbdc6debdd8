import numpy as np
import pytest
import torch
from torch import nn

from counterpoise.balance import CrossEntropy
from counterpoise.errors import UserError

WEIGHTS = torch.tensor([0.25, 1.0, 4.0, 0.5])


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
    expected = -(WEIGHTS.numpy()[classes] * likelihood).sum() / 32
    assert CrossEntropy(WEIGHTS)(logits, classes).item() == pytest.approx(expected, rel=1e-14)
    assert CrossEntropy(WEIGHTS)(logits.float(), classes).item() == pytest.approx(expected, rel=1e-6)


def test_by_hand():
    # Both classes have probability 1/2: each example loses log 2 times its weight.
    loss = CrossEntropy(torch.tensor([1.0, 3.0]))(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(2 * np.log(2), rel=1e-6)


def test_a_denominator_takes_the_place_of_the_number_of_examples(batch):
    logits, classes = batch
    loss = CrossEntropy(WEIGHTS)
    assert 32 * loss(logits, classes).item() == pytest.approx(8 * loss(logits, classes, denominator=8).item())


def test_label_smoothing_is_weighted_by_the_true_class_alone(batch):
    logits, classes = batch
    log_p = log_probabilities(logits)
    smoothed = 0.9 * log_p[np.arange(32), classes] + 0.1 * log_p.mean(1)
    expected = -(WEIGHTS.numpy()[classes] * smoothed).sum() / 32
    assert CrossEntropy(WEIGHTS, label_smoothing=0.1)(logits, classes).item() == pytest.approx(expected, rel=1e-14)


def test_smoothing_alone_draws_logits_to_no_class():
    # d loss / d logits = w[y] (softmax - target): the wrong classes get equal gradients whatever their weights.
    logits = torch.zeros(1, 4, requires_grad=True)
    CrossEntropy(WEIGHTS, label_smoothing=0.2)(logits, torch.tensor([1])).backward()
    np.testing.assert_allclose(logits.grad, [[0.2, -0.6, 0.2, 0.2]], rtol=1e-6)


def test_the_weighted_mean_is_that_of_torch(batch):
    logits, classes = batch
    ours = CrossEntropy(WEIGHTS, reduction="weighted_mean")(logits, classes)
    theirs = nn.CrossEntropyLoss(weight=WEIGHTS.double())(logits, classes)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-14)


def test_the_weight_of_a_single_example_counts_unlike_in_the_weighted_mean():
    logits, classes = torch.tensor([[1.0, -1, 0, 2]]), torch.tensor([2])
    single = nn.CrossEntropyLoss()(logits, classes).item()
    assert CrossEntropy(WEIGHTS)(logits, classes).item() == pytest.approx(4 * single)
    assert CrossEntropy(WEIGHTS, reduction="weighted_mean")(logits, classes).item() == pytest.approx(single)


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_stay_finite_for_extreme_logits_and_weights(reduction, smoothing, dtype):
    logits = torch.tensor([[50.0, -50.0], [-50.0, 50.0]], dtype=dtype).repeat(2, 1).requires_grad_()
    loss = CrossEntropy(torch.tensor([1e6, 1e-6]), smoothing, reduction)(logits, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize(("parts", "smoothing"), [(4, 0.0), (4, 0.1), (8, 0.0), (32, 0.0)])
def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(batch, parts, smoothing):
    logits, classes = batch
    loss = CrossEntropy(WEIGHTS, smoothing)
    (whole,) = torch.autograd.grad(loss(logits, classes), logits)
    sum(
        loss(part, its_classes, denominator=32 / parts) / parts
        for part, its_classes in zip(logits.chunk(parts), classes.chunk(parts), strict=True)
    ).backward()
    np.testing.assert_allclose(logits.grad, whole, rtol=1e-12, atol=1e-15)


def test_half_precision_logits_are_computed_in_single_precision(batch):
    logits, classes = batch
    half = logits.detach().bfloat16()
    loss = CrossEntropy(WEIGHTS)(half, classes)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(CrossEntropy(WEIGHTS)(half.double(), classes).item(), rel=1e-6)


def test_the_class_weights_move_with_the_module_and_are_not_saved():
    loss = nn.Sequential(CrossEntropy(WEIGHTS))
    assert not loss.state_dict()
    assert not list(loss.parameters())
    assert loss.to("meta")[0].class_weights.device.type == "meta"
    assert loss.to(torch.float64)[0].class_weights.dtype == torch.float64


def test_the_loss_runs_on_the_meta_device():
    logits = torch.zeros(8, 4, device="meta", requires_grad=True)
    loss = CrossEntropy(WEIGHTS).to("meta")(logits, torch.zeros(8, dtype=torch.int64, device="meta"))
    loss.backward()
    assert loss.shape == ()
    assert logits.grad.shape == (8, 4)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_outside_0_to_1_is_refused(smoothing):
    with pytest.raises(UserError, match="label_smoothing"):
        CrossEntropy(WEIGHTS, label_smoothing=smoothing)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(UserError, match="use mean or weighted_mean"):
        CrossEntropy(WEIGHTS, reduction="sum")
