"""Logarithmic axes: of training counts, and the ticks of others."""

from typing import Any

import numpy as np

from counterpoise.analysis.plots import count_marks

ZERO = 0.5
"""Position of a class without training examples, because a log scale cannot show 0."""


def positions(counts: np.ndarray) -> np.ndarray:
    """Return the positions of counts on the axis, float of the same shape."""
    return np.maximum(np.asarray(counts, float), ZERO)


def log_count_axis(counts: np.ndarray, margin: float) -> dict[str, Any]:
    """Return the plotly settings of an axis that shows these counts.

    Args:
        counts: Training counts, int [C].
        margin: Factor by which the axis extends beyond the smallest and the largest count.
    """
    low, high = axis_range(counts, margin)
    values, names = count_marks(low * margin, high / margin, margin)
    return {"type": "log", "range": np.log10([low, high]).tolist(), "tickvals": values, "ticktext": names}


def log_ticks(values: np.ndarray) -> int | None:
    """Return plotly's `dtick` of a logarithmic axis: powers of ten, or None (plotly's choice) below two decades.

    A shorter axis may lie between two powers of ten, and would have no tick.

    Args:
        values: Numbers on the axis. Those that are not positive are not drawn.
    """
    drawn = values[values > 0]
    return 1 if len(drawn) and drawn.max() >= 100 * drawn.min() else None


def axis_range(counts: np.ndarray, margin: float) -> tuple[float, float]:
    """Return the ends of the axis."""
    drawn = positions(counts) if len(counts) else np.ones(1)
    return float(drawn.min()) / margin, float(drawn.max()) * margin


def bucket_spans(counts: np.ndarray, bounds: tuple[int, int], margin: float) -> list[tuple[str, float, float]]:
    """Return name, left and right end of each bucket that the axis shows.

    Args:
        counts: Training counts, int [C].
        bounds: `tail_max` and `head_min`.
        margin: As in `log_count_axis`.
    """
    low, high = axis_range(counts, margin)
    ends = [low, *np.clip([bounds[0] - 0.5, bounds[1] - 0.5], low, high).tolist(), high]
    spans = zip(("tail", "medium", "head"), ends, ends[1:], strict=False)
    return [(name, left, right) for name, left, right in spans if left < right]
