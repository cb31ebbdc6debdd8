"""Compare groups of finished runs on the same test texts.

Scores are recomputed from the predictions in the run folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from counterpoise.analysis import comparison_tables
from counterpoise.analysis.comparison_summary import summarise
from counterpoise.analysis.comparison_warnings import comparison_warnings
from counterpoise.analysis.group_decisions import CountMetric, GroupDecisions, comparison_metrics, observed_scores
from counterpoise.analysis.runs import Run, load_runs
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
        intervals: 95 % confidence interval of the mean over seeds, by metric. For a single run it covers other test
            texts only.
        seconds: Mean duration of a run.
        epochs: Mean number of epochs of a run.
        steps: Mean number of optimizer steps of a run.
        probe: Whether the runs are linear probes, trained on a frozen encoder.
        baseline: Whether this is the linear baseline, a deterministic model without an encoder.
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
    baseline: bool = False


@dataclass(frozen=True)
class Comparison:
    """Groups on the same test texts with C classes or labels, ordered by the mean of `metric`, best first.

    Differences, their p-values and intervals follow `inference`; `p_adjusted`, `low` and `high` are adjusted for the
    comparisons of a family (`significance.adjusted`). `methods` says whether a difference is a claim about methods or,
    for groups of one run, about these trained models only.

    Args:
        task: "single_label" or "multi_label".
        metric: Name of the metric that groups are ranked by.
        metrics: Names of all compared metrics. Those that are not functions of class counts come last: their values are
            those that the runs measured, and they have no intervals and tests.
        labels: Names of the classes.
        counts: Training texts of each class, int [C].
        test_counts: Test texts of each class, int [C].
        bounds: Bounds of the buckets.
        texts: Number of test texts.
        groups: The groups, best first.
        reference: Name of the group that others are compared to.
        pairs: Every pair of groups once, for `metric`: a, b, metric, difference (a - b), low, high, p, p_adjusted,
            methods.
            Pairs with the reference and pairs without it are adjusted as two families.
        effects: Differences to the reference: group, metric, difference, low, high, p, p_adjusted, methods. Those in
            `metric` are one family, those in all other metrics another.
        classes: group, class, train_count, test_count, recall, f1 (means over seeds), recall_difference, low, high.
            The intervals are not adjusted for the number of classes. NaN: scores of classes without test texts,
            differences of the reference, intervals of classes with fewer than `class_recalls.MIN_TEST_TEXTS` test
            texts.
        buckets: group, bucket, classes (those with test texts), recall, f1, difference (of recall), low, high.
        detectable: Smallest difference of a group to the reference in `metric` that would be found with 80 % power, by
            number of seeds per group; NaN where nothing can be said.
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
    detectable: dict[int, float]
    summary: list[str]

    @property
    def probes(self) -> list[bool]:
        """Whether each group is one of linear probes, without the linear baseline, which has no encoder."""
        return [group.probe for group in self.groups if not group.baseline]


