"""Atomic file writes."""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove temporary files of `atomic_path` that a killed process left in a folder, and return their paths."""
    if not folder.is_dir():
        return []
    left = [path for path in folder.iterdir() if re.fullmatch(r"\..+\.[0-9a-f]{8}(\.\w+)?", path.name)]
    for path in left:
        path.unlink(missing_ok=True)
    return left
