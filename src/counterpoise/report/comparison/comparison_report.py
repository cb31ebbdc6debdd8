"""Report page of a comparison: ranking of groups of runs, pairwise tests, and effects on buckets and classes.

Colours have one meaning on the page. Blue: a gain of recall over the reference, or no significant difference from the
best group. Orange: a loss. Grey: not significant. The script `templates/comparison/comparison.js` draws what the
reader chooses from one block of data.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from markupsafe import Markup

from counterpoise.analysis.class_recalls import MIN_TEST_TEXTS
from counterpoise.analysis.comparison import Comparison
from counterpoise.analysis.comparison_tables import BUCKETS
from counterpoise.analysis.search_results import SearchResults
from counterpoise.analysis.significance import ALPHA, significant
from counterpoise.metrics import registry
from counterpoise.report.comparison import class_figures, group_figures
from counterpoise.report.comparison.formatting import (
    behind_best,
    differences,
    p_value,
    records,
    reference_number,
    shown_name,
    unit,
)
from counterpoise.report.comparison.grid_panel import grid_panels
from counterpoise.report.comparison.search_panels import search_panels
from counterpoise.report.html_page import Panel, data, data_and_layout, figure, render, table, template_text, write

_SPENT: tuple[Literal["seconds", "steps"], ...] = ("seconds", "steps")
_COSTS = {"seconds": "seconds", "epochs": "epochs", "steps": "optimizer steps"}


def write_comparison_report(path: Path, comparison: Comparison, search: SearchResults | None = None) -> None:
    """Write the report as one self-contained HTML file. A single group has no comparison panels.

    Args:
        path: File to write.
        comparison: The comparison.
        search: The search of hyperparameters that the runs come from; None if they come from none.
    """
    count = len(comparison.groups)
    title = f"Comparison of {count} groups of runs" if count > 1 else f"Report on {shown_name(comparison, 0)}"
    if all(comparison.probes):
        title += " (linear probe)"
    write(path, title, subtitle(comparison), panels(comparison, search), template_text("comparison/comparison.js"))


def subtitle(comparison: Comparison) -> str:
    """Return one line with the metric, the data, the seeds and whether the groups are linear probes."""
    seeds = sorted({len(group.scores) for group in comparison.groups})
    most = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] > 1)}"
    parts = [
        f"{registry.title(comparison.metric)} on {comparison.texts:,} test texts",
        f"{len(comparison.labels):,} {unit(comparison, len(comparison.labels))}",
        f"{most} per group" if len(comparison.groups) > 1 else most,
    ]
    if len(comparison.groups) > 1:
        parts.append(f"reference: {comparison.reference}")
    if any(comparison.probes):
        parts.append(f"{'linear probes' if all(comparison.probes) else 'some are linear probes'} (frozen encoder)")
    return " · ".join(parts)


def panels(comparison: Comparison, search: SearchResults | None = None) -> list[Panel]:
    """Return the panels in order."""
    several = len(comparison.groups) > 1
    made = [*(search_panels(search) if search else grid_panels(comparison)), _verdict(comparison)]
    made.append(_leaderboard(comparison))
    if several:
        made += [_pairs(comparison), _recall(comparison), _effects(comparison)]
        made += [_buckets(comparison)] if len(comparison.buckets) else []
        known = [cost for cost in _SPENT if any(np.isfinite(getattr(group, cost)) for group in comparison.groups)]
        made += [_costs(comparison, known)] if known else []
    return [*made, _classes(comparison)]


def _verdict(comparison: Comparison) -> Panel:
    note = f"Mean {registry.title(comparison.metric)} over seeds with its 95 % confidence interval."
    key = [("seed", "one seed")]
    if len(comparison.groups) > 1:
        note += (
            f" A difference is significant if its adjusted p-value is below {ALPHA}; the test covers new seeds and new "
            f"test texts. P-values and intervals of differences are adjusted for the number of comparisons (Holm), "
            f"separately for pairs with {comparison.reference} and for the other pairs."
        )
        behind = [("trailing", "significantly below the best")] if behind_best(comparison).any() else []
        key = [("gain", "best, or not significantly different from it"), *behind, *key]
        key.append(("line", f"mean of {comparison.reference}"))
    body = render(
        "comparison/ranking.html",
        words=comparison.summary[1:],
        note=note,
        key=render("comparison/color_key.html", entries=key),
        chart=figure("ranking", group_figures.ranking(comparison), _describe_ranking(comparison)),
        block=data("comparison", class_figures.page_data(comparison)),
    )
    lead = Markup('<span class="lead">{}</span>').format(comparison.summary[0] if comparison.summary else "")
    return Panel("verdict", "Ranking" if len(comparison.groups) > 1 else "Result", lead, body)


def _describe_ranking(comparison: Comparison) -> str:
    behind = behind_best(comparison)
    rows = []
    for number, group in enumerate(comparison.groups):
        low, high = group.intervals[comparison.metric]
        mean = group.scores[comparison.metric].mean()
        status = (
            ""
            if number == 0
            else ", significantly below the best"
            if behind[number]
            else ", not significantly different from the best"
        )
        rows.append(f"{shown_name(comparison, number)} {mean:.3f} ({low:.3f} to {high:.3f}){status}")
    return f"{registry.title(comparison.metric)} of each group with its 95 % confidence interval. " + "; ".join(rows)


def _leaderboard(comparison: Comparison) -> Panel:
    effects = {
        (row["group"], row["metric"]): (row, is_significant)
        for row, is_significant in zip(
            records(comparison.effects), significant(comparison.effects).tolist(), strict=True
        )
    }
    means = np.array([group.scores[comparison.metrics].mean() for group in comparison.groups])
    costs = np.array([[getattr(group, cost) for cost in _COSTS] for group in comparison.groups])
    best, least = _best(np.round(means, 3)), _best(-np.round(costs, 1))
    rows = []
    for number, group in enumerate(comparison.groups):
        cells = []
        for column, metric in enumerate(comparison.metrics):
            effect, is_significant = effects.get((group.name, metric), ({}, False))
            cells.append(
                {
                    "value": float(means[number, column]),
                    "deviation": float(group.scores[metric].std()),
                    "interval": group.intervals[metric] if np.isfinite(group.intervals[metric]).all() else None,
                    "best": bool(best[number, column]) and _higher_is_better(metric, comparison.task),
                    "difference": effect.get("difference"),
                    "p": "" if not effect else p_value(effect["p_adjusted"]),
                    "kind": "" if not is_significant else "gain" if effect["difference"] > 0 else "loss",
                }
            )
        spent = list(zip(costs[number].tolist(), least[number].tolist(), strict=True))
        name = shown_name(comparison, number)
        own = group.name == comparison.reference
        rows.append({"name": name, "reference": own, "seeds": len(group.scores), "cells": cells, "spent": spent})
    several = len(rows) > 1
    body = render(
        "comparison/leaderboard.html",
        rows=rows,
        metrics=[registry.title(metric) for metric in comparison.metrics],
        costs=list(_COSTS.values()),
        several=several,
    )
    note = "Mean ± standard deviation over seeds, with the 95 % confidence interval below"
    if several:
        note += (
            f" and the difference to {comparison.reference} with its adjusted p-value (coloured if significant). "
            "The best value of each column is marked. Click a heading to sort"
        )
    return Panel("leaderboard", "Leaderboard", f"{note}.", body)


def _higher_is_better(metric: str, task: registry.Task) -> bool:
    """Return whether a higher value is known to be better; a fork's metric that is not registered is unknown."""
    known = registry.find(metric, task)
    return known is not None and known.higher_is_better


