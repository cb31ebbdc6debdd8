"""Checkpoint files: atomic writes, and loading without unpickling arbitrary objects."""

import os
import shutil
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from counterpoise.errors import UserError
from counterpoise.io import atomic_path

LAST_CHECKPOINT = "last.ckpt"
"""The checkpoint to resume from."""
PREVIOUS_CHECKPOINT = "previous.ckpt"
"""The one before it, which is used if `last.ckpt` is damaged."""
FIRST_STAGE_CHECKPOINT = "first_stage.ckpt"
"""The best checkpoint of the training itself, beside `best.ckpt` with the head of the second stage."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint IO that writes to a temporary file, syncs it and renames it.

    If the process is killed during a write, the previous checkpoint remains complete. Lightning 2.6 writes to the
    system's temporary folder first, which may be another file system. The `last.ckpt` that a new one replaces becomes
    `previous.ckpt`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save a checkpoint to a local path."""
        path = Path(path)
        with atomic_path(path) as unfinished:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST_CHECKPOINT and path.exists():
                path.replace(path.with_name(PREVIOUS_CHECKPOINT))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Load a checkpoint; always with `weights_only`, on the CPU."""
        return load_checkpoint(path)


def load_checkpoint(path: Any) -> dict[str, Any]:
    """Return the checkpoint at `path` with its tensors on the CPU.

    Raises:
        UserError: If the file does not exist, is damaged, or is not a checkpoint of tensors and plain values.
    """
    if not Path(path).is_file():
        raise UserError(f"ckpt={path}: no such file")
    if reason := damage(path):
        raise UserError(f"ckpt={path}: not a checkpoint, or a damaged one ({reason})")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, UnpicklingError):
            reason = "it contains objects other than tensors and plain values"
        raise UserError(f"ckpt={path}: not a checkpoint that can be loaded safely ({reason})") from error


def copy_checkpoint(path: Path, target: Path) -> None:
    """Copy a checkpoint; a copy that is interrupted leaves the old target."""
    with atomic_path(target) as unfinished:
        shutil.copyfile(path, unfinished)


def damage(path: Any) -> str | None:
    """Return why a checkpoint cannot be read, or None if all checksums are right.

    PyTorch writes a zip archive with a CRC-32 of each tensor, and does not check it when it loads the archive.
    """
    if not Path(path).is_file():
        return "no such file"
    try:
        with zipfile.ZipFile(path) as archive:
            # PyTorch reads a tensor that is marked as a folder without an error, as whatever is in memory.
            folder = next((record.filename for record in archive.infolist() if record.external_attr & 0x10), None)
            wrong = folder or archive.testzip()
        torch._C.PyTorchFileReader(str(path))
    except PermissionError:
        raise
    except Exception as error:
        # A changed bit may turn up as an unknown compression, an encryption, or a position outside the file.
        return " ".join(str(error).split())[:100] or type(error).__name__
    return f"wrong checksum of {wrong}" if wrong else None


def best_checkpoint(trainer: pl.Trainer) -> Path | None:
    """Return the path of the best checkpoint, or None if none was written."""
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint) and callback.best_model_path and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        return Path(callback.best_model_path)
    return None
