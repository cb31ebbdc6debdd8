"""Draw what strategies do to a long tail of classes: `python examples/effective_prior.py --picture docs`.

Three panels against the number of training examples of a class: sampling probability, class weight, and their product,
the effective prior. This uses `counterpoise.balance` alone, without a model, texts or a configuration.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from counterpoise.analysis import plot_style
from counterpoise.balance import ClassIndex, InverseFrequency, PowerSampler, Strategy

COUNTS = np.unique(np.geomspace(1, 2500, 40).round().astype(int))
"""Number of training examples of each class."""
STRATEGIES = {
    "plain": Strategy(PowerSampler(0), InverseFrequency(0)),
    "square_root_sampled": Strategy(PowerSampler(0.5), InverseFrequency(0)),
    "weighted": Strategy(PowerSampler(0), InverseFrequency(1)),
    "oversampled": Strategy(PowerSampler(1), InverseFrequency(0)),
    "combined": Strategy(PowerSampler(0.5), InverseFrequency(0.5)),
    "both in full (refused)": Strategy(PowerSampler(1), InverseFrequency(1), allow_overcorrection=True),
}
PANELS = {
    "sampling_probs": "Sampling probability",
    "class_weights": "Class weight",
    "effective_prior": "Effective prior",
}
STYLES = ("-", "--", "-.", ":", (0, (6, 2)), (0, (1, 1)))


def main() -> None:
    """Read the command line and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=Path(), help="folder of the picture (default: this one)")
    folder = parser.parse_args().picture

    index = ClassIndex.from_targets(np.repeat(np.arange(len(COUNTS)), COUNTS), len(COUNTS))
    labels = [str(count) for count in COUNTS]
    figure = Figure(figsize=(12, 4.2), facecolor=plot_style.PAPER)
    for axes, (quantity, title) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
        for (name, strategy), colour, style in zip(STRATEGIES.items(), plot_style.COLOURS, STYLES, strict=True):
            correction = strategy.correction(labels, index)
            axes.plot(COUNTS, getattr(correction, quantity), color=colour, linestyle=style, linewidth=2, label=name)
        plot_style.axes(axes, "y")
        plot_style.title(axes, title)
        axes.set_xscale("log")
        plot_style.log_scale(axes)
        axes.set_xlabel("training examples of the class")
    figure.legend(*axes.get_legend_handles_labels(), loc="lower center", ncols=len(STRATEGIES), frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    plot_style.save(figure, folder / "effective_prior.png")


if __name__ == "__main__":
    main()
