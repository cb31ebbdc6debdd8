"""Tables that are too large for memory: written once into the cache as Arrow, and mapped from there.

What is mapped is read from the disk where it is used and belongs to the page cache of the system, which takes its pages
back when memory is short. `let_go` gives them back at once, so that a pass over all texts leaves nothing behind.
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
from counterpoise.io import atomic_path

MIN_FILE_AGE = 5.0
"""Seconds without a change after which the times of a file tell of the next one."""
FILE = "table.arrow"
DIGEST = b"counterpoise.digest"

TableSink = Callable[[pa.RecordBatchReader], pa.Table]
"""Takes what a reader reads and returns it as a table; may be called again, and the last call counts."""

_open_maps: WeakSet[mmap.mmap] = WeakSet()


def cached_table(key: str, read: Callable[[TableSink], object], digest: str) -> pa.Table:
    """Returns a table mapped from the cache; where it is absent, `read(keep)` hands its batches to `keep` first.

    key: a digest of all that the table depends on. digest: of what its texts depend on; see `text_digest`.
    """

    def build(folder: Path) -> None:
        read(lambda reader: _write_table(reader, folder / FILE))

    table = _map_table(cached(f"tables/{key}", build) / FILE)
    return table.replace_schema_metadata({**(table.schema.metadata or {}), DIGEST: digest.encode()})


def text_digest(table: pa.Table) -> str | None:
    """Returns the digest of the texts of a table that is cached_table, or None."""
    digest = (table.schema.metadata or {}).get(DIGEST)
    return None if digest is None else digest.decode()


def filter_column(column: pa.ChunkedArray, keep: np.ndarray, digest: str | None) -> tuple[pa.ChunkedArray, str | None]:
    """Returns the rows of a column for which `keep` (bool [N]) is true, and their digest.

    Of a cached_table column, which has a digest, they are cached_table too: its values are not copied into memory.
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
    """Takes cached_table tables out of the resident memory of this process, and what Arrow holds but does not use."""
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        for each in list(_open_maps):
            each.madvise(mmap.MADV_DONTNEED)
    pa.default_memory_pool().release_unused()


def content_digest(path: Path) -> str:
    """Returns the SHA-256 of a file.

    It is kept in the cache, and a file is read again only where its place on the disk, its size or one of its times has
    changed. The time of the last change to the inode is among them: no program can set it back. Nothing is kept of a
    file that was changed a moment ago, as the next change may bear the same time.
    """
    path = path.resolve()
    name = hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:32]
    kept = cache_root() / "digests" / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
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


def file_state(path: Path) -> list[int]:
    """Returns what changes with the content of a file."""
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _write_table(reader: pa.RecordBatchReader, path: Path) -> pa.Table:
    # A stream, as the dictionaries of a column may differ from batch to batch, which a file of Arrow cannot hold.
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
