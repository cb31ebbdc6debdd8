"""Build the folder of an ensemble from finished runs, and test it."""

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy.sparse import csr_matrix

from counterpoise.analysis.baseline import differences
from counterpoise.analysis.group_decisions import comparison_metrics
from counterpoise.analysis.job_folders import ENSEMBLE_FILE
from counterpoise.commands.ensemble_members import (
    COPIED,
    SPLITS,
    Member,
    fold_of,
    held_out_targets,
    linear_member,
    read_folds,
    read_member,
    shared_config,
)
from counterpoise.commands.evaluation import read_correction, run_metrics
from counterpoise.commands.predictor import BlockPredictor, load
from counterpoise.commands.trusted_classes import build
from counterpoise.data.datamodule import TextDataModule
from counterpoise.errors import UserError
from counterpoise.io import atomic_folder
from counterpoise.metrics import registry
from counterpoise.metrics.calibration import PriorShift
from counterpoise.metrics.calibration import measure as calibrate
from counterpoise.metrics.scoring import MultiLabelScoring, SingleLabelScoring
from counterpoise.metrics.temperature import cross_validated_nll
from counterpoise.model.ensemble import (
    choose_baseline_weight,
    combine,
    combine_held_out,
    scores_by_size,
    spread,
    validation_factors,
)
from counterpoise.report.run.run_report import write_run_report
from counterpoise.terminal import console, name_cells
from counterpoise.training.artifacts import write_results
from counterpoise.training.baseline import AnyScoring, FittedBaseline
from counterpoise.training.results import RunResults, one_hot

log = logging.getLogger(__name__)

TOLERANCE = 0.05
"""Largest root mean square difference of logits to those that were tested, as a fraction of their spread."""
COMPARED_TEXTS = 64
"""Number of test texts whose logits are compared."""
SHOWN = ("macro_f1", "accuracy", "micro_f1", "map", "tail_recall", "tail_f1")
"""Metrics that are printed, of those that the task has."""


def build_ensemble(
    runs: Sequence[Path], output: Path, baseline_weight: float | None, packages: Sequence[str]
) -> RunResults:
    """Combine runs, test the combination, and write its folder.

    Args:
        runs: Folders of finished runs, see `finished_runs`.
        output: Folder to write. An earlier ensemble is replaced.
        baseline_weight: Weight of the linear model, in [0, 1). None: chosen on the validation split.
        packages: Packages whose classes may be built. See `trusted_classes.allowed_packages`.

    Returns:
        The results of the ensemble.

    Raises:
        UserError: The runs were not trained, validated and tested on the same texts, or their data have changed.
    """
    shared = shared_config(runs)
    registry.load(path for path in shared.get("metrics") or () if str(path).partition(".")[0] in packages)
    config = {key: value for key, value in shared.items() if key not in ("seed", "ckpt", "costs")}
    if shared.get("costs"):
        log.warning("costs: the ensemble has no decisions of least cost; predict --costs makes them")
    folds = read_folds(shared, map(fold_of, runs), packages)
    data, targets = next(iter(folds.values())), held_out_targets(folds)
    members = [read_member(run, folds[fold_of(run)]) for run in runs]
    scoring = _scoring(config, data, packages)
    linear, model = None, None
    if baseline_weight != 0 and config.get("baseline"):
        linear, model = linear_member(shared, folds, packages)
    elif baseline_weight:
        raise UserError("--baseline-weight: the runs have no linear model (baseline=none)")
    elif baseline_weight is None:
        console.print("no linear model: the runs have baseline=none")
    if (linear is not None or len(runs) > 1) and _has_fixed_thresholds(scoring):
        raise UserError(
            "the runs have fixed thresholds (decision), which do not fit combined logits: use thresholds that are tuned"
        )
    baseline = None if linear is None else linear.logits["validation"]

    def combined(chosen: Sequence[Member], weight: float) -> np.ndarray:
        models = [member.logits["validation"] for member in chosen]
        by = validation_factors(models, baseline, weight, scoring.multi_label)
        return combine_held_out(models, [member.fold for member in chosen], baseline, by)

    def macro_f1(chosen: Sequence[Member]) -> float:
        logits = combined(chosen, weight)
        scoring.tune(logits, targets)
        return scoring.measure(logits, targets)["macro_f1"]

    weight = 0.0 if linear is None else float(baseline_weight or 0)
    tried: dict[float, float] = {}
    if linear is not None and baseline_weight is None:
        weight, tried = choose_baseline_weight(lambda weight: _score(scoring, combined(members, weight), targets))
    section = {
        "baseline_weight": weight,
        "validation_by_weight": {f"{each:.1f}": value for each, value in tried.items()},
        "validation_by_runs": scores_by_size(members, macro_f1) if len(folds) == 1 else [],
    }
    used = weight > 0
    models = [member.logits["validation"] for member in members]
    by = validation_factors(models, baseline if used else None, weight, scoring.multi_label)
    parts = [*members, linear] if linear is not None and used else members
    logits = {
        "validation": combined(members, weight),
        "test": combine([part.logits["test"] for part in parts], by),
    }
    everyone = members if linear is None else [*members, linear]
    results = _results(output.name, config, folds, scoring, logits, everyone)
    results.metrics["ensemble"] |= section  # type: ignore[index]
    content = {
        "members": [f"members/{number}" for number in range(len(runs))],
        "runs": [str(run.resolve()) for run in runs],
        "factors": by.tolist(),
        "baseline": config["baseline"] if used else None,
        "labels": data.labels,
    }
    _write(output, runs, config, content, model if used else None, results, packages)
    return results


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


