import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from counterpoise.balance import ClassIndex, PowerSampler
from counterpoise.errors import UserError

COUNTS = np.array([400, 90, 25, 4])
CLASSES = np.random.default_rng(7).permutation(np.repeat(np.arange(4), COUNTS))
INDEX = ClassIndex.of(CLASSES, 4)
SIZES = {"data": 519, "smallest": 16, "median": 230, "largest": 1600, 1000: 1000}

every_size = pytest.mark.parametrize("epoch_size", SIZES)
every_alpha = pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])


def epochs(sampler: PowerSampler, number: int, seed: int = 0) -> list[np.ndarray]:
    return [sampler.draw(INDEX, np.random.default_rng([seed, epoch])) for epoch in range(number)]


def per_class(rows: np.ndarray) -> np.ndarray:
    return np.bincount(CLASSES[rows], minlength=4)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=60).map(lambda classes: np.array(classes, int)))
def test_the_index_holds_the_rows_of_each_class(classes):
    index = ClassIndex.of(classes, 6)
    np.testing.assert_array_equal(index.counts, np.bincount(classes, minlength=6))
    for c in range(6):
        np.testing.assert_array_equal(index.members(c), np.flatnonzero(classes == c))


def test_the_index_takes_more_classes_than_fit_in_16_bits():
    classes = np.arange(70_000)[::-1]
    np.testing.assert_array_equal(ClassIndex.of(classes, 70_000).members(69_999), [0])


def test_probabilities_by_hand():
    counts = np.array([9, 4, 1])
    np.testing.assert_allclose(PowerSampler(0.0).probabilities(counts), np.array([9, 4, 1]) / 14)
    np.testing.assert_allclose(PowerSampler(0.5).probabilities(counts), np.array([3, 2, 1]) / 6)
    np.testing.assert_allclose(PowerSampler(1.0).probabilities(counts), np.full(3, 1 / 3))


@every_alpha
def test_a_class_without_rows_is_never_drawn(alpha):
    sampler = PowerSampler(alpha, 100)
    assert sampler.probabilities(np.array([5, 0, 2]))[1] == 0
    index = ClassIndex.of(np.array([0, 0, 0, 2, 2]), 3)
    assert set(sampler.draw(index, np.random.default_rng(0))) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("epoch_size", "rows"), SIZES.items())
def test_the_size_of_an_epoch(epoch_size, rows):
    sampler = PowerSampler(1.0, epoch_size)
    assert sampler.size(COUNTS) == rows
    assert len(sampler.draw(INDEX, np.random.default_rng(0))) == rows


@every_alpha
@every_size
def test_an_epoch_draws_each_class_its_share_rounded_up_or_down(alpha, epoch_size):
    sampler = PowerSampler(alpha, epoch_size)
    expected = SIZES[epoch_size] * sampler.probabilities(COUNTS)
    for rows in epochs(sampler, 20):
        assert (abs(per_class(rows) - expected) < 1).all()
        assert chisquare(per_class(rows), expected).pvalue > 0.01


@every_alpha
@every_size
def test_over_many_epochs_classes_are_drawn_with_their_probabilities(alpha, epoch_size):
    sampler = PowerSampler(alpha, epoch_size)
    drawn = np.sum([per_class(rows) for rows in epochs(sampler, 400)], axis=0)
    assert chisquare(drawn, drawn.sum() * sampler.probabilities(COUNTS)).pvalue > 0.01


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=20), st.floats(0, 2), st.integers(1, 2000), st.integers(0))
def test_the_classes_of_an_epoch_add_up_to_its_size(counts, alpha, size, seed):
    classes = np.repeat(np.arange(len(counts)), counts)
    index = ClassIndex.of(classes, len(counts))
    rows = PowerSampler(alpha, size).draw(index, np.random.default_rng(seed))
    assert len(rows) == size


def test_rounding_to_whole_rows_does_not_change_the_expectation():
    sampler = PowerSampler(0.5, 10)
    expected = 10 * sampler.probabilities(COUNTS)
    drawn = np.array([per_class(rows) for rows in epochs(sampler, 4000)])
    share = expected % 1
    standard_error = np.sqrt(share * (1 - share) / len(drawn))
    assert (abs(drawn.mean(0) - expected) < 4 * standard_error).all()


@pytest.mark.parametrize(("alpha", "epoch_size"), [(0.0, 100), (0.5, "median"), (1.0, "smallest"), (1.0, "largest")])
def test_the_members_of_a_class_are_drawn_alike(alpha, epoch_size):
    drawn = np.bincount(np.concatenate(epochs(PowerSampler(alpha, epoch_size), 1000)), minlength=len(CLASSES))
    for c in range(4):
        assert chisquare(drawn[INDEX.members(c)]).pvalue > 0.01


def test_the_order_of_an_epoch_does_not_depend_on_the_class():
    # The mean position of the rows of each class is the middle of the epoch, within 4 standard errors.
    positions = np.array([np.argsort(rows) for rows in epochs(PowerSampler(), 300)])
    means = np.array([positions[:, INDEX.members(c)].mean() for c in range(4)])
    standard_errors = 519 / np.sqrt(12 * COUNTS * 300)
    assert (abs(means - 259) < 4 * standard_errors).all()


def test_plain_sampling_is_a_shuffled_epoch():
    first, second = epochs(PowerSampler(), 2)
    np.testing.assert_array_equal(np.sort(first), np.arange(519))
    np.testing.assert_array_equal(np.sort(second), np.arange(519))
    assert (first != second).any()


@settings(deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.integers(0, 2**32))
def test_plain_sampling_holds_every_row_once_whatever_the_counts(counts, seed):
    index = ClassIndex.of(np.repeat(np.arange(len(counts)), counts), len(counts))
    rows = PowerSampler().draw(index, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(rows), np.arange(sum(counts)))


@every_alpha
@every_size
def test_no_member_repeats_before_all_others_of_its_class_were_drawn(alpha, epoch_size):
    for rows in epochs(PowerSampler(alpha, epoch_size), 5):
        drawn = np.bincount(rows, minlength=len(CLASSES))
        for c in range(4):
            assert np.ptp(drawn[INDEX.members(c)]) <= 1


def test_undersampling_takes_another_part_of_the_large_class_each_epoch():
    sampler = PowerSampler(1.0, "median")
    parts = [frozenset(rows[CLASSES[rows] == 0]) for rows in epochs(sampler, 10)]
    assert len(set(parts)) == 10
    assert all(len(part) in (57, 58) for part in parts)


def test_the_same_seed_draws_the_same_rows():
    sampler = PowerSampler(0.5)
    first, again = epochs(sampler, 1, seed=3)[0], epochs(sampler, 1, seed=3)[0]
    np.testing.assert_array_equal(first, again)
    assert (first != epochs(sampler, 1, seed=4)[0]).any()


@pytest.mark.parametrize("epoch_size", ["all", 0, -5, 2.5])
def test_an_epoch_size_that_is_none_is_refused(epoch_size):
    with pytest.raises(UserError, match="epoch_size") as told:
        PowerSampler(0.0, epoch_size)
    assert "\n" not in str(told.value)


def test_an_alpha_that_favours_large_classes_is_refused():
    with pytest.raises(UserError, match=r"alpha=-0.5"):
        PowerSampler(-0.5)
