"""Style of the figures: colours, axes, titles and saving."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from counterpoise.analysis.plot_fonts import choose_fonts
from counterpoise.io import atomic_path

PAPER, INK, MUTED, FAINT, GRID = "#fcfcfa", "#1f2a36", "#6b7785", "#a3adb8", "#e4e8ec"
COLOURS = ("#2b6ca3", "#e0752d", "#2f9e83", "#8a5fb0", "#c9a227", "#c8455b")


def axes(axes: Axes, grid: Literal["x", "y"] | None) -> None:
    """Keep the bottom spine and the labels of the axes, and draw a grid along x or y, or none."""
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(which="both", length=0, labelsize=9.5, labelcolor=INK, pad=5)
    axes.xaxis.label.set(color=MUTED, fontsize=10)
    axes.yaxis.label.set(color=MUTED, fontsize=10)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=1)


def title(axes: Axes, title: str, explanation: str = "", above: float = 8) -> None:
    """Write the title and, `above` points over the axes, a line of explanation."""
    axes.set_title(title, loc="left", color=INK, fontsize=13, fontweight="bold", pad=above + 19 if explanation else 10)
    axes.annotate(explanation, (0, 1), (0, above), xycoords="axes fraction", textcoords="offset points", color=MUTED)


def legend(axes: Axes, **where: Any) -> None:
    """Write the legend; `where` holds arguments of `Axes.legend`."""
    axes.legend(facecolor=PAPER, edgecolor="none", framealpha=0.85, labelcolor=INK, fontsize=9.5, **where)


def write_placeholder(axes: Axes, text: str) -> None:
    """Write a text into an empty panel."""
    axes.tick_params(labelbottom=False, labelleft=False)
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=MUTED)


def log_scale(axes: Axes) -> None:
    """Make the vertical axis logarithmic; write short numbers out in full."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    narrow = high < 100 * low
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=8))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: f"{y:,g}" if 1e-3 < y < 1e5 else rf"$10^{{{np.log10(y):.0f}}}$")
    )
    axes.yaxis.set_minor_locator(NullLocator())


def plain(text: str) -> str:
    """Escape dollar signs, which matplotlib reads as formulas."""
    return text.replace("$", r"\$")


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure to `path`, atomically."""
    choose_fonts(figure)
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, dpi=144, facecolor=PAPER, bbox_inches="tight", pad_inches=0.2)
