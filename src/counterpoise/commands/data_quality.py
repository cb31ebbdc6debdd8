"""Measure the data quality of all splits: what `counterpoise.audit` prints and writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.balance import InverseFrequency, PowerSampler, Strategy
from counterpoise.data import near_duplicates, quality
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.labels import rare_labels
from counterpoise.data.text_lengths import length_percentiles, truncated_fraction
from counterpoise.errors import UserError
from counterpoise.metrics.buckets import Bounds, buckets

LEAK_PAIRS = (("validation", "train"), ("test", "train"), ("test", "validation"))
"""Pairs (into, source): rows of `into` whose text also occurs in `source` are leaks."""
EXAMPLES = 3
"""Number of examples per finding."""
TEXT_START = 200
"""Number of characters of a text in the CSV files."""


@dataclass(frozen=True)
class ComparedTexts:
    """The rows of all splits as one list of N rows, with their equal and near-duplicate texts.

    Args:
        data: Data module after `setup`.
        rows: Texts, targets and split numbers.
        ids: Row ids, [N].
        groups: Group number of each row, int64 [N]. Equal texts share a group.
        first: First row of each of the G groups, int64 [G].
        near: Pairs of groups with similar texts.
    """

    data: TextDataModule
    rows: quality.Rows
    ids: list[str]
    groups: np.ndarray
    first: np.ndarray
    near: near_duplicates.SimilarPairs

    @classmethod
    def from_data(cls, data: TextDataModule) -> "ComparedTexts":
        """Compare the texts of all splits."""
        rows = quality.stack_splits(data.splits)
        groups = quality.group_equal_texts(rows.texts)
        first = np.unique(groups, return_index=True)[1]
        ids = [row_id for part in data.splits.values() for row_id in part.ids]
        near = near_duplicates.find_near_duplicates(rows.texts.take(pa.array(first)))
        return cls(data, rows, ids, groups, first, near)

    def describe_rows(self, numbers: Any, prefix: str = "") -> pd.DataFrame:
        """Return split, id, labels (joined by "|") and the start of the text of some rows.

        Args:
            numbers: Row numbers, int [M].
            prefix: Prefix of the column names. Defaults to none.
        """
        names, labels, targets = list(self.data.splits), self.data.labels, self.rows.targets[numbers]
        if isinstance(targets, np.ndarray):
            joined = [labels[c] for c in targets]
        else:
            label_sets = np.split(targets.indices, targets.indptr[1:-1])
            joined = ["|".join(labels[c] for c in label_set) for label_set in label_sets[: len(numbers)]]
        texts = self.rows.texts.take(pa.array(numbers, pa.int64())).to_pylist()
        columns = {
            "split": [names[part] for part in self.rows.part[numbers]],
            "id": [self.ids[row] for row in numbers],
            "labels": joined,
            "text": [text[:TEXT_START] for text in texts],
        }
        return pd.DataFrame(columns).add_prefix(prefix)


def measure(data: TextDataModule, bounds: Bounds) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Measure the data quality of all splits.

    Args:
        data: Data module after `setup`.
        bounds: Bounds of the head, medium and tail buckets.

    Returns:
        The content of audit.json, and the rows in question by the name of their CSV file.
    """
    compared = ComparedTexts.from_data(data)
    unusual = quality.unusual_texts(compared.rows.texts)
    tables = _row_tables(compared, unusual)
    bucket, counts = buckets(data.counts, **bounds._asdict()), data.counts
    strategy, reason = _recommended(data, int((bucket == "tail").sum()))
    findings = {
        "task": data.task,
        "max_length": data.readable_length,
        "imbalance": quality.imbalance(counts[counts > 0]),
        "buckets": {
            name: {"number": int((bucket == name).sum()), "examples": int(counts[bucket == name].sum())}
            for name in ("head", "medium", "tail")
        },
        "bounds": bounds._asdict(),
        "counts": {data.labels[c]: int(counts[c]) for c in np.argsort(-counts, kind="stable")},
        "splits": _split_findings(compared, unusual),
        "leaks": [_leak(tables["leaks"], into, source, len(data.splits[into])) for into, source in LEAK_PAIRS],
        "conflicts": _conflicts(tables["equal_texts"]),
        "data_warnings": data.data_warnings,
        "recommended": {"strategy": strategy, "reason": reason, "min_count": _min_count(data)},
    }
    return findings, tables


def _min_count(data: TextDataModule) -> dict[str, int] | None:
    """Return how many classes, and texts of the training file, `data.min_count` would remove; None if no class is tiny.

    Multi-label texts lose labels but are not removed.
    """
    labels = data.splits["train"].split.labels
    rare, largest = rare_labels(labels, quality.TINY)
    if not len(rare) or largest < quality.TINY:
        return None
    texts = 0 if data.task == "multi_label" else int(pc.sum(pc.is_in(labels, rare)).as_py())
    return {"least": quality.TINY, "classes": len(rare), "texts": texts, "of": len(labels)}


