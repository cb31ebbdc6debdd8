"""Folders of finished runs, written without training."""

import json
from pathlib import Path

import numpy as np
import yaml
from scipy import sparse

from counterpoise.metrics.class_counts import ClassCounts
from counterpoise.metrics.multi_label import per_label
from counterpoise.metrics.single_label import per_class
from counterpoise.training.predictions import write_multilabel_predictions, write_predictions

LABELS = ["NA", "1", "c", "d", "e"]
COUNTS = np.array([300, 150, 60, 12, 4])
TRUTH = np.repeat([0, 1, 2, 3], [40, 30, 20, 10])
"""True classes of 100 test texts; the last class has none."""


def run(
    folder: Path,
    *overrides: str,
    wrong: dict[int, int] | None = None,
    truth: np.ndarray = TRUTH,
    labels: list[str] = LABELS,
    counts: np.ndarray = COUNTS,
    ids: list[str] | None = None,
    seconds: float = 60.0,
    probe: bool | None = None,
    config: dict | None = None,
    state: str = "finished",
) -> Path:
    """Write a single-label run with correct predictions except for the first `wrong[c]` texts of each class c."""
    decided = truth.copy()
    for label, number in (wrong or {}).items():
        decided[np.flatnonzero(truth == label)[:number]] = (label + 1) % 4
    ids = ids or [str(n) for n in range(len(truth))]
    _common(folder, overrides, seconds, probe, config, state)
    logits = np.eye(len(labels))[decided]
    table = per_class(ClassCounts.of(truth, decided, len(labels)), counts)
    table.insert(0, "class", labels)
    table.to_csv(folder / "per_class.csv", index=False)
    write_predictions(folder / "predictions.parquet", ids, labels, truth, logits)
    return folder


def multi_label_run(folder: Path, *overrides: str, seed: int = 0, errors: float = 0.1) -> Path:
    """Write a multi-label run whose predictions have the given error rate."""
    rng = np.random.default_rng(0)
    targets = rng.random((200, 5)) < [0.4, 0.3, 0.2, 0.1, 0]
    decided = targets ^ (np.random.default_rng(seed + 1).random(targets.shape) < errors)
    _common(folder, overrides, 60.0, None, None, "finished")
    table = per_label(decided, decided * 1.0, sparse.csr_matrix(targets), COUNTS)
    table.insert(0, "class", LABELS)
    table.to_csv(folder / "per_class.csv", index=False)
    ids = [str(n) for n in range(200)]
    path = folder / "predictions.parquet"
    write_multilabel_predictions(path, ids, LABELS, sparse.csr_matrix(targets), decided * 1.0, decided)
    return folder


def sweep(folder: Path) -> Path:
    """Write a sweep of plain and combined (better in the tail), with two seeds each, and a failed job."""
    common = ("experiment=r8",)
    run(folder / "0", *common, "strategy=plain", "seed=0", wrong={0: 1, 3: 9}, seconds=100)
    run(folder / "1", *common, "strategy=plain", "seed=1", wrong={0: 2, 3: 8}, seconds=100)
    run(folder / "2", *common, "strategy=combined", "seed=0", wrong={0: 1, 1: 1}, seconds=150)
    run(folder / "3", *common, "strategy=combined", "seed=1", wrong={0: 2, 3: 1}, seconds=170)
    run(folder / "4", *common, "strategy=[x]", "seed=0", state="failed")
    return folder


def _common(
    folder: Path, overrides: tuple[str, ...], seconds: float, probe: bool | None, config: dict | None, state: str
) -> None:
    folder.mkdir(parents=True)
    status = {"state": state, "reason": "no\nluck", "overrides": list(overrides), "seconds": seconds}
    (folder / "status.json").write_text(json.dumps(status))
    metrics = {"test": {"macro_f1": 0.5}, "epochs": 2, "steps": 100} | ({} if probe is None else {"probe": probe})
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text(yaml.safe_dump(config or {}))
