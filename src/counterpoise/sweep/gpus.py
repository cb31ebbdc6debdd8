"""One GPU for each job, also among several sweeps on one machine: a GPU is taken by locking a file."""

import os
import re
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from counterpoise.errors import UserError


class Gpus:
    """The GPUs that the jobs of a sweep may use.

    Args:
        names: Values of CUDA_VISIBLE_DEVICES, one per GPU. Defaults to all visible ones.
        folder: Folder of the lock files, which all sweeps of the machine share.
    """

    def __init__(self, names: list[str] | None = None, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir())
        self._locks = {
            name: FileLock(folder / f"counterpoise-gpu-{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock", mode=0o666)
            for name in (_visible() if names is None else names)
        }
        if not self._locks:
            raise UserError("hydra.launcher.one_gpu_each=true: this machine has no visible GPU; set it to false")

    def take(self) -> str | None:
        """Return a GPU that no other job uses, or None if there is none."""
        for name, lock in self._locks.items():
            if not lock.is_locked:
                try:
                    lock.acquire(timeout=0)
                except Timeout:  # another sweep uses it
                    continue
                return name
        return None

    def give_back(self, name: str | None) -> None:
        """Let other jobs use a GPU. Locks are also released when this process ends."""
        if name is not None:
            self._locks[name].release()


def _visible() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
