import tracemalloc
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.stats import chi2, chisquare

from counterpoise.balance import ClassIndex, MixtureSampler, PowerSampler, RepeatFactorSampler, Sampler
from counterpoise.balance.samplers import BLOCK
from counterpoise.errors import UserError

COUNTS = np.array([400, 90, 25, 4])
CLASSES = np.random.default_rng(7).permutation(np.repeat(np.arange(4), COUNTS))
INDEX = ClassIndex.from_targets(CLASSES, 4)
SIZES = {"data": 519, "smallest": 16, "median": 230, "largest": 1600, 1000: 1000}

# Labels of 500, 120, ..., 1 and 0 rows. They overlap, and many rows have no label.
LABEL_COUNTS = np.array([500, 120, 30, 5, 1, 0])
LABELS = csr_matrix(
    np.stack([np.random.default_rng(c).permutation(800) < n for c, n in enumerate(LABEL_COUNTS)], axis=1)
)
LABEL_INDEX = ClassIndex.from_targets(LABELS, 6)

SAMPLERS = [
    PowerSampler(0.0),
    PowerSampler(0.0, "median"),
    PowerSampler(0.5),
    PowerSampler(1.0),
    PowerSampler(1.0, "smallest"),
    PowerSampler(1.0, 1000),
    RepeatFactorSampler(0.02),
    RepeatFactorSampler(0.5),
    MixtureSampler(PowerSampler(1.0), 0.3),
    MixtureSampler(PowerSampler(1.0, "median"), 0.55),
    MixtureSampler(PowerSampler(0.5, 1000), 0.0),
    MixtureSampler(RepeatFactorSampler(0.5), 0.7),
]
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
every_task = pytest.mark.parametrize("index", [INDEX, LABEL_INDEX], ids=["single_label", "multi_label"])
every_size = pytest.mark.parametrize("epoch_size", SIZES)
every_alpha = pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])


def epochs(sampler: Sampler, number: int, seed: int = 0, index: ClassIndex = INDEX) -> list[np.ndarray]:
    return [sampler.draw(index, np.random.default_rng([seed, epoch])) for epoch in range(number)]


def times(rows: np.ndarray, index: ClassIndex) -> np.ndarray:
    """Return the number of draws of each row."""
    return np.bincount(rows, minlength=index.num_rows)


def tolerance(terms: int) -> float:
    """Return the factor by which a sum of squares exceeds its expectation with probability 1e-4."""
    return chi2.isf(1e-4, terms) / terms if terms else 0.0


def per_class(rows: np.ndarray) -> np.ndarray:
    return np.bincount(CLASSES[rows], minlength=4)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=60).map(lambda classes: np.array(classes, int)))
def test_the_index_holds_the_rows_of_each_class(classes):
    index = ClassIndex.from_targets(classes, 6)
    np.testing.assert_array_equal(index.counts, np.bincount(classes, minlength=6))
    for c in range(6):
        np.testing.assert_array_equal(index.members(c), np.flatnonzero(classes == c))


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=30))
def test_the_index_holds_the_rows_of_each_label_and_the_unlabelled_rows(rows):
    targets = np.array(rows)
    index = ClassIndex.from_targets(csr_matrix(targets), 3)
    assert (index.num_rows, index.multi_label) == (len(rows), True)
    np.testing.assert_array_equal(index.counts, targets.sum(0))
    np.testing.assert_array_equal(index.unlabelled, np.flatnonzero(~targets.any(1)))
    for c in range(3):
        np.testing.assert_array_equal(index.members(c), np.flatnonzero(targets[:, c]))
    values = np.linspace(-1, 7, len(rows))
    np.testing.assert_allclose(index.sum(values), values @ targets, rtol=1e-12, atol=1e-12)


def test_single_label_data_has_no_unlabelled_rows():
    assert not len(INDEX.unlabelled)
    assert not INDEX.multi_label


@pytest.mark.parametrize("num_classes", [1, 5, 300])
def test_the_index_of_many_rows_is_sorted_by_class_and_row(num_classes):
    classes = np.random.default_rng(0).integers(0, num_classes, 2 * BLOCK + 17)
    for kind in (np.int64, np.uint16):
        index = ClassIndex.from_targets(classes.astype(kind), num_classes)
        np.testing.assert_array_equal(index.rows, np.argsort(classes, kind="stable"))
        np.testing.assert_array_equal(index.starts[1:], np.cumsum(np.bincount(classes, minlength=num_classes)))