def _best(values: np.ndarray) -> np.ndarray:
    """Return which values are the maximum of their column, bool [G, M]; none if all are equal."""
    known = np.where(np.isnan(values), -np.inf, values)
    return (known == known.max(0)) & (known != known.min(0)).any(0)


def _pairs(comparison: Comparison) -> Panel:
    names = {group.name: shown_name(comparison, number) for number, group in enumerate(comparison.groups)}
    found = differences(comparison)
    rows = [
        {
            "better": names[first],
            "worse": names[second],
            "difference": pair.difference,
            "low": pair.low,
            "high": pair.high,
            "p": pair.p,
            "adjusted p": pair.p_adjusted,
            "significant": "yes" if pair.significant else "no",
            "about": "methods" if pair.methods else "these models",
        }
        for first, second in combinations(names, 2)
        for pair in [found[first, second]]
    ]
    frame = pd.DataFrame(rows)
    formats = {"difference": "+.4f", "low": "+.4f", "high": "+.4f", "p": ".4f", "adjusted p": ".4f"}
    caption = f"Differences in {registry.title(comparison.metric)}, with adjusted 95 % confidence intervals"
    listed = table(frame, formats, caption)
    note = f"Difference in {registry.title(comparison.metric)} with its adjusted confidence interval and p-value."
    if len(comparison.groups) == 2:
        return Panel("pairs", "Pairwise tests", note, listed)
    count = int((frame["significant"] == "yes").sum())
    note = (
        "Below the diagonal: difference between the column's group and the row's group, blue if significant "
        f"({count} of {len(frame)} pairs). Above it: adjusted p-value."
    )
    description = f"{count} of {len(frame)} pairs differ significantly; the table below lists all."
    body = render(
        "comparison/pairs.html",
        width=group_figures.matrix_width(comparison),
        chart=figure("matrix", group_figures.matrix(comparison), description),
        table=listed,
    )
    return Panel("pairs", "Pairwise tests", note, body)


