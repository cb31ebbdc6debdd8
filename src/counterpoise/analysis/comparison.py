"""Compares finished runs on the same test texts: groups of seeds, intervals, what is more than chance, and in words.

Scores are recomputed from the predictions that the run folders hold.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from counterpoise.analysis import leaderboard, significance
from counterpoise.analysis.runs import Run, data_warnings, gather
from counterpoise.analysis.significance import ALPHA, Metric, Outcomes
from counterpoise.errors import UserError, nearest
from counterpoise.metrics.buckets import Bounds, buckets
from counterpoise.metrics.class_counts import precision_recall_f1

FEWEST = 5
"""Test texts of a class whose recall gets an interval: fewer are too often all alike to say how far it may stray."""
SPOKEN = 5
"""Groups of which the words say what they gain and cost: of more one would read a table."""
BUCKETS = ("head", "medium", "tail")
_DIFFERENCE = ("difference", "low", "high", "p")


@dataclass(frozen=True)
class Group:
    """Runs of one setting that differ in their seed.

    name: what distinguishes its overrides from those of the other groups, or what the user called it. scores: a row for
    each seed, a column for each metric. intervals: 95 % of the mean over seeds, by metric. seconds, epochs, steps: of a
    run, on average. probe: the encoder stayed frozen.
    """

    name: str
    folders: list[Path]
    seeds: list[int | None]
    scores: pd.DataFrame
    intervals: dict[str, tuple[float, float]]
    seconds: float
    epochs: float
    steps: float
    probe: bool


@dataclass(frozen=True)
class Comparison:
    """Groups on the same test texts with C classes or labels, the best first by the mean of `metric`.

    task: "single_label" or "multi_label". metrics: names of all that were compared. labels, counts, test_counts: each
    class's name, training texts and test texts. reference: the group that others are measured against.

    - pairs: every two groups once, by `metric`: a, b, metric, difference (a - b), low, high, p, p_holm. The pairs with
      the reference are one family of comparisons, as in `effects`, and all others another: each is adjusted for itself.
    - effects: against the reference: group, metric, difference, low, high, p, p_holm, which is adjusted for the number
      of groups, each metric for itself.
    - classes: group, class, train_count, test_count, recall, f1 (means over seeds), recall_difference, low, high. NaN
      are the scores of a class without test texts, the differences of the reference, and intervals of classes with
      fewer than 5 test texts.
    - buckets: group, bucket, classes (those with test texts), recall, f1, difference (of recall), low, high.
    - words: sentences: what wins, what cannot be told apart from it, what each group gains and costs.

    low and high bound 95 % of the bootstrap over test texts and seeds. p is of the permutation test, which takes the
    trained models as given; the bootstrap adds what training varies, as far as there are several seeds: one seed says
    nothing about that. Two groups are told apart only where both say so (`told_apart`).
    """

    task: str
    metric: str
    metrics: list[str]
    labels: list[str]
    counts: np.ndarray
    test_counts: np.ndarray
    bounds: Bounds
    texts: int
    groups: list[Group]
    reference: str
    pairs: pd.DataFrame
    effects: pd.DataFrame
    classes: pd.DataFrame
    buckets: pd.DataFrame
    words: list[str]


def collect(
    runs: Sequence[str | Path],
    metric: str = "macro_f1",
    reference: str | None = None,
    replicates: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Returns the comparison of finished runs: sweep folders, run folders, and "NAME=RUN" (see `runs.gather`).

    metric: what groups are ranked by. reference: the name of a group; "plain" where there is one, otherwise the best.
    replicates, permutations, seed: of the bootstrap and of the permutation test, which draws more where groups are so
    many that it could tell no two of them apart. Raises UserError for an unknown metric or reference, and what `gather`
    raises.
    """
    found, notes = gather(runs)
    groups: dict[str, list[Run]] = {}
    for run in sorted(found, key=lambda run: (run.seed is None, run.seed or 0)):
        groups.setdefault(run.group, []).append(run)
    for name, members in groups.items():
        if len({run.probe for run in members}) > 1:
            raise UserError(f"{name} is the name of a probe and of a run that is none: give them names of their own")
    first = found[0]
    support = np.asarray(first.truth.sum(axis=0)).ravel()
    bucket = buckets(first.counts, *first.bounds)
    metrics = significance.count_metrics(first.multi_label, bucket, support)
    metric = metric if metric in metrics or first.multi_label else leaderboard.TWINS.get(metric, metric)
    if metric not in metrics:
        raise UserError(f"metric {metric} is not compared.{nearest(metric, metrics)} There are {', '.join(metrics)}")
    if reference not in (None, *groups):
        near = nearest(str(reference), groups)
        raise UserError(f"reference {reference}: there is no such group.{near} There are {', '.join(groups)}")
    scores, number = list(metrics.values()), list(metrics).index(metric)
    ranked = _ranked(groups, first, scores, number)
    outcomes = Outcomes(first.truth, [[run.decided for run in groups[name]] for name in ranked])
    reference = reference or ("plain" if "plain" in groups else ranked[0])
    p = _p_values(outcomes, scores, number, ranked.index(reference), permutations, seed)
    measured = _measured(ranked, outcomes, metrics, p, replicates, seed)
    comparison = Comparison(
        task="multi_label" if first.multi_label else "single_label",
        metric=metric,
        metrics=list(metrics),
        labels=first.labels,
        counts=first.counts,
        test_counts=support,
        bounds=first.bounds,
        texts=len(first.ids),
        groups=[_group(name, groups[name], measured) for name in ranked],
        reference=reference,
        pairs=_pairs(measured, metric, reference),
        effects=_effects(measured, reference),
        classes=_classes(measured, outcomes, first, reference, replicates, seed),
        buckets=_buckets(measured, bucket[support > 0], reference),
        words=[],
    )
    return replace(comparison, words=[*_words(comparison), *data_warnings(groups, first), *notes])


