"""Scores of groups from class counts, and their jackknife deviations."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse, stats

from counterpoise.analysis.class_recalls import MIN_TEST_TEXTS, recall_intervals
from counterpoise.analysis.comparison_tables import measure
from counterpoise.analysis.group_decisions import (
    CountMetric,
    GroupDecisions,
    comparison_metrics,
    differing_texts,
    observed_scores,
)
from counterpoise.analysis.jackknife import deviations
from counterpoise.metrics.buckets import Bounds
from counterpoise.metrics.class_counts import ClassCounts
from scores import multi_label_scores, single_label_scores

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
                expected = multi_label_scores(run.toarray(), run.toarray() * 1.0, decisions.truth, COUNTS)
            else:
                counts = ClassCounts.of(truth.argmax(1), run.toarray().argmax(1), 5)
                expected = single_label_scores(counts, COUNTS)
            compared = [name for name in metrics if name in expected]
            assert len(compared) >= 6
            for name, value in zip(metrics, row, strict=True):
                assert value == pytest.approx(expected.get(name, by_hand(name, truth, run.toarray())), abs=1e-12)


def test_buckets_without_test_texts_have_no_metric():
    names = list(comparison_metrics("single_label", np.array([5, 0, 0, 2, 0]), COUNTS, Bounds()))
    expected = ["macro_f1", "balanced_accuracy", "accuracy", "head_recall", "tail_recall", "head_f1", "tail_f1"]
    assert names == expected


@pytest.mark.parametrize(("make", "multi_label"), TASKS)
@pytest.mark.parametrize("seeds", [(1, 1), (2, 3)])
def test_differing_texts_equal_a_count_of_what_each_metric_reads(make, multi_label, seeds):
    decisions = make(40, seeds)
    truth = decisions.truth.toarray()
    mean_a, mean_b = (np.mean([run.toarray() for run in group], axis=0) for group in decisions.decided)
    for name, metric in scored(decisions, multi_label).items():
        differs = ~np.isclose(mean_a, mean_b)
        if metric.measure == "recall":
            differs = differs & truth
        members = np.ones(5, bool) if metric.classes is None else metric.classes
        assert differing_texts(decisions, metric, 0, 1) == differs[:, members].any(axis=1).sum(), name


def test_two_texts_of_a_rare_class_are_no_evidence():
    # The decisive class has two test texts, both wrong or both right: the jackknife sees no variance of it.
    truth = np.repeat([0, 1], [11, 2])
    run, other = truth.copy(), truth.copy()
    run[11:], run[0], other[1] = 0, 1, 1
    macro = {"macro_f1": CountMetric("f1", np.ones(2, bool))}
    groups = GroupDecisions(one_hot(truth, 2), [[one_hot(run, 2)], [one_hot(other, 2)]])
    found = measure(["run", "other"], groups, macro).difference(0, 1, "macro_f1")
    assert found.differing == 4
    assert found.p == 1 / 8
    for level in (0.8, 0.874, 0.876, 0.95):
        low, high = found.interval(level)
        assert (low <= 0 <= high) == (found.p > 1 - level)


def without(decisions: GroupDecisions, text: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the true labels and each run's decisions without one text, bool."""
    kept = np.delete(np.arange(decisions.truth.shape[0]), text)
    runs = [run for group in decisions.decided for run in group]
    return decisions.truth.toarray()[kept], [run.toarray()[kept] for run in runs]


@pytest.mark.parametrize(("make", "multi_label"), TASKS)
@pytest.mark.parametrize("texts", [3, 12, 30])
def test_deviations_equal_a_loop_that_leaves_out_one_text(make, multi_label, texts):
    decisions = make(texts, (2, 1), seed=texts)
    for name, metric in scored(decisions, multi_label).items():
        values = np.array(
            [
                [by_hand(name, truth, run) for run in runs]
                for truth, runs in map(without, [decisions] * texts, range(texts))
            ]
        ).T
        expected = np.sqrt((texts - 1) / texts) * (values.mean(axis=1, keepdims=True) - values)
        np.testing.assert_allclose(deviations(decisions, metric), expected, atol=1e-12, err_msg=name)


def test_jackknife_variance_of_accuracy_is_that_of_a_mean():
    decisions = single_label(50, (1,))
    right = decisions.truth.multiply(decisions.decided[0][0]).sum(axis=1)
    found = (deviations(decisions, CountMetric("recall")) ** 2).sum()
    assert found == pytest.approx(np.var(np.asarray(right), ddof=1) / 50)


@pytest.mark.parametrize("seeds", [(1, 1), (1, 3), (2, 2), (3, 2, 4)])
def test_recall_intervals_equal_the_estimates_of_each_class(seeds):
    decisions = single_label(60, seeds, seed=3)
    paired = frozenset({(0, 1)}) if seeds == (2, 2) else frozenset()
    low, high = recall_intervals(decisions, 1, paired)
    support = decisions.counts[2]
    assert np.isnan(low[1]).all()
    for group in {0, len(seeds) - 1} - {1}:
        for c in range(5):
            if support[c] < MIN_TEST_TEXTS:
                assert np.isnan([low[group, c], high[group, c]]).all()
                continue
            # The recall of a class is the accuracy on its texts.
            texts = decisions.truth[:, [c]].nonzero()[0]
            runs = [[run[texts] for run in group] for group in decisions.decided]
            within = GroupDecisions(decisions.truth[texts], runs)
            names = list("abc")[: len(seeds)]
            estimate = measure(names, within, {"recall": CountMetric("recall")}, paired).difference(group, 1, "recall")
            estimate = replace(estimate, text_df=len(texts) - 1)
            np.testing.assert_allclose([low[group, c], high[group, c]], estimate.interval(), atol=1e-12)


def test_the_recall_interval_of_two_single_runs_is_the_paired_t_interval():
    decisions = single_label(60, (1, 1), seed=3)
    low, high = recall_intervals(decisions, 1)
    for c in np.flatnonzero(decisions.counts[2] >= MIN_TEST_TEXTS):
        texts = decisions.truth[:, [c]].nonzero()[0]
        one, other = (run[texts][:, [c]].toarray().ravel().astype(float) for (run,) in decisions.decided)
        expected = stats.ttest_rel(one, other).confidence_interval()
        if np.ptp(one - other) > 0:
            np.testing.assert_allclose([low[0, c], high[0, c]], expected, atol=1e-12)
