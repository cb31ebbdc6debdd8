"""Draws several runs in one picture: the recall of each class against its training count, or the training losses.

`python -m counterpoise.compare plain=RUN combined=RUN --output recall_vs_count.png`. Several runs under one name
(seeds) are averaged class by class. With `--losses`, training loss and gradient norm by step, one run a name.
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
    tables = [_per_class(run) for run in runs]
    for run, table in zip(runs, tables, strict=True):
        if list(table["class"]) != list(tables[0]["class"]):
            raise UserError(f"{run} has other classes than {runs[0]}: runs under one name share their data")
    recalls = np.mean([table["recall"].to_numpy(float) for table in tables], axis=0)
    return tables[0]["train_count"].to_numpy(), recalls


def history(runs: list[Path]) -> pd.DataFrame:
    """Returns what the only run under a name logged by step."""
    if len(runs) > 1:
        raise UserError(f"--losses draws one run under each name: {runs[0]} and {runs[1]} have the same")
    path = runs[0] / "csv" / "metrics.csv"
    if not path.is_file():
        raise UserError(f"{runs[0]} has no csv/metrics.csv: train with logger=csv or the default logger")
    return pd.read_csv(path)


def main() -> None:
    """Reads the command line and writes the picture."""
    parser = argparse.ArgumentParser(prog="counterpoise.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="a name and the folder of a finished run")
    parser.add_argument("--losses", action="store_true", help="draw training loss and gradient norm")
    parser.add_argument("--output", type=Path, help="what to write (default: recall_vs_count.png or losses.png)")
    arguments = parser.parse_args()
    named: dict[str, list[Path]] = {}
    for argument in arguments.runs:
        name, equals, run = argument.partition("=")
        if not equals:
            raise UserError(f"{argument}: give each run a name, as in plain={argument}")
        named.setdefault(name, []).append(Path(run))
    output = arguments.output or Path("losses.png" if arguments.losses else "recall_vs_count.png")
    if arguments.losses:
        pictures.loss_and_gradients(output, {name: history(runs) for name, runs in named.items()})
    else:
        recalls = {name: recall_by_class(runs) for name, runs in named.items()}
        multi_label = all("average_precision" in _per_class(run) for runs in named.values() for run in runs)
        pictures.recall_vs_count(output, recalls, unit="label" if multi_label else "class")
    print(output)


def _per_class(run: Path) -> pd.DataFrame:
    if not (run / "per_class.csv").is_file():
        raise UserError(f"{run} is no finished run: it has no per_class.csv")
    return pd.read_csv(run / "per_class.csv", keep_default_na=False, na_values={"recall": [""]})


if __name__ == "__main__":
    command_line(main)
