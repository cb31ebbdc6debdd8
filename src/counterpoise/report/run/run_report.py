"""Report page of one run."""

from pathlib import Path

from counterpoise.report.html_page import template_text, write
from counterpoise.report.run.calibration import calibration_panel
from counterpoise.report.run.confusion import confusion_panel
from counterpoise.report.run.costs import costs_panel
from counterpoise.report.run.data import data_panel
from counterpoise.report.run.learning import learning_panel
from counterpoise.report.run.members import members_panel
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
    of_a_run = [scores_panel, strategy_panel, recall_panel, confusion_panel, precision_recall_panel, thresholds_panel]
    of_a_run += [calibration_panel, costs_panel, mistakes_panel, learning_panel, data_panel]
    # An evaluation on another file, and an ensemble, have no training and validation data.
    of_a_file = [scores_panel, members_panel, recall_panel, confusion_panel, calibration_panel, mistakes_panel]
    chosen = of_a_run if "train_sample" in results.metrics else of_a_file
    panels = [panel for panel in (panel_of(results) for panel_of in chosen) if panel]
    task = "multi-label" if results.multi_label else "single-label"
    probe = " (linear probe)" if results.probe else ""
    subtitle = f"{results.strategy}{probe} · {len(results.labels):,} {results.nouns}, {task}"
    write(Path(path), results.name, subtitle, panels, template_text("run/run.js"))
