"""The metrics that callbacks monitor: whether they exist, and whether a lower or a higher value is better."""

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint

from counterpoise.errors import UserError, nearest
from counterpoise.metrics import registry

WEIGHTED_LOSS = "val/loss_weighted"
TRAINING_LOSS = "train/loss_epoch"
COUNTERS = ("epoch", "step")
"""Lightning's own values, which a ModelCheckpoint may monitor."""


def set_modes(callbacks: DictConfig) -> None:
    """Replace `mode: auto` of callbacks by "min" or "max", whichever is better for the metric that they monitor.

    Args:
        callbacks: The configuration group `callbacks`; it is changed.

    Raises:
        UserError: A metric is not registered, so that its mode must be given.
    """
    for key, callback in callbacks.items():
        name = str(key)
        if not isinstance(callback, DictConfig) or callback.get("mode") != "auto":
            continue
        monitor = str(callback.get("monitor"))
        better = better_mode(monitor)
        if better is None:
            known = [f"val/{metric.name}" for task in registry.TASKS for metric in registry.select(task)]
            raise UserError(
                f"callbacks.{name}.monitor={monitor}: no such metric.{nearest(monitor, known)} If it is one that you "
                f"log yourself, set callbacks.{name}.mode to min or max"
            )
        callback["mode"] = better


def better_mode(monitor: str) -> str | None:
    """Return "min" or "max", whichever is better for a logged metric; None if it is not known."""
    if monitor in (WEIGHTED_LOSS, TRAINING_LOSS):
        return "min"
    name = monitor.partition("/")[2]
    found = next((each for task in registry.TASKS if (each := registry.find(name, task))), None)
    if found is None:
        return None
    return "max" if found.higher_is_better else "min"


def check_monitors(callbacks: Iterable[Callback], names: Iterable[str]) -> None:
    """Raise UserError for a callback whose monitored metric will not exist, or whose mode keeps the worst value.

    Args:
        callbacks: The callbacks of the trainer.
        names: Metrics of the validation split, such as "val/macro_f1".
    """
    for callback in callbacks:
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if not isinstance(monitor, str):
            continue
        kind, known = type(callback).__name__, [*names, WEIGHTED_LOSS]
        if isinstance(callback, ModelCheckpoint) and monitor in COUNTERS:
            continue
        if _runs_after_training_epoch(callback):
            known.append(TRAINING_LOSS)
        elif monitor == TRAINING_LOSS:
            option = "check" if isinstance(callback, EarlyStopping) else "save"
            raise UserError(
                f"callbacks: {kind} monitors {monitor}, which exists only after an epoch: set its "
                f"{option}_on_train_epoch_end=true"
            )
        if monitor not in known:
            raise UserError(
                f"callbacks: {kind} monitors {monitor}, no such metric of this validation split."
                f"{nearest(monitor, known)} Available: {', '.join(known)}"
            )
        better = better_mode(monitor)
        if mode in ("min", "max") and better not in (None, mode):
            worse = "lower" if better == "min" else "higher"
            raise UserError(
                f"callbacks: {kind} monitors {monitor} with mode={mode}, but {worse} values are better: set its mode "
                f"to {better} or auto, or remove monitor_mode"
            )


def _runs_after_training_epoch(callback: Any) -> bool:
    return bool(
        getattr(callback, "_save_on_train_epoch_end", False) or getattr(callback, "_check_on_train_epoch_end", False)
    )
