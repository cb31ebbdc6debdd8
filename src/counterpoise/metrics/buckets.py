"""Head, medium and tail: buckets of classes by training count."""

from typing import NamedTuple

import numpy as np

from counterpoise.errors import UserError


class Bounds(NamedTuple):
    """Bounds of the buckets.

    The defaults are the many-, medium- and few-shot bounds of Liu et al. 2019 (Open Long-Tailed Recognition).

    Args:
        tail_max: Classes with fewer training examples are tail classes.
        head_min: Classes with at least this many training examples are head classes.
    """

    tail_max: int = 20
    head_min: int = 101


DEFAULT_BOUNDS = Bounds()


def buckets(train_counts: np.ndarray, tail_max: int = 20, head_min: int = 101) -> np.ndarray:
    """Return the bucket of each class.

    Args:
        train_counts: Training examples of each class, int [C].
        tail_max: As in `Bounds`.
        head_min: As in `Bounds`.

    Returns:
        "head", "medium" or "tail", str [C].

    Raises:
        UserError: The bounds overlap.
    """
    if tail_max > head_min:
        raise UserError(
            f"buckets.tail_max={tail_max} must not exceed buckets.head_min={head_min}: tail and head would overlap"
        )
    counts = np.asarray(train_counts)
    return np.where(counts >= head_min, "head", np.where(counts < tail_max, "tail", "medium"))
