"""What `train.py` calls around the training itself: the run folder, its status, its results, and errors in one line."""

import functools
import gc
import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
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

from counterpoise.balance import Correction, FittedStrategy
from counterpoise.data.datamodule import TextDataModule
from counterpoise.errors import UserError
from counterpoise.io import atomic_path
from counterpoise.model.embeddings import PrecomputedEmbeddings, cached_embeddings, fingerprint
from counterpoise.model.encoder import EncoderSource
from counterpoise.terminal import check_types, console, stop, user_error_line
from counterpoise.training.summary import show_balance, show_config

log = logging.getLogger(__name__)

RANK: int = rank_zero_only.rank  # type: ignore[attr-defined]
"""Of this process among those that train together; Lightning's launchers set it before the program starts."""


_started = 0.0


def seconds() -> float:
    """Returns how long the run has taken so far."""
    return time.monotonic() - _started


def recorded(task: Callable[[DictConfig], float | None]) -> Callable[[DictConfig], float | None]:
    """Wraps a Hydra task: keeps `status.json` in the run folder, and lets a sweep survive a job that fails."""

    @functools.wraps(task)
    def recording(config: DictConfig) -> float | None:
        global _started
        _started = start = time.monotonic()
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        _write_status("running", start)
        try:
            value = task(config)
        except Exception as error:
            line = user_error_line(error)
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
        if not config.probe:
            gc.collect()  # model and trainer refer to each other: without this a sweep holds several of them
        return value

    return recording


def folder() -> Path:
    """Returns the run folder that Hydra made."""
    return Path(HydraConfig.get().runtime.output_dir)


def begin(config: DictConfig) -> None:
    """Checks and shows the configuration and keeps it, resolved, in the run folder."""
    console.quiet = RANK != 0 or (config.probe and HydraConfig.get().mode == RunMode.MULTIRUN)
    _quieten()
    if console.quiet and OmegaConf.select(HydraConfig.get(), "job.num"):  # type: ignore[arg-type]
        # What is wrong with the data is the same in every job of a sweep: the first one says it.
        logging.getLogger("counterpoise.data").setLevel(logging.ERROR)
    resolved = OmegaConf.to_container(config, resolve=True)
    check_types(resolved)  # type: ignore[arg-type]
    show_config(resolved)  # type: ignore[arg-type]
    if RANK == 0:
        (folder() / "config.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))


_encoders: dict[str, tuple[str, int]] = {}
"""Fingerprint and size of encoders by their settings: the jobs of a sweep share them."""


def embed_splits(source: EncoderSource, data: TextDataModule, config: DictConfig) -> PrecomputedEmbeddings:
    """Replaces the texts of all splits by the vectors that the encoder makes of them. Returns what takes its place."""
    if repr(source) not in _encoders:
        encoder = source.load()
        _encoders[repr(source)] = fingerprint(encoder), encoder.size
    key, size = _encoders[repr(source)]
    device = torch.device("cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    pad, batch_size = data.splits["train"].dataset.pad, data.eval_batch_size
    data.embed(lambda store: cached_embeddings(source.load, key, store, pad, batch_size, device))
    torch.set_num_threads(1)  # a head is too small to be shared
    return PrecomputedEmbeddings(size)


def show(fitted: FittedStrategy, data: TextDataModule, config: DictConfig) -> None:
    """Prints what the strategy does to the classes, and writes it and the splits into the run folder."""
    correction = fitted.final.correction
    sizes = ", ".join(f"{name} {len(examples):,}" for name, examples in data.splits.items())
    train = data.splits["train"].dataset
    lengths = train.lengths
    what = "labels" if correction.multi_label else "classes"
    console.print(
        f"examples: {sizes}; {len(data.labels)} {what}; tokens per text: mean {lengths.mean():.0f}, "
        f"longest {lengths.max()}; {train.store.truncated / len(train.store):.0%} cut at "
        f"encoder.max_length={data.max_length}"
    )
    if RANK == 0:
        for line in data.data_warnings:
            console.print(line, markup=False)
    if fitted.changes:
        console.print(f"schedule: strength of the correction by epoch: {_strengths(fitted.strengths)}; at its full:")
    show_balance(correction, HydraConfig.get().runtime.choices.get("strategy", "custom"))
    if RANK == 0:
        table = pd.DataFrame(
            {
                "class": correction.labels,
                "count": correction.counts,
                "draw_rate": correction.sampling_probs,
                "draws_per_example": correction.draws_per_example,
                "weight": correction.class_weights,
                **({"negative_weight": correction.negative_weights} if correction.multi_label else {}),
                "effective_prior": correction.effective_prior,
            }
        )
        table.to_csv(folder() / "balance.csv", index=False)
        data.save_splits(folder() / "splits.npz")


def _strengths(strengths: Sequence[float]) -> str:
    shown = [f"{strength:.2g}" for strength in strengths]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:5], "...", *shown[-5:]])


def head_bias(correction: Correction, loss: Any, setting: bool | str) -> np.ndarray | None:
    """Returns what the bias of the head starts from: the logits of the least loss without a look at texts, or None."""
    if setting not in (True, False, "auto"):
        raise UserError(f"bias_init={setting}: use true, false or auto")
    if setting is False or (setting == "auto" and not correction.multi_label):
        return None
    return loss.initial_logits(correction)


def continues_alone(trainer: pl.Trainer) -> bool:
    """Returns whether this process does the evaluation; ends the process group of a run on several devices."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    return trainer.is_global_zero


@rank_zero_only
def _write_status(state: str, start: float, reason: str | None = None) -> None:
    status = {
        "state": state,
        "reason": reason,
        "overrides": list(HydraConfig.get().overrides.task),
        "seconds": round(time.monotonic() - start, 1),
    }
    with atomic_path(folder() / "status.json") as path:
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