def test_sums_are_accurate_over_millions_of_rows():
    index = ClassIndex.from_targets(np.zeros(2_000_000, int), 1)
    assert index.sum(np.full(2_000_000, 0.1))[0] == pytest.approx(200_000, rel=1e-13)


def test_the_index_takes_more_classes_than_fit_in_16_bits():
    classes = np.arange(70_000)[::-1]
    np.testing.assert_array_equal(ClassIndex.from_targets(classes, 70_000).members(69_999), [0])


@every_task
@every_sampler
class TestEverySampler:
    """Properties of every sampler, for both tasks."""

    def test_every_epoch_has_the_stated_size(self, sampler, index):
        assert {len(rows) for rows in epochs(sampler, 20, index=index)} == {sampler.size(index)}

    def test_expected_draws_of_the_rows_add_up_to_the_size(self, sampler, index):
        rates = sampler.draws_per_row(index)
        assert rates.shape == (index.num_rows,)
        assert (rates >= 0).all()
        assert rates.sum() == pytest.approx(sampler.size(index), rel=1e-12)

    def test_expected_class_counts_are_sums_over_the_rows(self, sampler, index):
        rates = sampler.draws_per_row(index)
        sums = [rates[index.members(c)].sum() for c in range(len(index.counts))]
        np.testing.assert_allclose(sampler.expected_class_counts(index), sums, rtol=1e-12)

    def test_labels_are_drawn_as_often_as_expected_over_many_epochs(self, sampler, index):
        drawn = np.array([index.sum(times(rows, index)) for rows in epochs(sampler, 500, index=index)])
        standard_errors = drawn.std(0) / np.sqrt(len(drawn))
        expected = index.sum(sampler.draws_per_row(index))
        assert (abs(drawn.mean(0) - expected) <= 4 * standard_errors + 1e-9 * expected).all()

    def test_rows_are_drawn_as_often_as_expected_over_many_epochs(self, sampler, index):
        drawn = np.array([times(rows, index) for rows in epochs(sampler, 500, index=index)])
        deviations = drawn.mean(0) - sampler.draws_per_row(index)
        variances = drawn.var(0) / len(drawn)
        assert (deviations**2).sum() < variances.sum() * tolerance((variances > 0).sum()) + 1e-18

    def test_an_epoch_depends_on_the_generator_only(self, sampler, index):
        first, again = (epochs(sampler, 2, seed=3, index=index) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert (first[0] != first[1]).any()


def test_probabilities_of_a_small_example_worked_by_hand():
    counts = np.array([9, 4, 1])
    np.testing.assert_allclose(PowerSampler(0.0).probabilities(counts), np.array([9, 4, 1]) / 14)
    np.testing.assert_allclose(PowerSampler(0.5).probabilities(counts), np.array([3, 2, 1]) / 6)
    np.testing.assert_allclose(PowerSampler(1.0).probabilities(counts), np.full(3, 1 / 3))


@every_alpha
def test_a_class_without_rows_is_never_drawn(alpha):
    sampler = PowerSampler(alpha, 100)
    assert sampler.probabilities(np.array([5, 0, 2]))[1] == 0
    index = ClassIndex.from_targets(np.array([0, 0, 0, 2, 2]), 3)
    assert set(sampler.draw(index, np.random.default_rng(0))) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("epoch_size", "rows"), SIZES.items())
def test_the_size_of_an_epoch_follows_the_setting(epoch_size, rows):
    sampler = PowerSampler(1.0, epoch_size)
    assert sampler.size(INDEX) == rows
    assert len(sampler.draw(INDEX, np.random.default_rng(0))) == rows


@every_alpha
@every_size
def test_each_class_is_drawn_its_expected_number_rounded_up_or_down(alpha, epoch_size):
    sampler = PowerSampler(alpha, epoch_size)
    expected = SIZES[epoch_size] * sampler.probabilities(COUNTS)
    for rows in epochs(sampler, 20):
        assert (abs(per_class(rows) - expected) < 1).all()
        assert chisquare(per_class(rows), expected).pvalue > 0.01


