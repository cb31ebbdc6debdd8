"""How well linear probes rank strategies: scores of probes and of fine-tuned runs, and Kendall's tau between them.

`python benchmarks/probe_ranking.py PROBES TUNED [--output probe_ranking.png]`: two sweep folders over the same
strategies and data. Strategies that occur in one sweep only are left out.
"""

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from counterpoise.analysis import leaderboard
from counterpoise.analysis import plot_style as style
from counterpoise.errors import UserError
from counterpoise.terminal import command_line


def ranking(sweep: Path, metric: str) -> pd.DataFrame:
    """Return mean, standard deviation and count of the metric over the finished jobs of each strategy."""
    jobs = leaderboard.collect(sweep)
    jobs = jobs[jobs.state == "finished"]
    strategies = jobs.setting.str.extract(r"\bstrategy=(\S+)")[0]
    return jobs.groupby(strategies)[metric].agg(["mean", "std", "count"])


def draw(path: Path, both: pd.DataFrame, tau: float, metric: str) -> None:
    """Plot one point per strategy: score after fine-tuning against score of the probe."""
    figure = Figure(figsize=(8, 6.2), layout="constrained")
    axes = figure.subplots()
    spreads = {"xerr": both.std_probe.fillna(0), "yerr": both.std_tuned.fillna(0)}
    axes.errorbar(both.mean_probe, both.mean_tuned, **spreads, fmt="o", color=style.COLOURS[0], ecolor=style.FAINT)
    for name, row in both.iterrows():
        axes.annotate(
            str(name), (row.mean_probe, row.mean_tuned), (5, 4), textcoords="offset points", fontsize=8, color=style.INK
        )
    style.axes(axes, grid="y")
    axes.set_xlabel(f"{metric} of the linear probe")
    axes.set_ylabel(f"{metric} after fine-tuning")
    style.title(axes, "Do probes rank strategies?", f"{len(both)} strategies, Kendall's tau {tau:.2f}")
    style.save(figure, path)


def main() -> None:
    """Read the command line, print the table and tau, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("probes", type=Path, help="folder of a sweep with train=probe")
    parser.add_argument("tuned", type=Path, help="folder of a sweep of fine-tuned runs")
    parser.add_argument("--metric", default="macro_f1", help="metric that ranks the strategies (default: macro_f1)")
    parser.add_argument("--output", type=Path, help="plot to write")
    arguments = parser.parse_args()
    pair = [ranking(folder, arguments.metric) for folder in (arguments.probes, arguments.tuned)]
    both = pair[0].add_suffix("_probe").join(pair[1].add_suffix("_tuned"), how="inner")
    both = both.sort_values("mean_tuned", ascending=False)
    if len(both) < 3:
        raise UserError(
            f"{arguments.probes} and {arguments.tuned} share {len(both)} strategies: a ranking needs at least three"
        )
    tau, p = kendalltau(both.mean_probe, both.mean_tuned)
    print(f"{'strategy':24}{'probe':>9}{'seeds':>7}{'tuned':>9}{'seeds':>7}{'probe rank':>12}")
    ranks = both.mean_probe.rank(ascending=False)
    for name, row in both.iterrows():
        seeds = f"{row.count_probe:7.0f}{row.mean_tuned:9.4f}{row.count_tuned:7.0f}"
        print(f"{name:24}{row.mean_probe:9.4f}{seeds}{ranks[name]:12.0f}")
    print(f"Kendall's tau {tau:.3f} over {len(both)} strategies, p = {p:.2g}")
    if arguments.output:
        draw(arguments.output, both, tau, arguments.metric)
        print(arguments.output)


if __name__ == "__main__":
    command_line(main)
