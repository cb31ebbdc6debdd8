"""Report page of one run."""

from pathlib import Path

from counterpoise.report.html_page import template_text, write
from counterpoise.report.run.calibration import calibration_panel
from counterpoise.report.run.confusion import confusion_panel
from counterpoise.report.run.data import data_panel
from counterpoise.report.run.learning import learning_panel
from counterpoise.report.run.mistakes import mistakes_panel
from counterpoise.report.run.precision_recall import precision_recall_panel
from counterpoise.report.run.recall import recall_panel
from counterpoise.report.run.scores import scores_panel
from counterpoise.report.run.strategy import strategy_panel
from counterpoise.report.run.thresholds import thresholds_panel
from counterpoise.training.results import RunResults

__all__ = ["RunResults", "write_run_report"]


def write_run_report(path: str | Path, results: RunResults) -> None:
    """Write the report of a tested run as one HTML file. The file is replaced atomically."""
    panels = [
        scores_panel(results),
        strategy_panel(results),
        recall_panel(results),
        confusion_panel(results),
        precision_recall_panel(results),
        thresholds_panel(results),
        calibration_panel(results),
        mistakes_panel(results),
        learning_panel(results),
        data_panel(results),
    ]
    task = "multi-label" if results.multi_label else "single-label"
    probe = " (linear probe)" if results.probe else ""
    subtitle = f"{results.strategy}{probe} · {len(results.labels):,} {results.nouns}, {task}"
    write(Path(path), results.name, subtitle, [panel for panel in panels if panel], template_text("run/run.js"))
