"""Checksums of the files of a cache folder, written when it is built and compared when it is opened.

A file is read again only if its inode, size or timestamps have changed since it was last compared. Opening an intact
folder therefore costs one `stat` per file, whatever their sizes.
"""

import json
import zlib
from contextlib import suppress
from pathlib import Path

from counterpoise.io import atomic_path

FILE = "checksums.json"
BLOCK = 2**20


def write_checksums(folder: Path) -> None:
    """Write the size, the CRC-32 and the state of every file below a folder to its checksums.json."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / FILE)
    _write(folder, {path.relative_to(folder).as_posix(): [*_crc32(path), file_state(path)] for path in files})


def find_damage(folder: Path) -> str | None:
    """Return which file of a folder is damaged and how, or None if all are as they were written.

    Raises:
        PermissionError: A file cannot be read.
    """
    try:
        known = json.loads((folder / FILE).read_text(encoding="utf-8"))
        expected = {str(name): (int(size), int(crc), list(state)) for name, (size, crc, state) in known.items()}
    except FileNotFoundError:
        return f"it has no {FILE}"
    except (NotADirectoryError, IsADirectoryError, ValueError, TypeError, AttributeError, RecursionError):
        return f"its {FILE} is invalid"
    states = {}
    for name, (size, crc, state) in expected.items():
        path = folder / name
        try:
            states[name] = file_state(path)
            if state == states[name]:
                continue
            found = path.stat().st_size
            if found != size:
                return f"{name} has {found:,} bytes, not {size:,}"
            if _crc32(path) != (size, crc):
                return f"the checksum of {name} differs"
        except PermissionError:
            raise
        except OSError as error:
            return f"{name}: {error.strerror}"
    if any(state != states[name] for name, (_, _, state) in expected.items()):
        with suppress(OSError):  # The cache may be read-only: its files are then read at every opening.
            _write(folder, {name: [size, crc, states[name]] for name, (size, crc, _) in expected.items()})
    return None


def file_state(path: Path) -> list[int]:
    """Return device, inode, size and timestamps of a file: they change with its content."""
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _crc32(path: Path) -> tuple[int, int]:
    """Return the size and the CRC-32 of a file."""
    size = crc = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def _write(folder: Path, checksums: dict[str, list]) -> None:
    with atomic_path(folder / FILE) as unfinished:
        unfinished.write_text(json.dumps(checksums), encoding="utf-8")
