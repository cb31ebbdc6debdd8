"""Changes to the labels of all splits together."""

import logging
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.labels import rare_labels, remove_labels
from counterpoise.data.table import Split
from counterpoise.errors import UserError

log = logging.getLogger(__name__)


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
