"""Scores of an ensemble and of its models on the validation and test texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy.sparse import csr_matrix

from counterpoise.analysis.baseline import differences
from counterpoise.analysis.group_decisions import comparison_metrics
from counterpoise.commands.ensemble_members import SPLITS, Member, held_out_targets
from counterpoise.commands.evaluation import read_correction, run_metrics
from counterpoise.data.datamodule import TextDataModule
from counterpoise.metrics import registry
from counterpoise.metrics.calibration import PriorShift
from counterpoise.metrics.calibration import measure as calibrate
from counterpoise.metrics.scoring import Scoring
from counterpoise.terminal import console, name_cells
from counterpoise.training.results import RunResults, one_hot

SHOWN = ("macro_f1", "accuracy", "micro_f1", "map", "tail_recall", "tail_f1")
"""Metrics that are printed, of those that the task has."""


def ensemble_results(
    name: str,
    config: dict[str, Any],
    folds: Mapping[int, TextDataModule],
    scoring: Scoring,
    logits: dict[str, np.ndarray],
    parts: Sequence[Member],
) -> RunResults:
    """Return the results of the combined logits; the correction is that of the first run."""
    data = next(iter(folds.values()))
    targets = {"validation": held_out_targets(folds), "test": data.splits["test"].targets}
    scored, decisions = _score_members(parts, folds, scoring, targets)
    scoring.tune(logits["validation"], targets["validation"])
    decided = scoring.decide(logits["test"])
    best = max(range(len(parts)), key=lambda number: scored[number]["validation"]["macro_f1"])
    runs = [part.run for part in parts if part.run is not None]
    facts = [run_metrics(run) for run in runs]
    correction = read_correction(runs[0], data.labels, scoring.multi_label)
    unknown = PriorShift(None, np.zeros(len(data.labels)))
    calibration = calibrate(
        data.labels,
        data.counts,
        (logits["validation"], targets["validation"]),
        (logits["test"], targets["test"]),
        unknown,
        scoring.bounds,
        decided if scoring.multi_label else None,
    )
    metrics: dict[str, Any] = {name: scoring.measure(logits[name], targets[name]) for name in ("test", "validation")}
    truth, chosen, single = (
        _indicators(each, len(data.labels)) for each in (targets["test"], decided, decisions[best])
    )
    support = np.asarray(truth.sum(axis=0)).ravel()
    compared = comparison_metrics(correction.task, support, data.counts, scoring.bounds)
    metrics |= {
        "strategy": {"name": "ensemble", "epoch_size": correction.epoch_size},
        "data": facts[0]["data"],
        "data_warnings": data.data_warnings,
        "epochs": float(np.mean([each["epochs"] for each in facts])),
        "steps": int(sum(each["steps"] for each in facts)),
        "ensemble": {
            "members": [{"name": part.name} | scores for part, scores in zip(parts, scored, strict=True)],
            "compared_with": parts[best].name,
            "difference": differences(truth, chosen, single, compared),
        },
    }
    if calibration:
        metrics["calibration"] = calibration.summary
    test, train = data.splits["test"], data.splits["train"].dataset
    return RunResults(
        name=name,
        strategy=f"ensemble of {len(runs)} {'run' if len(runs) == 1 else 'runs'}",
        probe=False,
        config=config,
        metrics=metrics,
        seconds=None,
        correction=correction,
        effective_prior=correction.effective_prior,
        bounds=scoring.bounds,
        ids=test.ids,
        texts=test.texts,
        test_targets=targets["test"],
        test_logits=logits["test"],
        validation_targets=targets["validation"],
        validation_logits=logits["validation"],
        lengths=train.full_lengths,
        max_length=data.readable_length,
        decided=decided if scoring.multi_label else None,
        thresholds=None if scoring.thresholds is None else scoring.thresholds.cpu().numpy(),
        calibration=calibration,
        data_warnings=data.data_warnings,
    )


def show(results: RunResults) -> None:
    """Print the scores of the models and of the ensemble, and its difference to the best run."""
    section = results.metrics["ensemble"]
    task: registry.Task = "multi_label" if results.multi_label else "single_label"
    shown = [
        metric
        for metric in registry.select(task, "results")
        if metric.name in SHOWN and metric.name in results.metrics["test"]
    ]
    table = Table("", *(f"{metric.title}" for metric in shown), box=SIMPLE_HEAD, title_justify="left")
    table.title = "test scores"
    rows = [(each["name"], each["test"]) for each in section["members"]] + [("ensemble", results.metrics["test"])]
    for cell, (_, scores) in zip(name_cells([name for name, _ in rows]), rows, strict=True):
        table.add_row(cell, *(f"{scores[metric.name]:.4f}" for metric in shown))
    console.print(table)
    console.print(
        f"weight of the linear model: {section['baseline_weight']:g}"
        + (" (chosen on validation)" if section["validation_by_weight"] else ""),
        highlight=False,
    )
    if len(section["validation_by_runs"]) > 1:
        scores = ", ".join(f"{value:.3f}" for value in section["validation_by_runs"])
        console.print(f"validation macro F1 with 1, 2, ... runs: {scores}", highlight=False)
    row = section["difference"]["macro_f1"]
    interval = f" (95 % interval {row['low']:+.3f} to {row['high']:+.3f})" if row["low"] is not None else ""
    console.print(
        f"difference in macro F1 to {section['compared_with']}, the best of them by validation macro F1: "
        f"{row['difference']:+.3f}{interval}, over test texts",
        highlight=False,
        markup=False,
    )


def _score_members(
    parts: Sequence[Member],
    folds: Mapping[int, TextDataModule],
    scoring: Scoring,
    targets: dict[str, Any],
) -> tuple[list[dict[str, dict[str, float]]], list[Any]]:
    """Return the scores of each model by split, and its decisions on the test split."""
    scored, decisions = [], []
    for part in parts:
        own = targets if part.run is None else {**targets, "validation": folds[part.fold].splits["validation"].targets}
        scoring.tune(part.logits["validation"], own["validation"])
        measured = {name: scoring.measure(part.logits[name], own[name]) for name in SPLITS}
        if part.run is None:  # distances to a plane are no log-odds
            measured = {name: {key: each[key] for key in each if key != "loss"} for name, each in measured.items()}
        scored.append(measured)
        decisions.append(scoring.decide(part.logits["test"]))
    return scored, decisions


def _indicators(decided: Any, classes: int) -> csr_matrix:
    """Return class numbers, int [N], or labels, bool [N, C], as csr bool [N, C]."""
    return one_hot(decided, classes) if decided.ndim == 1 else csr_matrix(decided, dtype=bool)
