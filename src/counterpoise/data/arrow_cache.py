"""Tables that are too large for memory: written to the cache once as Arrow, then mapped into memory.

Mapped pages belong to the page cache of the operating system. `release_pages` removes them from the resident memory of
this process, so that a pass over all texts does not accumulate memory.
"""

import hashlib
import json
import mmap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pyarrow as pa

from counterpoise.data.cache import cache_root, cached
from counterpoise.data.checksums import file_state
from counterpoise.io import atomic_path

MIN_FILE_AGE = 5.0
"""Seconds without a change before the digest of a file is stored. Timestamps of later changes then differ."""
FILE = "table.arrow"
DIGEST = b"counterpoise.digest"

TableSink = Callable[[pa.RecordBatchReader], pa.Table]
"""Consumes a record batch reader and returns its rows as a table. Only the result of the last call counts."""

_open_maps: WeakSet[mmap.mmap] = WeakSet()


def cached_table(key: str, read: Callable[[TableSink], object], digest: str) -> pa.Table:
    """Return a table that is mapped from the cache.

    Args:
        key: Digest of everything that the table depends on.
        read: Called if the table is absent. It passes its batches to the sink that it receives.
        digest: Digest of everything that the texts depend on. See `text_digest`.
    """

    def build(folder: Path) -> None:
        read(lambda reader: _write_table(reader, folder / FILE))

    table = _map_table(cached(f"tables/{key}", build) / FILE)
    return table.replace_schema_metadata({**(table.schema.metadata or {}), DIGEST: digest.encode()})


def text_digest(table: pa.Table) -> str | None:
    """Return the digest of the texts of a cached table, or None for a table in memory."""
    digest = (table.schema.metadata or {}).get(DIGEST)
    return None if digest is None else digest.decode()


def filter_column(column: pa.ChunkedArray, keep: np.ndarray, digest: str | None) -> tuple[pa.ChunkedArray, str | None]:
    """Filter a column. The result of a mapped column is mapped too: its values are not copied into memory.

    Args:
        column: [N].
        keep: Rows to keep, bool [N].
        digest: Digest of the column if it is mapped, else None.

    Returns:
        The rows and their digest.
    """
    if keep.all():
        return column, digest
    if digest is None:
        return column.filter(pa.array(keep)), None
    schema = pa.schema([("column", column.type)])

    def read(keep_batches: TableSink) -> None:
        starts = np.cumsum([0, *map(len, column.chunks)])
        batches = (
            pa.record_batch([chunk.filter(pa.array(keep[start : start + len(chunk)]))], schema)
            for start, chunk in zip(starts, column.chunks, strict=False)
        )
        keep_batches(pa.RecordBatchReader.from_batches(schema, batches))

    key = hashlib.blake2b(digest.encode() + np.packbits(keep).tobytes(), digest_size=16).hexdigest()
    return cached_table(key, read, key)["column"], key


def release_pages() -> None:
    """Remove mapped tables from the resident memory of this process, and release unused memory of Arrow."""
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        for each in list(_open_maps):
            each.madvise(mmap.MADV_DONTNEED)
    pa.default_memory_pool().release_unused()


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    The digest is stored in the cache. The file is read again only if its inode, size, modification time or change time
    differ. No program can set back the change time. Digests of files that changed within `MIN_FILE_AGE` seconds are not
    stored, since the next change may have the same timestamp.
    """
    path = path.resolve()
    name = hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:32]
    kept = cache_root() / "digests" / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        known = json.loads(kept.read_text())
        if known["state"] == file_state(path):
            return known["sha256"]
    state = file_state(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    changed = max(path.stat().st_mtime, path.stat().st_ctime)
    if time.time() - changed > MIN_FILE_AGE:
        with suppress(OSError), atomic_path(kept) as unfinished:
            unfinished.write_text(json.dumps({"path": str(path), "state": state, "sha256": digest}))
    return digest


def _write_table(reader: pa.RecordBatchReader, path: Path) -> pa.Table:
    # The stream format: dictionaries of a column may differ between batches, which the file format does not allow.
    """Write the batches to a file and return the mapped table."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            release_pages()
    return _map_table(path)


def _map_table(path: Path) -> pa.Table:
    with path.open("rb") as file:
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _open_maps.add(whole)
    with pa.ipc.open_stream(pa.py_buffer(whole)) as reader:
        return reader.read_all()
