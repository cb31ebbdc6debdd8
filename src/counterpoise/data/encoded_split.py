"""One split with its targets and token ids."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.balance.counts import Targets
from counterpoise.data.arrow_columns import take_rows
from counterpoise.data.batching import TokenDataset
from counterpoise.data.table import Split


@dataclass(frozen=True)
class EncodedSplit:
    """One split with targets and token ids, all for the same N rows.

    Args:
        split: The split of the source.
        kept: Positions of the rows in `split`, int64 [N].
        dataset: Token ids and targets.
        unseen: Number of rows whose class does not occur in training (dropped), or number of labels that do not occur
            in training (multi-label; the row keeps its other labels).
    """

    split: Split
    kept: np.ndarray
    dataset: TokenDataset
    unseen: int = 0

    @property
    def targets(self) -> Targets:
        """Class numbers, int64 [N], or label indicators, bool [N, C]."""
        return self.dataset.targets

    @property
    def rows(self) -> np.ndarray:
        """Row numbers in the source file, int64 [N]. They start at 1."""
        return self.split.rows[self.kept]

    @property
    def ids(self) -> list[str]:
        """Values of the id column, or the row numbers without one."""
        if self.split.ids is None:
            return [str(row) for row in self.rows]
        return self.split.ids.take(pa.array(self.kept)).to_pylist()

    @property
    def text_sizes(self) -> np.ndarray:
        """Bytes of each text in UTF-8, int64 [N]."""
        return pc.binary_length(self.split.texts).to_numpy()[self.kept].astype(np.int64)

    def texts(self, rows: np.ndarray) -> list[str]:
        """Return the texts of these rows (numbers from 0 to N - 1)."""
        return take_rows(self.split.texts, self.kept[rows]).to_pylist()

    def __len__(self) -> int:
        return len(self.kept)
