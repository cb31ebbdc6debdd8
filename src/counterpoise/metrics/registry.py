"""The registry of metrics: the only place that lists what is measured and where it is shown.

Add a metric with one function. In a clone, decorate it in `metrics/single_label.py`, `metrics/multi_label.py` or
`metrics/averages.py`; in a fork, decorate it in any module and list its dotted path in the config key `metrics`::

    from counterpoise.metrics.registry import EvaluatedSplit, metric

    @metric(title="error rate", task="single_label", higher_is_better=False)
    def error_rate(split: EvaluatedSplit) -> float:
        return 1 - split.counts.true_positives.sum() / split.counts.support.sum()

    # conf/train.yaml
    metrics: [mytask.metrics.error_rate]

The metric is then logged as `val/error_rate` and `test/error_rate`, can be monitored (`monitor=val/error_rate`), and
appears in metrics.json, the results table, the leaderboard, the report and the comparison of runs.

A place that shows metrics asks for its view, in the order of display::

    for metric in select("single_label", "results"):
        print(metric.title, scores.get(metric.name))
"""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

import numpy as np

from counterpoise.errors import UserError
from counterpoise.metrics.buckets import Bounds, buckets
from counterpoise.metrics.split import EvaluatedSplit

Task = Literal["single_label", "multi_label"]
View = Literal["results", "leaderboard", "headline", "comparison"]
Function = Callable[[EvaluatedSplit], float | None]
F = TypeVar("F", bound=Function)

TASKS: tuple[Task, ...] = get_args(Task)
VIEWS: tuple[View, ...] = get_args(View)
LAST = 1000.0
"""Default position in every view: after the built-in metrics."""


@dataclass(frozen=True)
class CountAverage:
    """A metric that is an average over classes of a function of class counts, so that it can be resampled quickly.

    Args:
        measure: The function of one class's counts.
        average: "macro" is the mean over classes with test examples (of the metric's bucket, if it has one); "micro"
            adds up the counts of all classes first.
    """

    measure: Literal["f1", "recall"]
    average: Literal["macro", "micro"]


@dataclass(frozen=True)
class Metric:
    """One metric of one task.

    Args:
        name: Key in metrics.json and, after `val/` or `test/`, in the logs.
        title: Name for people, such as "macro F1".
        task: "single_label" or "multi_label".
        function: Computes the value; None leaves the metric out.
        needs: "counts" if the function reads `split.counts`, `train_counts` and `loss` only; "logits" if it reads
            `split.logits`, `targets` or `decided`. Single-label validation stores logits only if a metric needs them.
        higher_is_better: Whether the best run has the highest value.
        bucket: "head", "medium" or "tail" if the metric exists only for splits with examples of that bucket.
        min_classes: Number of classes from which on the metric exists.
        same_as: Name of the metric that always has the same value in this task.
        resampling: How to compute the metric from resampled class counts; None if it cannot be resampled.
        positions: Position in each view that shows the metric; lower positions come first.
    """

    name: str
    title: str
    task: Task
    function: Function
    needs: Literal["counts", "logits"] = "counts"
    higher_is_better: bool = True
    bucket: str | None = None
    min_classes: int = 1
    same_as: str | None = None
    resampling: CountAverage | None = None
    positions: dict[View, float] = field(default_factory=dict)

    def exists(self, support: np.ndarray, train_counts: np.ndarray, bounds: Bounds) -> bool:
        """Return whether the metric exists for a split.

        Args:
            support: Evaluated examples of each class, int [C].
            train_counts: Training examples of each class, int [C].
            bounds: Bounds of the buckets.
        """
        if len(train_counts) < self.min_classes:
            return False
        return self.bucket is None or bool((buckets(train_counts, *bounds)[support > 0] == self.bucket).any())


_metrics: dict[tuple[str, str], Metric] = {}


