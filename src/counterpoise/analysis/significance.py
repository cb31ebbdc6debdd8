"""Whether scores of groups of runs on the same texts differ by more than chance.

A group is several runs (seeds) of one setting. All runs decided on the same N texts with C classes, one class a text or
any number: truth and decisions are csr bool [N, C], one-hot where a text has one class. Scores are functions of three
counts by class, over texts: hits (true and decided), predicted (decided) and support (true).

Two questions are asked, and a difference is worth believing when both say so:

- The *permutation test* takes the trained models as given and asks whether a difference on these texts is more than
  what swapping their decisions text by text gives.
- The *bootstrap* draws other texts, and other seeds: what training varies widens its intervals. A group of one seed
  says nothing about that; its intervals are about texts alone. Of a class with a text or two no replicate shows how it
  may vary, and those that lack it leave it out: where there are many, intervals of means are on the narrow side, and
  off centre by what such classes pull the mean.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from math import ceil, lcm
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import sparse

LEVEL = 0.95
ALPHA = 0.05
"""Of an adjusted p: below it two groups may be told apart."""
RARE = 0.01
"""Of a p below which `finer` draws more permutations: of any other what is known of it will do."""
MOST = 100_000
"""Permutations that `finer` draws at most. They tell a hundred groups apart, and take minutes."""
# Replicates at a time: what is computed of them stays in the processor's cache, and memory small.
_CHUNK = 250
_CELLS = 2**25
_RECALLS = 2**25
# Scores are computed in float32: what differs by less than this is equal.
_TINY = 1e-6


class Metric(NamedTuple):
    """A score: the mean of a measure over `classes` (bool [C]) that have support, or of all counts added up."""

    measure: Literal["f1", "recall"]
    classes: np.ndarray | None = None


def count_metrics(multi_label: bool, buckets: np.ndarray, support: np.ndarray) -> dict[str, Metric]:
    """Returns the scores that are functions of counts, by the names they have in `metrics.json`.

    buckets: of each class, as from `metrics.buckets`; support: int [C], the test texts of each class. Means are over
    the classes that the test split holds, buckets without any are left out. They are those of `metrics.scores` and
    `multilabel.scores`: with one class a text micro recall is the accuracy, and macro recall the balanced accuracy.
    """
    held = np.asarray(support) > 0
    result = {
        "macro_f1": Metric("f1", held),
        "macro_recall" if multi_label else "balanced_accuracy": Metric("recall", held),
        **({"micro_f1": Metric("f1")} if multi_label else {}),
        "micro_recall" if multi_label else "accuracy": Metric("recall"),
    }
    for measure in ("recall", "f1"):
        for bucket in ("head", "medium", "tail"):
            if (members := held & (buckets == bucket)).any():
                result[f"{bucket}_{measure}"] = Metric(measure, members)
    return result


def score(
    metrics: Sequence[Metric], true_positives: np.ndarray, predicted: np.ndarray, support: np.ndarray
) -> np.ndarray:
    """Returns the scores [..., M, R] of counts float [..., C, R] (support [C, R] or [C, 1]), M metrics, R replicates.

    A class without support in a replicate is left out of its means; a mean over nothing is NaN.
    """
    result = np.empty((*true_positives.shape[:-2], len(metrics), true_positives.shape[-1]), true_positives.dtype)
    present = (support > 0).astype(true_positives.dtype)
    for measure in ("f1", "recall"):
        means = [m for m, metric in enumerate(metrics) if metric.measure == measure and metric.classes is not None]
        sums = [m for m, metric in enumerate(metrics) if metric.measure == measure and metric.classes is None]
        if means:
            members = np.stack([np.asarray(metrics[m].classes) for m in means]).astype(true_positives.dtype)
            with np.errstate(invalid="ignore"):
                result[..., means, :] = (members @ _ratio(measure, true_positives, predicted, support)) / (
                    members @ present
                )
        if sums:
            added = (each.sum(axis=-2, keepdims=True) for each in (true_positives, predicted, support))
            result[..., sums, :] = _ratio(measure, *added)
    return result


def _ratio(measure: str, true_positives: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Returns F1 or recall of counts, 0 without support."""
    if measure == "f1":
        return 2 * true_positives / np.maximum(support + predicted, 1)
    return true_positives / np.maximum(support, 1)


