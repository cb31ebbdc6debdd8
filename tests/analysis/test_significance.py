"""Bootstrap and permutation test: equal to loops and to scipy, and of nominal error rates under the null."""

from itertools import product

import numpy as np
import pytest
from scipy import sparse, stats

from counterpoise.analysis import bootstrap, permutation_test
from counterpoise.analysis.bootstrap import bootstrap_scores, confidence_interval, recall_intervals, resample
from counterpoise.analysis.group_decisions import CountMetric, GroupDecisions, comparison_metrics, observed_scores
from counterpoise.analysis.permutation_test import random_swaps, refine_p_values
from counterpoise.analysis.significance import holm
from counterpoise.metrics import multi_label as multilabel
from counterpoise.metrics import single_label as single
from counterpoise.metrics.buckets import Bounds

BUCKETS = np.array(["head", "medium", "medium", "tail", "tail"])
COUNTS = np.array([200, 50, 30, 5, 1])


def one_hot(classes, among: int = 5) -> sparse.csr_matrix:
    return sparse.csr_matrix(np.eye(among, dtype=bool)[np.asarray(classes)])


def single_label(texts: int, seeds: tuple[int, ...], seed: int = 0) -> GroupDecisions:
    """Texts of four classes of five, and groups of runs that are right about two times of three."""
    rng = np.random.default_rng(seed)
    shares = [0.5, 0.25, 0.15, 0.1, 0]
    truth = rng.choice(5, texts, p=shares)

    def decided():
        return one_hot(np.where(rng.random(texts) < 0.6, truth, rng.integers(5, size=texts)))

    return GroupDecisions(one_hot(truth), [[decided() for _ in range(number)] for number in seeds])


def many_labels(texts: int, seeds: tuple[int, ...], seed: int = 0) -> GroupDecisions:
    rng = np.random.default_rng(seed)
    truth = rng.random((texts, 5)) < [0.5, 0.3, 0.2, 0.1, 0]

    def decided():
        return sparse.csr_matrix(truth ^ (rng.random((texts, 5)) < 0.2))

    return GroupDecisions(sparse.csr_matrix(truth), [[decided() for _ in range(number)] for number in seeds])


TASKS = [(single_label, False), (many_labels, True)]


def scored(decisions: GroupDecisions, multi_label: bool) -> dict[str, CountMetric]:
    return comparison_metrics(
        "multi_label" if multi_label else "single_label",
        np.asarray(decisions.truth.sum(axis=0)).ravel(),
        COUNTS,
        Bounds(),
    )


def by_hand(name: str, truth: np.ndarray, decided: np.ndarray) -> float:
    """A score of bool [N, C], a class at a time."""
    micro = name in ("micro_f1", "micro_recall", "accuracy")
    if micro:
        truth, decided = truth.reshape(-1, 1), decided.reshape(-1, 1)
    values = []
    for c in range(truth.shape[1]):
        if name.split("_")[0] in BUCKETS and BUCKETS[c] != name.split("_")[0]:
            continue
        true_positives, support = int((truth[:, c] & decided[:, c]).sum()), int(truth[:, c].sum())
        if support:
            values.append(
                2 * true_positives / (support + int(decided[:, c].sum()))
                if name.endswith("f1")
                else true_positives / support
            )
    return float(np.mean(values)) if values else np.nan


@pytest.mark.parametrize(("make", "multi_label"), TASKS)
def test_scores_equal_the_metrics_of_a_run(make, multi_label):
    decisions = make(60, (2, 1))
    metrics = scored(decisions, multi_label)
    values = observed_scores(decisions, list(metrics.values()))
    truth = decisions.truth.toarray()
    for group, rows in zip(decisions.decided, values, strict=True):
        for run, row in zip(group, rows, strict=True):
            if multi_label:
                expected = multilabel.scores(run.toarray(), run.toarray() * 1.0, decisions.truth, COUNTS)
            else:
                confusion = single.confusion_matrix(truth.argmax(1), run.toarray().argmax(1), 5)
                expected = single.scores(confusion, COUNTS)
            compared = [name for name in metrics if name in expected]
            assert len(compared) >= 6
            for name, value in zip(metrics, row, strict=True):
                assert value == pytest.approx(expected.get(name, by_hand(name, truth, run.toarray())), abs=1e-12)


