"""The linear baseline of a run: fitted once per data, decided by the run's own rule, compared with the run."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from hydra.utils import instantiate

from counterpoise.analysis.baseline import differences
from counterpoise.analysis.group_decisions import comparison_metrics
from counterpoise.balance.counts import Targets
from counterpoise.data.arrow_cache import release_pages
from counterpoise.data.cache import cached
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.encoded_split import EncodedSplit
from counterpoise.metrics.scoring import MultiLabelScoring, Scoring, SingleLabelScoring
from counterpoise.terminal import console
from counterpoise.training.results import BaselineResults, RunResults
from counterpoise.training.run import RunContext

FORMAT = 2
"""Part of the cache key. Raise it when the same settings give other logits."""
BLOCK_TEXTS = 4096
"""Texts that are in memory at a time."""


class FittedBaseline(Protocol):
    """A trained baseline."""

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits of texts, float32 [N, C]."""

    def save(self, folder: Path) -> None:
        """Write the model to files of a folder, for `BaselineModel.load`."""


class BaselineModel(Protocol):
    """What `baseline._target_` must provide. `repr` shows the settings that decide the result."""

    def sample(self, lengths: np.ndarray, targets: Targets, classes: int) -> np.ndarray:
        """Return the rows to train on, given the lengths of the texts in bytes, int [N]."""

    def fit(
        self, texts: Sequence[str], targets: Targets, classes: int, weights: np.ndarray | None = None
    ) -> FittedBaseline:
        """Train on texts and return the model."""

    def load(self, folder: Path) -> FittedBaseline:
        """Return a trained model that was saved to a folder. Raise UserError if it cannot be read."""


@dataclass(frozen=True)
class BaselineLogits:
    """Logits of a trained baseline.

    Args:
        settings: The model and its settings.
        train_examples: Number of training texts that it was fitted on.
        seconds: Seconds that fitting and evaluating took, when it was done.
        logits: Logits of the splits "validation" and "test", float32 [N, C].
    """

    settings: str
    train_examples: int
    seconds: float
    logits: dict[str, np.ndarray]


def fit_baseline(run: RunContext, data: TextDataModule) -> BaselineLogits | None:
    """Return the logits of the run's baseline; fit it if no run on the same splits has done so.

    Args:
        run: The run's context.
        data: The data of all splits.

    Returns:
        None without a baseline (`baseline=none`), with `debug=fast`, and in all processes but the first.
    """
    if run.rank != 0 or not run.config.get("baseline") or run.config.trainer.fast_dev_run:
        return None
    baseline = cached_logits(instantiate(run.config.baseline), data)
    rows, used = len(data.splits["train"]), baseline.train_examples
    part = f"all {rows:,}" if used == rows else f"{used:,} (limited by baseline.max_work) of {rows:,}"
    console.print(f"baseline: linear model on {part} training texts in {baseline.seconds:.1f} s", highlight=False)
    return baseline


def cached_logits(model: BaselineModel, data: TextDataModule) -> BaselineLogits:
    """Return the logits of a baseline on validation and test, from the cache if possible.

    The jobs of a sweep share the cache: one fits the baseline, the others wait for it.

    Args:
        model: The baseline, not yet fitted.
        data: The data of all splits.
    """

    def build(folder: Path) -> None:
        with console.status("fitting the baseline"):
            _fit(model, data, folder)

    folder = cached(f"baselines/{_key(model, data)}", build)
    facts = json.loads((folder / "baseline.json").read_text(encoding="utf-8"))
    with np.load(folder / "logits.npz") as logits:
        return BaselineLogits(**facts, logits=dict(logits))


def cached_model(model: BaselineModel, data: TextDataModule) -> FittedBaseline:
    """Return the trained baseline, from the cache if possible, as it is read from its files."""

    def build(folder: Path) -> None:
        with console.status("fitting the linear model"):
            _train(model, data)[0].save(folder)

    return model.load(cached(f"baseline_models/{_key(model, data)}", build))


