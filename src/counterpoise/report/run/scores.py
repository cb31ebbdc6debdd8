"""The first panel: the scores with their uncertainty beside a baseline, and what the run was."""

from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from counterpoise.analysis.significance import Outcomes, bootstrap, count_metrics, interval, observed
from counterpoise.report.html_page import Panel, factor, render
from counterpoise.training.results import RunResults, one_hot

REPLICATES = 1000
NAMES = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "map": "mean average precision",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    **{
        f"{bucket}_{score}": f"{bucket} {score}".replace("f1", "F1")
        for bucket in ("head", "medium", "tail")
        for score in ("recall", "f1")
    },
}
SINGLE = ("macro_f1", "balanced_accuracy", "accuracy", "head_recall", "medium_recall", "tail_recall")
MULTI = ("macro_f1", "micro_f1", "map", "head_f1", "medium_f1", "tail_f1")


def scores(results: RunResults) -> Panel:
    """Returns the panel of the scores."""
    classes = len(results.labels)
    if results.multi_label:
        baseline, what = csr_matrix(results.test_logits > 0), "a threshold of 0.5 for all labels"
    else:
        majority = int(results.counts.argmax())
        baseline = one_hot(np.full(len(results.ids), majority), classes)
        what = f"always “{results.labels[majority]}”, the largest class"
    known = estimates(results, baseline)
    if "map" in results.metrics["test"]:
        known["map"] = Estimate(results.metrics["test"]["map"])
    tiles = [(NAMES[name], known[name]) for name in (MULTI if results.multi_label else SINGLE) if name in known]
    supported = int((results.table.test_count > 0).sum())
    note = (
        f"On {len(results.ids):,} test texts. The band is the 95 % bootstrap interval over test texts, of this one run: "
        f"what another seed changes is not in it. The thin tick is the baseline, {what}. Means over {results.nouns} are "
        f"over the {supported:,} of {classes:,} that have a test text."
    )
    return Panel(
        "scores", "Scores", note, render("run/scores.html", tiles=tiles, about=_about(results), probe=results.probe)
    )


class Estimate(NamedTuple):
    """A score, its 95 % interval, and that of the baseline; NaN where unknown."""

    value: float
    low: float = np.nan
    high: float = np.nan
    baseline: float = np.nan


def estimates(results: RunResults, baseline: csr_matrix) -> dict[str, Estimate]:
    """Returns the scores that are functions of counts, by name; baseline: other decisions, bool [N, C]."""
    metrics = count_metrics(results.multi_label, results.buckets, results.table.test_count.to_numpy())
    own = Outcomes(results.truth, [[results.predicted]])
    values = observed(Outcomes(results.truth, [[results.predicted], [baseline]]), list(metrics.values()))
    low, high = interval(bootstrap(own, list(metrics.values()), REPLICATES)[0])
    columns = (each.tolist() for each in (values[0][0], low, high, values[1][0]))
    return {name: Estimate(*row) for name, *row in zip(metrics, *columns, strict=True)}


def _about(results: RunResults) -> list[tuple[str, str]]:
    """Returns what the run was, as terms and descriptions."""
    run = results.metrics
    name = str(results.setting("encoder", "name") or results.setting("encoder", "path") or "")
    frozen = results.setting("encoder", "freeze")
    data = results.setting("data", "path") or results.setting("data", "train")
    data = data or str(results.setting("data", "_target_") or "").rsplit(".", 1)[-1]
    parts = run.get("data", {})
    sizes = ", ".join(f"{part['examples']:,} {split}" for split, part in parts.items())
    strategy = run.get("strategy", {})
    law = [f"weights up to {factor(strategy['weight_ratio'])} : 1"] if strategy.get("weight_ratio", 1) > 1 else []
    if "effective_sample_size" in strategy:
        law.append(f"effective sample fraction {strategy['effective_sample_size']:.2f}")
    length = f", up to {results.max_length} tokens"
    trained = f"{run.get('epochs', 0):g} epochs, {run.get('steps', 0):,} steps"
    if results.seconds:
        trained += f", {_duration(results.seconds)}"
    pairs = [
        ("data", f"{str(data).rsplit('/', 1)[-1]}: {sizes}; {len(results.labels):,} {results.nouns}"),
        ("encoder", f"{name}{length}" + ("; frozen (probe)" if results.probe else _frozen(frozen))),
        ("strategy", results.strategy + "".join(f"; {each}" for each in law)),
        ("training", f"{trained}; seed {results.config.get('seed', '?')}"),
    ]
    return [(term, text) for term, text in pairs if text]


def _frozen(setting: Any) -> str:
    return "" if setting in (None, "none") else f"; frozen: {setting}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
