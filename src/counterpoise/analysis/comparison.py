"""Compare groups of finished runs on the same test texts.

Scores are recomputed from the predictions in the run folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from counterpoise.analysis import comparison_tables
from counterpoise.analysis.comparison_summary import summarise
from counterpoise.analysis.group_decisions import CountMetric, GroupDecisions, comparison_metrics, observed_scores
from counterpoise.analysis.runs import Run, data_warnings, load_runs
from counterpoise.errors import UserError, nearest
from counterpoise.metrics import registry
from counterpoise.metrics.buckets import Bounds, buckets


@dataclass(frozen=True)
class Group:
    """Runs of one setting with different seeds.

    Args:
        name: The overrides that distinguish the group from the others, or the name that the user gave.
        folders: Folders of the runs.
        seeds: Seeds of the runs.
        scores: A row for each seed, a column for each metric.
        intervals: 95 % confidence interval of the mean over seeds, by metric.
        seconds: Mean duration of a run.
        epochs: Mean number of epochs of a run.
        steps: Mean number of optimizer steps of a run.
        probe: Whether the runs are linear probes, trained on a frozen encoder.
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
    """Groups on the same test texts with C classes or labels, ordered by the mean of `metric`, best first.

    `low` and `high` are the bounds of the 95 % bootstrap interval over test texts and seeds. `p` is the p-value of the
    permutation test, which takes the trained models as given; `p_adjusted` is Holm-adjusted. A difference is
    significant only if the adjusted p-value and the interval agree (`significance.significant`).

    Args:
        task: "single_label" or "multi_label".
        metric: Name of the metric that groups are ranked by.
        metrics: Names of all compared metrics.
        labels: Names of the classes.
        counts: Training texts of each class, int [C].
        test_counts: Test texts of each class, int [C].
        bounds: Bounds of the buckets.
        texts: Number of test texts.
        groups: The groups, best first.
        reference: Name of the group that others are compared to.
        pairs: Every pair of groups once, for `metric`: a, b, metric, difference (a - b), low, high, p, p_adjusted.
            Pairs with the reference and pairs without it are adjusted as two families.
        effects: Differences to the reference: group, metric, difference, low, high, p, p_adjusted. Adjusted for the
            number of groups, separately for each metric.
        classes: group, class, train_count, test_count, recall, f1 (means over seeds), recall_difference, low, high.
            NaN: scores of classes without test texts, differences of the reference, intervals of classes with fewer
            than
            `comparison_tables.MIN_TEST_TEXTS` test texts.
        buckets: group, bucket, classes (those with test texts), recall, f1, difference (of recall), low, high.
        summary: The results in sentences.
    """

    task: registry.Task
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
    summary: list[str]


def compare_runs(
    runs: Sequence[str | Path],
    metric: str = "macro_f1",
    reference: str | None = None,
    replicates: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare finished runs.

    Args:
        runs: Sweep folders, run folders and "NAME=FOLDER"; see `runs.load_runs`.
        metric: Metric that groups are ranked by.
        reference: Name of the group to compare to; defaults to "plain" if there is one, else to the best group.
        replicates: Bootstrap replicates.
        permutations: Permutations of the permutation test. If there are too many groups for this number, more are
            drawn for small p-values.
        seed: Seed of the bootstrap and of the permutation test.

    Raises:
        UserError: The metric or the reference is unknown, or the runs cannot be compared.
    """
    found, warnings = load_runs(runs)
    groups: dict[str, list[Run]] = {}
    for run in sorted(found, key=lambda run: (run.seed is None, run.seed or 0)):
        groups.setdefault(run.group, []).append(run)
    for name, members in groups.items():
        if len({run.probe for run in members}) > 1:
            raise UserError(f"group {name} mixes linear probes and fine-tuned runs. Name them separately: NAME=FOLDER.")
    first = found[0]
    task: registry.Task = "multi_label" if first.multi_label else "single_label"
    support = np.asarray(first.truth.sum(axis=0)).ravel()
    metrics = comparison_metrics(task, support, first.counts, first.bounds)
    metric = _resolve_metric(metric, metrics, task)
    if reference not in (None, *groups):
        near = nearest(str(reference), groups)
        raise UserError(f"reference {reference} is not a group.{near} Groups: {', '.join(groups)}")
    ranked = _rank(groups, first, metrics[metric])
    decisions = GroupDecisions(first.truth, [[run.decided for run in groups[name]] for name in ranked])
    reference = reference or ("plain" if "plain" in groups else ranked[0])
    measured = comparison_tables.measure(ranked, decisions, metrics, metric, reference, replicates, permutations, seed)
    supported_buckets = buckets(first.counts, *first.bounds)[support > 0]
    comparison = Comparison(
        task=task,
        metric=metric,
        metrics=list(metrics),
        labels=first.labels,
        counts=first.counts,
        test_counts=support,
        bounds=first.bounds,
        texts=len(first.ids),
        groups=[_group(name, groups[name], measured) for name in ranked],
        reference=reference,
        pairs=comparison_tables.pairs(measured, metric, reference),
        effects=comparison_tables.effects(measured, reference),
        classes=comparison_tables.classes(measured, decisions, first.labels, first.counts, reference, replicates, seed),
        buckets=comparison_tables.bucket_recalls(measured, supported_buckets, reference),
        summary=[],
    )
    return replace(comparison, summary=[*summarise(comparison), *data_warnings(groups, first), *warnings])


def _resolve_metric(metric: str, metrics: Mapping[str, CountMetric], task: registry.Task) -> str:
    """Return the name of the compared metric; a metric that equals another in this task stands for that one."""
    if metric in metrics:
        return metric
    known = registry.find(metric, task)
    if known is not None and known.same_as is not None and known.same_as in metrics:
        return known.same_as
    raise UserError(f"metric {metric} is not compared.{nearest(metric, metrics)} Metrics: {', '.join(metrics)}")


def _rank(groups: Mapping[str, list[Run]], first: Run, metric: CountMetric) -> list[str]:
    """Return the names of the groups, best first."""
    decisions = GroupDecisions(first.truth, [[run.decided for run in members] for members in groups.values()])
    means = [scores.mean() for scores in observed_scores(decisions, [metric])]
    return [name for _, name in sorted(zip(means, groups, strict=True), key=lambda pair: -pair[0])]


def _group(name: str, runs: list[Run], measured: comparison_tables.GroupScores) -> Group:
    number = measured.names.index(name)
    return Group(
        name=name,
        folders=[run.folder for run in runs],
        seeds=[run.seed for run in runs],
        scores=pd.DataFrame(measured.scores[number], columns=measured.metrics),
        intervals=measured.intervals(number),
        seconds=float(np.mean([run.seconds for run in runs])),
        epochs=float(np.mean([run.epochs for run in runs])),
        steps=float(np.mean([run.steps for run in runs])),
        probe=runs[0].probe,
    )
