"""The report of a comparison: groups of runs ranked, told apart, and followed down to buckets and single classes.

One colour means one thing on the page: blue is a gain of recall over the reference or what cannot be told apart from
the best, orange a loss, grey what chance may have done. What the reader chooses is drawn by `templates/comparison.js`
from one block of data, which holds each number once.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from markupsafe import Markup

from counterpoise.analysis.comparison import ALPHA, BUCKETS, FEWEST, Comparison, metric_name, significant
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
from counterpoise.report.html_page import Panel, data, figure, plain, render, table, template_text, write

_SPENT: tuple[Literal["seconds", "steps"], ...] = ("seconds", "steps")
_COSTS = {"seconds": "seconds", "epochs": "epochs", "steps": "optimiser steps"}


def write_comparison_report(path: Path, comparison: Comparison) -> None:
    """Writes the report, one HTML file that needs no other; what has no meaning for a single group is left out."""
    count = len(comparison.groups)
    title = f"Comparison of {count} groups of runs" if count > 1 else f"Report on {shown_name(comparison, 0)}"
    if all(group.probe for group in comparison.groups):
        title += " (probe)"
    write(path, title, subtitle(comparison), panels(comparison), template_text("comparison/comparison.js"))


def subtitle(comparison: Comparison) -> str:
    """Returns one line: the metric, what it was measured on, the seeds, and that probes are probes."""
    seeds = sorted({len(group.scores) for group in comparison.groups})
    most = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] > 1)}"
    parts = [
        f"{metric_name(comparison.metric)} on {comparison.texts:,} test texts",
        f"{len(comparison.labels):,} {unit(comparison, len(comparison.labels))}",
        f"{most} a group" if len(comparison.groups) > 1 else most,
    ]
    if len(comparison.groups) > 1:
        parts.append(f"measured against {comparison.reference}")
    probes = [group.probe for group in comparison.groups]
    if any(probes):
        parts.append(f"{'probe' if all(probes) else 'some are probes'}: the encoder stays frozen")
    return " · ".join(parts)


def panels(comparison: Comparison) -> list[Panel]:
    """Returns the sections of the page, in order."""
    several = len(comparison.groups) > 1
    made = [_verdict(comparison), _leaderboard(comparison)]
    if several:
        made += [_pairs(comparison), _recall(comparison), _effects(comparison)]
        made += [_buckets(comparison)] if len(comparison.buckets) else []
        known = [cost for cost in _SPENT if any(np.isfinite(getattr(group, cost)) for group in comparison.groups)]
        made += [_costs(comparison, known)] if known else []
    return [*made, _classes(comparison)]


def _verdict(comparison: Comparison) -> Panel:
    note = f"Mean {metric_name(comparison.metric)} over seeds, with its 95 % interval."
    key = [("seed", "a seed")]
    if len(comparison.groups) > 1:
        note += (
            f" Two groups are told apart where p is below {ALPHA}, Holm-adjusted (comparisons with "
            f"{comparison.reference} for themselves, all others for themselves), and the interval of their difference "
            "leaves out 0."
        )
        behind = [("trailing", "behind the best")] if behind_best(comparison).any() else []
        key = [("gain", "the best, and not told apart from it"), *behind, *key]
        key.append(("line", f"mean of {comparison.reference}"))
    body = render(
        "comparison/ranking.html",
        words=comparison.words[1:],
        note=note,
        key=render("comparison/color_key.html", entries=key),
        chart=figure("ranking", group_figures.ranking(comparison), _ranking_in_words(comparison)),
        block=data("comparison", class_figures.page_data(comparison)),
    )
    lead = Markup('<span class="lead">{}</span>').format(comparison.words[0] if comparison.words else "")
    return Panel("verdict", "What wins" if len(comparison.groups) > 1 else "Result", lead, body)


def _ranking_in_words(comparison: Comparison) -> str:
    behind = behind_best(comparison)
    rows = []
    for number, group in enumerate(comparison.groups):
        low, high = group.intervals[comparison.metric]
        mean = group.scores[comparison.metric].mean()
        remark = "" if number == 0 else ", behind the best" if behind[number] else ", not told apart from the best"
        rows.append(f"{shown_name(comparison, number)} {mean:.3f} ({low:.3f} to {high:.3f}){remark}")
    return f"{metric_name(comparison.metric)} of each group with its 95 % interval. " + "; ".join(rows)


def _leaderboard(comparison: Comparison) -> Panel:
    effects = {
        (row["group"], row["metric"]): (row, told)
        for row, told in zip(records(comparison.effects), significant(comparison.effects).tolist(), strict=True)
    }
    means = np.array([group.scores[comparison.metrics].mean() for group in comparison.groups])
    costs = np.array([[getattr(group, cost) for cost in _COSTS] for group in comparison.groups])
    best, least = _best(np.round(means, 3)), _best(-np.round(costs, 1))
    rows = []
    for number, group in enumerate(comparison.groups):
        cells = []
        for column, metric in enumerate(comparison.metrics):
            effect, told = effects.get((group.name, metric), ({}, False))
            cells.append(
                {
                    "value": float(means[number, column]),
                    "deviation": float(group.scores[metric].std()),
                    "interval": group.intervals[metric],
                    "best": bool(best[number, column]),
                    "difference": effect.get("difference"),
                    "p": "" if not effect else p_value(effect["p_holm"]),
                    "kind": "" if not told else "gain" if effect["difference"] > 0 else "loss",
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
        metrics=[metric_name(metric) for metric in comparison.metrics],
        costs=list(_COSTS.values()),
        several=several,
    )
    note = "Mean ± standard deviation over seeds; below it the 95 % interval"
    if several:
        note += (
            f", and the difference to {comparison.reference} with its p, Holm-adjusted for the groups, in colour where "
            "it is more than chance. Marked: the best of a column. A click on a heading sorts"
        )
    return Panel("leaderboard", "Leaderboard", f"{note}.", body)


def _best(values: np.ndarray) -> np.ndarray:
    """Returns bool [G, M]: what is the most of its column, nothing where all are equal."""
    known = np.where(np.isnan(values), -np.inf, values)
    return (known == known.max(0)) & (known != known.min(0)).any(0)


def _pairs(comparison: Comparison) -> Panel:
    names = {group.name: shown_name(comparison, number) for number, group in enumerate(comparison.groups)}
    found = differences(comparison)
    rows = [
        {
            "ahead": names[first],
            "behind": names[second],
            "difference": pair.difference,
            "low": pair.low,
            "high": pair.high,
            "p": pair.p,
            "p, Holm-adjusted": pair.p_holm,
            "told apart": "yes" if pair.told else "no",
        }
        for first, second in combinations(names, 2)
        for pair in [found[first, second]]
    ]
    frame = pd.DataFrame(rows)
    formats = {"difference": "+.4f", "low": "+.4f", "high": "+.4f", "p": ".4f", "p, Holm-adjusted": ".4f"}
    caption = f"Differences in {metric_name(comparison.metric)}, with 95 % intervals"
    listed = table(frame, formats, caption)
    note = f"The difference in {metric_name(comparison.metric)}, and how likely chance alone would make it as large."
    if len(comparison.groups) == 2:
        return Panel("pairs", "Which can be told apart", note, listed)
    told = int((frame["told apart"] == "yes").sum())
    note = (
        "Below the diagonal: how far the group above is ahead of the group to the left, blue where the two can be told "
        f"apart ({told} of {len(frame)} pairs). Above it: the Holm-adjusted p."
    )
    description = f"{told} of {len(frame)} pairs can be told apart; the table below holds them all."
    body = render(
        "comparison/pairs.html",
        width=group_figures.matrix_width(comparison),
        chart=figure("matrix", group_figures.matrix(comparison), description),
        table=listed,
    )
    return Panel("pairs", "Which can be told apart", note, body)


def _recall(comparison: Comparison) -> Panel:
    reference = reference_number(comparison)
    chosen = [
        {"id": "recall-from", "label": "from", "options": _options(comparison), "selected": reference},
        {"id": "recall-to", "label": "to", "options": _options(comparison), "selected": int(reference == 0)},
    ]
    one = unit(comparison)
    note = (
        f"A line is a {one}: its recall under two groups, over its training examples. Those of equal count stand "
        "side by side."
    )
    body = _with_choices(
        chosen, figure("recall", class_figures.recall(comparison), f"Recall of each {one} by its count")
    )
    return Panel("recall", "Recall by training count", note, body)


def _effects(comparison: Comparison) -> Panel:
    one = unit(comparison)
    others = [option for option in _options(comparison) if option[0] != reference_number(comparison)]
    sorts = [("count", "training count"), ("effect", "effect")]
    chosen = [
        {"id": "effect-of", "label": "group", "options": others, "selected": others[0][0]},
        {"id": "effect-order", "label": "sorted by", "options": sorts, "selected": "count"},
    ]
    note = (
        f"What a group changes in the recall of each {one}, against {comparison.reference}, with 95 % intervals. They "
        f"are not adjusted for the number of {unit(comparison, 2)}: about one in twenty leaves out zero by chance."
    )
    unknown = comparison.classes[comparison.classes.group != comparison.reference]
    unknown = unknown[unknown.recall_difference.notna() & unknown.low.isna()]
    few = [("few", f"fewer than {FEWEST} test examples: no interval")] if len(unknown) else []
    key = render(
        "comparison/color_key.html",
        entries=[("gain", "gain"), ("loss", "loss"), ("chance", "may be chance: the interval holds 0"), *few],
    )
    axis = figure("effect-axis", class_figures.effect_axis(comparison), f"Scale of the change in recall by {one}")
    plot = figure("effect", class_figures.effect(comparison), f"Change in recall by {one}")
    body = _with_choices(chosen, render("comparison/class_effects.html", axis=axis, plot=plot, key=key, one=one))
    return Panel("effects", f"Effect by {one}", note, body)


def _buckets(comparison: Comparison) -> Panel:
    tail, head = comparison.bounds
    note = (
        f"Change in mean recall against {comparison.reference}, with 95 % intervals, in colour where it is more than "
        f"chance: the interval leaves out 0, and p, Holm-adjusted for the groups, is below {ALPHA}. "
        f"Head: {head:,} training examples or more; tail: fewer than {tail:,}."
    )
    rows = comparison.buckets[comparison.buckets.group != comparison.reference]
    told = class_figures.told_buckets(comparison)
    said = [
        f"{row['group']}, {row['bucket']}: {row['difference']:+.3f}"
        + ", more than chance" * ((row["group"], row["bucket"]) in told)
        for row in records(rows)
    ]
    chart = figure("buckets", class_figures.bucket_effects(comparison), "Change in mean recall. " + "; ".join(said))
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
    note = "Mean of a group's runs. On the line: those that no other group beats at the same cost or less."
    plots = {cost: group_figures.cost(comparison, cost) for cost in known}
    said = {cost: group_figures.cost_in_words(comparison, cost) for cost in known}
    each = {cost: {"plot": plain(plots[cost]), "said": said[cost][0], "more": said[cost][1]} for cost in known}
    chart = figure("cost", plots[known[0]], "".join(said[known[0]]))
    return Panel("cost", "Cost and quality", note, _with_choices(chosen, chart + data("comparison-costs", each)))


def _classes(comparison: Comparison) -> Panel:
    one = unit(comparison)
    note = f"Recall and F1 of one {one} under each group."
    if len(comparison.groups) > 1:
        note += f" A click on a {one} in the figures above opens it here."
    body = render("comparison/class_lookup.html", one=one, reference=comparison.reference)
    return Panel("classes", f"Look up a {one}", note, body)


def _with_choices(choices: list[dict[str, Any]], body: Markup) -> Markup:
    return render("comparison/choices.html", choices=choices, body=body)


def _options(comparison: Comparison) -> list[tuple[Any, str]]:
    return [(number, shown_name(comparison, number)) for number in range(len(comparison.groups))]
