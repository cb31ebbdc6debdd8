"""Terminal output of a run: data and correction before training, scores after it."""

from collections.abc import Sequence

import numpy as np

from counterpoise.balance import FittedStrategy
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.text_lengths import truncated_fraction
from counterpoise.terminal import console
from counterpoise.training.next_steps import show_next_steps
from counterpoise.training.results import RunResults
from counterpoise.training.run import RunContext
from counterpoise.training.shown_settings import shown_path
from counterpoise.training.summary import show_calibration, show_correction, show_results

SHOWN_EPOCHS = 12
"""Epochs up to which the strength of a schedule is printed for each."""


def show_overview(run: RunContext, data: TextDataModule, fitted: FittedStrategy) -> None:
    """Print the sizes of the splits, the data warnings, and the correction of each class or label."""
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
    lengths = data.splits["train"].dataset.full_lengths
    noun = "labels" if fitted.final.correction.multi_label else "classes"
    console.print(
        f"examples: {sizes}; {len(data.labels)} {noun}; tokens per text: median {np.median(lengths):.0f}, "
        f"longest {lengths.max():,}; {truncated_fraction(lengths, data.readable_length):.0%} truncated at "
        f"{data.tokenisation.limit}"
    )
    if run.rank == 0:
        for line in data.data_warnings:
            if line not in data.notices:
                console.print(line, markup=False)
    if fitted.changes:
        console.print(
            f"schedule: strength of the correction by epoch: {_listed(fitted.strengths)}; the table shows the full "
            "correction"
        )
    show_correction(fitted.final.correction, run.strategy_name)


def show_test_results(run: RunContext, results: RunResults) -> None:
    """Print scores, calibration, the run folder and what comes next."""
    show_results(results.metrics, results.bounds)
    show_calibration(results.metrics)
    cache = f" ({run.cache_seconds:.0f} s for reading and encoding, now cached)" if run.cache_seconds >= 1 else ""
    console.print(
        f"[dim]finished in {run.seconds:.0f} s{cache}; results are in[/dim] {shown_path(run.folder)}", soft_wrap=True
    )
    if not run.sweep:
        show_next_steps(run.folder, run.arguments, results)


def _listed(strengths: Sequence[float]) -> str:
    shown = [f"{strength:.2g}" for strength in strengths]
    return ", ".join(shown if len(shown) <= SHOWN_EPOCHS else [*shown[:5], "...", *shown[-5:]])