def significant(differences: pd.DataFrame) -> np.ndarray:
    """Returns which rows of `pairs` or `effects` are more than chance, bool [rows].

    The adjusted p is below 0.05 and the interval of the difference does not hold 0: what other decisions on these texts
    and what other texts and other seeds could bring about.
    """
    beyond = (differences["low"] > 0) | (differences["high"] < 0)
    return ((differences["p_holm"] < ALPHA) & beyond).to_numpy(bool)


def metric_name(metric: str) -> str:
    """Returns the name of a metric as one reads it: "macro F1" for "macro_f1"."""
    return metric.replace("_", " ").replace("f1", "F1")


@dataclass(frozen=True)
class _Measured:
    """Scores of G groups, the best first. scores: [S, M] each; means: [G, M]; replicates: [G, M, R]; p: [G, G, M]."""

    names: list[str]
    metrics: list[str]
    scores: list[np.ndarray]
    means: np.ndarray
    replicates: np.ndarray
    p: np.ndarray

    def difference(self, a: int, b: int, metric: str) -> dict[str, float]:
        """Returns the difference of groups a and b, its interval and its p."""
        m = self.metrics.index(metric)
        low, high = significance.interval(self.replicates[a, m] - self.replicates[b, m])
        difference = self.means[a, m] - self.means[b, m]
        return {"difference": difference, "low": float(low), "high": float(high), "p": self.p[a, b, m]}


def _ranked(groups: Mapping[str, list[Run]], first: Run, metrics: list[Metric], metric: int) -> list[str]:
    """Returns the names of the groups, the best first."""
    outcomes = Outcomes(first.truth, [[run.decided for run in members] for members in groups.values()])
    means = [scores[:, metric].mean() for scores in significance.observed(outcomes, metrics)]
    return [name for _, name in sorted(zip(means, groups, strict=True), key=lambda each: -each[0])]


def _measured(
    names: list[str], outcomes: Outcomes, metrics: Mapping[str, Metric], p: np.ndarray, replicates: int, seed: int
) -> _Measured:
    compared = list(metrics.values())
    scores = significance.observed(outcomes, compared)
    means = np.array([each.mean(axis=0) for each in scores])
    return _Measured(
        names, list(metrics), scores, means, significance.bootstrap(outcomes, compared, replicates, seed), p
    )


def _p_values(
    outcomes: Outcomes, metrics: list[Metric], metric: int, reference: int, permutations: int, seed: int
) -> np.ndarray:
    """Returns p of the differences of groups, [G, G, M], by `metric` fine enough for as many pairs as there are."""
    pairs, values = significance.permutation(outcomes, metrics, permutations, seed)
    # Pairs without the reference are adjusted together, and grow with the square of the groups.
    others = [number for number, pair in enumerate(pairs) if reference not in pair]
    among, known = [pairs[number] for number in others], values[others, metric]
    values[others, metric] = significance.refine_p_values(outcomes, metrics[metric], among, known, permutations, seed)
    p = np.ones((len(outcomes.runs), len(outcomes.runs), len(metrics)))
    for (a, b), row in zip(pairs, values, strict=True):
        p[a, b] = p[b, a] = row
    return p


