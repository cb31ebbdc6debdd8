"""Build the folder of an ensemble from finished runs, and test it."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy.sparse import csr_matrix

from counterpoise.analysis.baseline import differences
from counterpoise.analysis.group_decisions import comparison_metrics
from counterpoise.analysis.runs import finished_jobs
from counterpoise.commands.evaluation import read_correction, run_metrics
from counterpoise.commands.run_config import ENSEMBLE_FILE, read_config
from counterpoise.commands.saved_run import build
from counterpoise.csv_tables import read_csv
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.splits import Vocabulary
from counterpoise.data.token_store import load_tokenizer
from counterpoise.errors import UserError
from counterpoise.metrics import registry
from counterpoise.metrics.calibration import PriorShift
from counterpoise.metrics.calibration import measure as calibrate
from counterpoise.metrics.scoring import MultiLabelScoring, SingleLabelScoring
from counterpoise.model.ensemble import choose_baseline_weight, combine, factors, spread
from counterpoise.report.run.run_report import write_run_report
from counterpoise.saved_files import reading
from counterpoise.terminal import console, name_cells
from counterpoise.training.artifacts import write_results
from counterpoise.training.baseline import AnyScoring, FittedBaseline, cached_model, split_logits
from counterpoise.training.results import RunResults, one_hot

SPLITS = ("validation", "test")
SHOWN = ("macro_f1", "accuracy", "micro_f1", "map", "tail_recall", "tail_f1")
"""Metrics that are printed, of those that the task has."""
COPIED = ("config.yaml", "encoder.json", "balance.csv", "metrics.json", "splits.npz", "predictions.parquet")
"""Files of a run that the ensemble's copy of it has besides the checkpoint."""


@dataclass(frozen=True)
class Member:
    """A finished run, or the linear model.

    Args:
        name: What the tables call it.
        logits: Logits of the splits "validation" and "test", float32 [N, C].
        run: Folder of the run; None for the linear model.
    """

    name: str
    logits: dict[str, np.ndarray]
    run: Path | None = None


