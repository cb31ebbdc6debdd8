"""What a run shows on the terminal."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from counterpoise.balance import Balance

console = Console()

SHOWN_CLASSES = 20

TEST_ROWS = (
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced accuracy"),
    ("macro_f1", "macro F1"),
    ("macro_precision", "macro precision"),
    ("weighted_f1", "weighted F1"),
    ("mcc", "MCC"),
    ("worst_recall", "worst recall"),
    ("head_recall", "head recall"),
    ("medium_recall", "medium recall"),
    ("tail_recall", "tail recall"),
    ("loss", "unweighted loss"),
)


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


def show_balance(balance: Balance, name: str) -> None:
    """Prints what the strategy does to each class, before training."""
    order = np.argsort(-balance.counts, kind="stable")
    shown = list(order)
    if len(order) > SHOWN_CLASSES:
        half = SHOWN_CLASSES // 2
        shown = [*order[:half], None, *order[-half:]]
    table = Table(title=f"strategy: {name}", title_justify="left", caption_justify="left")
    table.add_column("class")
    for heading in ("count n", "drawn q", "draws/example", "weight w", "emphasis e"):
        table.add_column(heading, justify="right")
    emphasis, draws = balance.emphasis, balance.expected_draws
    for c in shown:
        if c is None:
            table.add_row(f"... {len(order) - SHOWN_CLASSES} more", *["..."] * 5, style="dim")
            continue
        table.add_row(
            Text(str(balance.labels[c])),
            f"{balance.counts[c]:,}",
            f"{balance.probabilities[c]:.2%}",
            f"{draws[c]:.3g}",
            f"{balance.weights[c]:.4g}" + (" (cap)" if balance.capped[c] else ""),
            f"{emphasis[c]:.2%}",
        )
    capped = int(balance.capped.sum())
    table.caption = (
        f"weights {balance.weights.min():.3g} to {balance.weights.max():.3g} (ratio {balance.weight_ratio:.4g}, "
        f"{capped} of {len(order)} classes at the cap); effective sample fraction "
        f"{balance.effective_sample_fraction:.3f}; {balance.sampler.size(balance.counts):,} examples an epoch"
    )
    console.print(table)


def show_results(metrics: Mapping[str, Any]) -> None:
    """Prints the test scores beside the majority baseline, and the gap between training and validation."""
    test, validation, train = metrics["test"], metrics["validation"], metrics["train_sample"]
    table = Table(title="results with the best checkpoint", title_justify="left", caption_justify="left")
    for heading in ("", "test", "majority", "validation", "train", "gap"):
        table.add_column(heading, justify="left" if not heading else "right")
    baseline = {"accuracy": test["majority_accuracy"], "macro_f1": test["majority_macro_f1"]}
    baseline["balanced_accuracy"] = 1 / test["supported_classes"]
    for key, title in TEST_ROWS:
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
    absent = int(test["classes"] - test["supported_classes"])
    table.caption = (
        f"macro averages are over the {test['supported_classes']:.0f} classes with test examples"
        + (f" ({absent} have none)" if absent else "")
        + "; head: over 100 training examples, tail: under 20; majority: always the largest class; gap: train "
        "(a sample, in evaluation mode) minus validation, large when overfitting"
    )
    console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
