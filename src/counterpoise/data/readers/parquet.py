"""Reading of Parquet files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from counterpoise.data.arrow_cache import TableSink
from counterpoise.data.readers.binary_formats import require_parquet
from counterpoise.data.readers.files import require_columns, reraise_as_user_error


def parquet_names(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file."""
    require_parquet(path)
    with reraise_as_user_error(path, (OSError, pa.ArrowException)):
        return pa.parquet.read_schema(path).names


def read_parquet(path: Path, columns: list[str], keep: TableSink) -> pa.Table:
    """Read columns of a Parquet file with their stored types.

    Raises:
        UserError: The file is not a Parquet file, cannot be opened, or lacks a column.
    """
    require_parquet(path)
    with reraise_as_user_error(path, (OSError,)):
        opened = pa.parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
    with opened as file:
        require_columns(columns, file.schema_arrow.names, path.name)
        schema = pa.schema([file.schema_arrow.field(column) for column in columns])
        return keep(pa.RecordBatchReader.from_batches(schema, file.iter_batches(2**14, columns=columns)))
