"""Checkpoints: written atomically, loaded without unpickling foreign objects."""

import os
from pickle import UnpicklingError
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from counterpoise.errors import UserError
from counterpoise.io import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs and renames: a killed run leaves the previous checkpoint whole.

    Lightning 2.6 goes through the system's temporary folder, which may be another file system. Loads tensors and plain
    values only (`weights_only`).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Saves a checkpoint to a local path."""
        with atomic_path(path) as unfinished, unfinished.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Loads a checkpoint, raising UserError for a file that is none."""
        return load_checkpoint(path)


def load_checkpoint(path: Any) -> dict[str, Any]:
    """Returns the checkpoint at `path` on the CPU; raises UserError where there is none or it cannot be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"ckpt={path}: there is no such file") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, UnpicklingError):
            reason = "it holds something else than tensors and plain values"
        raise UserError(f"ckpt={path}: not a checkpoint that can be loaded safely ({reason})") from error
