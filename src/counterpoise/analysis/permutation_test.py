"""Paired permutation test for differences between groups of runs on the same test texts.

The test takes the trained models as given. It asks whether a difference on these texts exceeds what random swaps of
the two groups' decisions produce.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from math import ceil, lcm
from typing import Any

import numpy as np
from scipy import sparse

from counterpoise.analysis.group_decisions import CountMetric, GroupDecisions, score
from counterpoise.analysis.replicate_batches import MAX_REPLICATES, batch_sizes
from counterpoise.analysis.significance import ALPHA

REFINE_BELOW = 0.01
"""`refine_p_values` draws more permutations for p-values below this."""
MAX_PERMUTATIONS = 100_000
"""Upper limit of `refine_p_values`: enough for a hundred groups, in minutes."""
# Scores are float32: differences smaller than this count as equal.
_TOLERANCE = 1e-6


def permutation_test(
    decisions: GroupDecisions,
    metrics: Sequence[CountMetric],
    permutations: int = 10_000,
    seed: int = 0,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Compute two-sided p-values for the differences between pairs of groups.

    Paired approximate randomisation: each text's decisions are swapped between the two groups with probability 1/2, for
    all seeds at once. Seeds are paired in their order. If the groups differ in size, both are repeated to the least
    common multiple so that every seed has the same weight; the test is then exact only asymptotically. The p-value is
    (1 + #{|d*| >= |d|}) / (1 + R). If a pair differs on k texts with 2^k <= R, all swaps are enumerated and the
    p-value is the fraction with |d*| >= |d|.

    Args:
        decisions: Groups of runs.
        metrics: M metrics.
        permutations: Number R of random permutations.
        seed: Seed of the random generator.
        pairs: Pairs of group numbers; defaults to all pairs (a, b) with a < b.

    Returns:
        The P pairs and their p-values, float64 [P, M].

    References:
        Noreen (1989); Yeh (2000).
    """
    pairs = list(combinations(range(len(decisions.runs)), 2)) if pairs is None else list(pairs)
    p = np.ones((len(pairs), len(metrics)))
    enumerated = {}
    for number, (a, b) in enumerate(pairs):
        texts = _differing_texts(*_repeat_to_common_length(decisions.decided[a], decisions.decided[b]))
        if 2 ** min(len(texts), 63) <= permutations:
            enumerated[number] = texts
    sampled = [number for number in range(len(pairs)) if number not in enumerated]
    if sampled:
        first, *others = (run for group in decisions.decided for run in group)
        texts = _differing_texts([first] * len(others), others)  # swapping a text that all runs agree on has no effect
        swaps = random_swaps(len(texts), permutations, seed)
        extreme = _count_extreme(decisions, metrics, [pairs[n] for n in sampled], texts, swaps)
        p[sampled] = (1 + extreme) / (1 + permutations)
    for number, texts in enumerated.items():
        pair = decisions.select_groups(*pairs[number])
        p[number] = _count_extreme(pair, metrics, [(0, 1)], texts, _all_swaps(len(texts)))[0] / 2 ** len(texts)
    return pairs, p


def refine_p_values(
    decisions: GroupDecisions,
    metric: CountMetric,
    pairs: Sequence[tuple[int, int]],
    p: np.ndarray,
    permutations: int = 10_000,
    seed: int = 0,
) -> np.ndarray:
    """Recompute small p-values with more permutations if there are too many pairs to reach significance.

    With R permutations the smallest p-value is 1 / (1 + R), and after adjustment for P pairs P / (1 + R). If that
    exceeds half of `ALPHA`, p-values below `REFINE_BELOW` are recomputed with 2 P / ALPHA permutations, at most
    `MAX_PERMUTATIONS`.

    Args:
        decisions: Groups of runs.
        metric: The metric.
        pairs: P pairs of groups that are adjusted together.
        p: Their p-values, float [P], as `permutation_test` returns them.
        permutations: Number of permutations behind `p`.
        seed: Seed of the random generator.

    Returns:
        The p-values, float [P]; `p` itself if no refinement is needed.
    """
    wanted, small = min(ceil(2 * len(pairs) / ALPHA), MAX_PERMUTATIONS), np.flatnonzero(p < REFINE_BELOW)
    if wanted <= permutations or not len(small):
        return p
    result = p.copy()
    result[small] = permutation_test(decisions, [metric], wanted, seed, [pairs[n] for n in small.tolist()])[1][:, 0]
    return result


