"""Score a finished run on a labelled file and show the scores."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from scipy.sparse import csr_matrix

from counterpoise.analysis.job_folders import ENSEMBLE_FILE
from counterpoise.balance import ClassIndex, Correction, PowerSampler
from counterpoise.balance.counts import Targets
from counterpoise.commands.evaluated_texts import warnings_about
from counterpoise.commands.predict import chosen_text_columns, csv_format_of, given_columns, warn_of_missing_ids
from counterpoise.commands.predictor import BlockPredictor, Predictor, load
from counterpoise.commands.run_predictor import make_predictor
from counterpoise.commands.saved_run import load_run
from counterpoise.commands.trusted_classes import allowed_packages
from counterpoise.csv_tables import read_csv
from counterpoise.data.label_cleaning import respell
from counterpoise.data.label_spelling import canonical_spellings, label_counts_of
from counterpoise.data.sources.files import FileSource
from counterpoise.data.splits import Vocabulary, describe_unseen, unseen_labels
from counterpoise.data.table import Split
from counterpoise.errors import UserError
from counterpoise.metrics import registry
from counterpoise.metrics.scoring import MultiLabelScoring
from counterpoise.saved_files import read_json, reading
from counterpoise.terminal import console
from counterpoise.training.results import RunResults

log = logging.getLogger(__name__)


def evaluate(arguments: argparse.Namespace) -> RunResults:
    """Return the results of a run on a labelled file.

    Args:
        arguments: Parsed command line.

    Raises:
        UserError: The run or the file cannot be read, or no row has a label of the run.
    """
    packages = allowed_packages(arguments.allow)
    ensemble = (arguments.run / ENSEMBLE_FILE).is_file()
    model, config = load_run(arguments.run / "members" / "0" if ensemble else arguments.run, packages)
    with reading(arguments.run):
        correction = read_correction(arguments.run, model.labels, model.scoring.multi_label)
    model.scoring.counts = correction.counts
    arguments.text = chosen_text_columns(arguments.text, config["data"])
    split = read_labelled(arguments, config, correction.multi_label)
    if config["data"].get("normalise_labels"):
        split = respell(split, canonical_spellings(label_counts_of(split.labels), model.labels))
    vocabulary = Vocabulary(model.labels)
    targets, kept, unseen = known_rows(split, vocabulary)
    split = split.filter(kept)
    options = (arguments.device, arguments.precision, packages)
    predictor: BlockPredictor
    if ensemble:
        predictor = load(arguments.run, *options)
        if isinstance(model.scoring, MultiLabelScoring):
            model.scoring.thresholds.copy_(torch.from_numpy(predictor.thresholds))
    else:
        predictor = make_predictor(arguments.run, model, config, *options)
    predictor.check_columns(arguments.text, arguments.run)
    first = arguments.run / "members" / "0" if ensemble else arguments.run
    warnings = warnings_about(split, first, config, predictor, packages)
    for line in warnings:
        log.warning("%s", line)
    blocks = list(predictor.predict_blocks(split.texts))
    logits = np.concatenate([block.logits for block in blocks])
    if unknown := sum(len(block.reasons) - block.reasons.null_count for block in blocks):
        # As in training: only blank texts are dropped, when the file is read.
        log.warning("%s: %d texts have no known token; they are scored like the others", split.file, unknown)
    scoring = model.scoring
    multi_label = scoring.multi_label
    metrics: dict[str, Any] = {"test": scoring.measure(logits, targets)}
    if multi_label:
        metrics["test_at_half"] = scoring.measure(logits, targets, threshold=0.5)
    metrics["data"] = {"test": {"examples": len(split), "dropped": split.dropped, "unseen": unseen}}
    metrics["data_warnings"] = [*split.notices, *warnings]
    metrics["run"], metrics["file"] = str(arguments.run), str(arguments.file)
    nothing = targets[:0]
    return RunResults(
        name=f"{arguments.file.name}, predicted by {arguments.run.name}",
        strategy=str(run_metrics(arguments.run).get("strategy", {}).get("name") or "run"),
        probe=bool(config.get("probe")),
        config=config,
        metrics=metrics,
        seconds=None,
        correction=correction,
        effective_prior=correction.effective_prior,
        bounds=scoring.bounds,
        ids=[str(row) for row in split.rows] if split.ids is None else split.ids.to_pylist(),
        texts=lambda rows: split.texts.take(rows).to_pylist(),
        test_targets=targets,
        test_logits=logits,
        validation_targets=nothing,
        validation_logits=logits[:0],
        lengths=np.empty(0, np.int64),
        max_length=predictor.readable_length if isinstance(predictor, Predictor) else config["encoder"]["max_length"],
        decided=predictor.decide(logits) if multi_label else None,
        thresholds=predictor.thresholds,
    )


def read_labelled(arguments: argparse.Namespace, config: dict[str, Any], multi_label: bool) -> Split:
    """Return the usable rows of the file. Columns default to those of the run's data."""
    data = config["data"]
    if arguments.separator and not multi_label:
        raise UserError(f"--separator {arguments.separator!r} has no effect: {arguments.run} is a single-label run")
    label = given_columns(arguments.label, several=True)
    source = FileSource(
        train=str(arguments.file),
        text=_one_or_several(arguments.text),
        label=_one_or_several(label) if label else data.get("label", "label"),
        id=arguments.id or data.get("id"),
        separator=arguments.separator or data.get("separator"),
        label_names=data.get("label_names"),
        normalise_labels=data.get("normalise_labels", False),
        task="multi_label" if multi_label else "single_label",
        max_dropped=arguments.max_dropped if arguments.max_dropped is not None else data.get("max_dropped", 0.05),
        **csv_format_of(arguments),
    )
    try:
        return source.load()["train"]
    except UserError as error:
        if arguments.id or not source.id or f"no column {source.id!r}" not in str(error):
            raise
        warn_of_missing_ids(arguments.file, source.id)
        return replace(source, id=None).load()["train"]


