"""Properties of every strategy, loss, weight scheme and sampler that conf/ lists. A new YAML file is included."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from scipy.sparse import csr_matrix

from counterpoise.balance import ClassIndex, Strategy
from counterpoise.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
LABELS = ["a", "b", "c", "d"]


def label_sets(counts: list[int], rows: int) -> csr_matrix:
    """Return label sets of `rows` texts in which label c is independent of the others and has `counts[c]` texts."""
    return csr_matrix(np.stack([np.random.default_rng(c).permutation(rows) < n for c, n in enumerate(counts)], 1))


TARGETS = {
    "single-label": np.repeat(np.arange(4), [900, 80, 15, 1]),
    "single-label, extreme": np.repeat(np.arange(4), [100_000, 3, 2, 1]),
    "single-label, balanced": np.repeat(np.arange(4), 20),
    "multi-label": label_sets([900, 80, 15, 1], 1000),
    "multi-label, absent and universal labels": label_sets([200, 30, 1, 0], 200),
    "multi-label, mostly unlabelled": label_sets([5, 3, 2, 1], 5000),
}
INDICES = {name: ClassIndex.from_targets(targets, 4) for name, targets in TARGETS.items()}
MANUAL = "strategy.weights.by_label={a: 1, b: 2, c: 5, d: 10}"
GROUPS = {"strategy": "strategy", "loss": "strategy/loss", "weights": "strategy/weights", "sampler": "strategy/sampler"}
OPTIONS = [
    f"{group}={path.stem}"
    for group in GROUPS.values()
    for path in sorted((CONF / group).glob("*.yaml"))
    if path.stem != "base"
]


@cache
def composed(option: str) -> Strategy:
    base = [] if option.startswith("strategy=") else ["strategy=plain"]
    overrides = [*base, option, *([MANUAL] if option.endswith("=manual") else [])]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("train", overrides=overrides).strategy)


def fits(strategy: Strategy, index: ClassIndex) -> bool:
    """Whether the loss is for the task of the data."""
    try:
        strategy.loss(strategy.correction(LABELS, index))
    except UserError:
        return False
    return True


@pytest.fixture(params=TARGETS)
def data(request):
    return request.param


@pytest.fixture
def index(data):
    return INDICES[data]


@pytest.fixture(params=OPTIONS)
def strategy(request):
    return composed(request.param)


def test_the_effective_prior_is_sampling_probability_times_weight(strategy, index):
    correction = strategy.correction(LABELS, index)
    mass = correction.sampling_probs * correction.class_weights
    np.testing.assert_allclose(correction.effective_prior, mass / mass.sum(), rtol=1e-12)


def test_weights_have_mean_1_over_drawn_examples(strategy, index):
    correction = strategy.correction(LABELS, index)
    positive = correction.sampling_probs * correction.class_weights
    if index.multi_label:
        negative = (1 - correction.sampling_probs) * correction.negative_weights
        np.testing.assert_allclose(positive + negative, 1, rtol=1e-12)
    else:
        assert positive.sum() == pytest.approx(1, rel=1e-12)


def test_the_sampler_draws_the_size_it_states(strategy, index):
    sampler = strategy.sampler
    assert len(sampler.draw(index, np.random.default_rng(0))) == sampler.size(index)
    assert sampler.draws_per_row(index).sum() == pytest.approx(sampler.size(index), rel=1e-12)
    np.testing.assert_allclose(
        sampler.expected_class_counts(index), index.sum(sampler.draws_per_row(index)), rtol=1e-10
    )


@pytest.mark.parametrize("counts", [[1, 1, 1, 10**9], [1, 10, 10**6, 10**8]], ids=str)
def test_weights_are_finite_at_extreme_counts(strategy, counts):
    weights = strategy.weights(LABELS, np.array(counts))
    assert np.isfinite(weights).all()
    assert (weights > 0).all()


def test_loss_and_gradient_are_finite_and_independent_of_how_a_batch_is_split(strategy, index, data):
    correction = strategy.correction(LABELS, index)
    if not fits(strategy, index):
        return
    loss = strategy.loss(correction)
    targets = torch.from_numpy(TARGETS[data][-32:].toarray()) if index.multi_label else torch.arange(32) % 4
    logits = torch.randn(32, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    value = loss(logits, targets)
    (whole,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert whole.isfinite().all()
    assert whole.any()
    parts = zip(logits.split([20, 12]), targets.split([20, 12]), strict=True)
    (split,) = torch.autograd.grad(sum(loss(z, y, 32) for z, y in parts), logits)
    np.testing.assert_allclose(split, whole, rtol=1e-6, atol=1e-15)
    assert np.isfinite(loss.initial_logits(correction)).all()
    assert loss.effective_prior(correction).sum() == pytest.approx(1, rel=1e-6)


def test_every_loss_fits_at_least_one_task(strategy):
    assert any(fits(strategy, index) for index in INDICES.values())