def _group(name: str, runs: list[Run], measured: _Measured) -> Group:
    number = measured.names.index(name)
    low, high = significance.interval(measured.replicates[number])
    bounds = zip(low.tolist(), high.tolist(), strict=True)
    return Group(
        name=name,
        folders=[run.folder for run in runs],
        seeds=[run.seed for run in runs],
        scores=pd.DataFrame(measured.scores[number], columns=measured.metrics),
        intervals=dict(zip(measured.metrics, bounds, strict=True)),
        seconds=float(np.mean([run.seconds for run in runs])),
        epochs=float(np.mean([run.epochs for run in runs])),
        steps=float(np.mean([run.steps for run in runs])),
        probe=runs[0].probe,
    )


def _pairs(measured: _Measured, metric: str, reference: str) -> pd.DataFrame:
    rows = [
        {"a": measured.names[a], "b": measured.names[b], "metric": metric, **measured.difference(a, b, metric)}
        for a, b in combinations(range(len(measured.names)), 2)
    ]
    table = pd.DataFrame(rows, columns=["a", "b", "metric", *_DIFFERENCE])
    planned = (table["a"] == reference) | (table["b"] == reference)
    adjusted = table.groupby(planned)["p"].transform(lambda p: significance.holm(p.to_numpy(float)))
    return table.assign(p_holm=adjusted.astype(float))


def _effects(measured: _Measured, reference: str) -> pd.DataFrame:
    base = measured.names.index(reference)
    rows = [
        {"group": name, "metric": metric, **measured.difference(number, base, metric)}
        for number, name in enumerate(measured.names)
        for metric in measured.metrics
        if number != base
    ]
    table = pd.DataFrame(rows, columns=["group", "metric", *_DIFFERENCE])
    adjusted = table.groupby("metric")["p"].transform(lambda p: significance.holm(p.to_numpy(float)))
    return table.assign(p_holm=adjusted.astype(float))


def _classes(
    measured: _Measured, outcomes: Outcomes, first: Run, reference: str, replicates: int, seed: int
) -> pd.DataFrame:
    base = measured.names.index(reference)
    true_positives, predicted, support = (each[..., 0] for each in outcomes.counts(np.ones((len(first.ids), 1))))
    low, high = significance.recall_intervals(outcomes, base, replicates, seed)
    low[:, support < FEWEST] = high[:, support < FEWEST] = np.nan
    low[base] = high[base] = np.nan
    scores = [precision_recall_f1(true_positives[runs], support, predicted[runs])[1:] for runs in outcomes.runs]
    recalls, f1s = (np.array([score[kind].mean(axis=0) for score in scores]) for kind in (0, 1))
    known = {"class": first.labels, "train_count": first.counts, "test_count": support.astype(np.int64)}
    difference = recalls - recalls[base]
    difference[base] = np.nan
    parts = [
        pd.DataFrame(known | {"recall": recall, "f1": f1, "recall_difference": change, "low": least, "high": most})
        for recall, f1, change, least, most in zip(recalls, f1s, difference, low, high, strict=True)
    ]
    return pd.concat(parts, keys=measured.names, names=["group"]).reset_index("group").reset_index(drop=True)


def _buckets(measured: _Measured, held: np.ndarray, reference: str) -> pd.DataFrame:
    """Returns the scores by bucket; held: the bucket of each class that has test texts."""
    base = measured.names.index(reference)
    rows = []
    for number, name in enumerate(measured.names):
        for bucket in (each for each in BUCKETS if (held == each).any()):
            recall, f1 = (
                measured.means[number, measured.metrics.index(f"{bucket}_{kind}")] for kind in ("recall", "f1")
            )
            change = measured.difference(number, base, f"{bucket}_recall") if number != base else {}
            row = {"group": name, "bucket": bucket, "classes": int((held == bucket).sum()), "recall": recall, "f1": f1}
            rows.append(row | {key: change.get(key, np.nan) for key in ("difference", "low", "high")})
    return pd.DataFrame(rows)


def _words(comparison: Comparison) -> list[str]:
    """Returns who is best, what each group gains and costs, what a run takes, and what the groups cannot tell."""
    words = [_ranking(comparison), *_gains(comparison)]
    if len(comparison.groups) > 1 and all(np.isfinite(group.seconds) for group in comparison.groups):
        words.append(_cost(comparison))
    others = comb(len(comparison.groups) - 1, 2)
    if others > ALPHA * significance.MOST:
        words.append(
            f"Of {len(comparison.groups)} groups there are {others:,} pairs without {comparison.reference}: too many "
            "for the permutation test to tell the groups of any apart, however much they differ."
        )
    single = [group.name for group in comparison.groups if len(group.seeds) == 1]
    if len(single) == len(comparison.groups) > 1:
        words.append("Each group has one seed: the intervals do not say what another training would give.")
    elif single:
        have, their = ("has", "Its interval does") if len(single) == 1 else ("have", "Their intervals do")
        words.append(f"{_listed(single)} {have} one seed. {their} not say what another training would give.")
    probes = [group.name for group in comparison.groups if group.probe]
    if len(probes) == len(comparison.groups):
        words.append("All runs are probes: the encoder stayed frozen, and fine-tuning may rank them otherwise.")
    elif probes:
        words.append(f"Probes, whose encoder stayed frozen: {_listed(probes)}. The others were fine-tuned.")
    return words


