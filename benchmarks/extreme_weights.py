"""The effect of class weights without a limit on training with rare labels, compared to limited weights.

`python benchmarks/extreme_weights.py` trains on debtags for half an epoch with each strategy of
`experiment=extreme_weights`, plots loss and gradient norm by step, and prints one row per strategy. `--sweep FOLDER`
reads a finished sweep instead.

max weight ratio: largest weight of a positive relative to a negative. ESS: effective sample size as a fraction, over
pairs of text and label. roughness: median change of the loss between steps, relative to its median. gradient p99 /
median: 99th percentile of the gradient norm relative to its median. Roughness and gradient are of the second half of
the steps, in which the learning rate falls. The last three columns are measured on the validation split at the end of
training, unweighted.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from counterpoise.analysis import plots
from counterpoise.errors import UserError
from counterpoise.terminal import command_line

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = (
    "max weight ratio",
    "ESS",
    "loss end/start",
    "roughness",
    "gradient p99/median",
    "val loss",
    "val mAP",
    "val macro F1",
)


def summarise(run: Path) -> list[float]:
    """Return the values of a run, in the order of `COLUMNS`."""
    metrics = json.loads((run / "metrics.json").read_text())
    history = pd.read_csv(run / "csv" / "metrics.csv")
    loss, norm = (history[column].dropna().to_numpy() for column in ("train/loss_step", "train/grad_norm"))
    half, tenth = len(loss) // 2, max(1, len(loss) // 10)
    return [
        metrics["strategy"]["weight_ratio"],
        metrics["strategy"]["effective_sample_size"],
        float(np.median(loss[-tenth:]) / np.median(loss[:tenth])),
        float(np.median(np.abs(np.diff(loss[half:]))) / np.median(loss[half:])),
        float(np.quantile(norm[half:], 0.99) / np.median(norm[half:])),
        *(metrics["validation"][name] for name in ("loss", "map", "macro_f1")),
    ]


def main() -> None:
    """Train or read a sweep, plot losses and gradient norms, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, help="folder of a finished sweep of experiment=extreme_weights")
    parser.add_argument("--output", type=Path, default=Path("extreme_weights.png"), help="plot to write")
    arguments = parser.parse_args()
    sweep = arguments.sweep
    if sweep is None:
        sweep = Path("outputs/extreme_weights").resolve()
        command = [sys.executable, str(ROOT / "train.py"), "-m", "experiment=extreme_weights"]
        subprocess.run([*command, f"hydra.sweep.dir={sweep}"], check=True)
    runs = {}
    for file in sorted(sweep.glob("*/metrics.json")):
        runs[json.loads(file.read_text())["strategy"]["name"]] = file.parent
    if not runs:
        raise UserError(f"{sweep} has no finished run")
    plots.loss_and_gradients(
        arguments.output, {name: pd.read_csv(run / "csv" / "metrics.csv") for name, run in runs.items()}
    )
    table = pd.DataFrame({name: summarise(run) for name, run in runs.items()}, index=list(COLUMNS)).T
    print(table.to_string(float_format=lambda value: f"{value:,.3f}" if value < 100 else f"{value:,.0f}"))
    print(arguments.output)


if __name__ == "__main__":
    command_line(main)
