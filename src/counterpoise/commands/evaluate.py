"""Score a finished run on a labelled file: `python -m counterpoise.evaluate RUN FILE --text COLUMN --label COLUMN`.

Writes metrics.json, per_class.csv, predictions.parquet and report.html. A multi-label run uses its own thresholds.
"""

import logging
import shutil
from pathlib import Path

from counterpoise.commands.arguments import Parser
from counterpoise.commands.predict import add_file_arguments, add_model_arguments
from counterpoise.commands.run_config import read_config
from counterpoise.errors import UserError
from counterpoise.terminal import LogConsole, console


def main() -> None:
    """Read the command line, evaluate, print the metrics and write the files."""
    parser = Parser(
        prog="counterpoise.evaluate", description="Score a finished run on a labelled file and write a report."
    )
    add_model_arguments(parser)
    add_file_arguments(parser, "labelled texts")
    parser.add_argument("--label", help="column of the label, or several columns of 0 and 1 separated by commas")
    parser.add_argument(
        "--max-dropped", type=float, help="fraction of rows that may be dropped (default: as in the run)"
    )
    parser.add_argument("--separator", help="separator of several labels in one field")
    parser.add_argument("--output", type=Path, help="folder to write (default: evaluation-FILE in the run's folder)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", handlers=[LogConsole()])
    output = arguments.output or arguments.run / f"evaluation-{arguments.file.name.partition('.')[0]}"
    if output.exists() and not is_replaceable(output):
        raise UserError(f"--output {output} exists and is not an earlier evaluation: name another folder")
    if (arguments.run / "export.json").is_file():
        raise UserError(f"{arguments.run} is an exported model: evaluate the run that it was exported from")
    read_config(arguments.run)

    # These imports take seconds, because they import PyTorch: report faults of the arguments first.
    from counterpoise.commands.evaluation import evaluate, show
    from counterpoise.report.run.run_report import write_run_report
    from counterpoise.training.artifacts import write_results

    results = evaluate(arguments)
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    write_results(output, results)
    write_run_report(output / "report.html", results)
    show(results, arguments.run)
    console.print(str(output / "report.html"), soft_wrap=True, highlight=False, markup=False)


def is_replaceable(folder: Path) -> bool:
    """Return whether a folder is empty or an earlier evaluation. A run has a metrics.json, too, and is not."""
    if not folder.is_dir():
        return False
    evaluation = (folder / "metrics.json").is_file() and not (folder / "config.yaml").exists()
    return evaluation or not any(folder.iterdir())