@every_alpha
@every_size
def test_classes_are_drawn_with_their_probabilities_over_many_epochs(alpha, epoch_size):
    sampler = PowerSampler(alpha, epoch_size)
    drawn = np.sum([per_class(rows) for rows in epochs(sampler, 400)], axis=0)
    assert chisquare(drawn, drawn.sum() * sampler.probabilities(COUNTS)).pvalue > 0.01


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=20), st.floats(0, 2), st.integers(1, 2000), st.integers(0))
def test_class_draws_of_an_epoch_add_up_to_its_size(counts, alpha, size, seed):
    classes = np.repeat(np.arange(len(counts)), counts)
    index = ClassIndex.from_targets(classes, len(counts))
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
def test_all_rows_of_a_class_are_equally_probable(alpha, epoch_size):
    drawn = np.bincount(np.concatenate(epochs(PowerSampler(alpha, epoch_size), 1000)), minlength=len(CLASSES))
    for c in range(4):
        assert chisquare(drawn[INDEX.members(c)]).pvalue > 0.01


def test_the_position_in_an_epoch_does_not_depend_on_the_class():
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
def test_plain_sampling_draws_every_row_once_for_any_counts(counts, seed):
    index = ClassIndex.from_targets(np.repeat(np.arange(len(counts)), counts), len(counts))
    rows = PowerSampler().draw(index, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(rows), np.arange(sum(counts)))


@every_alpha
@every_size
def test_a_row_repeats_only_after_all_others_of_its_class(alpha, epoch_size):
    for rows in epochs(PowerSampler(alpha, epoch_size), 5):
        drawn = np.bincount(rows, minlength=len(CLASSES))
        for c in range(4):
            assert np.ptp(drawn[INDEX.members(c)]) <= 1


def test_undersampling_draws_a_new_subset_of_the_large_class_each_epoch():
    sampler = PowerSampler(1.0, "median")
    parts = [frozenset(rows[CLASSES[rows] == 0]) for rows in epochs(sampler, 10)]
    assert len(set(parts)) == 10
    assert all(len(part) in (57, 58) for part in parts)


def test_the_same_seed_draws_the_same_rows():
    sampler = PowerSampler(0.5)
    first, again = epochs(sampler, 1, seed=3)[0], epochs(sampler, 1, seed=3)[0]
    np.testing.assert_array_equal(first, again)
    assert (first != epochs(sampler, 1, seed=4)[0]).any()


@pytest.mark.parametrize(
    ("sampler", "single_label", "multi_label"),
    [
        (PowerSampler(), 1354106329, 1749682360),
        (PowerSampler(0.5), 2500184854, 194222089),
        (PowerSampler(1.0, "median"), 3596247225, 1683797800),
        (RepeatFactorSampler(0.5), 3109948139, 254941185),
        (MixtureSampler(PowerSampler(1.0), 0.3), 1840200664, 3817567785),
    ],
    ids=str,
)
def test_rows_of_a_seed_and_epoch_do_not_change_between_versions(sampler, single_label, multi_label):
    for index, checksum in ((INDEX, single_label), (LABEL_INDEX, multi_label)):
        assert crc32(sampler.draw(index, np.random.default_rng([3, 1])).astype("<i8").tobytes()) == checksum


