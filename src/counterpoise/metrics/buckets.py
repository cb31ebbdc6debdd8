"""Head, medium and tail: buckets of classes by training count."""

from typing import NamedTuple

import numpy as np

from counterpoise.errors import UserError


class Bounds(NamedTuple):
    """Of the buckets: the tail has fewer than `tail_max` training examples, the head `head_min` or more."""

    tail_max: int = 20
    head_min: int = 101


DEFAULT_BOUNDS = Bounds()


def buckets(train_counts: np.ndarray, tail_max: int = 20, head_min: int = 101) -> np.ndarray:
    """Returns "head", "medium" or "tail" for each class, as an array of str [C].

    head: count >= `head_min`; tail: count < `tail_max` (the bound itself is medium); medium: the rest. The
    defaults are the many-, medium- and few-shot bounds of Liu et al. 2019 (Open Long-Tailed Recognition):
    more than 100, 20 to 100, fewer than 20. Raises UserError when the bounds overlap.
    """
    if tail_max > head_min:
        raise UserError(
            f"buckets.tail_max={tail_max} exceeds buckets.head_min={head_min}: the tail ends below the head"
        )
    counts = np.asarray(train_counts)
    return np.where(counts >= head_min, "head", np.where(counts < tail_max, "tail", "medium"))
