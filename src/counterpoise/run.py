"""What `train.py` calls around the training itself: the run folder, its status, its results, and errors in one line."""

import functools
import gc
import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
import torch.distributed as dist
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from counterpoise.atomic import replacing
from counterpoise.balance import Balance
from counterpoise.cli import check_types, stop, user_line
from counterpoise.console import console, show_balance, show_config, show_results
from counterpoise.data.audit import remarkable
from counterpoise.data.datamodule import TextDataModule
from counterpoise.errors import UserError, nearest
from counterpoise.evaluate.results import write_multi_label, write_single_label
from counterpoise.model.classifier import Classifier, check_labels
from counterpoise.model.scoring import MultiLabelScoring
from counterpoise.trainer import load_checkpoint, single_device

log = logging.getLogger(__name__)

RANK: int = rank_zero_only.rank  # type: ignore[attr-defined]
"""Of this process among those that train together; Lightning's launchers set it before the program starts."""


def recorded(task: Callable[[DictConfig], float | None]) -> Callable[[DictConfig], float | None]:
    """Wraps a Hydra task: keeps `status.json` in the run folder, and lets a sweep survive a job that fails."""

    @functools.wraps(task)
    def recording(config: DictConfig) -> float | None:
        start = time.monotonic()
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        _write_status("running", start)
        try:
            value = task(config)
        except Exception as error:
            line = user_line(error)
            reason = line or f"{type(error).__name__}: {' '.join(str(error).split())}"
            _write_status("failed", start, reason)
            log.debug("failed", exc_info=True)
            if not sweep:
                if line is None or config.traceback:
                    raise
                stop(line)
            if line is None or config.traceback:
                traceback.print_exc()
            log.error("this job failed, the sweep goes on: %s", reason)
            return None
        except (KeyboardInterrupt, SystemExit) as end:
            # Lightning turns SIGTERM into an exit that looks like success, and Ctrl-C into one with code 1.
            interrupted = KeyboardInterrupt in (type(end), type(end.__context__))
            code = 130 if interrupted else getattr(end, "code", None) or 143
            by = {130: "Ctrl-C", 143: "SIGTERM"}.get(code, f"exit with code {code}")
            _write_status("failed", start, f"stopped by {by}")
            sys.exit(code)
        _write_status("finished", start)
        gc.collect()  # model and trainer refer to each other: without this a sweep holds several of them
        return value

    return recording


def folder() -> Path:
    """Returns the run folder that Hydra made."""
    return Path(HydraConfig.get().runtime.output_dir)


def begin(config: DictConfig) -> None:
    """Checks and shows the configuration and keeps it, resolved, in the run folder."""
    console.quiet = RANK != 0
    _quieten()
    resolved = OmegaConf.to_container(config, resolve=True)
    check_types(resolved)  # type: ignore[arg-type]
    show_config(resolved)  # type: ignore[arg-type]
    if RANK == 0:
        (folder() / "config.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))


def check(trainer: pl.Trainer, model: Classifier, data: TextDataModule, config: DictConfig) -> None:
    """Raises UserError for what would fail only after minutes of training."""
    known = [f"val/{name}" for name in (*model.scoring.names, "loss_weighted")]
    if config.monitor not in known:
        raise UserError(
            f"monitor={config.monitor}: no such metric.{nearest(config.monitor, known)} There are {', '.join(known)}"
        )
    if config.ckpt:
        check_labels(load_checkpoint(config.ckpt), data.labels)
    epoch = max(1, data.sampler.size(data.index) // data.batch_size) * trainer.accumulate_grad_batches
    interval = trainer.val_check_interval
    first = interval if isinstance(interval, int) else max(1, int(epoch * interval))
    last = trainer.max_steps * trainer.accumulate_grad_batches
    if 0 <= last < first and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise UserError(
            f"trainer.max_steps={trainer.max_steps} ends the training before the first validation, which is after "
            f"{first} batches: set trainer.val_check_interval={last} too"
        )
    launches_itself = isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)
    if launches_itself and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            "several devices in a sweep: each process would start the sweep anew; use trainer.strategy=ddp_spawn"
        )
    if trainer.world_size > 1 and model.encoder.unfreeze_at_epoch is not None:
        raise UserError("encoder.unfreeze_at_epoch works on one device: DDP fixes what is trained when it starts")