def random_swaps(texts: int, permutations: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield which of T texts are swapped, float32 [T, r] of 0 and 1, a batch of r permutations at a time."""
    rng = np.random.default_rng(seed)
    for size in batch_sizes(permutations, texts):
        yield rng.integers(2, size=(texts, size), dtype=np.uint8).astype(np.float32)


def _all_swaps(texts: int) -> Iterator[np.ndarray]:
    """Yield all 2^T ways to swap T texts, float32 [T, r] of 0 and 1, a batch at a time."""
    for start in range(0, 2**texts, MAX_REPLICATES):
        numbers = np.arange(start, min(start + MAX_REPLICATES, 2**texts))
        yield (numbers >> np.arange(texts)[:, None] & 1).astype(np.float32)


def _repeat_to_common_length(one: Iterable[Any], other: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Return both lists repeated to the least common multiple of their lengths."""
    one, other = list(one), list(other)
    length = lcm(len(one), len(other))
    return one * (length // len(one)), other * (length // len(other))


def _differing_texts(one: Sequence[sparse.csr_matrix], other: Sequence[sparse.csr_matrix]) -> np.ndarray:
    """Return the texts on which any pair of runs decides differently, int [T] in ascending order."""
    rows = [(a != b).nonzero()[0] for a, b in zip(one, other, strict=True)]
    return np.unique(np.concatenate([np.empty(0, np.int64), *rows]))


def _count_extreme(
    decisions: GroupDecisions,
    metrics: Sequence[CountMetric],
    pairs: Sequence[tuple[int, int]],
    texts: np.ndarray,
    swaps: Iterable[np.ndarray],
) -> np.ndarray:
    """Count the swaps [T, r] of these texts whose difference is at least as large as the observed one, int64 [P, M]."""
    totals = decisions.counts(np.ones((decisions.truth.shape[0], 1), np.float32))
    runs = [_repeat_to_common_length(decisions.runs[a], decisions.runs[b]) for a, b in pairs]
    unswapped = (np.zeros_like(totals[0]), np.zeros_like(totals[1]))
    observed = [np.abs(_mean_difference(metrics, totals, unswapped, a, b)) for a, b in runs]
    extreme = np.zeros((len(pairs), len(metrics)), np.int64)
    swappable = decisions.select_texts(texts)
    for batch in swaps:
        true_positives, predicted, _ = swappable.counts(batch)
        for number, (a, b) in enumerate(runs):
            differences = np.abs(_mean_difference(metrics, totals, (true_positives, predicted), a, b))
            extreme[number] += (differences >= observed[number] - _TOLERANCE).sum(axis=-1)
    return extreme


def _mean_difference(
    metrics: Sequence[CountMetric],
    totals: tuple[np.ndarray, np.ndarray, np.ndarray],
    swapped: tuple[np.ndarray, np.ndarray],
    one: list[int],
    other: list[int],
) -> np.ndarray:
    """Return the difference of metrics after a swap, mean over pairs of runs, [M, R].

    Args:
        metrics: M metrics.
        totals: True positives [K, C, 1], predicted [K, C, 1] and support [C, 1] of all texts.
        swapped: True positives and predicted [K, C, R] of the swapped texts.
        one: Runs of the first group.
        other: Runs of the second group, paired with `one`.
    """
    true_positives, predicted = (counts[other] - counts[one] for counts in swapped)
    gained = score(metrics, totals[0][one] + true_positives, totals[1][one] + predicted, totals[2])
    lost = score(metrics, totals[0][other] - true_positives, totals[1][other] - predicted, totals[2])
    return (gained - lost).mean(axis=0)
