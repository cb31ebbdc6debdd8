"""Base class of sources that read whole tables: a subclass writes `read`."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from counterpoise.data.label_cleaning import clean_labels
from counterpoise.data.readers.files import require_columns
from counterpoise.data.table import Split, usable_rows
from counterpoise.data.table_format import TableFormat
from counterpoise.errors import UserError

SPLITS = ("train", "validation", "test")


@dataclass
class TableSource(TableFormat):
    """Splits from tables in memory.

    The columns are those of `TableFormat`: `text`, `label`, `id`, `group`, `weight`.
    """

    def prepare(self) -> None:
        """Download what `read` needs, once per machine. Does nothing by default."""

    def read(self) -> Mapping[str, pa.Table | pd.DataFrame]:
        """Return a table for each split that exists: "train", and optionally "validation" and "test"."""
        raise NotImplementedError

    def load(self) -> dict[str, Split]:
        """Return the usable rows of each split.

        Raises:
            UserError: A split or a column is missing or unknown, or a row is refused (`on_bad_row="error"`).
        """
        self.check()
        source, splits = type(self).__name__, {}
        tables = self.read()
        if "train" not in tables or not set(tables) <= set(SPLITS):
            found = ", ".join(tables) or "nothing"
            raise UserError(f"{source}.read returned {found}: it must return train, and may return validation and test")
        for name, table in tables.items():
            if not isinstance(table, pa.Table):
                table = pa.Table.from_pandas(table, preserve_index=False)
            where, columns = f"{source}/{name}", self.needed(name)
            require_columns(columns, table.column_names, where)
            splits[name] = usable_rows(self, name, where, table.select(columns), where)
        return clean_labels(self, splits)
