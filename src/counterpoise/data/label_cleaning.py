"""Changes to the labels of all splits together."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.arrow_columns import flatten_lists, is_list
from counterpoise.data.labels import rare_labels, remove_labels
from counterpoise.data.table import Split
from counterpoise.data.table_format import TableFormat
from counterpoise.errors import UserError, nearest

log = logging.getLogger(__name__)


def clean_labels(source: TableFormat, splits: dict[str, Split]) -> dict[str, Split]:
    """Return the splits without rare labels, after the names of the labels are checked.

    Raises:
        UserError: A label is not among `data.label_names`, or no label is left.
    """
    if source.names:
        for split in splits.values():
            _reject_unknown_labels(split, source.names)
    return drop_rare_labels(splits, source.min_count)


def _reject_unknown_labels(split: Split, names: Sequence[str]) -> None:
    """Raise UserError for labels that are not among the names."""
    values = flatten_lists(split.labels)[1] if is_list(split.labels.type) else split.labels
    unknown = pc.invert(pc.is_in(values, pa.array(names, values.type)))
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(values.filter(unknown)).to_pylist()}
    if counts:
        label = max(counts, key=lambda name: counts[name])
        raise UserError(
            f"{split.file}: {len(counts)} labels are not in data.label_names, such as {label!r} ({counts[label]} rows)."
            f"{nearest(label, names)}"
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
