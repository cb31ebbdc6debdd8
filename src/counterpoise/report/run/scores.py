"""First panel of a run's report: metrics with confidence intervals, a baseline, and the settings of the run."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from counterpoise.analysis.baseline import describe
from counterpoise.analysis.comparison_tables import measure
from counterpoise.analysis.group_decisions import GroupDecisions, comparison_metrics
from counterpoise.metrics.registry import select
from counterpoise.report.html_page import Panel, format_factor, render
from counterpoise.training.results import RunResults, one_hot
from counterpoise.training.verdict import baseline_verdict


class Estimate(NamedTuple):
    """A score, its 95 % confidence interval, and the score of the baseline. Unknown numbers are NaN."""

    value: float
    low: float = np.nan
    high: float = np.nan
    baseline: float = np.nan


def scores_panel(results: RunResults) -> Panel:
    """Return the panel of the scores."""
    classes = len(results.labels)
    if results.baseline is not None:
        baseline, description = (
            results.baseline_predicted,
            "a linear model on TF-IDF features of the same training texts",
        )
    elif results.multi_label:
        baseline, description = csr_matrix(results.test_logits > 0), "a threshold of 0.5 for every label"
    else:
        largest = int(results.counts.argmax())
        baseline = one_hot(np.full(len(results.ids), largest), classes)
        description = f"always predicting the largest class, “{results.labels[largest]}”"
    known = estimates(results, baseline)
    scores = results.metrics["test"]
    shown = select("multi_label" if results.multi_label else "single_label", "headline")
    # Metrics that are not functions of class counts have no interval.
    tiles = [(each.title, known.get(each.name, Estimate(scores[each.name]))) for each in shown if each.name in scores]
    supported = int((results.table.test_count > 0).sum())
    verdicts = [baseline_verdict(scores)]
    if results.baseline is not None:
        verdicts.append(describe(results.metrics["baseline"]["difference"]))
    note = "".join(f"{verdict} " for verdict in verdicts if verdict) + (
        f"Scores on {len(results.ids):,} test texts. The band is the 95 % confidence interval over test texts "
        "(jackknife); it does not include the variation between seeds. The thin tick is the baseline: "
        f"{description}. Macro averages cover the {supported:,} of {classes:,} {results.nouns} with test texts."
    )
    body = render("run/scores.html", tiles=tiles, about=_settings(results), probe=results.probe)
    return Panel("scores", "Scores", note, body)


def estimates(results: RunResults, baseline: csr_matrix) -> dict[str, Estimate]:
    """Return the estimates of all metrics that are functions of class counts, by name.

    Args:
        results: Results of the run.
        baseline: Predictions of the baseline, bool [N, C].
    """
    metrics = comparison_metrics(
        results.correction.task, results.table.test_count.to_numpy(), results.counts, results.bounds
    )
    decisions = GroupDecisions(results.truth, [[results.predicted], [baseline]])
    measured = measure(["run", "baseline"], decisions, metrics)
    intervals, values = measured.intervals(0), measured.scores
    return {
        name: Estimate(float(value), *intervals[name], float(other))
        for name, value, other in zip(metrics, values[0][0], values[1][0], strict=True)
    }


def _settings(results: RunResults) -> list[tuple[str, str]]:
    """Return terms and descriptions of the data, the encoder, the strategy and the training."""
    run = results.metrics
    path = results.setting("data", "path") or results.setting("data", "train")
    path = path or str(results.setting("data", "_target_") or "").rsplit(".", 1)[-1]
    sizes = ", ".join(f"{part['examples']:,} {split}" for split, part in run.get("data", {}).items())

    encoder = str(results.setting("encoder", "name") or results.setting("encoder", "path") or "")
    freeze = results.setting("encoder", "freeze")
    frozen = "all layers" if results.probe else "" if freeze in (None, "none") else str(freeze)

    numbers = run.get("strategy", {})
    strategy = results.strategy
    if numbers.get("weight_ratio", 1) > 1:
        strategy += f"; weight ratio {format_factor(numbers['weight_ratio'])} : 1"
    if "effective_sample_size" in numbers:
        strategy += f"; effective sample size {numbers['effective_sample_size']:.0%}"

    epochs, steps = run.get("epochs", 0), run.get("steps", 0)
    training = f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}, {steps:,} {'step' if steps == 1 else 'steps'}"
    if results.seconds:
        training += f", {_duration(results.seconds)}"
    return [
        ("data", f"{str(path).rsplit('/', 1)[-1]}: {sizes}; {len(results.labels):,} {results.nouns}"),
        ("encoder", f"{encoder}, up to {results.max_length} tokens" + (f"; frozen: {frozen}" if frozen else "")),
        ("strategy", strategy),
        ("training", f"{training}; seed {results.config.get('seed', '?')}"),
    ]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
