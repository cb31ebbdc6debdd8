"""Decisions at the least cost, where one mistake costs more than another. Single-label; pure numpy, in float64.

A cost matrix is float [C, C]: rows are the truth, columns the decision, cost_ij what deciding j costs when i is true.
Only differences within a row matter to the decision (Elkan, IJCAI 2001); a gain is a cost below 0. Probabilities have
to be those of the natural distribution: those of a model that was trained on rebalanced data weigh the classes a
second time.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from counterpoise.errors import UserError, nearest


def read_costs(path: str | Path, labels: Sequence[str]) -> np.ndarray:
    """Returns the cost matrix of a CSV file, float64 [C, C], both sides in the order of `labels`.

    The header and the first column name the classes, in any order; what the first cell says is of no matter. Raises
    UserError where the file cannot be read, is not of these classes, or holds what is no finite number.
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
            raise UserError(f"{key}: the row '{name}' has {len(row)} cells, the header {len(header)}")
        for column, cell in zip(columns, row[1:], strict=True):
            costs[place[name], place[column]] = _number(key, name, column, cell)
    return costs


def expected_cost(probabilities: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Returns what each decision is expected to cost each text, sum_i p_i cost_ij, float64 [N, C].

    probabilities: float [N, C]; costs: [C, C]. Raises ValueError where they do not fit or are not finite.
    """
    shares, costs = np.asarray(probabilities, np.float64), np.asarray(costs, np.float64)
    if shares.ndim != 2 or costs.shape != (shares.shape[1], shares.shape[1]):
        raise ValueError(f"probabilities {shares.shape} and costs {costs.shape} are not of the same classes")
    if not (np.isfinite(shares).all() and np.isfinite(costs).all()):
        raise ValueError("a probability or a cost is not finite")
    return shares @ costs


def least_cost(probabilities: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Returns argmin_j sum_i p_i cost_ij, int64 [N], of equals the first: Elkan, IJCAI 2001, eq. 1.

    Arguments as `expected_cost` takes them. With a cost of 0 for what is right and 1 for any mistake it is the most
    probable class.
    """
    return expected_cost(probabilities, costs).argmin(axis=1)


def mean_cost(truth: np.ndarray, decided: np.ndarray, costs: np.ndarray) -> float:
    """Returns what the decisions cost a text on average; truth and decided: class numbers, int [N]; costs: [C, C]."""
    if np.ndim(truth) != 1 or np.shape(truth) != np.shape(decided) or not len(truth):
        raise ValueError(f"truth {np.shape(truth)} and decisions {np.shape(decided)} do not fit, or there are none")
    return float(np.asarray(costs, np.float64)[truth, decided].mean())


def _cells(path: str | Path, key: str) -> list[list[str]]:
    """Returns the rows of the file that are not empty, the header first."""
    try:
        # Spreadsheets begin a file with a byte order mark.
        with Path(str(path)).open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except FileNotFoundError:
        raise UserError(f"{key}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{key}: the file cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{key}: the file is no CSV in UTF-8 ({error})") from error
    if not rows:
        raise UserError(
            f"{key}: the file is empty: a row for each true class and a column for each decision is expected"
        )
    return rows


def _check_names(key: str, what: str, names: Sequence[str], labels: Sequence[str]) -> None:
    """Raises UserError where the rows or columns are not one for each class."""
    missing, unknown = [each for each in labels if each not in names], [each for each in names if each not in labels]
    repeated = [each for number, each in enumerate(names) if each in names[:number]]
    problems = [f"no {what} for {_first(missing)}"] if missing else []
    if unknown:
        problems.append(f"a {what} for {_first(unknown)}, which is no class.{nearest(unknown[0], labels)}")
    if repeated:
        problems.append(f"more than one {what} for {_first(repeated)}")
    if problems:
        raise UserError(f"{key}: there is {'; '.join(problems)}")


def _number(key: str, row: str, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise UserError(f"{key}: the cost of '{row}' decided as '{column}' is '{cell.strip()}': use a finite number")
    return value


def _first(names: Sequence[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
