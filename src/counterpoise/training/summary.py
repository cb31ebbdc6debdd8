"""Tables that a run prints: correction before training, results after it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from counterpoise.analysis.baseline import describe
from counterpoise.balance import Correction
from counterpoise.metrics import registry
from counterpoise.metrics.buckets import Bounds
from counterpoise.terminal import console, name_cells
from counterpoise.training.verdict import baseline_verdict

MAX_CLASSES = 20
"""Classes of the correction table: the largest and the smallest ones."""
NARROW: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "show_edge": False}
"""Style of the tables: little padding leaves room for long names at 80 columns."""


def show_correction(correction: Correction, strategy: str) -> None:
    """Print count, sampling probability, weights and effective prior of each class, before training.

    Args:
        correction: The correction at full strength.
        strategy: Name of the strategy.
    """
    order = np.argsort(-correction.counts, kind="stable")
    shown: list[int | None] = [int(c) for c in order]
    if len(order) > MAX_CLASSES:
        half = MAX_CLASSES // 2
        shown = [*shown[:half], None, *shown[-half:]]
    weights = correction.class_weights / correction.negative_weights
    columns = {
        "count\nn": [f"{count:,}" for count in correction.counts],
        "sampling\nq": _percentages(correction.sampling_probs, correction),
        "draws/\nexample": [f"{draws:.3g}" for draws in correction.draws_per_example],
        "instance\nweight": [f"{weight:.4g}" for weight in correction.instance_weights],
        "weight\nw": [
            f"{weight:.4g}" + " (cap)" * bool(capped) for weight, capped in zip(weights, correction.capped, strict=True)
        ],
        "positive\nrate": _percentages(correction.effective_positive_rate, correction),
        "prior\ne": _percentages(correction.effective_prior, correction),
    }
    if not correction.multi_label:
        del columns["positive\nrate"]
    if correction.index.weights is None:
        del columns["instance\nweight"]
    table = Table(title=f"strategy: {strategy}", title_justify="left", **NARROW)
    table.add_column("label" if correction.multi_label else "class")
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    cells = name_cells([str(correction.labels[c]) for c in shown if c is not None])
    for c in shown:
        if c is None:
            table.add_row(f"... {len(order) - MAX_CLASSES} more", *["..."] * len(columns), style="dim")
        else:
            table.add_row(cells.pop(0), *[column[c] for column in columns.values()])
    console.print(table)
    caption = _multi_label_caption(correction) if correction.multi_label else _single_label_caption(correction)
    console.print(caption, style="dim", highlight=False)


def show_results(metrics: Mapping[str, Any], bounds: Bounds) -> None:
    """Print the test metrics beside baselines, and the gap between training and validation.

    One is the linear model, if there is one. The other always predicts the majority class; for multi-label data it is a
    threshold of 0.5 for every label.

    Args:
        metrics: Content of metrics.json.
        bounds: Training counts that separate head, medium and tail.
    """
    test, validation, train = metrics["test"], metrics["validation"], metrics["train_sample"]
    if "test_at_half" in metrics:
        task, baseline, heading, noun = "multi_label", metrics["test_at_half"], "at 0.5", "labels"
        explanation = "at 0.5: test with a threshold of 0.5"
    else:
        task, heading, noun = "single_label", "majority", "classes"
        baseline = {"accuracy": test["majority_accuracy"], "macro_f1": test["majority_macro_f1"]}
        baseline["balanced_accuracy"] = 1 / test["supported_classes"]
        explanation = "majority: always the largest class"
    linear = metrics.get("baseline", {}).get("test")
    table = Table(title="results with the best checkpoint", title_justify="left", **NARROW)
    for column in ("", "test", *(["TF-IDF"] if linear else []), heading, "validation", "train", "gap"):
        table.add_column(column, justify="right" if column else "left")
    for metric in registry.select(task, "results"):  # type: ignore[arg-type]
        key = metric.name
        if key in test:
            gap = train[key] - validation[key] if key in train and key in validation else None
            table.add_row(
                metric.title,
                f"[bold]{test[key]:.4f}[/bold]",
                *([_number(linear.get(key))] if linear else []),
                _number(baseline.get(key)),
                _number(validation.get(key)),
                _number(train.get(key)),
                "" if gap is None else f"{gap:+.4f}",
            )
    supported = test[f"supported_{noun}"]
    absent = int(test[noun] - supported)
    caption = (
        f"Macro averages cover the {supported:.0f} {noun} with test examples"
        + (f" ({absent} have none)" if absent else "")
        + f". Head: at least {bounds.head_min} training examples, tail: fewer than {bounds.tail_max}. "
        + ("TF-IDF: test of the linear baseline, " if linear else "")
        + f"{explanation}. Gap: train (a sample) minus validation; a large gap indicates overfitting."
    )
    console.print(table)
    console.print(caption, style="dim", highlight=False)
    if verdict := baseline_verdict(test):
        console.print(verdict, highlight=False)
    if linear:
        console.print(describe(metrics["baseline"]["difference"]), highlight=False)


def show_calibration(metrics: Mapping[str, Any]) -> None:
    """Print the calibration error and, with a cost matrix, the mean costs of the decisions."""
    if calibration := metrics.get("calibration"):
        variant, scores = calibration["variant"], calibration["test"]
        raw, chosen = scores["raw"], scores[variant]
        line = f"calibration of the test probabilities: NLL {raw['nll']:.4f}, ECE {raw['ece']:.4f} uncalibrated"
        if variant != "raw":
            temperature = calibration["temperatures"].get(variant)
            parts = ["prior correction"] if variant.startswith("prior_corrected") else []
            parts += [] if temperature is None else [f"temperature {temperature:.2f}"]
            line += f"; with {' and '.join(parts)}: NLL {chosen['nll']:.4f}, ECE {chosen['ece']:.4f}"
        tested = calibration["cross_validation"]
        how = f"in {tested['folds']}-fold cross-validation on the validation split"
        if variant == "raw" and tested["folds"]:
            line += f". No adjustment lowers the NLL of {tested['nll']['raw']:.4f} {how}"
        elif tested["folds"]:
            before, after = (f"{tested['nll'][name]:.4f}" for name in ("raw", variant))
            line += f". It lowers the NLL from {before} to {after}" if before != after else f". The NLL stays {after}"
            line += f" {how}"
        if risen := risen_scores(raw, chosen):
            line += f". Only the validation NLL decides: {risen}"
        console.print(line, highlight=False)
    if costs := metrics.get("costs"):
        console.print(
            f"mean cost of the most probable class: {costs['most_probable']:.4g}; of the least-cost decision: "
            f"{costs['least_cost']:.4g}",
            highlight=False,
        )


def risen_scores(raw: Mapping[str, float], chosen: Mapping[str, float]) -> str:
    """Return which of NLL and ECE a calibration raises on the test split, as a clause; empty if none.

    Args:
        raw: Scores of the uncalibrated probabilities.
        chosen: Scores of the calibrated probabilities.
    """
    risen = [name.upper() for name in ("nll", "ece") if chosen[name] > raw[name]]
    return f"on the test split the {' and the '.join(risen)} {'rise' if len(risen) > 1 else 'rises'}" if risen else ""


def _percentages(shares: np.ndarray, correction: Correction) -> list[str]:
    # The rarest of hundreds of labels have less than 0.01 % of the texts.
    return [f"{100 * share:.3g}%" if correction.multi_label else f"{share:.2%}" for share in shares]


def _single_label_caption(correction: Correction) -> str:
    weights = correction.class_weights
    return (
        f"weights {weights.min():.3g} to {weights.max():.3g} (ratio {correction.weight_ratio:.4g}, "
        f"{correction.capped.sum()} of {len(correction.labels)} classes capped); effective sample size "
        f"{correction.effective_sample_size:.3f}; {correction.epoch_size:,} examples per epoch"
    )


def _multi_label_caption(correction: Correction) -> str:
    weights = correction.class_weights / correction.negative_weights
    return (
        "sampling q: share of drawn texts with the label; weight w: of a positive over a negative, "
        f"{weights.min():.3g} to {weights.max():.3g} ({correction.capped.sum()} of {len(correction.labels)} labels "
        "capped); positive rate: share of the label's weight on positives; prior e: share of the weight of all "
        f"positives; effective sample size over texts and labels {correction.effective_sample_size:.3f}; "
        f"{correction.epoch_size:,} examples per epoch; {len(correction.index.unlabelled) / correction.num_rows:.1%} "
        "of the training texts have no label"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