def compare_runs(
    runs: Sequence[str | Path],
    metric: str = "macro_f1",
    reference: str | None = None,
) -> Comparison:
    """Compare finished runs.

    Args:
        runs: Sweep folders, run folders and "NAME=FOLDER"; see `runs.load_runs`.
        metric: Metric that groups are ranked by.
        reference: Name of the group to compare to; defaults to "plain" if there is one, else to the best group.

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
    repeated = _drop_repeated_runs(groups)
    ranked = _rank(groups, first, metrics[metric])
    decisions = GroupDecisions(first.truth, [[run.decided for run in groups[name]] for name in ranked])
    chosen_by_score = reference is None and "plain" not in groups
    reference = reference or ("plain" if "plain" in groups else ranked[0])
    measured = comparison_tables.measure(ranked, decisions, metrics, _paired([groups[name] for name in ranked]))
    effects = comparison_tables.effects(measured, metric, reference, chosen_by_score)
    further = [name for name in first.further if name not in metrics and all(name in run.further for run in found)]
    supported_buckets = buckets(first.counts, *first.bounds)[support > 0]
    comparison = Comparison(
        task=task,
        metric=metric,
        metrics=[*metrics, *further],
        labels=first.labels,
        counts=first.counts,
        test_counts=support,
        bounds=first.bounds,
        texts=len(first.ids),
        groups=[_group(name, groups[name], measured, further) for name in ranked],
        reference=reference,
        pairs=comparison_tables.pairs(measured, metric, None if chosen_by_score else reference),
        effects=effects,
        classes=comparison_tables.classes(measured, decisions, first.labels, first.counts, reference),
        buckets=comparison_tables.bucket_recalls(measured, effects, supported_buckets),
        detectable=comparison_tables.detectable(
            measured, metric, reference, _seed_numbers(ranked, groups), chosen_by_score
        ),
        summary=[],
    )
    warnings = [*repeated, *comparison_warnings(groups, first), *warnings]
    return replace(comparison, summary=[*summarise(comparison), *warnings])


def _resolve_metric(metric: str, metrics: Mapping[str, CountMetric], task: registry.Task) -> str:
    """Return the name of the compared metric; a metric that equals another in this task stands for that one."""
    if metric in metrics:
        return metric
    known = registry.find(metric, task)
    if known is not None and known.same_as is not None and known.same_as in metrics:
        return known.same_as
    raise UserError(f"metric {metric} is not compared.{nearest(metric, metrics)} Metrics: {', '.join(metrics)}")


def _drop_repeated_runs(groups: dict[str, list[Run]]) -> list[str]:
    """Drop runs that repeat another run of their group: the same seed and the same decisions. Return warnings."""
    warnings = []
    for name, members in groups.items():
        kept: list[Run] = []
        for run in members:
            if run.seed is None or all(run.seed != other.seed or (run.decided != other.decided).nnz for other in kept):
                kept.append(run)
        if len(kept) < len(members):
            warnings.append(
                f"{len(members) - len(kept)} of {len(members)} runs of {name} repeat another run: same seed, same "
                "decisions. They are counted once."
            )
        groups[name] = kept
    return warnings


def _paired(groups: Sequence[Sequence[Run]]) -> frozenset[tuple[int, int]]:
    """Return the pairs of groups that start from the same checkpoints.

    Runs that differ in their second stage only train the same first stage with the same seed.
    """
    stages = [[(run.first_stage, run.seed) for run in runs] for runs in groups]
    usable = [len(runs) > 1 and len(set(own)) == len(own) for runs, own in zip(groups, stages, strict=True)]
    return frozenset(
        (a, b)
        for a, b in combinations(range(len(groups)), 2)
        if usable[a] and stages[a] == stages[b] and groups[a][0].first_stage
    )


def _seed_numbers(names: Sequence[str], groups: Mapping[str, Sequence[Run]]) -> list[int]:
    """Return the numbers of seeds per group for which the detectable difference is given: the present one, 5 and 10."""
    present = min((len(groups[name]) for name in names if len(groups[name]) > 1), default=0)
    return [present, *(number for number in (5, 10) if number > present)] if present else []


def _rank(groups: Mapping[str, list[Run]], first: Run, metric: CountMetric) -> list[str]:
    """Return the names of the groups, best first."""
    decisions = GroupDecisions(first.truth, [[run.decided for run in members] for members in groups.values()])
    means = [scores.mean() for scores in observed_scores(decisions, [metric])]
    return [name for _, name in sorted(zip(means, groups, strict=True), key=lambda pair: -pair[0])]


def _group(name: str, runs: list[Run], measured: comparison_tables.GroupScores, further: Sequence[str]) -> Group:
    number = measured.names.index(name)
    scores = pd.DataFrame(measured.scores[number], columns=list(measured.metrics))
    return Group(
        name=name,
        folders=[run.folder for run in runs],
        seeds=[run.seed for run in runs],
        scores=scores.assign(**{metric: [run.further[metric] for run in runs] for metric in further}),
        intervals=measured.intervals(number) | dict.fromkeys(further, (np.nan, np.nan)),
        seconds=float(np.mean([run.seconds for run in runs])),
        epochs=float(np.mean([run.epochs for run in runs])),
        steps=float(np.mean([run.steps for run in runs])),
        probe=runs[0].probe,
        baseline=runs[0].baseline,
    )