class TestMoreRowsThanTorchDrawsFrom:
    """17 million rows; 100 of the rarest class, all of them beyond the 2^24 that torch can tell apart."""

    COUNTS = np.array([2**24 - 2**20, 2**20 + 900, 100])

    @pytest.fixture(scope="class")
    @classmethod
    def index(cls):
        return ClassIndex.from_targets(np.repeat(np.arange(3, dtype=np.uint8), cls.COUNTS), 3)

    def test_torch_refuses_so_many_rows(self, index):
        with pytest.raises(RuntimeError, match=r"2\^24"):
            torch.multinomial(torch.ones(1).expand(index.num_rows), 1, replacement=True)

    @every_alpha
    def test_each_class_is_drawn_its_expected_number_rounded_up_or_down(self, index, alpha):
        sampler = PowerSampler(alpha, 30_000)
        rows = sampler.draw(index, np.random.default_rng(0))
        drawn = np.bincount(np.searchsorted(np.cumsum(self.COUNTS), rows, side="right"), minlength=3)
        expected = 30_000 * self.COUNTS ** (1 - alpha) / (self.COUNTS ** (1 - alpha)).sum()
        assert (abs(drawn - expected) < 1).all()
        np.testing.assert_allclose(sampler.expected_class_counts(index), expected, rtol=1e-12)

    def test_all_rows_of_each_class_are_drawn_about_equally_often(self, index):
        rows = PowerSampler(1.0, 60_000).draw(index, np.random.default_rng(0))
        tenths = np.bincount(rows[rows < self.COUNTS[0]] * 10 // self.COUNTS[0])
        assert len(tenths) == 10
        assert chisquare(tenths).pvalue > 0.01
        assert set(np.bincount(rows[rows >= self.COUNTS[:2].sum()] - self.COUNTS[:2].sum())) == {200}


@pytest.mark.parametrize("sampler", [PowerSampler(), PowerSampler(1.0)], ids=str)
def test_index_and_epoch_take_a_few_bytes_per_row(sampler):
    rows = 10**6
    classes = np.minimum(np.random.default_rng(0).geometric(0.1, rows) - 1, 49)
    tracemalloc.start()
    try:
        index = ClassIndex.from_targets(classes, 50)
        sampler.expected_class_counts(index)
        sampler.draw(index, np.random.default_rng(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Four of the index, four of what is drawn, and the members that are chosen from the largest class.
    assert peak / rows < 12


@pytest.mark.parametrize("epoch_size", ["all", 0, -5, 2.5])
def test_an_invalid_epoch_size_is_refused(epoch_size):
    with pytest.raises(UserError, match="epoch_size") as error:
        PowerSampler(0.0, epoch_size)
    assert "\n" not in str(error.value)


def test_an_alpha_that_favours_large_classes_is_refused():
    with pytest.raises(UserError, match=r"alpha=-0.5"):
        PowerSampler(-0.5)


def test_multi_label_plain_sampling_draws_every_row_once_including_unlabelled_ones():
    for rows in epochs(PowerSampler(), 3, index=LABEL_INDEX):
        np.testing.assert_array_equal(np.sort(rows), np.arange(800))


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
def test_class_aware_sampling_draws_a_label_and_then_one_of_its_rows(alpha):
    # The rates of the two draws, row by row; rows without labels are one more group.
    targets = np.hstack([LABELS.toarray(), ~LABELS.toarray().any(1, keepdims=True)])
    counts = targets.sum(0)
    mass = {g: n ** (1 - alpha) for g, n in enumerate(counts) if n}
    expected = [
        800 * sum(mass[g] / sum(mass.values()) / counts[g] for g in np.flatnonzero(groups)) for groups in targets
    ]
    np.testing.assert_allclose(PowerSampler(alpha).draws_per_row(LABEL_INDEX), expected, rtol=1e-12)


@every_sampler
def test_with_one_label_per_row_multi_label_sampling_equals_single_label_sampling(sampler):
    one_hot = ClassIndex.from_targets(csr_matrix(np.eye(4, dtype=bool)[CLASSES]), 4)
    assert sampler.size(one_hot) == sampler.size(INDEX)
    np.testing.assert_allclose(sampler.draws_per_row(one_hot), sampler.draws_per_row(INDEX), rtol=1e-12)


def test_class_aware_sampling_draws_a_label_of_one_row_as_often_as_others():
    # 5 labels with rows and the rows without labels: 6 groups of 100. The others' labels ride along.
    for rows in epochs(PowerSampler(1.0, 600), 5, index=LABEL_INDEX):
        drawn = times(rows, LABEL_INDEX)
        assert drawn[LABEL_INDEX.members(4)] >= 100
        assert drawn[LABEL_INDEX.unlabelled].sum() == 100


@pytest.mark.parametrize(("epoch_size", "rows"), [("data", 800), ("smallest", 6), ("median", 450), ("largest", 3000)])
def test_the_size_of_a_multi_label_epoch_counts_groups_of_rows(epoch_size, rows):
    # Groups of 500, 242 (unlabelled), 120, 30, 5 and 1 rows; a label without rows is not a group.
    assert len(LABEL_INDEX.unlabelled) == 242
    assert PowerSampler(1.0, epoch_size).size(LABEL_INDEX) == rows


def test_data_without_any_label_can_be_drawn():
    index = ClassIndex.from_targets(csr_matrix((5, 2), dtype=bool), 2)
    for sampler in SAMPLERS:
        assert len(sampler.draw(index, np.random.default_rng(0))) == sampler.size(index)
        np.testing.assert_array_equal(index.sum(sampler.draws_per_row(index)), [0, 0])


@pytest.mark.parametrize("threshold", [0.0, 0.001, 0.01, 0.1, 1.0])
@every_task
def test_repeat_factors_follow_the_rarest_label_of_each_row(index, threshold):
    shares = index.counts / index.num_rows
    labels_of = [[c for c in range(len(shares)) if row in set(index.members(c))] for row in range(index.num_rows)]
    expected = [max([1.0] + [max(1.0, (threshold / shares[c]) ** 0.5) for c in labels]) for labels in labels_of]
    sampler = RepeatFactorSampler(threshold)
    np.testing.assert_allclose(sampler.repeat_factors(index), expected, rtol=1e-12)
    assert sampler.size(index) == round(sum(expected))
    # Rounding the epoch size changes the expected draws of a row by less than one draw.
    np.testing.assert_allclose(sampler.draws_per_row(index), expected, atol=0.5)
    assert sum(sampler.draws_per_row(index)) == pytest.approx(sum(expected), abs=0.5)


def test_repeat_factors_of_a_small_example_worked_by_hand():
    # 1 of 100 rows has label 0, 25 have label 1: sqrt(0.04 / 0.01) = 2, and 0.25 is above the threshold.
    targets = np.zeros((100, 2), bool)
    targets[0, 0] = targets[:25, 1] = True
    index, sampler = ClassIndex.from_targets(csr_matrix(targets), 2), RepeatFactorSampler(0.04)
    np.testing.assert_array_equal(sampler.draws_per_row(index), [2] + [1] * 99)
    np.testing.assert_array_equal(np.sort(sampler.draw(index, np.random.default_rng(0))), [0, *range(100)])


def test_a_row_is_drawn_its_repeat_factor_rounded_up_or_down():
    sampler = RepeatFactorSampler(0.02)
    rates = sampler.draws_per_row(LABEL_INDEX)
    drawn = np.array([times(rows, LABEL_INDEX) for rows in epochs(sampler, 300, index=LABEL_INDEX)])
    assert ((drawn == np.floor(rates)) | (drawn == np.ceil(rates))).all()
    assert (drawn[:, rates == 1] == 1).all()
    np.testing.assert_array_equal(drawn.max(0), np.ceil(rates))


def test_a_threshold_of_0_draws_the_data_as_it_is():
    (rows,) = epochs(RepeatFactorSampler(0.0), 1)
    np.testing.assert_array_equal(np.sort(rows), np.arange(519))


@pytest.mark.parametrize("threshold", [-0.1, 1.5, 100, float("nan")])
def test_an_invalid_threshold_is_refused(threshold):
    with pytest.raises(UserError, match="threshold=") as error:
        RepeatFactorSampler(threshold)
    assert "\n" not in str(error.value)


@every_task
@pytest.mark.parametrize("sampler", [PowerSampler(1.0), PowerSampler(0.5, "median"), RepeatFactorSampler(0.5)], ids=str)
class TestMixtureSampler:
    """A fraction of the epoch is drawn by the sampler, the rest uniformly."""

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.75, 1.0])
    def test_expected_draws_are_the_mixture_at_the_samplers_epoch_size(self, sampler, index, share):
        mixture = MixtureSampler(sampler, share)
        assert mixture.size(index) == sampler.size(index)
        plain = np.full(index.num_rows, sampler.size(index) / index.num_rows)
        expected = share * sampler.draws_per_row(index) + (1 - share) * plain
        np.testing.assert_allclose(mixture.draws_per_row(index), expected, rtol=1e-12)

    def test_a_fraction_of_1_draws_the_rows_of_the_sampler(self, sampler, index):
        rng = np.random.default_rng(4)
        drawn = MixtureSampler(sampler, 1.0).draw(index, np.random.default_rng(4))
        rng.random()  # rounds the share
        np.testing.assert_array_equal(np.sort(drawn), np.sort(sampler.draw(index, rng)))

    def test_a_fraction_of_0_draws_every_row_equally_often_up_to_one(self, sampler, index):
        drawn = times(MixtureSampler(sampler, 0.0).draw(index, np.random.default_rng(4)), index)
        assert drawn.max() - drawn.min() <= 1
        assert drawn.sum() == sampler.size(index)
