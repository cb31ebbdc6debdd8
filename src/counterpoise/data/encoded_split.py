"""One split with its targets and token ids."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from counterpoise.balance.counts import Targets
from counterpoise.data.arrow_columns import take_rows
from counterpoise.data.batching import TokenDataset
from counterpoise.data.table import Split


@dataclass(frozen=True)
class EncodedSplit:
    """One split ready for training: its source rows, targets and token ids, all over the same N rows.

    kept: int64 [N], positions of the rows in `split`. unseen: how often it has a class or label that training lacks:
    such a row is left out of single-label data, and keeps its other labels in multi-label data.
    """

    split: Split
    kept: np.ndarray
    dataset: TokenDataset
    unseen: int = 0

    @property
    def targets(self) -> Targets:
        """Class numbers, int64 [N], or the labels of each row, bool [N, C]."""
        return self.dataset.targets

    @property
    def rows(self) -> np.ndarray:
        """1-based row numbers in the source file, int64 [N]."""
        return self.split.rows[self.kept]

    @property
    def ids(self) -> list[str]:
        """The id column, or the row numbers where there is none."""
        if self.split.ids is None:
            return [str(row) for row in self.rows]
        return self.split.ids.take(pa.array(self.kept)).to_pylist()

    def texts(self, rows: np.ndarray) -> list[str]:
        """Returns the texts of these of the N rows."""
        return take_rows(self.split.texts, self.kept[rows]).to_pylist()

    def __len__(self) -> int:
        return len(self.kept)
