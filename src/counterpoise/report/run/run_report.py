"""The report of one run."""

from pathlib import Path

from counterpoise.report.html_page import template_text, write
from counterpoise.report.run import calibration, classes, learning, mistakes, scores, strategy
from counterpoise.training.results import RunResults

__all__ = ["RunResults", "write_run_report"]


def write_run_report(path: str | Path, results: RunResults) -> None:
    """Writes the page of a tested run to `path`, one HTML file; replaces it as a whole."""
    panels = [
        scores.scores(results),
        strategy.correction(results),
        classes.recall(results),
        mistakes.confusion(results),
        classes.curves(results),
        classes.thresholds(results),
        calibration.calibration(results),
        mistakes.errors(results),
        learning.learning(results),
        learning.data(results),
    ]
    task = "any number of labels a text" if results.multi_label else "one class a text"
    subtitle = (
        f"{results.strategy}{' (probe)' if results.probe else ''} · {len(results.labels):,} {results.nouns}, {task}"
    )
    write(Path(path), results.name, subtitle, [panel for panel in panels if panel], template_text("run/run.js"))
