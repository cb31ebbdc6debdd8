import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoise.data.splits import Vocabulary, stratified_split, unseen

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


def test_every_row_is_held_out_alike():
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
def test_one_label_that_is_no_whole_number_makes_all_of_them_text(label):
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
def test_encoding_the_labels_of_a_vocabulary_and_back_changes_nothing(labels):
    vocabulary = Vocabulary.of(pa.array(labels))
    assert [vocabulary.labels[c] for c in vocabulary.encode(pa.array(labels))] == labels
    assert len(vocabulary) == len(set(labels))


def test_unseen_labels_are_counted_most_frequent_first():
    labels = pa.array(["x", "a", "z", "z", "y", "a"])
    assert unseen(labels, Vocabulary(["a"]).encode(labels)) == [("z", 2), ("x", 1), ("y", 1)]
    assert unseen(labels, np.zeros(6, int)) == []
