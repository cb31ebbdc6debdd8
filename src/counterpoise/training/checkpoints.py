"""Checkpoint files: atomic writes, and loading without unpickling arbitrary objects."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from counterpoise.errors import UserError
from counterpoise.io import atomic_path

FIRST_STAGE_CHECKPOINT = "first_stage.ckpt"
"""The best checkpoint of the training itself, beside `best.ckpt` with the head of the second stage."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint IO that writes to a temporary file, syncs it and renames it.

    If the process is killed during a write, the previous checkpoint remains complete. Lightning 2.6 writes to the
    system's temporary folder first, which may be another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save a checkpoint to a local path."""
        with atomic_path(path) as unfinished, unfinished.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Load a checkpoint; always with `weights_only`, on the CPU."""
        return load_checkpoint(path)


def load_checkpoint(path: Any) -> dict[str, Any]:
    """Return the checkpoint at `path` with its tensors on the CPU.

    Raises:
        UserError: If the file does not exist, or is not a checkpoint of tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"ckpt={path}: no such file") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, UnpicklingError):
            reason = "it contains objects other than tensors and plain values"
        raise UserError(f"ckpt={path}: not a checkpoint that can be loaded safely ({reason})") from error


def best_checkpoint(trainer: pl.Trainer) -> Path | None:
    """Return the path of the best checkpoint, or None if none was written."""
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint) and callback.best_model_path and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        return Path(callback.best_model_path)
    return None
