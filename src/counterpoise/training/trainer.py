"""The Lightning Trainer with this project's defaults, and checkpoints that are whole or not there."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from counterpoise.errors import UserError
from counterpoise.terminal import console
from counterpoise.training.checkpoints import AtomicCheckpointIO


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


def progress(trainer: pl.Trainer) -> tuple[int, int]:
    """Returns the epochs and optimiser steps of a training that has ended.

    Where processes were spawned for it, this one has counted none: it only has what they logged.
    """
    logged = trainer.callback_metrics
    epochs, steps = (int(logged.get(name, 0)) for name in ("epochs", "steps"))
    return trainer.current_epoch or epochs, trainer.global_step or steps


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
