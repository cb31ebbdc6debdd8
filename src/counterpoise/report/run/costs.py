"""Panel of the costs of the decisions, for a run with a cost matrix."""

import numpy as np
import pandas as pd

from counterpoise.report.html_page import Panel, table
from counterpoise.training.results import RunResults


def costs_panel(results: RunResults) -> Panel | None:
    """Return the panel of mean costs and of the classes that each rule decides; None without a cost matrix."""
    costs = results.metrics.get("costs")
    if costs is None or results.least_cost is None:
        return None
    probable = results.predicted.indices
    cheapest, classes = np.asarray(results.least_cost), len(results.labels)
    changed = int((probable != cheapest).sum())
    saved = costs["most_probable"] - costs["least_cost"]
    note = (
        f"The mean cost of a test text is {costs['least_cost']:.4g} with the decision of least expected cost and "
        f"{costs['most_probable']:.4g} with the most probable class: "
        + (f"{abs(saved):.4g} {'less' if saved > 0 else 'more'}. " if saved else "no difference. ")
        + f"The decisions differ for {changed:,} of {len(cheapest):,} texts. Expected costs use the calibrated "
        "probabilities. The other sections show the most probable class."
    )
    rows = pd.DataFrame(
        {
            "class": results.labels,
            "test texts": results.table.test_count.to_numpy(),
            "most probable": np.bincount(probable, minlength=classes),
            "least cost": np.bincount(cheapest, minlength=classes),
        }
    )
    rows["change"] = rows["least cost"] - rows["most probable"]
    rows = rows.sort_values("change", key=lambda change: -change.abs(), kind="stable")
    formats = dict.fromkeys(("test texts", "most probable", "least cost"), ",d") | {"change": "+,d"}
    return Panel("costs", "Costs", note, table(rows, formats, "Texts that each rule assigns to a class"))
