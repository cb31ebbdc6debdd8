"""Combine finished runs into one model: `python -m counterpoise.ensemble RUNS`.

The model adds the weighted logits of the runs and of a linear TF-IDF model that is trained on the same texts. Runs have
equal weights. The weight of the linear model is chosen on the validation split, by likelihood (several labels: mAP).
Thresholds of multi-label data and the calibration are fitted on the validation split for the combined logits. The
folder that is written holds copies of the models and the files of a run: `predict`, `evaluate`, `export` and `compare`
accept it in place of one.
"""

import logging
from pathlib import Path

from counterpoise.analysis.job_folders import ENSEMBLE_FILE
from counterpoise.commands.arguments import Parser
from counterpoise.errors import UserError
from counterpoise.terminal import LogConsole, console

AUTO = "auto"


def main() -> None:
    """Read the command line, combine the runs, print the scores and write the folder."""
    parser = Parser(
        prog="counterpoise.ensemble",
        description="Combine finished runs and a linear model into one model, and test it.",
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs, or of sweeps")
    parser.add_argument(
        "--output", type=Path, help="folder to write (default: ensemble, in the folder of the run or sweep)"
    )
    parser.add_argument(
        "--baseline-weight",
        default=AUTO,
        help="weight of the linear model: a number of at least 0 and below 1, or auto: chosen on validation (default)",
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="PACKAGE", help="package whose classes the runs may use"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", handlers=[LogConsole()])
    weight = read_weight(arguments.baseline_weight)

    # These imports take seconds, because they import PyTorch: report faults of the arguments first.
    from counterpoise.commands.ensemble_folder import build_ensemble
    from counterpoise.commands.ensemble_members import finished_runs
    from counterpoise.commands.ensemble_results import show
    from counterpoise.commands.trusted_classes import allowed_packages

    runs = finished_runs(arguments.runs)
    if arguments.output is None and len(arguments.runs) > 1:
        raise UserError("--output: name the folder to write, which has no default for several folders")
    output = arguments.output or arguments.runs[0] / "ensemble"
    if output.exists() and not is_replaceable(output):
        raise UserError(f"--output {output} exists and is not an earlier ensemble: name another folder")
    results = build_ensemble(runs, output, weight, allowed_packages(arguments.allow))
    show(results)
    console.print(str(output / "report.html"), soft_wrap=True, highlight=False, markup=False)


def read_weight(text: str) -> float | None:
    """Return the weight of the linear model, or None for "auto".

    Raises:
        UserError: It is not a number of at least 0 and below 1.
    """
    if text == AUTO:
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight < 1:
        raise UserError(f"--baseline-weight {text}: use a number of at least 0 and below 1, or auto")
    return weight


def is_replaceable(folder: Path) -> bool:
    """Return whether a folder is empty or an earlier ensemble that is not exported."""
    if not folder.is_dir():
        return False
    ensemble = (folder / ENSEMBLE_FILE).is_file() and not (folder / "export.json").exists()
    return ensemble or not any(folder.iterdir())
