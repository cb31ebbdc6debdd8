"""The texts that a run was tested on, to test its exported model on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from counterpoise.balance.counts import Targets
from counterpoise.commands.trusted_classes import build
from counterpoise.data.splits import Vocabulary
from counterpoise.errors import UserError
from counterpoise.metrics import registry
from counterpoise.metrics.buckets import DEFAULT_BOUNDS, Bounds
from counterpoise.model.module import Classifier
from counterpoise.saved_files import reading


class TestedTexts(NamedTuple):
    """The test split of a run: N texts with targets, and the training counts, int [C]."""

    texts: list[str]
    targets: Targets
    counts: np.ndarray
    bounds: Bounds

    def scores(self, model: Classifier, logits: np.ndarray) -> dict[str, float]:
        """Return the shown scores of logits [N, C]."""
        model.scoring.counts, model.scoring.bounds = self.counts, self.bounds
        measured = model.scoring.measure(logits, self.targets)
        shown = registry.select("multi_label" if model.scoring.multi_label else "single_label", "headline")
        wanted = [metric.name for metric in shown]
        return {"texts": len(self.texts)} | {name: measured[name] for name in wanted if name in measured}


def read_tested_texts(run: Path, config: dict[str, Any], labels: Sequence[str], packages: Sequence[str]) -> TestedTexts:
    """Read the test split from the source of the run again.

    Args:
        run: Run folder.
        config: Configuration of the run.
        labels: Names of the C classes or labels.
        packages: Packages whose classes may be built. See `trusted_classes.allowed_packages`.

    Raises:
        UserError: The source cannot be read or has changed since the run.
    """
    if not (run / "splits.npz").is_file():
        raise UserError(f"{run} has no splits.npz, which holds the rows of its test split")
    source = build(config["data"], packages)
    with reading(run):
        rows = np.load(run / "splits.npz")["test"]
        counts = pd.read_csv(run / "balance.csv", usecols=["count"])["count"].to_numpy()
        predictions = pq.read_table(run / "predictions.parquet")
    source.prepare()
    loaded = source.load()
    split = loaded.get("test", loaded["train"])
    split = split.filter(np.isin(split.rows, rows))
    with reading(run):
        truth = predictions["labels" if split.task == "multi_label" else "label"]
    vocabulary = Vocabulary(list(labels))
    targets, before = vocabulary.encode(split.labels), vocabulary.encode(truth)
    same = before.shape == targets.shape and not (before != targets).sum()
    if not same:
        raise UserError(f"{split.file} has changed since {run} was tested")
    bounds = build(config["buckets"], packages) if "buckets" in config else DEFAULT_BOUNDS
    return TestedTexts(split.texts.to_pylist(), targets, counts, bounds)
