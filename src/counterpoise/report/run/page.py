"""The report of one run."""

from pathlib import Path

from counterpoise.report.page import template_text, write
from counterpoise.report.run import calibration, classes, headline, learning, mistakes, strategy
from counterpoise.training.results import RunFacts

__all__ = ["RunFacts", "write_run_report"]


def write_run_report(path: str | Path, facts: RunFacts) -> None:
    """Writes the page of a tested run to `path`, one HTML file; replaces it as a whole."""
    panels = [
        headline.headline(facts),
        strategy.balance(facts),
        classes.recall(facts),
        mistakes.confusion(facts),
        classes.curves(facts),
        classes.thresholds(facts),
        calibration.calibration(facts),
        mistakes.errors(facts),
        learning.learning(facts),
        learning.data(facts),
    ]
    task = "any number of labels a text" if facts.multi_label else "one class a text"
    subtitle = f"{facts.strategy}{' (scout)' if facts.scout else ''} · {len(facts.labels):,} {facts.nouns}, {task}"
    write(Path(path), facts.name, subtitle, [panel for panel in panels if panel], template_text("single.js"))
