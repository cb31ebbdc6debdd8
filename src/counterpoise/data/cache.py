"""Cache folders that one process builds. A folder is complete or absent; a damaged one is built again."""

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_dir

from counterpoise.data.checksums import find_damage, write_checksums
from counterpoise.errors import UserError, disk_error

log = logging.getLogger(__name__)


def cache_root() -> Path:
    """Return the absolute path of the cache: `$COUNTERPOISE_CACHE`, or the platform's cache folder."""
    return Path(os.environ.get("COUNTERPOISE_CACHE") or user_cache_dir("counterpoise")).expanduser().absolute()


class _Clock:
    """Measure the time inside `running`; nested calls count once."""

    def __init__(self) -> None:
        self.seconds, self._running = 0.0, False

    @contextmanager
    def running(self) -> Iterator[None]:
        if self._running:
            yield
            return
        start, self._running = time.monotonic(), True
        try:
            yield
        finally:
            self.seconds, self._running = self.seconds + time.monotonic() - start, False


_clock = _Clock()


def build_seconds() -> float:
    """Return the seconds that this process has spent on building cache folders, or on waiting for their builders.

    The first run on new data downloads, reads and encodes; later runs find the results in the cache.
    """
    return _clock.seconds


def cached(key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder `cache_root()/key`. If it is absent or damaged, build it first.

    If several processes ask at once, one builds and the others wait. The folder appears by a single rename after its
    files are on disk: a build that fails or is killed leaves no partial entry. Its files are compared with their
    checksums; a warning names a damaged one.

    Args:
        key: Path below the cache root. It may contain "/".
        build: Fills the empty folder that it receives.

    Raises:
        UserError: The folder cannot be written (no permission, disk full).
    """
    folder = cache_root() / key
    try:
        if folder.exists() and find_damage(folder) is None:
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _clock.running(), FileLock(f"{folder}.lock"):
            damage = find_damage(folder) if folder.exists() else "absent"
            if damage is None:
                return folder
            # The lock is held: temporary folders of this entry belong to killed builds.
            for stale in folder.parent.glob(f"{escape(folder.name)}.tmp-*"):
                shutil.rmtree(stale)
            if folder.exists():
                log.warning("the cache entry %s is damaged (%s) and is built again", folder, damage)
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
            _build_and_rename(folder, build)
    except Exception as error:
        cause = error if isinstance(error, OSError) else disk_error(error)
        if cause is None:
            raise
        reason = os.strerror(cause.errno) if cause.errno else " ".join(str(cause).split())
        raise UserError(
            f"cannot build the cache folder {folder}: {reason}; "
            "set COUNTERPOISE_CACHE to a writable folder with enough free space"
        ) from error
    return folder


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array as `np.save` does, which however reports no error if the disk has no space for the last bytes."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _build_and_rename(folder: Path, build: Callable[[Path], None]) -> None:
    # Not tempfile.mkdtemp: its mode 0700 would exclude other users of a shared cache.
    tmp = folder.with_name(f"{folder.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    tmp.mkdir()
    try:
        build(tmp)
        write_checksums(tmp)
        for path in tmp.rglob("*"):
            _fsync(path)
        _fsync(tmp)
        tmp.replace(folder)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    _fsync(folder.parent)


def _fsync(path: Path) -> None:
    if os.name == "nt":  # Windows cannot sync folders or files that are open for reading.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
