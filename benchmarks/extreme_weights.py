"""What raw weights do to the training on rare labels, beside bounded ones.

`python benchmarks/extreme_weights.py` trains on debtags for half an epoch with each strategy of
`experiment=extreme_weights`, draws loss and gradient norm by step, and prints a row for each. `--sweep FOLDER` reads a
finished sweep instead.

heaviest: the most that a positive weighs over a negative. ESF: the effective sample fraction over pairs of text and
label. roughness: the median step-to-step change of the loss over its median. gradient p99 / median: how far the norm
strays. All of these over the second half of the steps, where the learning rate is falling; the last three columns are
measured on the validation split, unweighted, at the end.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from counterpoise.analysis import plots as pictures
from counterpoise.errors import UserError
from counterpoise.terminal import command_line

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = (
    "heaviest",
    "ESF",
    "loss end/start",
    "roughness",
    "gradient p99/median",
    "val loss",
    "val mAP",
    "val macro F1",
)


def measured(run: Path) -> list[float]:
    """Returns the numbers of one run, in the order of `COLUMNS`."""
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
    """Trains unless told of a sweep, draws, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, help="folder of a finished sweep of experiment=extreme_weights")
    parser.add_argument("--output", type=Path, default=Path("extreme_weights.png"), help="the picture")
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
        raise UserError(f"{sweep} holds no finished run")
    pictures.loss_and_gradients(
        arguments.output, {name: pd.read_csv(run / "csv" / "metrics.csv") for name, run in runs.items()}
    )
    table = pd.DataFrame({name: measured(run) for name, run in runs.items()}, index=list(COLUMNS)).T
    print(table.to_string(float_format=lambda value: f"{value:,.3f}" if value < 100 else f"{value:,.0f}"))
    print(arguments.output)


if __name__ == "__main__":
    command_line(main)
