import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from counterpoise.data.splits import (
    Vocabulary,
    assign_folds,
    iterative_split,
    split_off,
    stratified_split,
    unseen_labels,
)

some_classes = st.lists(st.integers(0, 6), max_size=200).map(lambda classes: np.array(classes, np.int64))
fractions = st.floats(0, 0.99)
seeds = st.integers(0, 2**32)


def per_class(classes: np.ndarray) -> np.ndarray:
    return np.bincount(classes, minlength=7)


@settings(deadline=None)
@given(some_classes, fractions, seeds)
def test_both_parts_together_are_all_rows_once(classes, fraction, seed):
    kept, held_out = stratified_split(classes, fraction, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(len(classes)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) > 0).all()


@settings(deadline=None)
@given(some_classes, fractions, seeds)
def test_every_class_stays_in_the_kept_part(classes, fraction, seed):
    kept, _ = stratified_split(classes, fraction, seed)
    assert set(classes[kept]) == set(classes)


@settings(deadline=None)
@given(some_classes, fractions, seeds)
def test_the_share_of_each_class_is_rounded_to_the_nearest_row(classes, fraction, seed):
    _, held_out = stratified_split(classes, fraction, seed)
    counts, sizes = per_class(classes), per_class(classes[held_out])
    limited = sizes == counts - 1
    assert (abs(sizes - counts * fraction) <= 0.5 + 1e-9)[~limited].all()
    assert (sizes <= counts * fraction + 0.5 + 1e-9).all()


@pytest.mark.parametrize(
    ("rows", "fraction", "held_out"),
    [(4, 0.1, 0), (5, 0.1, 1), (14, 0.1, 1), (15, 0.1, 2), (1, 0.9, 0), (2, 0.9, 1), (2, 0.25, 1), (10, 0.99, 9)],
)
def test_the_size_of_the_part_held_out(rows, fraction, held_out):
    # Another class, so that the rule is seen to hold for each on its own.
    classes = np.repeat([0, 1], [rows, 100])
    assert per_class(classes[stratified_split(classes, fraction, 0)[1]])[0] == held_out


@settings(deadline=None)
@given(some_classes, fractions, seeds)
def test_the_split_is_a_function_of_the_seed(classes, fraction, seed):
    first, again = stratified_split(classes, fraction, seed), stratified_split(classes, fraction, seed)
    np.testing.assert_array_equal(first[1], again[1])


def test_another_seed_holds_out_other_rows():
    classes = np.zeros(100, np.int64)
    assert set(stratified_split(classes, 0.2, 0)[1]) != set(stratified_split(classes, 0.2, 1)[1])


def test_every_row_is_held_out_with_equal_probability():
    times = np.zeros(20)
    for seed in range(500):
        times[stratified_split(np.zeros(20, np.int64), 0.25, seed)[1]] += 1
    # Binomial with p = 1/4: within 4 standard errors of 125.
    assert (abs(times - 125) < 4 * np.sqrt(500 * 0.25 * 0.75)).all()


def test_classes_are_in_the_order_of_their_text():
    labels = pa.array(["spam", "Ärger", "fraud", "10", "9", "fraud"])
    assert Vocabulary.of(labels).labels == ["10", "9", "fraud", "spam", "Ärger"]


def test_whole_numbers_are_in_the_order_of_their_value():
    assert Vocabulary.of(pa.array(["10", "9", "-1", "2", "02"])).labels == ["-1", "02", "2", "9", "10"]


@pytest.mark.parametrize("label", ["1.5", "-", "--1", "1e3", "²"])
def test_one_label_that_is_not_a_whole_number_sorts_all_labels_as_text(label):
    assert Vocabulary.of(pa.array(["10", "9", label])).labels == sorted(["10", "9", label])