def _ranking(comparison: Comparison) -> str:
    best, *others = comparison.groups
    metric, (low, high) = metric_name(comparison.metric), best.intervals[comparison.metric]
    mean, seeds = best.scores[comparison.metric].mean(), f"{len(best.seeds)} seed{'s' * (len(best.seeds) > 1)}"
    sentence = f"{best.name} ({mean:.3f}, 95 % interval {low:.3f} to {high:.3f}, {seeds})"
    if not others:
        return f"{metric} of {sentence}."
    against = comparison.pairs[comparison.pairs["a"] == best.name]
    apart = dict(zip(against["b"], significant(against), strict=True))
    level, worse = ([group.name for group in others if apart[group.name] == told] for told in (False, True))
    sentence = f"Best by {metric}: {sentence}"
    if level:
        sentence += f"; not distinguishable from it: {', '.join(level)}"
    if worse:
        sentence += f"; worse: {', '.join(worse)}"
    return f"{sentence}."


def _gains(comparison: Comparison) -> list[str]:
    """Returns a sentence for each of the best groups on what it gains and costs against the reference, one for those
    that change nothing.
    """
    measure = "f1" if comparison.task == "multi_label" else "recall"
    micro = "micro_f1" if comparison.task == "multi_label" else "accuracy"
    spoken = [comparison.metric, *(f"{bucket}_{measure}" for bucket in reversed(BUCKETS)), micro]
    spoken = [metric for metric in dict.fromkeys(spoken) if metric in comparison.metrics]
    apart: dict[str, dict[str, dict[str, Any]]] = {group.name: {} for group in comparison.groups}
    for row in comparison.effects[significant(comparison.effects)].to_dict("records"):
        apart[row["group"]][row["metric"]] = {str(key): value for key, value in row.items()}
    del apart[comparison.reference]
    head = f"head_{measure}"
    words: list[str] = []
    for name, effects in apart.items():
        changed = [effects[metric] for metric in spoken if metric in effects]
        gains, losses = ([row for row in changed if (row["difference"] > 0) == up] for up in (True, False))
        parts = [f"gains {_listed(map(_amount, gains))}"] if gains else []
        parts += [f"costs {_listed(map(_amount, losses))}"] if losses else []
        if gains and head in spoken and head not in effects:
            parts.append(f"costs {metric_name(head)} nothing that can be told from chance")
        if parts and len(words) < SPOKEN:
            words.append(f"Against {comparison.reference}, {name} {_listed(parts)}.")
    unchanged = [name for name, effects in apart.items() if not effects.keys() & set(spoken)]
    if unchanged:
        verb, what = "changes" if len(unchanged) == 1 else "change", _listed(map(metric_name, spoken), "or")
        chance = f"nothing that {_listed(unchanged)} {verb} in {what} can be told from chance"
        words.append(f"Against {comparison.reference}, {chance}.")
    return words


def _amount(effect: Mapping[str, Any]) -> str:
    low, high = sorted((abs(effect["low"]), abs(effect["high"])))
    return f"{abs(effect['difference']):.3f} of {metric_name(effect['metric'])} [{low:.3f}, {high:.3f}]"


def _cost(comparison: Comparison) -> str:
    if len(comparison.groups) > SPOKEN + 1:
        quickest, *_, slowest = sorted(comparison.groups, key=lambda group: group.seconds)
        digits = 0 if quickest.seconds >= 10 else 1
        least, most = (f"{group.seconds:,.{digits}f}" for group in (quickest, slowest))
        return f"A run took from {least} seconds ({quickest.name}) to {most} ({slowest.name})."
    base = next(group for group in comparison.groups if group.name == comparison.reference)
    parts = [f"{base.name} {base.seconds:,.0f} seconds for {base.steps:,.0f} steps"]
    for group in comparison.groups:
        if group is not base:
            ratio = f"{group.seconds / max(base.seconds, 1e-9):.1f}"
            times = "as long" if ratio == "1.0" else f"{ratio} times as long"
            parts.append(f"{group.name} {group.seconds:,.0f} for {group.steps:,.0f} ({times})")
    return f"A run took: {'; '.join(parts)}."


def _listed(names: Iterable[str], conjunction: str = "and") -> str:
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last
