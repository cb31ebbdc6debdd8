"""Names, numbers and differences as a comparison's report shows them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from counterpoise.analysis.comparison import Comparison
from counterpoise.analysis.significance import significant
from counterpoise.names import shorten, shorten_all

GAIN, LOSS, UNDECIDED = "var(--c1)", "var(--c2)", "var(--faint)"
HALF = "var(--half, color-mix(in srgb, var(--c1) 50%, var(--card)))"
"""Halfway between the page's blue and its background."""
FAINT_TO_STRONG = [[0, "var(--grid)"], [0.001, "var(--c1-faint)"], [1, HALF]]
"""Colours of a heat map, on which text is legible."""


class Difference(NamedTuple):
    """Difference between two groups, adjusted for the number of comparisons.

    Args:
        difference: The difference of the means.
        low: Lower bound of the confidence interval.
        high: Upper bound of the confidence interval.
        p: The p-value.
        p_adjusted: The adjusted p-value.
        significant: Whether the difference is significant.
        methods: Whether it is a claim about methods, not only about the given models.
    """

    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    significant: bool
    methods: bool


def unit(comparison: Comparison, count: int = 1) -> str:
    """Return "class" or "label", in the plural for a count other than 1."""
    one = "label" if comparison.task == "multi_label" else "class"
    return one if count == 1 else one + ("s" if one == "label" else "es")


def shown_name(comparison: Comparison, number: int) -> str:
    """Return a group's name, marked as a probe if other groups are not probes."""
    group = comparison.groups[number]
    mixed = len(set(comparison.probes)) > 1
    return f"{group.name} (probe)" if mixed and group.probe else group.name


def reference_number(comparison: Comparison) -> int:
    """Return the index of the reference group."""
    return [group.name for group in comparison.groups].index(comparison.reference)


def differences(comparison: Comparison) -> dict[tuple[str, str], Difference]:
    """Return the difference a - b for each ordered pair of names (a, b)."""
    found = {}
    for row, is_significant in zip(records(comparison.pairs), significant(comparison.pairs).tolist(), strict=True):
        a, b, low, high = row["a"], row["b"], row["low"], row["high"]
        tests = row["p"], row["p_adjusted"], is_significant, row["methods"]
        found[a, b] = Difference(row["difference"], low, high, *tests)
        found[b, a] = Difference(-row["difference"], -high, -low, *tests)
    return found


def behind_best(comparison: Comparison) -> np.ndarray:
    """Return which groups are significantly below the best, bool [G]."""
    best, *others = [group.name for group in comparison.groups]
    found = differences(comparison)
    return np.array([False, *(found[best, other].significant for other in others)])


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries."""
    return [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]


def p_value(p: float) -> str:
    """Return a p-value with three decimals; unknown if there is no variance to test against."""
    if np.isnan(p):
        return "unknown"
    return "< 0.001" if p < 0.001 else "1" if p > 0.9995 else f"{p:.3f}"


def folded(name: str, width: int = 22) -> str:
    """Return the name on at most two lines, shortened in the middle because names often differ at their end."""
    name = " ".join(name.split())
    if len(name) <= width:
        return name
    spaces = [place for place in range(len(name) - width, width + 1) if place > 0 and name[place - 1] == " "]
    breaks = [place for place in range(width // 2, width + 1) if name[place - 1] in " ._=/:"]
    cut = max(spaces or breaks, default=width)
    rest = name[cut:]
    return f"{name[:cut].rstrip()}\n{shorten(rest, width, head=0.0)}"


def folded_all(names: Sequence[str], width: int = 22) -> list[str]:
    """Return the names folded as by `folded`, or cut elsewhere if different names would look equal."""
    lines = [folded(name, width) for name in names]
    if len(set(lines)) == len(set(names)):
        return lines
    short = shorten_all(tuple(" ".join(name.split()) for name in names), 2 * width)
    return ["\n".join(filter(None, (name[:width], name[width:]))) for name in short]
