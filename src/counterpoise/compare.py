"""Draws the recall of each class against its training count for several runs in one picture.

`python -m counterpoise.compare plain=RUN combined=RUN --output recall_vs_count.png`. Several runs under one name
(seeds) are averaged class by class.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from counterpoise.cli import command_line
from counterpoise.errors import UserError
from counterpoise.evaluate import pictures


def recall_by_class(runs: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Returns training counts [C] and the mean recall [C] over runs on the same data, NaN for absent classes."""
    tables = []
    for run in runs:
        if not (run / "per_class.csv").is_file():
            raise UserError(f"{run} is no finished run: it has no per_class.csv")
        tables.append(pd.read_csv(run / "per_class.csv", keep_default_na=False, na_values={"recall": [""]}))
    for run, table in zip(runs, tables, strict=True):
        if list(table["class"]) != list(tables[0]["class"]):
            raise UserError(f"{run} has other classes than {runs[0]}: runs under one name share their data")
    recalls = np.mean([table["recall"].to_numpy(float) for table in tables], axis=0)
    return tables[0]["train_count"].to_numpy(), recalls


def main() -> None:
    """Reads the command line and writes the picture."""
    parser = argparse.ArgumentParser(prog="counterpoise.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="a name and the folder of a finished run")
    parser.add_argument("--output", type=Path, default=Path("recall_vs_count.png"), help="what to write")
    arguments = parser.parse_args()
    named: dict[str, list[Path]] = {}
    for argument in arguments.runs:
        name, equals, run = argument.partition("=")
        if not equals:
            raise UserError(f"{argument}: give each run a name, as in plain={argument}")
        named.setdefault(name, []).append(Path(run))
    pictures.recall_vs_count(arguments.output, {name: recall_by_class(runs) for name, runs in named.items()})
    print(arguments.output)


if __name__ == "__main__":
    command_line(main)