@dataclass(frozen=True)
class Outcomes:
    """What groups of runs decided on N texts. truth: csr bool [N, C]; decided: one a seed, for each group."""

    truth: sparse.csr_matrix
    decided: Sequence[Sequence[sparse.csr_matrix]]

    @cached_property
    def runs(self) -> list[np.ndarray]:
        """The numbers of each group's runs among all K runs."""
        ends = np.cumsum([0, *map(len, self.decided)])
        return [np.arange(start, end) for start, end in pairwise(ends)]

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns hits [K, C, R], predicted [K, C, R] and support [C, R] of texts with these weights, float [N, R]."""
        true_positives, predicted, support = (each @ weights for each in self._by_class)
        shape = (-1, self.truth.shape[1], weights.shape[1])
        return true_positives.reshape(shape), predicted.reshape(shape), support

    def of_texts(self, texts: np.ndarray) -> "Outcomes":
        """Returns the same of some texts alone."""
        return Outcomes(self.truth[texts], [[each[texts] for each in group] for group in self.decided])

    def of_classes(self, classes: slice) -> "Outcomes":
        """Returns the same of some classes alone."""
        return Outcomes(self.truth[:, classes], [[each[:, classes] for each in group] for group in self.decided])

    def between(self, a: int, b: int) -> "Outcomes":
        """Returns the same of two groups alone."""
        return Outcomes(self.truth, [self.decided[a], self.decided[b]])

    @cached_property
    def _by_class(self) -> tuple[sparse.csr_matrix, ...]:
        """Hits and predicted csr float32 [K * C, N], support [C, N]: float32 holds every count below 2^24."""
        runs = [each for group in self.decided for each in group]
        true_positives = sparse.vstack([each.multiply(self.truth).T for each in runs], "csr", np.float32)
        predicted = sparse.vstack([each.T for each in runs], "csr", np.float32)
        return true_positives, predicted, self.truth.T.tocsr().astype(np.float32)


def observed(outcomes: Outcomes, metrics: Sequence[Metric]) -> list[np.ndarray]:
    """Returns the scores of each group's runs, float64 [S, M]."""
    values = score(metrics, *outcomes.counts(np.ones((outcomes.truth.shape[0], 1))))[..., 0]
    return [values[runs] for runs in outcomes.runs]