def add_baseline(results: RunResults, baseline: BaselineLogits | None, scoring: Scoring) -> RunResults:
    """Return the results with the baseline's decisions, its scores, and the differences of the run to it.

    Args:
        results: Results of the run.
        baseline: Logits of the baseline. None: the results stay as they are.
        scoring: Scoring of the run's model, whose decision rule the baseline follows. Thresholds are its own.
    """
    if baseline is None:
        return results
    own = baseline_scoring(baseline, scoring, results.labels, results.validation_targets)
    test = baseline.logits["test"]
    results = replace(results, baseline=BaselineResults(test, own.decide(test) if own.multi_label else None))
    support = results.table.test_count.to_numpy()
    compared = comparison_metrics(results.correction.task, support, results.counts, results.bounds)
    section = {
        "settings": baseline.settings,
        "train_examples": baseline.train_examples,
        "seconds": baseline.seconds,
        "test": scores(own, test, results.test_targets),
        "validation": scores(own, baseline.logits["validation"], results.validation_targets),
        "difference": differences(results.truth, results.predicted, results.baseline_predicted, compared),
    }
    return replace(results, metrics={**results.metrics, "baseline": section})


def baseline_scoring(
    baseline: BaselineLogits, scoring: Scoring, labels: Sequence[str], validation_targets: Targets
) -> Scoring:
    """Return a scoring with the decision rule of another one, and thresholds tuned for the baseline."""
    if not isinstance(scoring, MultiLabelScoring):
        return SingleLabelScoring(scoring.counts, scoring.bounds)
    decision = scoring.decision
    if decision.top_k is None and not decision.tunes:
        # Distances to a plane are no log-odds: a fixed probability, and thresholds of another model, do not fit.
        decision = replace(decision, thresholds="label", file=None)
    own = MultiLabelScoring(labels, scoring.counts, scoring.bounds, decision)
    own.tune(baseline.logits["validation"], validation_targets)
    return own


def scores(scoring: Scoring, logits: np.ndarray, targets: Targets) -> dict[str, float]:
    """Return the metrics of the baseline, without the loss: distances to a plane are no log-odds."""
    return {name: value for name, value in scoring.measure(logits, targets).items() if name != "loss"}


def _fit(model: BaselineModel, data: TextDataModule, folder: Path) -> None:
    """Fit the model and write the logits of validation and test, and what is known of the fit."""
    start = time.monotonic()
    fitted, examples = _train(model, data)
    logits = {name: split_logits(fitted, data.splits[name], len(data.labels)) for name in ("validation", "test")}
    np.savez(folder / "logits.npz", **logits)  # type: ignore[arg-type]
    facts: dict[str, Any] = {
        "settings": repr(model),
        "train_examples": examples,
        "seconds": round(time.monotonic() - start, 2),
    }
    (folder / "baseline.json").write_text(json.dumps(facts), encoding="utf-8")


def _train(model: BaselineModel, data: TextDataModule) -> tuple[FittedBaseline, int]:
    """Return the trained model and the number of training texts that it was fitted on."""
    train, classes = data.splits["train"], len(data.labels)
    rows = model.sample(train.text_sizes, train.targets, classes)
    weights = None if train.dataset.weights is None else np.asarray(train.dataset.weights)[rows]
    return model.fit(train.texts(rows), train.targets[rows], classes, weights), len(rows)


def split_logits(fitted: FittedBaseline, split: EncodedSplit, classes: int) -> np.ndarray:
    """Return the logits of a split's texts, float32 [N, C]."""
    logits = np.empty((len(split), classes), np.float32)
    for rows in _blocks(split):
        logits[rows] = fitted.logits(split.texts(rows))
        release_pages()
    return logits


def _key(model: BaselineModel, data: TextDataModule) -> str:
    """Return a digest of everything that the logits depend on: the model, the texts and the training targets."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{FORMAT} {version('scikit-learn')} {model!r} {len(data.labels)}".encode())
    for name, split in data.splits.items():
        digest.update(f"{name} {len(split)}".encode())
        for rows in _blocks(split):
            for text in split.texts(rows):
                encoded = text.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        release_pages()
    targets, weights = data.splits["train"].targets, data.splits["train"].dataset.weights
    arrays = [targets] if isinstance(targets, np.ndarray) else [targets.indptr, targets.indices]
    for values in [*arrays, *([] if weights is None else [weights])]:
        digest.update(np.ascontiguousarray(values, np.float64).data)
    return digest.hexdigest()


def _blocks(split: EncodedSplit) -> list[np.ndarray]:
    return np.split(np.arange(len(split)), np.arange(BLOCK_TEXTS, len(split), BLOCK_TEXTS))
