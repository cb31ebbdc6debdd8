"""What a run shows on the terminal."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from counterpoise.balance import Correction
from counterpoise.metrics.buckets import Bounds
from counterpoise.terminal import console

SHOWN_CLASSES = 20

SINGLE_LABEL_ROWS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "macro_precision": "macro precision",
    "weighted_f1": "weighted F1",
    "mcc": "MCC",
    "worst_recall": "worst recall",
    "head_recall": "head recall",
    "medium_recall": "medium recall",
    "tail_recall": "tail recall",
    "loss": "unweighted loss",
}
MULTI_LABEL_ROWS = {
    "micro_f1": "micro F1",
    "micro_precision": "micro precision",
    "micro_recall": "micro recall",
    "macro_f1": "macro F1",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "head_f1": "head F1",
    "medium_f1": "medium F1",
    "tail_f1": "tail F1",
    "map": "mAP",
    "recall_at_5": "recall at 5",
    "ndcg_at_5": "nDCG at 5",
    "lrap": "LRAP",
    "predicted_per_text": "labels per text",
    "loss": "unweighted loss",
}


def show_config(config: Mapping[str, Any]) -> None:
    """Prints the resolved configuration as a tree, one branch per group."""
    tree = Tree("config", guide_style="dim")
    for key, value in config.items():
        if isinstance(value, Mapping):
            text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True).rstrip()
            tree.add(f"[bold]{key}").add(Syntax(text, "yaml", background_color="default"))
        else:
            tree.add(Text.assemble((key, "bold"), f": {value}"))
    console.print(tree)


def show_balance(correction: Correction, name: str) -> None:
    """Prints what the strategy does to each class or label, before training."""
    order = np.argsort(-correction.counts, kind="stable")
    shown = list(order)
    if len(order) > SHOWN_CLASSES:
        half = SHOWN_CLASSES // 2
        shown = [*order[:half], None, *order[-half:]]
    weights = correction.class_weights / correction.negative_weights
    columns = {
        "count n": [f"{count:,}" for count in correction.counts],
        "drawn q": _shares(correction.sampling_probs, correction),
        "draws/example": [f"{draws:.3g}" for draws in correction.draws_per_example],
        "weight w": [
            f"{weight:.4g}" + " (cap)" * bool(capped) for weight, capped in zip(weights, correction.capped, strict=True)
        ],
        "positive share": _shares(correction.effective_positive_rate, correction),
        "effective prior e": _shares(correction.effective_prior, correction),
    }
    if not correction.multi_label:
        del columns["positive share"]
    table = Table(title=f"strategy: {name}", title_justify="left", caption_justify="left")
    table.add_column("label" if correction.multi_label else "class")
    for heading in columns:
        table.add_column(heading, justify="right")
    for c in shown:
        if c is None:
            table.add_row(f"... {len(order) - SHOWN_CLASSES} more", *["..."] * len(columns), style="dim")
        else:
            table.add_row(Text(str(correction.labels[c])), *[column[c] for column in columns.values()])
    table.caption = _multi_label_caption(correction) if correction.multi_label else _single_label_caption(correction)
    console.print(table)


def _shares(shares: np.ndarray, correction: Correction) -> list[str]:
    # The rarest of hundreds of labels hold less than 0.01% of the texts.
    return [f"{100 * share:.3g}%" if correction.multi_label else f"{share:.2%}" for share in shares]


def _single_label_caption(correction: Correction) -> str:
    return (
        f"weights {correction.class_weights.min():.3g} to {correction.class_weights.max():.3g} (ratio {correction.weight_ratio:.4g}, "
        f"{correction.capped.sum()} of {len(correction.labels)} classes at the cap); effective sample fraction "
        f"{correction.effective_sample_size:.3f}; {correction.epoch_size:,} examples an epoch"
    )


def _multi_label_caption(correction: Correction) -> str:
    weights = correction.class_weights / correction.negative_weights
    return (
        "drawn q: texts with the label among those drawn; weight w: of a positive over that of a negative, "
        f"{weights.min():.3g} to {weights.max():.3g} "
        f"({correction.capped.sum()} of {len(correction.labels)} labels at the cap); "
        "positive share: of the label's weight; effective prior e: of the weight of all positives; effective sample fraction "
        f"over texts and labels {correction.effective_sample_size:.3f}; {correction.epoch_size:,} examples an epoch; "
        f"{len(correction.index.unlabelled) / correction.num_rows:.1%} of the training texts hold no label"
    )


def show_results(metrics: Mapping[str, Any], bounds: Bounds) -> None:
    """Prints the test scores beside a baseline, and the gap between training and validation.

    The baseline is the majority class; multi-label, what a threshold of 0.5 gives. bounds: of head and tail.
    """
    test, validation, train = metrics["test"], metrics["validation"], metrics["train_sample"]
    if "test_at_half" in metrics:
        rows, baseline, heading = MULTI_LABEL_ROWS, metrics["test_at_half"], "at 0.5"
        supported, total, noun, baseline_note = "supported_labels", "labels", "labels", "at 0.5: test, threshold 0.5"
    else:
        rows, heading = SINGLE_LABEL_ROWS, "majority"
        baseline = {"accuracy": test["majority_accuracy"], "macro_f1": test["majority_macro_f1"]}
        baseline["balanced_accuracy"] = 1 / test["supported_classes"]
        supported, total, noun = "supported_classes", "classes", "classes"
        baseline_note = "majority: always the largest class"
    table = Table(title="results with the best checkpoint", title_justify="left", caption_justify="left")
    for column in ("", "test", heading, "validation", "train", "gap"):
        table.add_column(column, justify="right" if column else "left")
    for key, title in rows.items():
        if key in test:
            gap = train[key] - validation[key] if key in train and key in validation else None
            table.add_row(
                title,
                f"[bold]{test[key]:.4f}[/bold]",
                _number(baseline.get(key)),
                _number(validation.get(key)),
                _number(train.get(key)),
                "" if gap is None else f"{gap:+.4f}",
            )
    absent = int(test[total] - test[supported])
    table.caption = (
        f"macro averages are over the {test[supported]:.0f} {noun} with test examples"
        + (f" ({absent} have none)" if absent else "")
        + f"; head: {bounds.head_min} training examples or more, tail: under {bounds.tail_max}; {baseline_note}; gap: "
        "train (a sample, in evaluation mode) minus validation, large when overfitting"
    )
    console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def show_calibration(metrics: Mapping[str, Any]) -> None:
    """Prints how far the probabilities can be trusted, and what decisions cost where there are costs."""
    if calibration := metrics.get("calibration"):
        variant, errors = calibration["variant"], calibration["test"]
        line = f"calibration error (ECE) of the test probabilities: {errors['raw']['ece']:.4f}"
        if variant != "raw":
            temperature = calibration["temperatures"].get(variant)
            parts = ["prior correction"] if variant.startswith("prior_corrected") else []
            parts += [] if temperature is None else [f"temperature {temperature:.2f}"]
            line += f"; with {' and '.join(parts)}, best on validation: {errors[variant]['ece']:.4f} (calibration.json)"
        console.print(line, highlight=False)
    if costs := metrics.get("costs"):
        console.print(
            f"mean cost of the most probable class: {costs['most_probable']:.4g}; of the decision at least cost: "
            f"{costs['least_cost']:.4g}",
            highlight=False,
        )
