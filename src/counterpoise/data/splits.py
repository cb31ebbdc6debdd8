"""Stratified splits and the label vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.balance.samplers import ClassIndex


def stratified_split(classes: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (kept, held_out), the sorted row numbers of both parts of a seeded, stratified split.

    Of the n rows of a class, n * fraction are held out, rounded to the nearest whole number (halves up) and at most
    n - 1: every class stays in the kept part, a class with a single row is there only, and at a fraction of 0.1 it
    takes five rows for one to be held out.

    classes: int [N]. fraction: of each class, in [0, 1).
    """
    rng = np.random.default_rng(seed)
    index = ClassIndex.of(classes, int(classes.max(initial=-1)) + 1)
    sizes = np.minimum(np.floor(index.counts * fraction + 0.5), np.maximum(index.counts - 1, 0)).astype(np.int64)
    parts = [rng.choice(index.members(c), sizes[c], replace=False) for c in np.flatnonzero(sizes)]
    held_out = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)
    kept = np.ones(len(classes), bool)
    kept[held_out] = False
    return np.flatnonzero(kept), held_out


@dataclass(frozen=True)
class Vocabulary:
    """The classes of the training data: position in `labels` = class number = column of the logits."""

    labels: list[str]

    @classmethod
    def of(cls, labels: pa.Array | pa.ChunkedArray) -> "Vocabulary":
        """Returns the distinct labels in order: as numbers if all are whole numbers, else as text."""
        names = pc.unique(labels).to_pylist()
        whole = all(name.removeprefix("-").isdecimal() for name in names)
        return cls(sorted(names, key=(lambda name: (int(name), name)) if whole else None))

    def encode(self, labels: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Returns the class numbers, int64 [N], with -1 for labels that are not in the vocabulary."""
        found = pc.index_in(labels, value_set=pa.array(self.labels, labels.type))
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    def __len__(self) -> int:
        return len(self.labels)


def unseen(labels: pa.Array | pa.ChunkedArray, classes: np.ndarray) -> Sequence[tuple[str, int]]:
    """Returns (label, rows) of the labels encoded as -1, most frequent first."""
    counts = pc.value_counts(pc.filter(labels, pa.array(classes < 0))).to_pylist()
    return sorted(((entry["values"], entry["counts"]) for entry in counts), key=lambda pair: (-pair[1], pair[0]))
