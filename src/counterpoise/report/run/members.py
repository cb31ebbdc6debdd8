"""Panel of an ensemble: the scores of its models and the weight of the linear model."""

import pandas as pd
from markupsafe import Markup

from counterpoise.metrics.registry import select, title
from counterpoise.report.html_page import Panel, table
from counterpoise.training.results import RunResults


def members_panel(results: RunResults) -> Panel | None:
    """Return the panel of the models of an ensemble; None for a run."""
    section = results.metrics.get("ensemble")
    if section is None:
        return None
    shown = [each.name for each in select("multi_label" if results.multi_label else "single_label", "headline")]
    names = [name for name in shown if name in results.metrics["test"]]
    rows = [(each["name"], each["test"]) for each in section["members"]] + [("ensemble", results.metrics["test"])]
    scores = pd.DataFrame([{"model": name, **{title(m): values[m] for m in names}} for name, values in rows])
    body = Markup(table(scores, dict.fromkeys(map(title, names), ".3f"), "Test scores of the models"))
    if tried := section["validation_by_weight"]:
        score = "mAP" if results.multi_label else "NLL"
        values = [value if results.multi_label else -value for value in tried.values()]
        weights = pd.DataFrame({"weight of the linear model": list(tried), f"validation {score}": values})
        body += table(weights, {f"validation {score}": ".4f"}, "Choice of the weight")
    difference = section["difference"]["macro_f1"]
    weight, other = section["baseline_weight"], section["compared_with"]
    note = (
        f"The logits of the models are added. The linear model has the weight {weight:g}, the others share the rest "
        f"equally. Macro F1 differs by {difference['difference']:+.3f} from {other}, the best of them by validation "
        "macro F1"
    )
    if difference["low"] is not None:
        note += f" (95 % interval over test texts {difference['low']:+.3f} to {difference['high']:+.3f})"
    return Panel("members", "Models", f"{note}.", body)