def _scoring(config: dict[str, Any], data: TextDataModule, packages: Sequence[str]) -> AnyScoring:
    bounds = build(config["buckets"], packages)
    if data.task != "multi_label":
        return SingleLabelScoring(data.counts, bounds)
    return MultiLabelScoring(data.labels, data.counts, bounds, build(config["decision"], packages))


def _has_fixed_thresholds(scoring: AnyScoring) -> bool:
    if not isinstance(scoring, MultiLabelScoring):
        return False
    return scoring.decision.top_k is None and not scoring.decision.tunes


def _score(scoring: AnyScoring, logits: np.ndarray, targets: Any) -> float:
    """Return the score that the weight of the linear model is chosen by; higher is better.

    Single-label: minus the cross-validated NLL with a temperature. Multi-label: mAP. Macro F1 varies too much between
    neighbouring weights, because it depends on a few validation texts of rare classes.
    """
    if scoring.multi_label:
        return scoring.measure(logits, targets)["map"]
    return -cross_validated_nll(logits, targets, np.zeros(logits.shape[1]))


def _results(
    name: str,
    config: dict[str, Any],
    folds: Mapping[int, TextDataModule],
    scoring: AnyScoring,
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


def _score_members(
    parts: Sequence[Member],
    folds: Mapping[int, TextDataModule],
    scoring: AnyScoring,
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


def _write(
    output: Path,
    runs: Sequence[Path],
    config: dict[str, Any],
    content: dict[str, Any],
    model: FittedBaseline | None,
    results: RunResults,
    packages: Sequence[str],
) -> None:
    """Write the folder of the ensemble; it appears complete or not at all."""
    with atomic_folder(output) as folder:
        for run, name in zip(runs, content["members"], strict=True):
            (folder / name / "checkpoints").mkdir(parents=True)
            for file in COPIED:
                shutil.copy(run / file, folder / name / file)
            link_or_copy(run / "checkpoints/best.ckpt", folder / name / "checkpoints/best.ckpt")
        if model is not None:
            (folder / "baseline").mkdir()
            model.save(folder / "baseline")
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "utf-8")
        for file in ("balance.csv", "splits.npz"):
            shutil.copy(runs[0] / file, folder / file)
        write_results(folder, results)
        (folder / ENSEMBLE_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
        (folder / "status.json").write_text(json.dumps(_status(runs), indent=2), encoding="utf-8")
        write_run_report(folder / "report.html", results)
        _compare_logits(load(folder, packages=packages), results)


def _status(runs: Sequence[Path]) -> dict[str, Any]:
    """Return the status of a finished job whose overrides are those that the runs share, without the seed."""
    each = [json.loads((run / "status.json").read_text(encoding="utf-8")) for run in runs]
    shared = [part for part in each[0]["overrides"] if all(part in other["overrides"] for other in each)]
    overrides = ["ensemble", *(part for part in shared if not part.startswith("seed="))]
    seconds = round(sum(other["seconds"] for other in each), 1)
    return {"state": "finished", "reason": None, "overrides": overrides, "seconds": seconds}


def _compare_logits(predictor: BlockPredictor, results: RunResults) -> None:
    """Raise UserError if the models of the folder give other logits for test texts than those that were scored.

    Runs trained in bf16 were tested in bf16, and predict in fp32: a small difference is allowed.
    """
    rows = np.linspace(0, len(results.ids) - 1, min(COMPARED_TEXTS, len(results.ids))).astype(int)
    expected = results.test_logits[np.unique(rows)]
    found = predictor(results.texts(np.unique(rows)))
    difference = float(np.sqrt(np.square(found - expected).mean())) / spread(expected, results.multi_label)
    if not difference <= TOLERANCE:
        raise UserError(
            f"the models give other logits for the test texts than those in logits.npz (difference {difference:.0%} of "
            "their spread): a text, a checkpoint or a setting of a run has changed since it was tested"
        )


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link, which needs no space; copy if the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