def test_the_order_of_the_rows_does_not_matter():
    labels = ["b", "a", "c", "a"]
    assert Vocabulary.of(pa.array(labels)) == Vocabulary.of(pa.array(labels[::-1]))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_encoding_gives_positions_and_minus_1_for_unknown_labels(kind):
    vocabulary = Vocabulary(["a", "b", "c"])
    labels = ["c", "a", "x", "b", "", "c"]
    whole = vocabulary.encode(pa.array(labels, kind))
    np.testing.assert_array_equal(whole, [2, 0, -1, 1, -1, 2])
    assert whole.dtype == np.int64
    chunked = pa.chunked_array([pa.array(labels[:2], kind), pa.array(labels[2:], kind)])
    np.testing.assert_array_equal(vocabulary.encode(chunked), whole)


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), min_size=1))
def test_encoding_and_decoding_returns_the_same_labels(labels):
    vocabulary = Vocabulary.of(pa.array(labels))
    assert [vocabulary.labels[c] for c in vocabulary.encode(pa.array(labels))] == labels
    assert len(vocabulary) == len(set(labels))


def test_unseen_labels_are_counted_most_frequent_first():
    labels = pa.array(["x", "a", "z", "z", "y", "a"])
    assert unseen_labels(labels, Vocabulary(["a"])) == [("z", 2), ("x", 1), ("y", 1)]
    assert unseen_labels(labels, Vocabulary(["a", "x", "y", "z"])) == []
    lists = pa.array([["x", "a"], [], ["z", "y"], ["z"]])
    assert unseen_labels(lists, Vocabulary(["a"])) == [("z", 2), ("x", 1), ("y", 1)]


# Several labels for a row


def test_the_labels_of_lists_are_in_order_and_encoded_as_a_matrix():
    labels = pa.array([["9", "10"], [], None, ["10"]])
    vocabulary = Vocabulary.of(labels)
    assert vocabulary.labels == ["9", "10"]
    matrix = vocabulary.encode(labels)
    assert matrix.toarray().tolist() == [[True, True], [False, False], [False, False], [False, True]]
    assert (matrix.dtype, matrix.has_sorted_indices, matrix.has_canonical_format) == (bool, True, True)
    chunked = pa.chunked_array([labels[:2], labels[2:]])
    assert (Vocabulary.of(chunked).encode(chunked) != matrix).nnz == 0


def test_a_slice_of_lists_is_encoded_like_a_copy():
    labels = pa.array([["x", "y"], ["y"], ["z", "x"], []])[1:]
    assert Vocabulary.of(labels).labels == ["x", "y", "z"]
    assert Vocabulary(["x", "y"]).encode(labels).toarray().tolist() == [[False, True], [True, False], [False, False]]


def test_unknown_labels_are_left_out_of_the_matrix():
    matrix = Vocabulary(["a", "b"]).encode(pa.array([["x", "b", "a"], ["x"]]))
    assert matrix.toarray().tolist() == [[True, True], [False, False]]
    assert matrix.nnz == 2
    assert Vocabulary([]).encode(pa.array([["x"], []])).shape == (2, 0)


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=2), unique=True, max_size=4), min_size=1, max_size=20))
def test_lists_of_labels_encoded_and_back_are_the_same_sets(lists):
    labels = pa.array(lists, pa.list_(pa.string()))
    vocabulary = Vocabulary.of(labels)
    matrix = vocabulary.encode(labels)
    assert [{vocabulary.labels[c] for c in row.indices} for row in matrix] == [set(each) for each in lists]
    assert matrix.nnz == sum(map(len, lists))


# The split by several labels


