"""Partition of the rows of a source into training, validation and test."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from counterpoise.balance.counts import Targets
from counterpoise.data.splits import Vocabulary, assign_folds, label_counts, sample_rows, split_off
from counterpoise.data.table import Split
from counterpoise.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Partition:
    """Rows of training, validation and test.

    Args:
        vocabulary: Classes or labels of the training rows, and labels that the source declares.
        parts: The file and its row positions, int [N], of "train", "validation" and "test".
        targets: Targets of all rows of the training file, if the vocabulary covers all its labels; else None.
    """

    vocabulary: Vocabulary
    parts: dict[str, tuple[Split, np.ndarray]]
    targets: Targets | None


def partition(
    loaded: Mapping[str, Split],
    fractions: Mapping[str, float],
    seed: int,
    train_limit: int | None = None,
    validation_limit: int | None = None,
    folds: int | None = None,
    fold: int = 0,
) -> Partition:
    """Split off the validation and test rows that a source lacks, and draw the samples that the limits ask for.

    Args:
        loaded: Splits of the source. "train" is one of them.
        fractions: Fraction of the training rows for "test" and "validation", in the order in which they are split off.
        seed: Seed of these splits.
        train_limit: Train on a stratified sample of about this many rows. None: all rows.
        validation_limit: Validate on such a sample. None: all rows.
        folds: Number of folds of the training rows, one of which is the validation split instead of a fraction.
        fold: Number of that fold, from 0.

    Raises:
        UserError: A split or the training would have too few rows or classes.
    """
    train = loaded["train"]
    if folds is not None and "validation" in loaded:
        raise UserError(
            f"loader.folds={folds} divides the training data, but {loaded['validation'].file} is a validation split: "
            "add its rows to the training file, and leave data.validation empty"
        )
    everything = Vocabulary.of(train.labels)
    targets, groups = everything.encode(train.labels), train.group_numbers
    kept, parts = np.arange(len(train)), {}
    for name, fraction in fractions.items():
        if name in loaded:
            parts[name] = (loaded[name], np.arange(len(loaded[name])))
            continue
        left = None if groups is None else groups[kept]
        if name == "validation" and folds is not None:
            held = assign_folds(targets[kept], folds, seed, left) == fold
            part, out = np.flatnonzero(~held), np.flatnonzero(held)
        else:
            part, out = split_off(targets[kept], fraction, seed, left)
        if not len(out):
            raise UserError(f"{train.file}: {_cannot_be_split_off(name, fraction, left)}")
        parts[name] = (train, kept[out])
        kept = kept[part]
    if train_limit is not None and train_limit < len(kept):
        kept = kept[sample_rows(targets[kept], train_limit, 0)]
    present = np.flatnonzero(label_counts(targets[kept], len(everything)))
    _check_number_of_labels(train, len(present), everything, train_limit)
    names = {everything.labels[number] for number in present} | set(train.label_names or ())
    vocabulary = Vocabulary.of(pa.array(sorted(names), pa.string()))
    if validation_limit is not None:
        parts["validation"] = _sample_validation(*parts["validation"], validation_limit, seed)
    ordered = {"train": (train, kept), "validation": parts["validation"], "test": parts["test"]}
    return Partition(vocabulary, ordered, targets if vocabulary == everything else None)


def _cannot_be_split_off(name: str, fraction: float, groups: np.ndarray | None) -> str:
    remedy = f"give data.{name}, or raise loader.{name}_fraction"
    if groups is None:
        return f"no class is large enough to split off {fraction:.0%} for {name}: {remedy}"
    sizes = np.unique(groups, return_counts=True)[1]
    return (
        f"cannot split off {fraction:.0%} for {name} without dividing a group: of {sizes.sum():,} rows, data.group has "
        f"{len(sizes)} groups, the largest with {sizes.max():,} rows: {remedy}"
    )


def _check_number_of_labels(train: Split, present: int, everything: Vocabulary, train_limit: int | None) -> None:
    least = 2 if train.task == "single_label" else 1
    if present < least <= len(everything):
        raise UserError(
            f"loader.train_limit={train_limit} leaves fewer than {least} of the {len(everything)} {train.noun}: "
            "raise it"
        )
    if present < least:
        raise UserError(
            f"{train.file}: all {len(train)} rows have the label '{everything.labels[0]}': "
            "classification needs at least two classes"
        )


def _sample_validation(split: Split, rows: np.ndarray, limit: int, seed: int) -> tuple[Split, np.ndarray]:
    """Return the split with the rows of a stratified sample, and warn of classes that it lacks."""
    if limit >= len(rows):
        return split, rows
    names = Vocabulary.of(split.labels)
    targets = names.encode(split.labels)[rows]
    sample = sample_rows(targets, limit, seed)
    before, after = (label_counts(each, len(names)) > 0 for each in (targets, targets[sample]))
    if missing := int((before & ~after).sum()):
        log.warning(
            "loader.validation_limit=%d: %d of the %d %s of the validation split have no example in the sample, "
            "and macro averages leave them out; raise it",
            limit,
            missing,
            before.sum(),
            split.noun,
        )
    return split, rows[sample]
