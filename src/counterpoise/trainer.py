"""The Lightning Trainer with this project's defaults, and checkpoints that are whole or not there."""

import os
from collections.abc import Sequence
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.memory import is_oom_error

from counterpoise.atomic import replacing
from counterpoise.console import console
from counterpoise.errors import UserError


def build(
    accelerator: str = "auto",
    devices: int | str | Sequence[int] = "auto",
    precision: str = "auto",
    **flags: Any,
) -> pl.Trainer:
    """Returns a Trainer; `flags` are those of `pytorch_lightning.Trainer`.

    precision: "auto" is bf16-mixed on a GPU with bfloat16 units and fp32 elsewhere.
    """
    if flags.get("overfit_batches"):
        raise UserError("trainer.overfit_batches replaces the sampler: use debug=overfit or loader.train_limit")
    for flag in ("limit_test_batches", "limit_predict_batches"):
        if flags.get(flag) is not None:
            raise UserError(f"trainer.{flag}: results are of whole splits; for a quick try use debug=fast")
    if str(precision) in ("16-true", "bf16-true"):
        raise UserError(
            f"trainer.precision={precision} rounds weights, metrics and thresholds: use {precision[:-4]}mixed, in "
            "which matrix products are as fast"
        )
    try:
        return pl.Trainer(
            accelerator=accelerator,
            devices=devices,  # type: ignore[arg-type]
            precision=_precision(accelerator) if precision == "auto" else precision,  # type: ignore[arg-type]
            # Lightning would replace a weighted sampler by a plain one; `BatchOrder` deals to processes itself.
            use_distributed_sampler=False,
            plugins=[AtomicCheckpointIO()],
            **flags,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def single_device(trainer: pl.Trainer) -> pl.Trainer:
    """Returns a Trainer for evaluation on one device, where every row counts once; the same one if it is that."""
    if trainer.world_size == 1:
        return trainer
    return pl.Trainer(
        accelerator="cpu" if trainer.strategy.root_device.type == "cpu" else "gpu",
        devices=1,
        precision=trainer.precision,
        # A CSVLogger of another process begins its file anew, and the curves would be lost.
        logger=[logger for logger in trainer.loggers if not isinstance(logger, CSVLogger)],
        callbacks=[trainer.progress_bar_callback] if trainer.progress_bar_callback else None,
        enable_progress_bar=trainer.progress_bar_callback is not None,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs and renames: a killed run leaves the previous checkpoint whole.

    Lightning 2.6 goes through the system's temporary folder, which may be another file system. Loads tensors and plain
    values only (`weights_only`).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Saves a checkpoint to a local path."""
        with replacing(path) as unfinished, unfinished.open("wb") as file:
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


def progress(trainer: pl.Trainer) -> tuple[int, int]:
    """Returns the epochs and optimiser steps of a training that has ended.

    Where processes were spawned for it, this one has counted none: it only has what they logged.
    """
    logged = trainer.callback_metrics
    epochs, steps = (int(logged.get(name, 0)) for name in ("epochs", "steps"))
    return trainer.current_epoch or epochs, trainer.global_step or steps


def trained_batches(trainer: pl.Trainer) -> int:
    """Returns the micro-batches of the epoch, or of the last one, that have become optimiser steps."""
    epoch = trainer.fit_loop.epoch_loop
    steps = epoch.automatic_optimization.optim_progress.optimizer.step.current.completed
    return min(steps * trainer.accumulate_grad_batches, int(trainer.num_training_batches))


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that the memory of a device ran out."""
    return isinstance(error, torch.OutOfMemoryError) or is_oom_error(error)


def _precision(accelerator: str) -> str:
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False):
        console.print("precision: bf16-mixed, which this GPU computes natively")
        return "bf16-mixed"
    units = torch.cpu.get_capabilities()
    if not on_gpu and (units.get("amx_bf16") or units.get("avx512_bf16")):
        console.print("this CPU computes bfloat16 too: trainer.precision=bf16-mixed is faster than fp32")
    # Without native units, bf16 on a CPU is several times slower than fp32.
    return "32-true"
