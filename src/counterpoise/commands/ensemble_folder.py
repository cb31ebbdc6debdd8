"""Build the folder of an ensemble from finished runs, and test it."""

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from counterpoise.analysis.job_folders import ENSEMBLE_FILE
from counterpoise.commands.ensemble_members import (
    COPIED,
    Member,
    fold_of,
    held_out_targets,
    linear_member,
    read_folds,
    read_member,
    shared_config,
)
from counterpoise.commands.ensemble_results import ensemble_results
from counterpoise.commands.predictor import BlockPredictor, load
from counterpoise.commands.trusted_classes import build
from counterpoise.data.datamodule import TextDataModule
from counterpoise.errors import UserError
from counterpoise.io import atomic_folder
from counterpoise.metrics import registry
from counterpoise.metrics.scoring import MultiLabelScoring, Scoring, SingleLabelScoring
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
from counterpoise.terminal import console
from counterpoise.training.artifacts import write_results
from counterpoise.training.baseline import FittedBaseline
from counterpoise.training.results import RunResults

log = logging.getLogger(__name__)

TOLERANCE = 0.05
"""Largest root mean square difference of logits to those that were tested, as a fraction of their spread."""
COMPARED_TEXTS = 64
"""Number of test texts whose logits are compared."""


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
    results = ensemble_results(output.name, config, folds, scoring, logits, everyone)
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


def _scoring(config: dict[str, Any], data: TextDataModule, packages: Sequence[str]) -> Scoring:
    bounds = build(config["buckets"], packages)
    if data.task != "multi_label":
        return SingleLabelScoring(data.counts, bounds)
    return MultiLabelScoring(data.labels, data.counts, bounds, build(config["decision"], packages))


def _has_fixed_thresholds(scoring: Scoring) -> bool:
    if not isinstance(scoring, MultiLabelScoring):
        return False
    return scoring.decision.top_k is None and not scoring.decision.tunes


def _score(scoring: Scoring, logits: np.ndarray, targets: Any) -> float:
    """Return the score that the weight of the linear model is chosen by; higher is better.

    Single-label: minus the cross-validated NLL with a temperature. Multi-label: mAP. Macro F1 varies too much between
    neighbouring weights, because it depends on a few validation texts of rare classes.
    """
    if scoring.multi_label:
        return scoring.measure(logits, targets)["map"]
    return -cross_validated_nll(logits, targets, np.zeros(logits.shape[1]))


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
