"""The precision of a training with `trainer.precision=auto`."""

import hashlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from counterpoise.data.cache import cached
from counterpoise.model.embeddings import PrecomputedEmbeddings
from counterpoise.model.encoder import Encoder
from counterpoise.terminal import console
from counterpoise.training.checkpoints import load_checkpoint
from counterpoise.training.resume import STATE

FP32, BF16 = "32-true", "bf16-mixed"
FASTER = 0.9
"""bf16 is chosen if a step takes at most this fraction of its time in fp32."""
MIN_SIZE = 128
"""Size H of encoders below which bf16 is not tried: conversions take as long as the products save."""
PROBE_SHAPE = 8, 64
"""Texts and tokens per text of a measured step. It is fixed, so that all jobs of a sweep have the same precision."""
PROBE_SECONDS, PROBE_PAIRS = 1.0, 5
"""Duration of the measurement, and pairs of steps that it has at least."""
FORMAT = 1
"""Part of the cache key. Raise it when the measurement changes."""


def choose_precision(config: DictConfig, encoder: Encoder | PrecomputedEmbeddings) -> str:
    """Return the precision of a run and print why "auto" selects it.

    A resumed run continues in the precision of its checkpoint. A GPU with bfloat16 units selects bf16-mixed. A CPU with
    such units does if a step of a transformer layer of the encoder's size is clearly faster; see `bf16_ratio`. Training
    in several processes on CPUs stays in fp32.

    Args:
        config: Configuration of the run.
        encoder: Encoder of the run.

    Raises:
        UserError: `ckpt` cannot be loaded.
    """
    trainer = config.trainer
    if trainer.precision != "auto":
        return trainer.precision
    if config.ckpt and (saved := saved_precision(load_checkpoint(config.ckpt))):
        console.print(f"precision: {saved}, as in the checkpoint")
        return saved
    one_process = trainer.devices in (1, "1", "auto") and trainer.get("num_nodes", 1) == 1
    on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.accelerator.is_available())
    if config.ckpt or not (on_cpu and one_process and encoder.size >= MIN_SIZE and _cpu_has_bf16()):
        return accelerator_precision(trainer.accelerator)
    ratio = bf16_ratio(encoder.size)
    chosen = BF16 if ratio <= FASTER else FP32
    console.print(
        f"precision: {chosen}; in bf16 a step takes {ratio:.2f} of its fp32 time on this CPU", highlight=False
    )
    return chosen


def accelerator_precision(accelerator: str) -> str:
    """Return bf16-mixed for a GPU with bfloat16 units, otherwise fp32."""
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False):
        console.print("precision: bf16-mixed, which this GPU supports natively")
        return BF16
    return FP32


def bf16_ratio(size: int) -> float:
    """Return the time of a training step in bf16 as a fraction of its time in fp32, on this CPU.

    It is measured once for each processor, torch version, number of threads and size, and cached.

    Args:
        size: Size H of the encoder.
    """
    setting = {
        "format": FORMAT,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "size": size,
        "cpu": dict(torch.cpu.get_capabilities()),
    }
    digest = hashlib.blake2b(json.dumps(setting, sort_keys=True).encode(), digest_size=16).hexdigest()

    def build(folder: Path) -> None:
        measured = {**setting, "ratio": _measure(size)}
        (folder / "ratio.json").write_text(json.dumps(measured, indent=2), encoding="utf-8")

    return json.loads((cached(f"precision/{digest}", build) / "ratio.json").read_text(encoding="utf-8"))["ratio"]


def saved_precision(checkpoint: Any) -> str | None:
    """Return the precision that a checkpoint was trained in; None if it cannot be resumed or is of an older version."""
    state = checkpoint.get(STATE) if isinstance(checkpoint, dict) else None
    return state.get("precision") if isinstance(state, dict) else None


def _cpu_has_bf16() -> bool:
    """Return whether the CPU multiplies in bfloat16. Without such units, bf16 is several times slower than fp32."""
    units = torch.cpu.get_capabilities()
    return any(units.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def _measure(size: int) -> float:
    """Return the median of time in bf16 / time in fp32 over pairs of steps of one layer, in alternating order."""
    with torch.random.fork_rng(devices=[]):  # The order and dropout of the run do not depend on the measurement.
        heads = 1 if size % 64 else size // 64
        layer = nn.TransformerEncoderLayer(size, heads, 4 * size, dropout=0.0, activation="gelu", batch_first=True)
        hidden = torch.randn(*PROBE_SHAPE, size, requires_grad=True)

    def seconds(bf16: bool) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            vectors = layer(hidden)
        vectors.float().mean().backward()
        layer.zero_grad()
        return time.perf_counter() - start

    start, ratios = time.perf_counter(), list[float]()
    for bf16 in (False, True):  # The first step allocates memory.
        seconds(bf16)
    while len(ratios) < PROBE_PAIRS or time.perf_counter() - start < PROBE_SECONDS:
        order = (False, True) if len(ratios) % 2 else (True, False)
        taken = {bf16: seconds(bf16) for bf16 in order}
        ratios.append(taken[True] / taken[False])
    return statistics.median(ratios)