def _recommended(data: TextDataModule, tail: int) -> tuple[str, str]:
    """Return the recommended strategy and the reason, given the number of tail classes."""
    strategy, reason = quality.recommend_strategy(
        data.counts[data.counts > 0], len(data.splits["train"]), data.task == "multi_label", tail
    )
    if strategy == "combined" and data.index.weights is not None:
        try:
            Strategy(PowerSampler(0.5), InverseFrequency(0.5)).correction(data.labels, data.index)
        except UserError:
            return "plain", "data.weight corrects the imbalance already; strategy=combined would over-correct"
    return strategy, reason


def _row_tables(compared: ComparedTexts, unusual: Mapping[str, np.ndarray]) -> dict[str, pd.DataFrame]:
    """Return the rows in question, by kind.

    Returns:
        equal_texts: all rows of every text that occurs more than once. near_duplicates: pairs, with the first row of
        each text. leaks: rows of validation and test whose text also occurs in training or validation. unusual_texts:
        rows with the reason.
    """
    groups, first, near, describe = compared.groups, compared.first, compared.near, compared.describe_rows
    repeated = np.flatnonzero(np.bincount(groups)[groups] > 1)
    repeated = repeated[np.argsort(groups[repeated], kind="stable")]
    conflicting = np.isin(groups[repeated], quality.conflicting_groups(groups, compared.rows.targets))
    equal = pd.DataFrame({"group": groups[repeated], "conflict": conflicting})
    pairs = pd.DataFrame({"similarity": near.similarity.round(3)})
    names = list(compared.data.splits)
    numbered = ((names.index(source), names.index(into)) for into, source in LEAK_PAIRS)
    leaks = pd.concat(
        [quality.leaks(groups, compared.rows.part, source, into, near) for source, into in numbered], ignore_index=True
    ).round({"similarity": 3})
    reasons = pd.DataFrame({"reason": [reason for reason, rows in unusual.items() for _ in rows]})
    return {
        "equal_texts": equal.join(describe(repeated)),
        "near_duplicates": pairs.join(describe(first[near.left])).join(describe(first[near.right], "other_")),
        "leaks": leaks[["similarity", "equal"]].join(describe(leaks["row"])).join(describe(leaks["of"], "of_")),
        "unusual_texts": reasons.join(describe(np.concatenate(list(unusual.values())))),
    }


def _split_findings(compared: ComparedTexts, unusual: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    data, groups = compared.data, compared.groups
    findings = {}
    for number, (name, part) in enumerate(data.splits.items()):
        in_split = compared.rows.part == number
        positives, tokens = quality.label_counts(part.targets, len(data.labels)), part.dataset.full_lengths
        rare = (positives > 0) & (positives < quality.MIN_TEST_EXAMPLES)
        findings[name] = {
            "rows": len(part),
            # A split cut from another one has its dropped rows counted there.
            "dropped": part.split.dropped if name == part.split.name else {},
            "unseen": part.unseen,
            "unlabelled": quality.count_unlabelled(part.targets),
            "labels_per_text": float(positives.sum() / len(part)),
            "absent": [data.labels[c] for c in np.flatnonzero(positives == 0)],
            "rare": [data.labels[c] for c in np.flatnonzero(rare)],
            "repeats": int(in_split.sum()) - len(np.unique(groups[in_split])),
            "with_near_duplicate": int(quality.has_near_duplicate(groups[in_split], compared.near).sum()),
            "tokens": length_percentiles(tokens),
            "truncated": truncated_fraction(tokens, data.readable_length),
            "unusual": {reason: int(in_split[rows].sum()) for reason, rows in unusual.items()},
        }
    return findings


def _leak(leaks: pd.DataFrame, into: str, source: str, rows: int) -> dict[str, Any]:
    found = leaks[(leaks.split == into) & (leaks.of_split == source)]
    equal = int(found.equal.sum())
    examples = found[["id", "of_id", "similarity", "text"]].head(EXAMPLES).to_dict("records")
    return {"split": into, "in": source, "equal": equal, "near": len(found) - equal, "of": rows, "examples": examples}


def _conflicts(equal: pd.DataFrame) -> dict[str, Any]:
    found = equal[equal.conflict]
    groups = [group for _, group in found.groupby("group", sort=False)]
    columns = ["split", "id", "labels"]
    examples = [group[columns].drop_duplicates("labels").to_dict("records") for group in groups[:EXAMPLES]]
    return {"texts": len(groups), "rows": len(found), "examples": examples}
