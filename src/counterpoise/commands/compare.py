"""Compare strategies: `python -m counterpoise.compare SWEEP`, or several runs on the same test texts.

RUN is a sweep folder, a run folder or NAME=RUN; runs of one name are seeds of one group. Prints the groups, best first,
with 95 % confidence intervals and significance, and writes comparison.html, .md and .csv, pairs.csv, classes.csv and
recall_vs_count.png. `--losses` instead plots training loss and gradient norm by step, one run per name.
"""

import argparse
from pathlib import Path

from counterpoise.commands.arguments import Parser
from counterpoise.errors import UserError
from counterpoise.terminal import console, status

PICTURES = (".png", ".pdf", ".svg")


def main() -> None:
    """Read the command line, compare or plot the runs, print and write the results."""
    parser = Parser(prog="counterpoise.compare", description=__doc__.partition("\n\n")[2])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="sweep folder, run folder, or NAME=RUN")
    parser.add_argument(
        "--reference", metavar="NAME", help="group to compare the others with (default: plain, else the best)"
    )
    parser.add_argument("--metric", help="metric that ranks the groups (default: macro_f1)")
    parser.add_argument(
        "--picture", metavar="A,B", help="two groups to plot (default: the reference and the best other)"
    )
    parser.add_argument("--output", type=Path, help="folder to write (default: the sweep folder, or comparison)")
    parser.add_argument(
        "--losses", action="store_true", help="plot losses and gradient norms of NAME=RUN to --output FILE"
    )
    arguments = parser.parse_intermixed_args()
    if arguments.losses:
        _check_plot_arguments(arguments)
    elif arguments.output:
        _refuse_file(arguments.output)

    # These imports take seconds, because they import PyTorch: report faults of the arguments first.
    from counterpoise.analysis import plots
    from counterpoise.analysis.comparison import compare_runs
    from counterpoise.commands.comparison_output import drawn_groups, histories, output_folder, show, write

    if arguments.losses:
        output = arguments.output or Path("losses.png")
        plots.loss_and_gradients(output, histories(arguments.runs))
        print(output)
        return
    output = arguments.output or output_folder(arguments.runs)
    _refuse_file(output)
    with status("comparing the runs"):
        comparison = compare_runs(arguments.runs, arguments.metric or "macro_f1", arguments.reference)
    drawn = drawn_groups(comparison, arguments.picture)
    show(comparison, console)
    write(output, comparison, drawn)
    console.print(f"{output / 'comparison.html'}", soft_wrap=True, highlight=False, markup=False)


def _check_plot_arguments(arguments: argparse.Namespace) -> None:
    """Raise UserError for options that `--losses` does not use, and for an output that is not a picture."""
    for option in ("reference", "metric", "picture"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option} has no effect with --losses, which plots all given runs")
    if arguments.output and arguments.output.suffix.lower() not in PICTURES:
        raise UserError(f"--output {arguments.output}: use a file with the suffix {', '.join(PICTURES)}")


def _refuse_file(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; it must be a folder")
