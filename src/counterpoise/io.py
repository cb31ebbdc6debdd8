"""Atomic file writes, and folders that one process at a time writes to."""

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from counterpoise.errors import UserError, disk_error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path beside `path` and rename it when the block ends.

    Readers see the old file or the complete new one. If the block raises, the old file is unchanged and the temporary
    file is removed. Missing parent folders are created.

    Args:
        path: The file to write.

    Raises:
        UserError: The disk is full or read-only.

    Yields:
        The temporary path, with the suffix of `path`, because some savers choose the format by the suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    except Exception as error:
        if (cause := disk_error(error)) is None:
            raise
        raise UserError(f"cannot write {path}: {os.strerror(cause.errno or 0)}; free space in {path.parent}") from error
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Write a folder that appears complete or not at all: yield a new one, which replaces `path` when the block ends.

    Args:
        path: The folder to write, or a symbolic link to it. Missing parent folders are created.

    Yields:
        The empty folder to fill. If the block raises, it is removed and `path` is unchanged.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as unfinished:
        folder = Path(unfinished) / "folder"
        folder.mkdir()
        yield folder
        if path.exists():
            shutil.rmtree(path)
        folder.replace(path)


@contextmanager
def exclusive(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock on a file within the block. The system releases it if the process is killed.

    Args:
        path: The file; it is created, and stays.
        refusal: Message of the error.

    Raises:
        UserError: Another process holds the lock.
    """
    try:
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        raise UserError(refusal) from None
    with lock:
        yield


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove temporary files of `atomic_path` that a killed process left in a folder, and return their paths."""
    if not folder.is_dir():
        return []
    left = [path for path in folder.iterdir() if re.fullmatch(r"\..+\.[0-9a-f]{8}(\.\w+)?", path.name)]
    for path in left:
        path.unlink(missing_ok=True)
    return left