def finished_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of the finished runs among these runs and sweeps, each once.

    Raises:
        UserError: A folder holds no finished run, or a run lacks a file.
    """
    runs: dict[Path, None] = {}
    for folder in folders:
        jobs, warnings = finished_jobs(folder)
        runs.update(dict.fromkeys(jobs))
        for warning in warnings:
            console.print(warning, markup=False)
    for run in runs:
        for name in (*COPIED, "checkpoints/best.ckpt"):
            if not (run / name).is_file():
                raise UserError(f"{run} has no {name}: train the run again")
        if not (run / "logits.npz").is_file():
            raise UserError(f"{run} has no logits.npz: the logits of its validation split were too many to be kept")
    return list(runs)


def build_ensemble(
    runs: Sequence[Path], output: Path, baseline_weight: float | None, packages: Sequence[str]
) -> RunResults:
    """Combine runs, test the combination, and write its folder.

    Args:
        runs: Folders of finished runs, see `finished_runs`.
        output: Folder to write. An earlier ensemble is replaced.
        baseline_weight: Weight of the linear model, in [0, 1). None: chosen on the validation split.
        packages: Packages whose classes may be built. See `saved_run.allowed_packages`.

    Returns:
        The results of the ensemble.

    Raises:
        UserError: The runs were not trained, validated and tested on the same texts, or their data have changed.
    """
    configs = [read_config(run) for run in runs]
    config = {key: value for key, value in configs[0].items() if key not in ("seed", "ckpt")}
    data = _data(configs[0], packages)
    members = [_member(run, data) for run in runs]
    if any(other["decision"] != config["decision"] for other in configs):
        raise UserError("the runs have different decision rules (decision): combine runs with the same one")
    scoring = _scoring(config, data, packages)
    linear, model = None, None
    decision = scoring.decision if isinstance(scoring, MultiLabelScoring) else None
    if decision is not None and decision.top_k is None and not decision.tunes and baseline_weight != 0:
        raise UserError(
            "the runs have fixed thresholds (decision), which do not fit the logits of a linear model: use "
            "--baseline-weight 0"
        )
    if config.get("baseline") and baseline_weight != 0:
        model = cached_model(build(config["baseline"], packages), data)
        linear = Member(
            "linear model", {name: split_logits(model, data.splits[name], len(data.labels)) for name in SPLITS}
        )
    weight, tried = _weight(members, linear, data, scoring, str(config["monitor"]), baseline_weight)
    spreads = [spread(member.logits["validation"], scoring.multi_label) for member in members]
    own = None if linear is None else spread(linear.logits["validation"], scoring.multi_label)
    by = factors(spreads, own, weight)
    parts = members if linear is None else [*members, linear]
    logits = {name: combine([part.logits[name] for part in parts], by) for name in SPLITS}
    results = _results(runs[0], config, data, scoring, logits, parts, len(runs))
    results.metrics["ensemble"] |= {"baseline_weight": weight, "validation_by_weight": tried}  # type: ignore[index]
    content = {
        "members": [f"members/{number}" for number in range(len(runs))],
        "runs": [str(run) for run in runs],
        "factors": by.tolist(),
        "baseline": config["baseline"] if linear else None,
        "labels": data.labels,
    }
    _write(output, runs, config, content, model, results)
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
        f"weight of the linear model: {section['baseline_weight']:.1f}"
        + (" (chosen on validation)" if section["validation_by_weight"] else ""),
        highlight=False,
    )
    row = section["difference"]["macro_f1"]
    interval = f" (95 % interval {row['low']:+.3f} to {row['high']:+.3f})" if row["low"] is not None else ""
    console.print(
        f"difference in macro F1 to {section['compared_with']}, the best run on validation: "
        f"{row['difference']:+.3f}{interval}, over test texts",
        highlight=False,
        markup=False,
    )


def _data(config: dict[str, Any], packages: Sequence[str]) -> TextDataModule:
    """Return the data of a run, read again."""
    source = build(config["encoder"] | {"compile": False}, packages)
    data = TextDataModule(
        build(config["data"], packages),
        load_tokenizer(source.locate(), source.revision),
        max_length=source.max_length,
        packed=source.packed,
        seed=config["seed"],
        **config["loader"],
    )
    data.prepare_data()
    data.setup()
    return data


def _member(run: Path, data: TextDataModule) -> Member:
    """Return the logits of a run. Raise UserError if it has other splits, labels or texts than the data."""
    labels = read_labels(run)
    if labels != data.labels:
        raise UserError(f"{run} has other classes than the data: combine runs on the same data")
    with np.load(run / "splits.npz") as splits:
        for name, part in data.splits.items():
            if not np.array_equal(splits[name], part.rows):
                raise UserError(f"{run} has another {name} split: combine runs on the same splits (loader.split_seed)")
    column = "labels" if data.task == "multi_label" else "label"
    truth = Vocabulary(labels).encode(pq.read_table(run / "predictions.parquet", columns=[column])[column])
    targets = data.splits["test"].targets
    if truth.shape != targets.shape or (truth != targets).sum():
        raise UserError(f"the labels of the test texts have changed since {run} was tested")
    with np.load(run / "logits.npz") as saved:
        logits = {name: saved[name] for name in SPLITS}
    for name, each in logits.items():
        if each.shape != (len(data.splits[name]), len(labels)) or not np.isfinite(each).all():
            raise UserError(f"{run}: logits.npz does not fit the {name} split, or holds values that are not finite")
    return Member(str(run.name), logits, run)


def read_labels(run: Path) -> list[str]:
    """Return the labels of a run, from its `balance.csv`."""
    with reading(run):
        table = read_csv(run / "balance.csv", "class", ["class"])
    return table["class"].tolist()


def _scoring(config: dict[str, Any], data: TextDataModule, packages: Sequence[str]) -> AnyScoring:
    bounds = build(config["buckets"], packages)
    if data.task != "multi_label":
        return SingleLabelScoring(data.counts, bounds)
    return MultiLabelScoring(data.labels, data.counts, bounds, build(config["decision"], packages))


def _weight(
    members: Sequence[Member],
    linear: Member | None,
    data: TextDataModule,
    scoring: AnyScoring,
    monitor: str,
    given: float | None,
) -> tuple[float, dict[str, float]]:
    """Return the weight of the linear model, and the validation scores of the weights that were tried, by weight."""
    if linear is None or given is not None:
        return (0.0 if linear is None else float(given or 0)), {}
    found = registry.find(monitor.removeprefix("val/"), data.task)  # type: ignore[arg-type]
    name = found.name if found and found.higher_is_better else "macro_f1"

    def score(logits: np.ndarray, targets: Any) -> float:
        scoring.tune(logits, targets)
        return scoring.measure(logits, targets)[name]

    targets = data.splits["validation"].targets
    models = [member.logits["validation"] for member in members]
    weight, scores = choose_baseline_weight(models, linear.logits["validation"], targets, score, scoring.multi_label)
    return weight, {f"{each:.1f}": value for each, value in scores.items()}


def _results(
    run: Path,
    config: dict[str, Any],
    data: TextDataModule,
    scoring: AnyScoring,
    logits: dict[str, np.ndarray],
    parts: Sequence[Member],
    runs: int,
) -> RunResults:
    """Return the results of the combined logits; correction and facts about the data are those of the first run."""
    targets = {name: data.splits[name].targets for name in SPLITS}
    scored, decisions = [], []
    for part in parts:
        scoring.tune(part.logits["validation"], targets["validation"])
        scored.append({name: scoring.measure(part.logits[name], targets[name]) for name in SPLITS})
        decisions.append(scoring.decide(part.logits["test"]))
    scoring.tune(logits["validation"], targets["validation"])
    decided = scoring.decide(logits["test"])
    best = max(range(runs), key=lambda number: scored[number]["validation"]["macro_f1"])
    first, correction = run_metrics(run), read_correction(run, data.labels, scoring.multi_label)
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
    everyone = [run_metrics(part.run) for part in parts if part.run is not None]
    metrics: dict[str, Any] = {name: scoring.measure(logits[name], targets[name]) for name in ("test", "validation")}
    if scoring.multi_label:
        metrics["test_at_half"] = scoring.measure(logits["test"], targets["test"], threshold=0.5)
    truth, chosen, single = (
        _indicators(each, len(data.labels)) for each in (targets["test"], decided, decisions[best])
    )
    support = np.asarray(truth.sum(axis=0)).ravel()
    compared = comparison_metrics(correction.task, support, data.counts, scoring.bounds)
    metrics |= {key: first[key] for key in ("strategy", "data") if key in first}
    metrics |= {
        "strategy": first["strategy"] | {"name": "ensemble"},
        "data_warnings": data.data_warnings,
        "epochs": float(np.mean([each["epochs"] for each in everyone])),
        "steps": float(np.sum([each["steps"] for each in everyone])),
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
        name=run.parent.name,
        strategy=f"ensemble of {runs} {'run' if runs == 1 else 'runs'}",
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
        max_length=data.max_length,
        decided=decided if scoring.multi_label else None,
        thresholds=None if scoring.thresholds is None else scoring.thresholds.cpu().numpy(),
        calibration=calibration,
        data_warnings=data.data_warnings,
    )


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
) -> None:
    """Write the folder of the ensemble; it appears complete or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as unfinished:
        folder = Path(unfinished) / "ensemble"
        for run, name in zip(runs, content["members"], strict=True):
            (folder / name / "checkpoints").mkdir(parents=True)
            for file in (*COPIED, "checkpoints/best.ckpt"):
                link_or_copy(run / file, folder / name / file)
        if model is not None and content["baseline"]:
            (folder / "baseline").mkdir()
            model.save(folder / "baseline")
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "utf-8")
        shutil.copy(runs[0] / "balance.csv", folder / "balance.csv")
        shutil.copy(runs[0] / "splits.npz", folder / "splits.npz")
        write_results(folder, results)
        (folder / ENSEMBLE_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
        seconds = sum(json.loads((run / "status.json").read_text(encoding="utf-8"))["seconds"] for run in runs)
        status = {"state": "finished", "reason": None, "overrides": ["ensemble"], "seconds": round(seconds, 1)}
        (folder / "status.json").write_text(json.dumps(status, indent=2), encoding="utf-8")
        write_run_report(folder / "report.html", results)
        if output.exists():
            shutil.rmtree(output)
        folder.replace(output)


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link, which needs no space; copy if the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
