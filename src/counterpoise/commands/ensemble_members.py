"""The runs of an ensemble: their logits, and the data that they share."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.sparse import vstack

from counterpoise.analysis.job_folders import ENSEMBLE_FILE
from counterpoise.analysis.runs import finished_jobs
from counterpoise.balance.counts import Targets
from counterpoise.commands.run_config import read_config
from counterpoise.commands.trusted_classes import build
from counterpoise.csv_tables import read_csv
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.splits import Vocabulary
from counterpoise.data.token_store import load_tokenizer
from counterpoise.errors import UserError
from counterpoise.model.ensemble import spread
from counterpoise.saved_files import reading
from counterpoise.terminal import console
from counterpoise.training.baseline import FittedBaseline, cached_logits, cached_model, split_logits

SPLITS = ("validation", "test")
MAY_DIFFER = ("batch_size", "eval_batch_size", "group_by_length", "eval_order", "num_workers", "fold")
"""Keys of the loader that runs of an ensemble may differ in: those of speed, and the fold of shared folds."""
COPIED = ("config.yaml", "encoder.json", "balance.csv", "metrics.json", "splits.npz", "predictions.parquet")
"""Files of a run that the ensemble's copy of it has besides the checkpoint."""


@dataclass(frozen=True)
class Member:
    """A finished run, or the linear model.

    Args:
        name: What the tables call it.
        logits: Logits of the splits "validation" and "test", float32 [N, C].
        run: Folder of the run; None for the linear model.
        fold: Fold that is its validation split; 0 without folds. The linear model has the texts of all folds.
    """

    name: str
    logits: dict[str, np.ndarray]
    run: Path | None = None
    fold: int = 0


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
        if (run / ENSEMBLE_FILE).is_file():
            raise UserError(f"{run} is an ensemble: name the runs that it consists of")
        for name in (*COPIED, "checkpoints/best.ckpt"):
            if not (run / name).is_file():
                raise UserError(f"{run} has no {name}: train the run again")
        if not (run / "logits.npz").is_file():
            raise UserError(f"{run} has no logits.npz: the logits of its validation split were too many to be kept")
    return list(runs)


def shared_config(runs: Sequence[Path]) -> dict[str, Any]:
    """Return the configuration of the first run.

    Raises:
        UserError: The runs differ in data, splits, buckets or decision rule.
    """
    first, *others = [read_config(run) for run in runs]
    for run, other in zip(runs[1:], others, strict=True):
        for group in ("data", "loader", "buckets", "decision"):
            ours, theirs = ({key: config[group].get(key) for key in config[group]} for config in (first, other))
            kept = [key for key in ours | theirs if key not in MAY_DIFFER]
            differing = [f"{group}.{key}" for key in kept if ours.get(key) != theirs.get(key)]
            if differing:
                raise UserError(
                    f"{run} differs from {runs[0]} in {', '.join(differing)}: combine runs on the same data"
                )
    return first


def read_folds(config: dict[str, Any], folds: Iterable[int], packages: Sequence[str]) -> dict[int, TextDataModule]:
    """Return the data of runs that were validated on these folds, read again, by fold in ascending order.

    Without folds, the only number is 0.
    """
    read: dict[int, TextDataModule] = {}
    for fold in sorted(set(folds)):
        with _quiet() if read else nullcontext():
            read[fold] = read_data(config | {"loader": config["loader"] | {"fold": fold}}, packages)
    return read


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide notices about files that have been read before."""
    logger = logging.getLogger("counterpoise.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def read_data(config: dict[str, Any], packages: Sequence[str]) -> TextDataModule:
    """Return the data of a run, read again."""
    source = build(config["encoder"] | {"compile": False}, packages)
    data = TextDataModule(
        build(config["data"], packages),
        load_tokenizer(source.locate(), source.revision),
        source.tokenisation,
        packed=source.packed,
        seed=config["seed"],
        **config["loader"],
    )
    data.prepare_data()
    data.setup()
    return data


def fold_of(run: Path) -> int:
    """Return the fold of a run; 0 without folds."""
    return int(read_config(run)["loader"].get("fold", 0))


def held_out_targets(folds: Mapping[int, TextDataModule]) -> Targets:
    """Return the targets of the validation texts of all folds, one fold after another."""
    each = [data.splits["validation"].targets for data in folds.values()]
    if all(isinstance(targets, np.ndarray) for targets in each):
        return np.concatenate(each)
    return vstack(each, format="csr")


def linear_member(
    config: dict[str, Any], folds: Mapping[int, TextDataModule], packages: Sequence[str]
) -> tuple[Member, FittedBaseline]:
    """Return the logits of the linear model and the model.

    With several folds, the validation texts of each fold are scored by a model that was trained without them, and the
    returned model, which scores the test texts, is trained on the texts of all folds.
    """
    model = build(config["baseline"], packages)
    data = next(iter(folds.values()))
    if len(folds) == 1:
        fitted = cached_model(model, data)
        logits = {name: split_logits(fitted, data.splits[name], len(data.labels)) for name in SPLITS}
        return Member("linear model", logits), fitted
    held_out = [cached_logits(model, data).logits["validation"] for data in folds.values()]
    with _quiet():
        everything = read_data(config, packages)
    everything.join_validation()
    fitted = cached_model(model, everything)
    test = split_logits(fitted, data.splits["test"], len(data.labels))
    return Member("linear model", {"validation": np.concatenate(held_out), "test": test}), fitted


def read_member(run: Path, data: TextDataModule) -> Member:
    """Return the logits of a run. Raise UserError if it has other splits, labels or texts than the data."""
    column = "labels" if data.task == "multi_label" else "label"
    with reading(run):
        table = read_csv(run / "balance.csv", "class", ["class", "count"])
        labels, counts = table["class"].tolist(), table["count"].to_numpy()
        with np.load(run / "splits.npz") as saved:
            rows = dict(saved)
        with np.load(run / "logits.npz") as saved:
            logits = {name: saved[name] for name in SPLITS}
        truth = Vocabulary(labels).encode(pq.read_table(run / "predictions.parquet", columns=[column])[column])
    if labels != data.labels:
        raise UserError(f"{run} has other classes than the data: combine runs on the same data")
    for name, part in data.splits.items():
        if not np.array_equal(rows.get(name, ()), part.rows):
            raise UserError(f"{run} has another {name} split: combine runs on the same splits (loader.split_seed)")
    targets = data.splits["test"].targets
    if truth.shape != targets.shape or (truth != targets).sum():
        raise UserError(f"the labels of the test texts have changed since {run} was tested")
    if not np.array_equal(counts, data.counts):
        raise UserError(f"the labels of the training texts have changed since {run} was trained")
    for name, each in logits.items():
        if each.shape != (len(data.splits[name]), len(labels)) or not np.isfinite(each).all():
            raise UserError(f"{run}: logits.npz does not fit the {name} split, or holds values that are not finite")
        if spread(each, data.task == "multi_label") == 0:
            raise UserError(f"{run}: all logits are equal, the training has failed")
    return Member(f"{run.parent.name}/{run.name}", logits, run, data.fold)