@st.composite
def label_sets(draw):
    """Targets, bool [N, C], and groups, int [N], or None."""
    rows, labels = draw(st.integers(0, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    targets = csr_matrix(rng.random((rows, labels)) < rng.random(labels) ** draw(st.integers(1, 4)))
    groups = draw(st.one_of(st.none(), st.just(rng.integers(0, draw(st.integers(1, 60)), rows))))
    return targets, groups


def long_tail(rows=3000, labels=120, groups=1500, seed=0):
    """Targets whose labels have from about 800 rows to 1 or 2 and come in cliques, and groups of similar rows."""
    rng = np.random.default_rng(seed)
    shares = 0.3 / np.arange(1, labels + 1) ** 1.3
    group = np.sort(rng.integers(0, groups, rows))
    typical = rng.random((groups, labels)) < shares
    own = rng.random((rows, labels)) < shares / 3
    return csr_matrix(typical[group] | own), group


def totals(targets, rows=slice(None)) -> np.ndarray:
    return np.asarray(targets[rows].sum(0)).ravel()


def label_distance(targets, kept, held_out) -> float:
    """LD of Sechidis et al. (2011): how far each label's odds in the parts are from those in all, on average."""
    wholes = totals(targets)
    odds = wholes / (targets.shape[0] - wholes)
    parts = [totals(targets, part) / (len(part) - totals(targets, part)) for part in (kept, held_out)]
    return float(np.mean([abs(part - odds).mean() for part in parts]))


def random_split(groups, fraction, seed):
    chosen = np.random.default_rng(seed).permutation(groups.max() + 1) < fraction * (groups.max() + 1)
    return np.flatnonzero(~chosen[groups]), np.flatnonzero(chosen[groups])


@settings(deadline=None)
@given(label_sets(), fractions, seeds)
def test_both_parts_of_several_labels_are_all_rows_once(data, fraction, seed):
    targets, groups = data
    kept, held_out = iterative_split(targets, fraction, seed, groups)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(targets.shape[0]))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) > 0).all()


@settings(deadline=None)
@given(label_sets(), fractions, seeds)
def test_every_label_that_has_a_row_stays_in_the_kept_part(data, fraction, seed):
    targets, groups = data
    kept, _ = iterative_split(targets, fraction, seed, groups)
    np.testing.assert_array_equal(totals(targets, kept) > 0, totals(targets) > 0)
    assert len(kept) or not targets.shape[0]


@settings(deadline=None)
@given(label_sets(), fractions, seeds)
def test_a_group_is_never_divided(data, fraction, seed):
    targets, groups = data
    kept, held_out = iterative_split(targets, fraction, seed, groups)
    if groups is not None:
        assert not set(groups[kept]) & set(groups[held_out])


