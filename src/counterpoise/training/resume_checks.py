"""Checks of a checkpoint before a run resumes from it."""

import logging
from typing import Any

import pytorch_lightning as pl

from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.position import Position, check_same_order
from counterpoise.errors import UserError
from counterpoise.model.encoder import Encoder
from counterpoise.model.module import Classifier, check_labels
from counterpoise.terminal import console
from counterpoise.training.checkpoints import load_checkpoint
from counterpoise.training.precision import saved_precision
from counterpoise.training.resume import STATE, ExactResume

log = logging.getLogger(__name__)


def check_resumable(path: str, trainer: pl.Trainer, model: Classifier, data: TextDataModule, steps: int) -> None:
    """Raise UserError if training cannot be resumed from a checkpoint exactly.

    Args:
        path: Path of the checkpoint.
        trainer: The trainer of this run.
        model: The model of this run.
        data: The data of this run.
        steps: Optimizer steps per epoch of this run.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise UserError(f"ckpt={path} cannot be resumed with debug=fast, which trains on one batch")
    if not any(isinstance(callback, ExactResume) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise UserError(f"ckpt={path} cannot be resumed without callbacks.exact_resume")
    checkpoint = load_checkpoint(path)
    check_labels(checkpoint, model.labels)
    if "optimizer_states" not in checkpoint:
        raise UserError(
            f"ckpt={path} contains model weights only and cannot be resumed. Use checkpoints/last.ckpt of the same run."
        )
    saved = checkpoint.get(type(data).__qualname__)
    if STATE not in checkpoint or not saved:
        raise UserError(f"ckpt={path} cannot be resumed: its run had no callbacks.exact_resume")
    epoch, step = saved["epoch"], saved["step"]
    check_same_order(saved, data.order(Position(epoch, step, steps)), path)
    _check_parameters(checkpoint, model, path)
    if (precision := saved_precision(checkpoint)) and precision != str(trainer.precision):
        log.warning(
            "ckpt=%s was trained in %s; training continues in %s (trainer.precision)",
            path,
            precision,
            trainer.precision,
        )
    done = epoch * steps + step
    most = (trainer.max_epochs if trainer.max_epochs is not None else -1) * steps
    for name, limit, value in (
        ("max_epochs", most, trainer.max_epochs),
        ("max_steps", trainer.max_steps, trainer.max_steps),
    ):
        if 0 <= limit < done:
            raise UserError(
                f"ckpt={path} has been trained for {done} steps ({epoch} epochs and {step} steps), more than "
                f"trainer.{name}={value}: raise it"
            )
    console.print(f"resuming from {path} after {done} steps (epoch {epoch}, step {step} of {steps})", markup=False)


def _check_parameters(checkpoint: dict[str, Any], model: Classifier, path: str) -> None:
    """Raise UserError if the model or the optimizer has other parameters than the checkpoint, or pools otherwise."""
    # Checkpoints of earlier versions do not have the pooling.
    if isinstance(model.encoder, Encoder) and "pooling" in checkpoint:
        poolings, before = model.encoder.poolings, checkpoint["pooling"]
        if poolings != before:
            shown = ", ".join(f"{name}={value} (was {before.get(name)})" for name, value in poolings.items())
            raise UserError(f"ckpt={path} cannot be resumed with another pooling: {shown}. Use the old one")
    saved = {name: tuple(values.shape) for name, values in checkpoint["state_dict"].items()}
    now = {name: tuple(values.shape) for name, values in model.state_dict().items()}
    changed = sorted(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name))
    if changed:
        raise UserError(
            f"ckpt={path} cannot be resumed with another model: {len(changed)} parameters differ, such as "
            f"{changed[0]}: {now.get(changed[0], 'none')} (was {saved.get(changed[0], 'none')}). Use the old "
            "encoder.*, head and strategy.loss"
        )
    groups = [(group["name"], len(group["params"])) for group in model.optim.groups(model.encoder, model.head)]
    old = [(group.get("name"), len(group["params"])) for group in checkpoint["optimizer_states"][0]["param_groups"]]
    if groups != old:
        raise UserError(
            f"ckpt={path} cannot be resumed with other parameter groups of the optimizer ({len(groups)}, was "
            f"{len(old)}): use the old value of optim.layer_decay"
        )
