"""Decisions of least expected cost, where some mistakes cost more than others. Single-label; numpy in float64.

A cost matrix is float [C, C]: cost_ij is the cost of deciding class j when class i is true. Only differences within a
row affect the decision (Elkan, IJCAI 2001). A negative cost is a gain. Probabilities must be those of the natural
distribution: those of a model that was trained on rebalanced data would weight the classes twice.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from counterpoise.errors import UserError, nearest

EQUAL_COSTS = 1e-12
"""Relative difference up to which two expected costs are equal: they differ by rounding."""


def read_costs(path: str | Path, labels: Sequence[str]) -> np.ndarray:
    """Read a cost matrix from a CSV file.

    The header and the first column name the classes, in any order. The first cell is ignored.

    Args:
        path: CSV in UTF-8.
        labels: Names of the C classes.

    Returns:
        Float64 [C, C]; rows and columns in the order of `labels`.

    Raises:
        UserError: The file cannot be read, names other classes, or holds a value that is not a finite number.
    """
    key = f"costs={path}"
    header, *rows = _cells(path, key)
    columns, names = [name.strip() for name in header[1:]], [row[0].strip() for row in rows]
    _check_names(key, "row", names, labels)
    _check_names(key, "column", columns, labels)
    costs = np.zeros((len(labels), len(labels)))
    place = {label: number for number, label in enumerate(labels)}
    for name, row in zip(names, rows, strict=True):
        if len(row) != len(header):
            raise UserError(f"{key}: row '{name}' has {len(row)} cells, but the header has {len(header)}")
        for column, cell in zip(columns, row[1:], strict=True):
            costs[place[name], place[column]] = _number(key, name, column, cell)
    return costs


def expected_cost(probabilities: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Return the expected cost of each decision, sum_i p_i cost_ij.

    Args:
        probabilities: Float [N, C].
        costs: Float [C, C].

    Returns:
        Float64 [N, C].

    Raises:
        ValueError: The shapes do not match, or a value is not finite.
    """
    probs, costs = np.asarray(probabilities, np.float64), np.asarray(costs, np.float64)
    if probs.ndim != 2 or costs.shape != (probs.shape[1], probs.shape[1]):
        raise ValueError(f"probabilities {probs.shape} and costs {costs.shape} are not of the same classes")
    if not (np.isfinite(probs).all() and np.isfinite(costs).all()):
        raise ValueError("a probability or a cost is not finite")
    return probs @ costs


def least_cost(probabilities: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Return the decision of least expected cost, argmin_j sum_i p_i cost_ij (Elkan, IJCAI 2001, eq. 1).

    With cost 0 for correct decisions and 1 for any mistake this is the most probable class. Of several decisions of
    equal expected cost, the most probable class is chosen.

    Args:
        probabilities: Float [N, C].
        costs: Float [C, C].

    Returns:
        Int64 [N].
    """
    expected = expected_cost(probabilities, costs)
    rounding = EQUAL_COSTS * expected_cost(probabilities, np.abs(costs))
    cheapest = expected <= expected.min(axis=1, keepdims=True) + rounding
    return np.where(cheapest, probabilities, -1).argmax(axis=1)


def mean_cost(truth: np.ndarray, decided: np.ndarray, costs: np.ndarray) -> float:
    """Return the mean cost of decisions.

    Args:
        truth: True classes, int [N].
        decided: Decided classes, int [N].
        costs: Float [C, C].

    Raises:
        ValueError: The shapes do not match, or there is no text.
    """
    if np.ndim(truth) != 1 or np.shape(truth) != np.shape(decided) or not len(truth):
        raise ValueError(f"truth {np.shape(truth)} and decisions {np.shape(decided)} do not fit, or are empty")
    return float(np.asarray(costs, np.float64)[truth, decided].mean())


def _cells(path: str | Path, key: str) -> list[list[str]]:
    """Return the rows of the file that are not empty, the header first."""
    try:
        # Spreadsheets write a byte order mark.
        with Path(str(path)).open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except FileNotFoundError:
        raise UserError(f"{key}: the file does not exist") from None
    except OSError as error:
        raise UserError(f"{key}: the file cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{key}: the file is not CSV in UTF-8 ({error})") from error
    if not rows:
        raise UserError(f"{key}: the file is empty. It needs a row per true class and a column per decision.")
    return rows


def _check_names(key: str, what: str, names: Sequence[str], labels: Sequence[str]) -> None:
    """Raise UserError unless there is one row or column for each class."""
    missing, unknown = [each for each in labels if each not in names], [each for each in names if each not in labels]
    repeated = [each for number, each in enumerate(names) if each in names[:number]]
    problems = [f"no {what} for {_first_of(missing)}"] if missing else []
    if unknown:
        problems.append(f"a {what} for {_first_of(unknown)}, which is not a class.{nearest(unknown[0], labels)}")
    if repeated:
        problems.append(f"more than one {what} for {_first_of(repeated)}")
    if problems:
        raise UserError(f"{key}: there is {'; '.join(problems)}")


def _number(key: str, row: str, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise UserError(f"{key}: the cost of '{row}' decided as '{column}' is '{cell.strip()}'. Use a finite number.")
    return value


def _first_of(names: Sequence[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