@settings(deadline=None)
@given(label_sets(), fractions, seeds)
def test_the_split_by_several_labels_is_a_function_of_the_seed_and_changes_nothing(data, fraction, seed):
    targets, groups = data
    before = targets.copy()
    first, again = (iterative_split(targets, fraction, seed, groups)[1] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (targets != before).nnz == 0


def test_another_seed_holds_out_other_rows_of_several_labels():
    targets, groups = long_tail()
    first, second = (set(iterative_split(targets, 0.1, seed, groups)[1]) for seed in (0, 1))
    assert len(first & second) < 0.3 * len(first)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("grouped", [True, False])
def test_labels_are_spread_far_more_evenly_than_at_random(fraction, grouped):
    targets, groups = long_tail()
    groups = groups if grouped else np.arange(len(groups))
    ours, theirs = [], []
    for seed in range(5):
        ours.append(label_distance(targets, *iterative_split(targets, fraction, seed, groups)))
        theirs.append(label_distance(targets, *random_split(groups, fraction, seed)))
    assert np.mean(ours) < np.mean(theirs) / 3
    assert max(ours) < min(theirs)


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("grouped", [True, False])
def test_the_held_out_part_has_its_share_of_each_frequent_label(fraction, grouped):
    targets, groups = long_tail()
    bare = np.diff(targets.indptr) == 0
    frequent = totals(targets) >= 50
    for seed in range(3):
        _, held_out = iterative_split(targets, fraction, seed, groups if grouped else None)
        assert abs(len(held_out) / len(groups) - fraction) < 0.01
        assert abs(bare[held_out].sum() - fraction * bare.sum()) < 3
        assert (abs(totals(targets, held_out) - fraction * totals(targets))[frequent] < 4).all()


def test_rare_labels_are_rounded_like_rare_classes():
    # One label each, so that the halves-up rule of `stratified_split` can be seen.
    sizes = [400, 14, 5, 4, 2, 1]
    classes = np.repeat(np.arange(6), sizes)
    targets = csr_matrix(np.eye(6, dtype=bool)[classes])
    assert totals(targets, iterative_split(targets, 0.1, 0)[1]).tolist() == [40, 1, 1, 0, 0, 0]
    assert totals(targets, iterative_split(targets, 0.5, 0)[1]).tolist() == [200, 7, 3, 2, 1, 0]


def test_rows_that_fit_only_one_part_are_kept():
    everything, groups = csr_matrix(np.ones((10, 3), bool)), np.zeros(10, np.int64)
    assert len(iterative_split(everything, 0.5, 0, groups)[1]) == 0
    assert len(iterative_split(everything, 0.0, 0)[1]) == 0
    alone = csr_matrix(np.eye(4, dtype=bool))
    assert len(iterative_split(alone, 0.9, 0)[1]) == 0


def test_rows_without_any_label_are_split_too():
    targets = csr_matrix((30, 2), dtype=bool)
    kept, held_out = iterative_split(targets, 0.2, 0)
    assert (len(kept), len(held_out)) == (24, 6)


def test_a_large_group_does_not_make_the_part_held_out_too_large():
    groups = np.minimum(np.arange(1000) // 2, 300)
    targets = csr_matrix(np.random.default_rng(0).random((1000, 5)) < 0.2)
    _, held_out = iterative_split(targets, 0.1, 0, groups)
    assert abs(len(held_out) - 100) <= 5


def test_large_data_are_split_within_seconds():
    import time

    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(200_000), rng.poisson(4, 200_000))
    labels = np.minimum(rng.zipf(1.5, len(rows)) - 1, 599)
    targets = csr_matrix((np.ones(len(rows), bool), (rows, labels)), (200_000, 600))
    start = time.process_time()
    iterative_split(targets, 0.1, 0, rng.integers(0, 100_000, 200_000))
    assert time.process_time() - start < 10


def test_classes_in_groups_are_split_by_group_and_without_by_class():
    classes = np.repeat([0, 1, 2], [60, 30, 10])
    groups = np.arange(100) // 2
    kept, held_out = split_off(classes, 0.2, 0, groups)
    assert not set(groups[kept]) & set(groups[held_out])
    assert per_class(classes[held_out])[:3].tolist() == [12, 6, 2]
    for ours, plain in zip(split_off(classes, 0.2, 0), stratified_split(classes, 0.2, 0), strict=True):
        np.testing.assert_array_equal(ours, plain)
    targets = csr_matrix(np.eye(3, dtype=bool)[classes])
    for ours, plain in zip(split_off(targets, 0.2, 0), iterative_split(targets, 0.2, 0), strict=True):
        np.testing.assert_array_equal(ours, plain)


@settings(deadline=None, max_examples=50)
@given(some_classes.filter(len), st.integers(2, 6), st.integers(0, 2**32), st.booleans(), st.booleans())
def test_folds_divide_the_rows_keep_groups_together_and_leave_every_class_in_training(
    classes, folds, seed, grouped, multi_label
):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, max(1, len(classes) // 2), len(classes)) if grouped else None
    targets = csr_matrix(rng.random((len(classes), 7)) < 0.2) if multi_label else classes
    found = assign_folds(targets, folds, seed, groups)
    assert set(found) <= set(range(-1, folds))
    if groups is not None:
        assert all(len(set(found[groups == group])) == 1 for group in set(groups))
    of_class = targets.toarray().T if multi_label else (classes == np.arange(7)[:, None])
    for rows in of_class:
        assert not rows.any() or all(rows[found != fold].any() for fold in range(folds))
    np.testing.assert_array_equal(found, assign_folds(targets, folds, seed, groups))


def test_folds_of_a_class_differ_by_one_row_at_most():
    classes = np.repeat([0, 1, 2, 3], [503, 24, 7, 1])
    found = assign_folds(classes, 5, 0)
    assert found[-1] == -1
    for c in range(3):
        sizes = np.bincount(found[classes == c], minlength=5)
        assert sizes.max() - sizes.min() <= 1
