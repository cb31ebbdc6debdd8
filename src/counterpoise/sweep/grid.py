"""The jobs of a grid: combinations that over-correct and keys without an effect are left out, and named."""

from collections.abc import Mapping, Sequence
from typing import Any

from counterpoise.errors import UserError
from counterpoise.terminal import console

ENCODER_LR = "optim.encoder_lr"
ROUNDING = 1e-9


def without_over_correction(jobs: Sequence[list[str]], keys: Sequence[str]) -> list[list[str]]:
    """Return the jobs in which the sum of some keys does not exceed 1. Jobs that do not set all of them are kept.

    Args:
        jobs: Overrides of each job.
        keys: The keys.

    Raises:
        UserError: No job is left.
    """
    kept = [job for job in jobs if _sum(job, keys) <= 1 + ROUNDING]
    total = " + ".join(keys)
    if not kept:
        raise UserError(
            f"every combination over-corrects ({total} exceeds 1): lower the values, or set "
            "strategy.allow_overcorrection=true"
        )
    if len(kept) < len(jobs):
        console.print(
            f"{len(jobs) - len(kept)} of {len(jobs)} combinations are left out: {total} exceeds 1 "
            "(strategy.allow_overcorrection=true keeps them)",
            highlight=False,
            soft_wrap=True,
        )
    return kept


def _sum(job: Sequence[str], keys: Sequence[str]) -> float:
    """Return the sum of the keys; 0 if the job does not set all of them to numbers, which is left to the run."""
    values = dict(override.lstrip("+").split("=", 1) for override in job if "=" in override)
    try:
        return sum(float(values[key]) for key in keys)
    except (KeyError, ValueError):
        return 0.0


def without_encoder_lr(params: Mapping[str, Any] | None, probe: bool) -> dict[str, Any]:
    """Return the values by key, for linear probes without the learning rate of the encoder, which is frozen."""
    kept = {str(key): value for key, value in (params or {}).items() if not (probe and key == ENCODER_LR)}
    if len(kept) < len(params or {}):
        console.print(f"{ENCODER_LR} is not varied: the encoder of a linear probe is frozen", highlight=False)
    return kept
