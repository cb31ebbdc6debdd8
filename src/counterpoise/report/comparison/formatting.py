"""What a comparison's report calls things, and which groups it holds apart."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from counterpoise.analysis.comparison import Comparison, significant

GAIN, LOSS, UNDECIDED = "var(--c1)", "var(--c2)", "var(--faint)"


class Difference(NamedTuple):
    """How far a group is ahead of another, the interval, p and adjusted p, and whether it is more than chance."""

    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    told: bool


def unit(comparison: Comparison, count: int = 1) -> str:
    """Returns what the report calls a class: "class" or "label", in the plural for a count other than 1."""
    one = "label" if comparison.task == "multi_label" else "class"
    return one if count == 1 else one + ("s" if one == "label" else "es")


def shown_name(comparison: Comparison, number: int) -> str:
    """Returns a group's name; among groups that were trained in full, a probe is called one."""
    group = comparison.groups[number]
    mixed = len({each.probe for each in comparison.groups}) > 1
    return f"{group.name} (probe)" if mixed and group.probe else group.name


def reference_number(comparison: Comparison) -> int:
    """Returns the place of the reference among the groups."""
    return [group.name for group in comparison.groups].index(comparison.reference)


def differences(comparison: Comparison) -> dict[tuple[str, str], Difference]:
    """Returns for each ordered pair of names (a, b) how far a is ahead of b."""
    found = {}
    for row, told in zip(records(comparison.pairs), significant(comparison.pairs).tolist(), strict=True):
        a, b, low, high = row["a"], row["b"], row["low"], row["high"]
        found[a, b] = Difference(row["difference"], low, high, row["p"], row["p_holm"], told)
        found[b, a] = Difference(-row["difference"], -high, -low, row["p"], row["p_holm"], told)
    return found


def behind_best(comparison: Comparison) -> np.ndarray:
    """Returns bool [G]: which groups can be told apart from the best."""
    best, *others = [group.name for group in comparison.groups]
    found = differences(comparison)
    return np.array([False, *(found[best, other].told for other in others)])


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows of a table as dictionaries."""
    return [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]


def p_value(p: float) -> str:
    """Returns a p as one reads it."""
    return "< 0.001" if p < 0.001 else "1" if p > 0.9995 else f"{p:.3f}"


def short(name: str, limit: int) -> str:
    """Returns a name of at most `limit` characters, where it is longer without its middle."""
    half = (limit - 1) // 2
    return name if len(name) <= limit else f"{name[: limit - 1 - half]}…{name[-half:]}"


def folded(name: str, width: int = 22) -> str:
    """Returns a name on at most two lines, where it is longer without its middle: names often differ at their end."""
    name = " ".join(name.split())
    if len(name) <= width:
        return name
    spaces = [place for place in range(len(name) - width, width + 1) if place > 0 and name[place - 1] == " "]
    breaks = [place for place in range(width // 2, width + 1) if name[place - 1] in " ._=/:"]
    cut = max(spaces or breaks, default=width)
    rest = name[cut:]
    return f"{name[:cut].rstrip()}\n{rest if len(rest) <= width else '…' + rest[1 - width :]}"
