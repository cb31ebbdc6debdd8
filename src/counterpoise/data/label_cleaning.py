"""Changes to the labels of all splits together."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.label_spelling import (
    by_frequency,
    canonical_spellings,
    format_variants,
    label_counts_of,
    replace_labels,
)
from counterpoise.data.labels import rare_labels, remove_labels
from counterpoise.data.table import Split
from counterpoise.data.table_format import TableFormat
from counterpoise.errors import UserError, nearest

log = logging.getLogger(__name__)

SHOWN = 5
"""Labels that a message names."""
MISSING = {"nan", "-nan", "<na>", "nat", "none", "null", "n/a", "na", "#n/a", "#na", "undefined"}
"""How pandas, R, SQL, Excel and JavaScript write a missing value as text, in lower case."""


def clean_labels(source: TableFormat, splits: dict[str, Split]) -> dict[str, Split]:
    """Return the splits with labels of one spelling, if the source says so, and without rare labels.

    The notices of the split name labels that differ only in spelling, and labels that may be missing values.

    Raises:
        UserError: A label is not among `data.label_names`, or no label is left.
    """
    counts = {name: label_counts_of(split.labels) for name, split in splits.items()}
    preferred = [*(source.names or ()), *(label for found in counts.values() for label in by_frequency(found))]
    spellings = canonical_spellings(preferred, preferred)
    cleaned = {}
    for name, split in splits.items():
        notice = _describe_spellings(counts[name], [] if name == "train" else by_frequency(counts["train"]))
        notices = []
        if notice:
            done = "merged" if source.normalise_labels else "data.normalise_labels=true merges them"
            notices.append(f"{split.file}: {split.noun} that differ only in spelling: {notice} ({done})")
        declared = source.names or ()
        if missing := [each for each in by_frequency(counts[name]) if each.lower() in MISSING and each not in declared]:
            shown = ", ".join(f"{label!r} ({counts[name][label]:,})" for label in missing)
            notices.append(
                f"{split.file}: {split.noun} that may be missing values: {shown} (if so, leave these fields empty)"
            )
        for notice in notices:
            log.warning(notice)
        cleaned[name] = replace(split, notices=(*split.notices, *notices))
        if source.normalise_labels:
            cleaned[name] = respell(cleaned[name], spellings)
        if source.names:
            _reject_unknown_labels(cleaned[name], source.names)
    return drop_rare_labels(cleaned, source.min_count)


def respell(split: Split, spellings: Mapping[str, str]) -> Split:
    """Return the split with other spellings of its labels."""
    names = None if split.label_names is None else [spellings.get(name, name) for name in split.label_names]
    return replace(
        split,
        labels=replace_labels(split.labels, spellings),
        label_names=None if names is None else tuple(dict.fromkeys(names)),
    )


def _describe_spellings(counts: Mapping[str, int], training: Sequence[str]) -> str:
    """Return the labels that differ only in spelling from each other or from a training label, or ""."""
    known = canonical_spellings(counts, training)
    other = [label for label in by_frequency(counts) if known[label] != label and label not in set(training)]
    shown = [f"{label!r} ({counts[label]:,}) is {known[label]!r} in training" for label in other[:SHOWN]]
    more = [f"and {len(other) - SHOWN} more"] if len(other) > SHOWN else []
    return "; ".join([*filter(None, [format_variants(counts)]), *shown, *more])


def _reject_unknown_labels(split: Split, names: Sequence[str]) -> None:
    """Raise UserError for labels that are not among the names."""
    counts = {label: rows for label, rows in label_counts_of(split.labels).items() if label not in set(names)}
    if counts:
        label = by_frequency(counts)[0]
        known = canonical_spellings([label], names)[label]
        hint = f" It differs from {known!r} only in spelling: set data.normalise_labels=true" if known != label else ""
        raise UserError(
            f"{split.file}: {len(counts)} {split.noun} are not in data.label_names, such as {label!r} "
            f"({counts[label]:,} rows).{hint or nearest(label, names)}"
        )


def drop_rare_labels(splits: dict[str, Split], least: int) -> dict[str, Split]:
    """Remove labels that have 1 to `least` - 1 training rows from all splits. Single-label rows go with their label.

    Raises:
        UserError: Nothing is left, or the splits have different tasks.
    """
    train = splits["train"]
    for split in splits.values():
        if split.task != train.task:
            raise UserError(
                f"{split.file} is {split.task} but {train.file} is {train.task}: all files must have the same task"
            )
    rare, largest = rare_labels(train.labels, least)
    if not len(rare):
        return splits
    if largest < least:
        raise UserError(
            f"data.min_count={least}: no label of {train.file} has as many rows; the most frequent one has {largest}"
        )
    log.info("%s: removed labels with fewer than %d training rows (data.min_count): %d", train.file, least, len(rare))
    if train.label_names is not None:
        frequent = set(label_counts_of(train.labels)) - set(rare.to_pylist())
        names = tuple(name for name in train.label_names if name in frequent)
        splits = {name: replace(split, label_names=names) for name, split in splits.items()}
    if train.task == "multi_label":
        return {name: replace(split, labels=remove_labels(split.labels, rare)) for name, split in splits.items()}
    return {name: _without_rows(split, rare, least) for name, split in splits.items()}


def _without_rows(split: Split, rare: pa.Array, least: int) -> Split:
    kept = ~pc.is_in(split.labels, rare).to_numpy(zero_copy_only=False)
    if kept.all():
        return split
    if not kept.any():
        raise UserError(f"data.min_count={least} leaves no row of {split.file}")
    reason = f"with a label of fewer than {least} training rows"
    return replace(split.filter(kept), dropped=split.dropped | {reason: int((~kept).sum())})