def test_buckets_without_test_texts_have_no_metric():
    names = list(comparison_metrics("single_label", np.array([5, 0, 0, 2, 0]), COUNTS, Bounds()))
    expected = ["macro_f1", "balanced_accuracy", "accuracy", "head_recall", "tail_recall", "head_f1", "tail_f1"]
    assert names == expected


@pytest.mark.parametrize(("make", "multi_label"), TASKS)
def test_bootstrap_equals_a_loop_over_resampled_texts_and_seeds(make, multi_label):
    decisions, replicates = make(12, (3, 1)), 300
    metrics = scored(decisions, multi_label)
    means = bootstrap_scores(decisions, list(metrics.values()), replicates, seed=3)
    draws = [
        (texts[:, r], [each[:, r] for each in seeds])
        for texts, seeds in resample(decisions, replicates, seed=3)
        for r in range(texts.shape[1])
    ]
    assert means.shape == (2, len(metrics), replicates)
    assert len(draws) == replicates
    truth = decisions.truth.toarray()
    for r, (texts, seeds) in enumerate(draws[:60]):
        drawn = np.repeat(np.arange(12), texts.astype(int))
        assert len(drawn) == 12
        for g, weights in enumerate(seeds):
            for m, name in enumerate(metrics):
                values = [by_hand(name, truth[drawn], run.toarray()[drawn]) for run in decisions.decided[g]]
                np.testing.assert_allclose(means[g, m, r], np.dot(weights, values), rtol=1e-5)
    # A class with two texts is absent from some replicates, and its bucket then has no score.
    assert np.isnan(means[0, list(metrics).index("tail_recall")]).any()


def test_resampled_seeds_have_the_variance_of_the_mean():
    decisions = single_label(5, (4, 2, 1))
    drawn = [seeds for _, seeds in resample(decisions, 20_000)]
    for group, values in enumerate(([1.0, 5, 2, 8], [3.0, 7], [4.0])):
        means = np.concatenate([np.asarray(values) @ seeds[group] for seeds in drawn])
        expected = np.var(values, ddof=1) / len(values) if len(values) > 1 else 0
        assert means.var() == pytest.approx(expected, rel=0.03)
        assert means.mean() == pytest.approx(np.mean(values), rel=0.02)