def metric(
    title: str | None = None,
    *,
    name: str | None = None,
    task: Task | Literal["both"] = "both",
    needs: Literal["counts", "logits"] = "counts",
    higher_is_better: bool = True,
    bucket: str | None = None,
    min_classes: int = 1,
    same_as: str | None = None,
    resampling: CountAverage | None = None,
    shown: Mapping[View, float] | None = None,
) -> Callable[[F], F]:
    """Register a function as a metric.

    Args:
        title: Defaults to the name with spaces.
        name: Defaults to the name of the function.
        task: "both" registers the function for both tasks.
        needs: See `Metric`.
        higher_is_better: See `Metric`.
        bucket: See `Metric`.
        min_classes: See `Metric`.
        same_as: See `Metric`.
        resampling: See `Metric`.
        shown: Position in each view that shows the metric: "results" (table in the terminal), "leaderboard" (of a
            sweep), "headline" (of the report), "comparison" (of runs). Lower positions come first. Defaults to the
            end of every view; {} shows the metric in none.

    Returns:
        A decorator that returns the function unchanged. A later metric replaces an earlier one of the same name.
    """
    positions = dict.fromkeys(VIEWS, LAST) if shown is None else dict(shown)

    def register(function: F) -> F:
        key = name or function.__name__
        for each in TASKS if task == "both" else (task,):
            _metrics[key, each] = Metric(
                key,
                title or _words(key),
                each,
                function,
                needs,
                higher_is_better,
                bucket,
                min_classes,
                same_as,
                resampling,
                positions,
            )
        return function

    return register


def load(paths: Iterable[str]) -> None:
    """Register the metrics of a fork.

    Args:
        paths: Dotted paths of functions, as in the config key `metrics`. A function without the decorator `metric` is
            registered for both tasks and given logits.

    Raises:
        UserError: A path cannot be imported or is not a function.
    """
    for path in paths:
        module, _, name = str(path).rpartition(".")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(
                f"metrics: cannot import {path} ({error}). Use the dotted path of a function: PACKAGE.MODULE.FUNCTION."
            ) from error
        if not callable(function):
            raise UserError(f"metrics: {path} is not a function. Use PACKAGE.MODULE.FUNCTION.")
        if not any(each.function is function for each in _metrics.values()):
            metric(needs="logits")(function)


def select(task: Task, view: View | None = None) -> list[Metric]:
    """Return the metrics of a task.

    Args:
        task: "single_label" or "multi_label".
        view: Only the metrics that this view shows, in its order; None returns all in order of registration.
    """
    found = [each for each in _metrics.values() if each.task == task]
    if view is None:
        return found
    return sorted((each for each in found if view in each.positions), key=lambda each: each.positions[view])


def columns(view: View) -> list[Metric]:
    """Return the metrics that a view shows for either task, each name once, in the order of display."""
    shown = sorted((each for task in TASKS for each in select(task, view)), key=lambda each: each.positions[view])
    return list({each.name: each for each in reversed(shown)}.values())[::-1]


def find(name: str, task: Task) -> Metric | None:
    """Return the metric of this name, None if the task has none."""
    return _metrics.get((name, task))


def title(name: str) -> str:
    """Return the title of a metric; for a name that is not registered, the name with spaces."""
    known = next((each for task in TASKS if (each := find(name, task))), None)
    return known.title if known else _words(name)


def evaluate(split: EvaluatedSplit, metrics: Sequence[Metric] | None = None) -> dict[str, float]:
    """Compute metrics of one split.

    Args:
        split: Counts and, for metrics that need them, logits.
        metrics: Metrics to compute; defaults to all of the split's task.

    Returns:
        The values by name. Metrics that do not exist for the split, or that need logits where it has none, are absent.

    Raises:
        ValueError: The split holds no example.
    """
    if not split.num_examples:
        raise ValueError("the split holds no example: there is nothing to score")
    values: dict[str, float] = {}
    for each in select(split.task) if metrics is None else metrics:
        if each.needs == "logits" and split.logits is None:
            continue
        if each.exists(split.counts.support, split.train_counts, split.bounds):
            value = each.function(split)
            if value is not None:
                values[each.name] = float(value)
    return values


def _words(name: str) -> str:
    return name.replace("_", " ").replace("f1", "F1")
