"""The report of one run."""

from pathlib import Path

from counterpoise.report import classes, headline, mistakes, strategy, training, trust
from counterpoise.report.facts import RunFacts
from counterpoise.report.page import template_text, write

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
        trust.calibration(facts),
        mistakes.errors(facts),
        training.learning(facts),
        training.data(facts),
    ]
    task = "any number of labels a text" if facts.multi_label else "one class a text"
    subtitle = f"{facts.strategy}{' (scout)' if facts.scout else ''} · {len(facts.labels):,} {facts.nouns}, {task}"
    write(Path(path), facts.name, subtitle, [panel for panel in panels if panel], template_text("single.js"))