@pytest.mark.parametrize("blocks", [1, 3])
def test_recall_intervals_equal_the_bootstrap_of_each_class(monkeypatch, blocks):
    decisions = single_label(40, (2, 3))
    classes = [CountMetric("recall", row) for row in np.eye(5, dtype=bool)]
    means = bootstrap_scores(decisions, classes, 400, seed=1).astype(float)
    monkeypatch.setattr(bootstrap, "MAX_RECALLS", 400 * 2 * 5 // blocks)
    low, high = recall_intervals(decisions, 1, 400, seed=1)
    expected = np.nanquantile((means[0] - means[1])[:4], [0.025, 0.975], axis=-1)
    np.testing.assert_allclose([low[0, :4], high[0, :4]], expected, atol=1e-6)
    assert (low[1, :4] == 0).all()
    assert np.isnan([low[:, 4], high[:, 4]]).all()


def swapped_by_hand(name: str, decisions: GroupDecisions, a: int, b: int, swap: np.ndarray) -> float:
    """The difference after swapping whole rows of decisions, each seed as often as another."""
    truth, one, other = decisions.truth.toarray(), decisions.decided[a], decisions.decided[b]
    differences = []
    for i in range(len(one) * len(other)):
        x, y = one[i % len(one)].toarray(), other[i % len(other)].toarray()
        x, y = np.where(swap[:, None], y, x), np.where(swap[:, None], x, y)
        differences.append(by_hand(name, truth, x) - by_hand(name, truth, y))
    return float(np.mean(differences))


@pytest.mark.parametrize(("make", "multi_label"), TASKS)
def test_permutation_test_equals_a_loop_over_swapped_texts(make, multi_label):
    decisions, permutations = make(40, (2, 2, 3)), 120
    metrics = scored(decisions, multi_label)
    pairs, p = permutation_test.permutation_test(decisions, list(metrics.values()), permutations, seed=5)
    assert pairs == [(0, 1), (0, 2), (1, 2)]
    runs = [run.toarray() for group in decisions.decided for run in group]
    disagreed = np.flatnonzero([len({run[n].tobytes() for run in runs}) > 1 for n in range(40)])
    swaps = np.zeros((40, permutations), bool)
    swaps[disagreed] = np.concatenate(list(random_swaps(len(disagreed), permutations, seed=5)), axis=1) > 0
    for (a, b), row in zip(pairs, p, strict=True):
        for name, value in zip(metrics, row, strict=True):
            if name in ("macro_f1", "tail_recall"):
                size = abs(swapped_by_hand(name, decisions, a, b, np.zeros(40, bool)))
                found = [abs(swapped_by_hand(name, decisions, a, b, swap)) for swap in swaps.T]
                assert value == pytest.approx((1 + np.sum(np.array(found) >= size - 1e-9)) / (1 + permutations))


def few_differences(seeds: int, wrong: tuple[int, ...]) -> GroupDecisions:
    """One group right on all of 30 texts, another wrong on some of them."""
    truth = np.arange(30) % 4
    other = truth.copy()
    other[list(wrong)] = (other[list(wrong)] + 1) % 4
    return GroupDecisions(one_hot(truth), [[one_hot(truth)] * seeds, [one_hot(other)] * seeds])


def test_all_swaps_are_enumerated_if_few_texts_differ():
    wrong = (0, 4, 5, 11, 17)
    decisions = few_differences(2, wrong)
    metrics = scored(decisions, False)
    _, p = permutation_test.permutation_test(decisions, list(metrics.values()), permutations=2**5)
    for name in ("macro_f1", "balanced_accuracy", "tail_f1"):
        sizes = []
        for bits in product([False, True], repeat=5):
            swap = np.zeros(30, bool)
            swap[list(wrong)] = bits
            sizes.append(abs(swapped_by_hand(name, decisions, 0, 1, swap)))
        expected = np.mean(np.array(sizes) >= sizes[0] - 1e-9)
        assert p[0, list(metrics).index(name)] == expected
    # Only the accuracy is a sum over texts: of five that differ in one direction no other swap reaches as far.
    assert p[0, list(metrics).index("accuracy")] == 2 / 2**5


def test_random_swaps_approximate_all_swaps():
    decisions = few_differences(1, (0, 4, 5, 11, 17))
    metrics = list(scored(decisions, False).values())
    _, exact = permutation_test.permutation_test(decisions, metrics, permutations=2**5)
    _, drawn = permutation_test.permutation_test(few_differences(1, (0, 4, 5, 11, 17)), metrics, permutations=2**5 - 1)
    assert np.abs(exact - drawn).max() < 0.3
    assert not (drawn * 2**5 % 1).any()
    assert (drawn >= 2**-5).all()


def test_identical_groups_have_p_value_1():
    _, p = permutation_test.permutation_test(few_differences(2, ()), [CountMetric("recall")])
    assert p.tolist() == [[1]]


def test_p_value_of_accuracy_equals_scipy():
    decisions = single_label(400, (1, 1), seed=2)
    truth, one, other = (each.toarray() for each in (decisions.truth, decisions.decided[0][0], decisions.decided[1][0]))
    right = [(truth & each).any(axis=1).astype(float) for each in (one, other)]
    reference = stats.permutation_test(
        right,
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    _, p = permutation_test.permutation_test(decisions, [CountMetric("recall")], 20_000)
    assert 0.02 < reference.pvalue < 0.98
    assert p[0, 0] == pytest.approx(reference.pvalue, abs=0.015)


def test_interval_of_accuracy_equals_scipy():
    decisions = single_label(300, (1,))
    right = decisions.truth.multiply(decisions.decided[0][0]).sum(axis=1)
    reference = stats.bootstrap(
        (np.asarray(right).ravel(),), np.mean, method="percentile", rng=np.random.default_rng(0)
    )
    low, high = confidence_interval(bootstrap_scores(decisions, [CountMetric("recall")], 9999))
    expected = reference.confidence_interval
    np.testing.assert_allclose([low[0, 0], high[0, 0]], [expected.low, expected.high], atol=0.005)


def test_only_small_p_values_of_many_pairs_are_refined(monkeypatch):
    truth = np.arange(200) % 4
    groups = [np.where(np.arange(200) < wrong, (truth + 1) % 4, truth) for wrong in (0, 2, 60, 62)]
    decisions, metric = GroupDecisions(one_hot(truth), [[one_hot(each)] for each in groups]), CountMetric("recall")
    pairs, p = permutation_test.permutation_test(decisions, [metric], 99)
    assert p[:, 0].min() == 0.01
    monkeypatch.setattr(permutation_test, "REFINE_BELOW", 0.02)
    found = refine_p_values(decisions, metric, pairs, p[:, 0], 99)
    # Of six pairs 240 permutations; (0, 1) and (2, 3) differ in two texts, and are known exactly.
    assert pairs[0] == (0, 1)
    assert pairs[5] == (2, 3)
    np.testing.assert_allclose(found, [0.5, *[1 / 241] * 4, 0.5])
    few = [(0, 2), (1, 3)]
    assert refine_p_values(decisions, metric, few, np.array([0.01, 0.01]), 99).tolist() == [0.01, 0.01]
    monkeypatch.setattr(permutation_test, "MAX_PERMUTATIONS", 150)
    assert refine_p_values(decisions, metric, pairs, p[:, 0], 99)[1] == 1 / 151


@pytest.mark.parametrize("groups", [2, 12, 23])
def test_p_values_of_up_to_23_groups_are_not_refined(groups):
    pairs = [(a, b) for a in range(1, groups) for b in range(a)]
    p = np.full(len(pairs[: (groups - 1) * (groups - 2) // 2]), 1 / 10_001)
    assert refine_p_values(single_label(5, (1,)), CountMetric("recall"), pairs[: len(p)], p) is p


@pytest.mark.parametrize("seeds", [(1, 1), (2, 2), (2, 3)])
def test_p_values_are_uniform_under_the_null(seeds):
    metrics = [CountMetric("f1", np.array([True] * 4 + [False])), CountMetric("recall")]
    found = np.array(
        [permutation_test.permutation_test(single_label(80, seeds, n), metrics, 199)[1][0] for n in range(400)]
    )
    # Four standard deviations of a share of 400.
    assert np.abs((found <= 0.05).mean(axis=0) - 0.05).max() < 0.044
    assert np.abs((found <= 0.5).mean(axis=0) - 0.5).max() < 0.1


def test_intervals_cover_the_true_difference_at_the_nominal_rate():
    held = []
    for n in range(250):
        rng = np.random.default_rng(n)
        # A run is right on the texts that are easy enough for it; the true difference of the two settings is 0.1.
        skills = [rng.normal(mean, 0.03, 8) for mean in (0.8, 0.7)]
        truth, hard = rng.integers(2, size=100), rng.random(100)
        decided = [[one_hot(np.where(hard < skill, truth, 1 - truth), 2) for skill in group] for group in skills]
        means = bootstrap_scores(GroupDecisions(one_hot(truth, 2), decided), [CountMetric("recall")], 400)
        low, high = confidence_interval(means[0, 0] - means[1, 0])
        held.append(low <= 0.1 <= high)
    # Four standard deviations of a share of 250.
    assert abs(np.mean(held) - 0.95) < 0.055
    assert not all(held)


def test_results_depend_on_the_seed_only():
    decisions = single_label(50, (2, 2))
    metrics = list(scored(decisions, False).values())
    for function in (bootstrap_scores, lambda *given: permutation_test.permutation_test(*given)[1]):
        first, again, other = (function(decisions, metrics, 300, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other, equal_nan=True)


def test_holm_equals_r():
    # The least of four times 4, the next times 3; never below the one before.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.9, 0.4])), [0.9, 0.8])
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]
    assert holm(np.array([])).tolist() == []
    # The p-values with which statsmodels tests its multipletests against R's multtest.
    p = [0.838541367553, 0.642193923795, 0.680845947633, 0.967833824309, 0.71626938238]
    p += [0.177096952723, 5.23656777208e-05, 0.0202732688798, 0.00028140506198, 0.0149877310796]
    expected = [1, 1, 1, 1, 1, 1, 10 * p[6], 7 * p[7], 9 * p[8], 8 * p[9]]
    np.testing.assert_allclose(holm(np.array(p)), expected)
