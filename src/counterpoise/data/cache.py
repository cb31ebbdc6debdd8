"""Folders that are built once, by one process, and are then there whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Callable
from glob import escape
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir

from counterpoise.errors import UserError


def cache_root() -> Path:
    """Returns the absolute folder of the cache: `$COUNTERPOISE_CACHE`, or the platform's cache folder."""
    return Path(os.environ.get("COUNTERPOISE_CACHE") or user_cache_dir("counterpoise")).expanduser().absolute()


def cached(key: str, build: Callable[[Path], None], *, resumable: bool = False) -> Path:
    """Returns the folder `cache_root()/key`; where it is absent, `build(tmp)` fills it first.

    `key` may contain "/". Of several processes that ask at once, one builds and the others wait. The folder
    appears by one rename after its files have reached the disk, so a build that fails or is killed leaves no
    half of an entry. Raises UserError where the system refuses to write (no permission, no room left).

    resumable: what a build that failed or was killed has written stays, and the next one finds it in `tmp`. What of it
    has reached the disk is not known: `build` must check it.
    """
    folder = cache_root() / key
    try:
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                # Under the lock no other build of this entry is alive: what lies here is a killed one's.
                for stale in folder.parent.glob(f"{escape(folder.name)}.tmp-*"):
                    shutil.rmtree(stale)
                _build_and_rename(folder, build, resumable)
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).split())
        raise UserError(
            f"cannot build the cache folder {folder}: {reason}; "
            "set COUNTERPOISE_CACHE to a folder that can be written and has room"
        ) from error
    return folder


def _build_and_rename(folder: Path, build: Callable[[Path], None], resumable: bool) -> None:
    # Not tempfile.mkdtemp: its mode 0700 would shut others out of a shared cache.
    own = "part" if resumable else f"tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    tmp = folder.with_name(f"{folder.name}.{own}")
    tmp.mkdir(exist_ok=resumable)
    try:
        build(tmp)
        for path in tmp.rglob("*"):
            _fsync(path)
        _fsync(tmp)
        tmp.replace(folder)
    except BaseException:
        if not resumable:
            shutil.rmtree(tmp, ignore_errors=True)
        raise
    _fsync(folder.parent)


def _fsync(path: Path) -> None:
    if os.name == "nt":  # Windows cannot sync what is open for reading, nor folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