def _recall(comparison: Comparison) -> Panel:
    reference = reference_number(comparison)
    chosen = [
        {"id": "recall-from", "label": "from", "options": _options(comparison), "selected": reference},
        {"id": "recall-to", "label": "to", "options": _options(comparison), "selected": int(reference == 0)},
    ]
    one = unit(comparison)
    note = (
        f"Each line is a {one} and joins its recall in two groups. {unit(comparison, 2).capitalize()} with equal "
        "training counts are drawn side by side."
    )
    body = _with_choices(
        chosen, figure("recall", class_figures.recall(comparison), f"Recall of each {one} against its training count")
    )
    return Panel("recall", "Recall by training count", note, body)


def _effects(comparison: Comparison) -> Panel:
    one = unit(comparison)
    others = [option for option in _options(comparison) if option[0] != reference_number(comparison)]
    sorts = [("count", "training count"), ("effect", "change in recall")]
    chosen = [
        {"id": "effect-of", "label": "group", "options": others, "selected": others[0][0]},
        {"id": "effect-order", "label": "sorted by", "options": sorts, "selected": "count"},
    ]
    note = (
        f"Change in the recall of each {one} relative to {comparison.reference}, with 95 % confidence intervals. They "
        f"are not adjusted for the number of {unit(comparison, 2)}: without any effect about 1 in 20 excludes 0."
    )
    unknown = comparison.classes[comparison.classes.group != comparison.reference]
    unknown = unknown[unknown.recall_difference.notna() & unknown.low.isna()]
    few = [("few", f"fewer than {MIN_TEST_TEXTS} test examples: no interval")] if len(unknown) else []
    key = render(
        "comparison/color_key.html",
        entries=[("gain", "gain"), ("loss", "loss"), ("chance", "not significant: the interval includes 0"), *few],
    )
    axis = figure("effect-axis", class_figures.effect_axis(), f"Scale of the change in recall by {one}")
    plot = figure("effect", class_figures.effect(), f"Change in recall by {one}")
    body = _with_choices(chosen, render("comparison/class_effects.html", axis=axis, plot=plot, key=key, one=one))
    return Panel("effects", f"Effect by {one}", note, body)


def _buckets(comparison: Comparison) -> Panel:
    tail, head = comparison.bounds
    note = (
        f"Change in mean recall relative to {comparison.reference}, with adjusted 95 % confidence intervals; "
        f"coloured if significant (adjusted p-value below {ALPHA}). "
        f"Head: {head:,} training examples or more; tail: fewer than {tail:,}."
    )
    rows = comparison.buckets[comparison.buckets.group != comparison.reference]
    significant_buckets = class_figures.significant_buckets(comparison)
    descriptions = [
        f"{row['group']}, {row['bucket']}: {row['difference']:+.3f}"
        + ", significant" * ((row["group"], row["bucket"]) in significant_buckets)
        for row in records(rows)
    ]
    chart = figure(
        "buckets", class_figures.bucket_effects(comparison), "Change in mean recall. " + "; ".join(descriptions)
    )
    body = render(
        "comparison/wide_figure.html",
        width=class_figures.bucket_width(comparison),
        chart=chart,
        label="Effect by bucket",
    )
    *first, last = [bucket for bucket in BUCKETS if (rows.bucket == bucket).any()]
    return Panel("buckets", f"Effect on {', '.join(first)}{' and ' * bool(first)}{last}", note, body)


def _costs(comparison: Comparison, known: Sequence[Literal["seconds", "steps"]]) -> Panel:
    options = [(cost, _COSTS[cost]) for cost in known]
    chosen = [{"id": "cost-by", "label": "cost in", "options": options, "selected": known[0]}]
    note = "Mean over the runs of a group. The line joins Pareto-optimal groups: no other is better at the same cost."
    plots = {cost: group_figures.cost(comparison, cost) for cost in known}
    texts = {cost: group_figures.describe_cost(comparison, cost) for cost in known}
    each = {
        cost: {"plot": data_and_layout(plots[cost]), "text": texts[cost][0], "more": texts[cost][1]} for cost in known
    }
    chart = figure("cost", plots[known[0]], "".join(texts[known[0]]))
    return Panel("cost", "Cost and quality", note, _with_choices(chosen, chart + data("comparison-costs", each)))


def _classes(comparison: Comparison) -> Panel:
    one = unit(comparison)
    note = f"Recall and F1 of one {one} in each group."
    if len(comparison.groups) > 1:
        note += f" Click a {one} in the figures above to show it here."
    body = render("comparison/class_lookup.html", one=one, reference=comparison.reference)
    return Panel("classes", f"Look up a {one}", note, body)


def _with_choices(choices: list[dict[str, Any]], body: Markup) -> Markup:
    return render("comparison/choices.html", choices=choices, body=body)


def _options(comparison: Comparison) -> list[tuple[Any, str]]:
    return [(number, shown_name(comparison, number)) for number in range(len(comparison.groups))]
