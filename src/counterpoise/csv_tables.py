"""CSV files that commands write for people and for each other: names in them stay names.

A spreadsheet evaluates a cell that starts with =, +, - or @, and some readers take a bare carriage return for the end
of a row. Labels, ids and texts come from data that others wrote.
"""

import csv
from pathlib import Path
from typing import Any

import pandas as pd

from counterpoise.formulas import escape_formula, unescape_formula
from counterpoise.io import atomic_path


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table atomically.

    Texts that a spreadsheet would evaluate start with an additional apostrophe, unless they are numbers. All texts are
    in quotes if one has a carriage return.
    """
    table = table.apply(lambda column: column if column.dtype.kind in "biuf" else column.map(_escape))
    returns = any(column.map(lambda cell: "\r" in str(cell)).any() for _, column in table.items())
    with atomic_path(path) as unfinished:
        table.to_csv(unfinished, index=False, quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL)


def read_csv(path: Path, text: str, columns: list[str] | None = None) -> pd.DataFrame:
    """Return the table in a file of `write_csv`. Empty cells of other columns are NaN, so that numbers stay numbers.

    Args:
        path: The file.
        text: Column of text.
        columns: Columns to read. Defaults to all.
    """
    missing = {name: [""] for name in pd.read_csv(path, nrows=0).columns if name != text}
    table = pd.read_csv(path, usecols=columns, dtype={text: str}, keep_default_na=False, na_values=missing)
    table[text] = [unescape_formula(cell) for cell in table[text]]
    return table


def _escape(cell: Any) -> Any:
    return escape_formula(cell) if isinstance(cell, str) else cell