def _one_or_several(columns: list[str]) -> str | list[str]:
    """Return columns as a source expects them: a single one by its name."""
    return columns if len(columns) > 1 else columns[0]


def known_rows(split: Split, vocabulary: Vocabulary) -> tuple[Targets, np.ndarray, int]:
    """Return the targets of the rows with known labels, a mask of these rows, and the number of unknown labels.

    Single-label rows of an unknown class are left out. Multi-label rows keep their known labels.
    """
    targets = vocabulary.encode(split.labels)
    unseen = unseen_labels(split.labels, vocabulary)
    count = sum(rows for _, rows in unseen)
    if count:
        hint = "some differ only in spelling from labels of the run, see data.normalise_labels"
        described = describe_unseen(unseen, vocabulary.labels, hint)
        if isinstance(targets, np.ndarray):
            message = "%s: %d rows have classes that the run was not trained on, and are left out: %s"
        else:
            message = "%s: %d times a label that the run was not trained on, which is ignored: %s"
        log.warning(message, split.file, count, described)
    kept = targets >= 0 if isinstance(targets, np.ndarray) else np.ones(targets.shape[0], bool)
    targets = targets[kept]
    if not (len(targets) if isinstance(targets, np.ndarray) else targets.nnz):
        raise UserError(f"{split.file}: no row has a label that the run was trained on")
    return targets, kept, count


def read_correction(run: Path, labels: list[str], multi_label: bool) -> Correction:
    """Return the counts, sampling probabilities and class weights of a run from its balance.csv.

    The rows of each class are numbered from 0, because the file does not hold the training rows.
    """
    path = run / "balance.csv"
    if not path.is_file():
        raise UserError(f"{run} has no balance.csv, so its class counts are unknown")
    table = read_csv(path, "class").set_index("class").loc[labels]
    counts = table["count"].to_numpy(np.int64)
    if multi_label:
        rows = int(run_metrics(run)["data"]["train"]["examples"])
        columns = np.repeat(np.arange(len(labels)), counts)
        numbers = np.concatenate([np.arange(count) for count in counts])
        targets: Targets = csr_matrix((np.ones(len(columns), bool), (numbers, columns)), (rows, len(labels)))
    else:
        targets = np.repeat(np.arange(len(labels)), counts)

    def column(name: str) -> np.ndarray:
        """Return a column; ones if the run has none, for lack of instance weights or negatives."""
        return table[name].to_numpy(np.float64) if name in table else np.ones(len(labels))

    return Correction(
        labels=labels,
        index=ClassIndex.from_targets(targets, len(labels)),
        sampler=PowerSampler(),
        epoch_size=int(run_metrics(run)["strategy"]["epoch_size"]),
        sampling_probs=table["draw_rate"].to_numpy(np.float64),
        instance_weights=column("instance_weight"),
        negative_instance_weights=column("negative_instance_weight"),
        class_weights=table["weight"].to_numpy(np.float64),
        negative_weights=column("negative_weight"),
        capped=np.zeros(len(labels), bool),
    )


def run_metrics(run: Path) -> dict[str, Any]:
    """Return the metrics.json of a run."""
    path = run / "metrics.json"
    if not path.is_file():
        raise UserError(f"{run} has no metrics.json: it did not finish")
    return read_json(path)


def show(results: RunResults, run: Path) -> None:
    """Print the metrics on the file beside those of the run's own test split."""
    own, scores = run_metrics(run)["test"], results.metrics["test"]
    table = Table(title=f"{len(results.ids):,} texts", title_justify="left")
    table.add_column("metric")
    for heading in ("this file", "run's test"):
        table.add_column(heading, justify="right")
    for metric in registry.select("multi_label" if results.multi_label else "single_label", "results"):
        if metric.name in scores:
            values = (f"{each[metric.name]:.4f}" if metric.name in each else "" for each in (scores, own))
            table.add_row(metric.title, *values)
    console.print(table)