def show(balance: Balance, data: TextDataModule, config: DictConfig) -> None:
    """Prints what the strategy does to the classes, and writes it and the splits into the run folder."""
    sizes = ", ".join(f"{name} {len(examples):,}" for name, examples in data.splits.items())
    train = data.splits["train"].dataset
    lengths = train.lengths
    what = "labels" if balance.multi_label else "classes"
    console.print(
        f"examples: {sizes}; {len(data.labels)} {what}; tokens per text: mean {lengths.mean():.0f}, "
        f"longest {lengths.max()}; {train.store.truncated / len(train.store):.0%} cut at "
        f"encoder.max_length={data.max_length}"
    )
    if RANK == 0:
        for line in remarkable(data.splits, data.labels):
            console.print(line, markup=False)
    show_balance(balance, HydraConfig.get().runtime.choices.get("strategy", "custom"))
    if RANK == 0:
        table = pd.DataFrame(
            {
                "class": balance.labels,
                "count": balance.counts,
                "draw_rate": balance.probabilities,
                "draws_per_example": balance.expected_draws,
                "weight": balance.weights,
                **({"negative_weight": balance.negative_weights} if balance.multi_label else {}),
                "emphasis": balance.emphasis,
            }
        )
        table.to_csv(folder() / "balance.csv", index=False)
        data.save_splits(folder() / "splits.npz")


def head_bias(balance: Balance, loss: Any, setting: bool | str) -> np.ndarray | None:
    """Returns what the bias of the head starts from: the logits of the least loss without a look at texts, or None."""
    if setting not in (True, False, "auto"):
        raise UserError(f"bias_init={setting}: use true, false or auto")
    if setting is False or (setting == "auto" and not balance.multi_label):
        return None
    return loss.initial_logits(balance)


def continues_alone(trainer: pl.Trainer) -> bool:
    """Returns whether this process does the evaluation; ends the process group of a run on several devices."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    return trainer.is_global_zero


def finish(trainer: pl.Trainer, model: Classifier, data: TextDataModule, balance: Balance) -> dict[str, Any]:
    """Tests the best checkpoint, writes and shows the results. Returns what `metrics.json` holds."""
    start = time.monotonic()
    best = _best_checkpoint(trainer)
    tester = single_device(trainer)
    tester.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    if tester.fast_dev_run:  # type: ignore[attr-defined]
        console.print("one batch of training, validation and test ran; nothing is measured")
        return {}
    test = data.splits["test"]
    logits = _in_order(model.test_outputs)
    metrics = {
        "test": model.scoring.measure(logits, test.targets),
        "validation": _evaluate(tester, model, data, "validation"),
        "train_sample": _evaluate(tester, model, data, "train", limit=max(500, len(data.splits["validation"]))),
        "strategy": {
            "name": HydraConfig.get().runtime.choices.get("strategy"),
            "weight_ratio": balance.weight_ratio,
            "effective_sample_fraction": balance.effective_sample_fraction,
            "epoch_size": balance.epoch_size,
        },
        "data": {
            name: {"examples": len(part), "dropped": part.split.dropped, "unseen": part.unseen}
            for name, part in data.splits.items()
        },
        "best_checkpoint": best,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
    }
    name = HydraConfig.get().runtime.choices.get("strategy") or "run"
    truth, bounds = (test.ids, data.labels, data.counts, test.targets), model.scoring.bounds
    if isinstance(model.scoring, MultiLabelScoring):
        metrics["test_at_half"] = model.scoring.measure(logits, test.targets, threshold=0.5)
        decided, thresholds = model.scoring.decide(logits), model.scoring.thresholds.cpu().numpy()
        write_multi_label(folder(), name, *truth, logits, decided, thresholds, bounds)
    else:
        write_single_label(folder(), name, *truth, logits, bounds)
    with replacing(folder() / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2))
    show_results(metrics, bounds)
    console.print(f"[dim]tested and drawn in {time.monotonic() - start:.0f} s; everything is in[/dim] {folder()}")
    return metrics


def _evaluate(
    tester: pl.Trainer, model: Classifier, data: TextDataModule, split: str, limit: int | None = None
) -> dict[str, float]:
    loader = data.evaluation_dataloader(split, limit)
    outputs: Any = tester.predict(model, loader, weights_only=True)
    return model.scoring.measure(_in_order(outputs), loader.dataset.targets)  # type: ignore[attr-defined]


def _in_order(outputs: list[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
    """Returns logits [N, C] in row order."""
    rows = torch.cat([rows for rows, _ in outputs]).cpu()
    return torch.cat([logits for _, logits in outputs]).cpu()[rows.argsort()].numpy()


def _best_checkpoint(trainer: pl.Trainer) -> str | None:
    best = trainer.checkpoint_callback
    if isinstance(best, ModelCheckpoint) and best.best_model_path and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        return best.best_model_path
    return None


@rank_zero_only
def _write_status(state: str, start: float, reason: str | None = None) -> None:
    status = {
        "state": state,
        "reason": reason,
        "overrides": list(HydraConfig.get().overrides.task),
        "seconds": round(time.monotonic() - start, 1),
    }
    with replacing(folder() / "status.json") as path:
        path.write_text(json.dumps(status, indent=2))


def _quieten() -> None:
    """Silences what libraries say that is no news here."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # a frozen encoder
    warnings.filterwarnings("ignore", ".*The dirpath has changed.*")
    warnings.filterwarnings("ignore", ".*The number of training batches .* is smaller than the logging interval.*")
