"""The project's own data source."""

from dataclasses import dataclass

import pandas as pd

from counterpoise.data.sources.table import TableSource


@dataclass
class MyTaskSource(TableSource):
    """Messages and their topics.

    Args:
        path: CSV file with the columns that `text` and `label` name.
    """

    path: str

    def read(self) -> dict[str, pd.DataFrame]:
        """Return a table for each split that exists: "train", and optionally "validation" and "test"."""
        return {"train": pd.read_csv(self.path)}