def resamples(outcomes: Outcomes, replicates: int, seed: int = 0) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yields the draws of a bootstrap, some at a time: weights of texts [N, r], and of each group's seeds [S, r].

    Texts are drawn jointly for all runs, N of N with replacement. Of S seeds S - 1 are drawn with replacement, each
    group for itself: with S of S the variance of a mean would come out at (S - 1) / S of what it is, half of it for two
    seeds (McCarthy and Snowden 1985; Rao and Wu 1988). Weights of seeds add up to 1. Where seeds err on different texts
    the two draws count that twice, and intervals come out wider than they need be (Owen 2007).
    """
    rng, texts = np.random.default_rng(seed), outcomes.truth.shape[0]
    for size in _sizes(replicates, texts):
        seeds = [
            _drawn(rng, len(runs), len(runs) - 1, size) if len(runs) > 1 else np.ones((1, size), np.float32)
            for runs in outcomes.runs
        ]
        yield _drawn(rng, texts, texts, size), [each / each.sum(axis=0) for each in seeds]


def bootstrap(outcomes: Outcomes, metrics: Sequence[Metric], replicates: int = 2000, seed: int = 0) -> np.ndarray:
    """Returns each group's scores, means over its seeds, in paired bootstrap replicates: float32 [G, M, R].

    Texts and seeds are drawn as `resamples` says, the same texts for all groups: the replicates of a difference are the
    differences of replicates (Efron and Tibshirani 1993; Berg-Kirkpatrick et al. 2012).
    """
    parts = [
        [
            np.einsum("smr,sr->mr", score(metrics, true_positives[runs], predicted[runs], support), weights)
            for runs, weights in zip(outcomes.runs, seeds, strict=True)
        ]
        for texts, seeds in resamples(outcomes, replicates, seed)
        for true_positives, predicted, support in [outcomes.counts(texts)]
    ]
    return np.concatenate([np.stack(part) for part in parts], axis=-1)


def recall_intervals(
    outcomes: Outcomes, reference: int, replicates: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bounds [G, C] of the interval of each class's recall minus that of the reference group.

    The same draws as those of `bootstrap`. NaN where no replicate holds the class.
    """
    groups, classes = len(outcomes.runs), outcomes.truth.shape[1]
    bounds = np.full((2, groups, classes), np.nan)
    step = max(1, _RECALLS // (replicates * groups))
    for start in range(0, classes, step):
        part, recalls = outcomes.of_classes(slice(start, start + step)), []
        for texts, seeds in resamples(outcomes, replicates, seed):
            true_positives, _, support = part.counts(texts)
            recall = true_positives / np.where(support > 0, support, np.nan)
            pairs = zip(part.runs, seeds, strict=True)
            recalls.append(np.stack([np.einsum("scr,sr->cr", recall[runs], weights) for runs, weights in pairs]))
        values = np.concatenate(recalls, axis=-1)
        held = ~np.isnan(values[0]).all(axis=1)
        for group in range(groups):
            bounds[:, group, start : start + step][:, held] = interval(values[group, held] - values[reference, held])
    return bounds[0], bounds[1]


def interval(replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bounds [...] of the percentile interval of replicates [..., R], of which NaN do not count."""
    quantile = np.nanquantile if np.isnan(replicates).any() else np.quantile
    low, high = quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return low, high


def permutation(
    outcomes: Outcomes,
    metrics: Sequence[Metric],
    permutations: int = 10_000,
    seed: int = 0,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Returns the pairs of groups (a, b), a < b, and the p of the difference of their scores, float64 [P, M].

    pairs: those that are asked for; all of them unless told.

    Paired approximate randomisation (Noreen 1989; Yeh 2000): with probability 1/2 each text's decisions are swapped
    between the two groups, for all seeds at once, which are paired in their order. Where one group has more seeds, both
    are repeated to the least common multiple, so that each seed counts as often as another: what changes places then
    are the mean outcomes of a text. That is exact for equal numbers of seeds, otherwise for many texts. Two-sided:
    p = (1 + #{|d*| >= |d|}) / (1 + R). Where a pair differs on so few texts that 2^k <= R, all swaps are tried, and p
    is the share of those with |d*| >= |d|.
    """
    pairs = list(combinations(range(len(outcomes.runs)), 2)) if pairs is None else list(pairs)
    p = np.ones((len(pairs), len(metrics)))
    few = {}
    for number, (a, b) in enumerate(pairs):
        texts = _differing(*_paired(outcomes.decided[a], outcomes.decided[b]))
        if 2 ** min(len(texts), 63) <= permutations:
            few[number] = texts
    many = [number for number in range(len(pairs)) if number not in few]
    if many:
        first, *others = (run for group in outcomes.decided for run in group)
        texts = _differing([first] * len(others), others)  # where all runs agree, a swap changes nothing
        swaps = random_swaps(len(texts), permutations, seed)
        p[many] = (1 + _reached(outcomes, metrics, [pairs[n] for n in many], texts, swaps)) / (1 + permutations)
    for number, texts in few.items():
        pair = outcomes.between(*pairs[number])
        p[number] = _reached(pair, metrics, [(0, 1)], texts, _every_swap(len(texts)))[0] / 2 ** len(texts)
    return pairs, p


def refine_p_values(
    outcomes: Outcomes,
    metric: Metric,
    pairs: Sequence[tuple[int, int]],
    p: np.ndarray,
    permutations: int = 10_000,
    seed: int = 0,
) -> np.ndarray:
    """Returns the p [P] of pairs of groups that are adjusted together, the small ones by more permutations.

    p: as `permutation` returns it for the metric. With R permutations none is below 1 / (1 + R), and the least of P
    pairs, adjusted, not below P / (1 + R): where that is above half of `ALPHA`, those below `RARE` are of 2 P / ALPHA
    permutations, up to `MOST`.
    """
    wanted, small = min(ceil(2 * len(pairs) / ALPHA), MOST), np.flatnonzero(p < RARE)
    if wanted <= permutations or not len(small):
        return p
    result = p.copy()
    result[small] = permutation(outcomes, [metric], wanted, seed, [pairs[n] for n in small.tolist()])[1][:, 0]
    return result


def random_swaps(texts: int, permutations: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yields which of T texts are swapped, float32 [T, r] of 0 and 1, some permutations at a time."""
    rng = np.random.default_rng(seed)
    for size in _sizes(permutations, texts):
        yield rng.integers(2, size=(texts, size), dtype=np.uint8).astype(np.float32)


def holm(p: np.ndarray) -> np.ndarray:
    """Returns p-values [P] adjusted for that many comparisons (Holm 1979): the step-down Bonferroni correction."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(order), 0, -1)))
    return adjusted


def _paired(one: Iterable[Any], other: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Returns both as equally long lists, each item of one as often as each other: repeated to the common multiple."""
    one, other = list(one), list(other)
    length = lcm(len(one), len(other))
    return one * (length // len(one)), other * (length // len(other))


def _differing(one: Sequence[sparse.csr_matrix], other: Sequence[sparse.csr_matrix]) -> np.ndarray:
    """Returns the texts, int [T] in ascending order, that a run of `one` decided otherwise than that of `other`."""
    rows = [(a != b).nonzero()[0] for a, b in zip(one, other, strict=True)]
    return np.unique(np.concatenate([np.empty(0, np.int64), *rows]))


def _reached(
    outcomes: Outcomes,
    metrics: Sequence[Metric],
    pairs: Sequence[tuple[int, int]],
    texts: np.ndarray,
    swaps: Iterable[np.ndarray],
) -> np.ndarray:
    """Returns in how many of the swaps [T, r] of these texts a difference is as large as without any, int64 [P, M]."""
    totals = outcomes.counts(np.ones((outcomes.truth.shape[0], 1), np.float32))
    runs = [_paired(outcomes.runs[a], outcomes.runs[b]) for a, b in pairs]
    still = (np.zeros_like(totals[0]), np.zeros_like(totals[1]))
    sizes = [np.abs(_difference(metrics, totals, still, a, b)) for a, b in runs]
    reached = np.zeros((len(pairs), len(metrics)), np.int64)
    moving = outcomes.of_texts(texts)
    for part in swaps:
        true_positives, predicted, _ = moving.counts(part)
        for number, (a, b) in enumerate(runs):
            differences = np.abs(_difference(metrics, totals, (true_positives, predicted), a, b))
            reached[number] += (differences >= sizes[number] - _TINY).sum(axis=-1)
    return reached


def _difference(
    metrics: Sequence[Metric],
    totals: tuple[np.ndarray, np.ndarray, np.ndarray],
    swapped: tuple[np.ndarray, np.ndarray],
    one: list[int],
    other: list[int],
) -> np.ndarray:
    """Returns the difference of scores [M, R], mean over pairs of runs, after some texts changed places.

    totals: hits [K, C, 1], predicted [K, C, 1] and support [C, 1] of all texts; swapped: hits [K, C, R] and predicted
    [K, C, R] of those that changed places.
    """
    true_positives, predicted = (each[other] - each[one] for each in swapped)
    gained = score(metrics, totals[0][one] + true_positives, totals[1][one] + predicted, totals[2])
    lost = score(metrics, totals[0][other] - true_positives, totals[1][other] - predicted, totals[2])
    return (gained - lost).mean(axis=0)


def _every_swap(texts: int) -> Iterator[np.ndarray]:
    """Yields all 2^T ways to swap T texts, float32 [T, r] of 0 and 1."""
    for start in range(0, 2**texts, _CHUNK):
        numbers = np.arange(start, min(start + _CHUNK, 2**texts))
        yield (numbers >> np.arange(texts)[:, None] & 1).astype(np.float32)


def _drawn(rng: np.random.Generator, among: int, draws: int, size: int) -> np.ndarray:
    """Returns how often each was drawn, float32 [among, size], in `size` replicates of draws with replacement."""
    cells = rng.integers(among, size=(draws, size)) * size + np.arange(size)
    return np.bincount(cells.ravel(), minlength=among * size).reshape(among, size).astype(np.float32)


def _sizes(replicates: int, texts: int) -> Iterator[int]:
    """Yields how many replicates to compute at a time."""
    step = max(1, min(_CHUNK, _CELLS // max(texts, 1)))
    for start in range(0, replicates, step):
        yield min(step, replicates - start)
