"""The results of a comparison in sentences."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from counterpoise.analysis.comparison_tables import BUCKETS
from counterpoise.analysis.significance import significant
from counterpoise.metrics import registry

if TYPE_CHECKING:
    from counterpoise.analysis.comparison import Comparison, Group

MAX_GROUPS = 5
"""Number of groups whose differences are described; the tables show all."""
LITTLE_GAIN = 0.9
"""More seeds help little if the smallest detectable difference stays above this fraction of the present one."""


def summarise(comparison: "Comparison") -> list[str]:
    """Return sentences: the best group, significant differences to the reference, run times and limitations."""
    sentences = [_ranking(comparison), *_differences(comparison), *_power(comparison)]
    trained = [group for group in comparison.groups if not group.baseline]
    if len(trained) > 1 and all(np.isfinite(group.seconds) for group in trained):
        sentences.append(_run_times(trained, comparison.reference))
    return sentences + _limitations(comparison)


def _ranking(comparison: "Comparison") -> str:
    best, *others = comparison.groups
    metric, (low, high) = registry.title(comparison.metric), best.intervals[comparison.metric]
    mean, seeds = best.scores[comparison.metric].mean(), f"{len(best.seeds)} seed{'s' * (len(best.seeds) > 1)}"
    seeds = "deterministic" if best.baseline else seeds
    score = f"{mean:.3f}, 95 % interval {low:.3f} to {high:.3f}, {seeds}"
    if not others:
        return f"{metric} of {best.name}: {score}."
    against_best = comparison.pairs[comparison.pairs["a"] == best.name]
    differs = dict(zip(against_best["b"], significant(against_best), strict=True))
    equal, worse = ([group.name for group in others if differs[group.name] == flag] for flag in (False, True))
    sentence = f"Best by {metric}: {best.name} ({score})."
    if equal:
        sentence += f" Not significantly different from it: {', '.join(equal)}."
    if worse:
        sentence += f" Significantly worse: {', '.join(worse)}."
    return sentence


def _differences(comparison: "Comparison") -> list[str]:
    """Return a sentence for each of the best groups that differ significantly from the reference."""
    measure = "f1" if comparison.task == "multi_label" else "recall"
    micro = "micro_f1" if comparison.task == "multi_label" else "accuracy"
    described = [comparison.metric, *(f"{bucket}_{measure}" for bucket in reversed(BUCKETS)), micro]
    described = [metric for metric in dict.fromkeys(described) if metric in comparison.metrics]
    by_group: dict[str, dict[str, dict[str, Any]]] = {group.name: {} for group in comparison.groups}
    for row in comparison.effects[significant(comparison.effects)].to_dict("records"):
        by_group[row["group"]][row["metric"]] = {str(key): value for key, value in row.items()}
    del by_group[comparison.reference]
    head = f"head_{measure}"
    sentences: list[str] = []
    for name, effects in by_group.items():
        changed = [effects[metric] for metric in described if metric in effects]
        gains, losses = ([row for row in changed if (row["difference"] > 0) == up] for up in (True, False))
        parts = [f"increases {_join(map(_amount, gains))}"] if gains else []
        parts += [f"decreases {_join(map(_amount, losses))}"] if losses else []
        if gains and head in described and head not in effects:
            parts.append(f"does not significantly change {registry.title(head)}")
        if parts and len(sentences) < MAX_GROUPS:
            sentences.append(f"Compared with {comparison.reference}, {name} {_join(parts)}.")
    unchanged = [name for name, effects in by_group.items() if not effects.keys() & set(described)]
    if unchanged:
        verb, metrics = "does" if len(unchanged) == 1 else "do", _join(map(registry.title, described), "or")
        sentences.append(
            f"{_join(unchanged)} {verb} not differ significantly from {comparison.reference} in {metrics}."
        )
    return sentences


def _amount(effect: Mapping[str, Any]) -> str:
    low, high = sorted((abs(effect["low"]), abs(effect["high"])))
    return f"{registry.title(effect['metric'])} by {abs(effect['difference']):.3f} [{low:.3f}, {high:.3f}]"


def _run_times(groups: Sequence["Group"], reference: str) -> str:
    if len(groups) > MAX_GROUPS + 1:
        fastest, *_, slowest = sorted(groups, key=lambda group: group.seconds)
        digits = 0 if fastest.seconds >= 10 else 1
        shortest, longest = (f"{group.seconds:,.{digits}f}" for group in (fastest, slowest))
        extremes = f"from {shortest} seconds ({fastest.name}) to {longest} seconds ({slowest.name})"
        return f"Duration of a run without encoding: {extremes}."
    base = next((group for group in groups if group.name == reference), groups[0])
    parts = [f"{base.name} {base.seconds:,.0f} seconds, {base.steps:,.0f} steps"]
    for group in groups:
        if group is not base:
            ratio = f"{group.seconds / max(base.seconds, 1e-9):.1f}"
            parts.append(f"{group.name} {group.seconds:,.0f} seconds ({ratio} times), {group.steps:,.0f} steps")
    return f"Duration of a run without encoding: {'; '.join(parts)}."


def _power(comparison: "Comparison") -> list[str]:
    """Return the smallest difference that these seeds and texts can show, and what more seeds would show."""
    known = {seeds: value for seeds, value in comparison.detectable.items() if np.isfinite(value)}
    if not known:
        return []
    (seeds, value), *more = known.items()
    sentence = (
        f"With {seeds} seeds and {comparison.texts:,} test texts, a difference to {comparison.reference} in "
        f"{registry.title(comparison.metric)} is found with 80 % power if it is at least {value:.3f}"
    )
    sentence += "".join(f"; with {n} seeds, {each:.3f}" for n, each in more) + "."
    if more and more[-1][1] > LITTLE_GAIN * value:
        sentence += " More seeds help little; more test texts would."
    return [sentence]


def _limitations(comparison: "Comparison") -> list[str]:
    """Return what the tests cannot show: single seeds, linear probes."""
    sentences = []
    trained = [group for group in comparison.groups if not group.baseline]
    for group in comparison.groups:
        if group.baseline:
            sentences.append(
                f"{group.name} is one deterministic linear model: differences to it are claims about trained models, "
                "over new test texts but not over new seeds."
            )
    single = [group.name for group in trained if len(group.seeds) == 1]
    if len(single) == len(trained) > 1:
        sentences.append(
            "Each group has one seed: the tests compare these trained models and make no claim about the methods. For "
            "claims about methods, train each setting with at least three seeds (seed=0,1,2)."
        )
    elif single:
        has, differences = ("has", "Its differences") if len(single) == 1 else ("have", "Their differences")
        sentences.append(
            f"{_join(single)} {has} one seed. {differences} to other groups are claims about these trained models, not "
            "about methods."
        )
    probes = [group.name for group in comparison.groups if group.probe]
    if len(probes) == len(trained):
        sentences.append("All runs are linear probes on a frozen encoder; fine-tuning may rank the groups differently.")
    elif probes:
        sentences.append(f"Linear probes on a frozen encoder: {_join(probes)}. The other groups were fine-tuned.")
    return sentences


def _join(names: Iterable[str], conjunction: str = "and") -> str:
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last
