"""What is remarkable about texts and labels before anything is trained on them: repeats, leaks, conflicting_groups, oddities.

Functions of Arrow texts, targets and row numbers. Rows of several splits are measured as one list in which `part`
(int [N]) says where each comes from: 0 is training. Two texts are *equal* when they differ only in case, white space
and compatibility forms of characters (NFKC), and *near* when their sets of character 5-grams, letters and digits only
and any number as a 0 (unless digits are what the texts are made of), have a Jaccard similarity of 0.8 or more.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array
from scipy.sparse import vstack
from tokenizers import Tokenizer

from counterpoise.balance.counts import Targets
from counterpoise.data.arrow_cache import release_pages
from counterpoise.data.arrow_columns import Column, take_rows, to_array
from counterpoise.data.encoded_split import EncodedSplit
from counterpoise.data.near_duplicates import SimilarPairs
from counterpoise.data.splits import label_counts

MIN_TEST_EXAMPLES = 5
"""Test examples under which a class's recall says little."""
NORMALISE_BLOCK = 2**13
"""Texts that are folded at a time."""
MAX_COMPARED_BYTES = 2**27
"""Bytes of text that every run compares: a second's work."""

UNUSUAL_PATTERNS = {
    "one word": r"^[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+$",
    "no letter": r"^[^\p{L}]*$",
    "damaged characters": r"[\x{FFFD}\x{0}-\x{8}\x{E}-\x{1F}\x{7F}-\x{9F}]",
}
"""Patterns of texts that may be no texts; damaged: replacement and control characters."""
LONG_FACTOR = 20
"""Times the median length from which on a text is extremely long."""


def find_data_warnings(splits: Mapping[str, EncodedSplit], labels: Sequence[str]) -> list[str]:
    """Returns the audit in short: a line each for equal texts across splits, conflicting_groups and absent classes.

    An empty list where nothing is remarkable. Takes a fraction of a second for 10 MB of text, which is never in memory
    as a whole; more than `MAX_COMPARED_BYTES` is not compared, which a line says. splits: "train" first.
    """
    train = splits["train"]
    noun, lines = train.split.noun, []
    if (
        sum(split.texts.nbytes for split in {id(e.split): e.split for e in splits.values()}.values())
        > MAX_COMPARED_BYTES
    ):
        lines.append("the texts are too many to look for repeats in each run: python -m counterpoise.audit does")
    else:
        part, targets = _stack_targets(splits)
        groups = _number_by_first_occurrence(
            np.concatenate([_text_hashes(each.split.texts, each.kept) for each in splits.values()])
        )
        leaking = {name: len(leaks(groups, part, 0, n)) for n, name in enumerate(splits) if n}
        shown = [f"{count:,} of {len(splits[name]):,} {name}" for name, count in leaking.items() if count]
        if shown:
            lines.append(f"also in training, but for case and spaces: {' and '.join(shown)} texts")
        conflicting = len(conflicting_groups(groups, targets))
        if conflicting:
            lines.append(f"equal texts with different {noun}: {conflicting:,}")
    absent = int((label_counts(splits["test"].targets, len(labels)) == 0).sum())
    if absent:
        lines.append(f"{noun} without a test text, of which nothing will be known: {absent:,} of {len(labels):,}")
    return lines


class Rows(NamedTuple):
    """The rows of several splits as one list of N: the number of each row's split, int [N], texts and targets."""

    part: np.ndarray
    texts: pa.Array
    targets: Targets


def stack_splits(splits: Mapping[str, EncodedSplit]) -> Rows:
    """Returns the rows of all splits, in their order."""
    part, targets = _stack_targets(splits)
    return Rows(part, pa.concat_arrays([take_rows(each.split.texts, each.kept) for each in splits.values()]), targets)


def count_unlabelled(targets: Targets) -> int:
    """Returns how many rows have no label."""
    return 0 if isinstance(targets, np.ndarray) else int((targets.getnnz(axis=1) == 0).sum())


def group_equal_texts(texts: Column) -> np.ndarray:
    """Returns a number for each text, int64 [N], the same for equal texts: 0, 1, 2, ... by first occurrence.

    Texts are told apart by a hash of 64 bits: of ten million, the chance that any two are mistaken is 3 in a million.
    """
    return _number_by_first_occurrence(_text_hashes(texts, np.arange(len(texts))))


def leaks(
    groups: np.ndarray, part: np.ndarray, source: int, into: int, near: SimilarPairs | None = None
) -> pd.DataFrame:
    """Returns the rows of part `into` whose text is equal or near to one of part `source`, equal ones first.

    groups: int [N], as `group_equal_texts` returns them; near: pairs of group numbers. Columns: row, and of, the most similar
    row of the source (the first of them), both numbers in the list of all; similarity, 1 for equal texts; equal.
    """
    rows = np.flatnonzero(part == into)
    first = np.full(groups.max(initial=-1) + 1, -1)
    sources = np.flatnonzero(part == source)[::-1]
    first[groups[sources]] = sources  # the last assignment stays: the first row
    of, similarity = first.copy(), np.where(first >= 0, 1.0, 0.0)
    if near is not None:
        left, right = np.concatenate([near.left, near.right]), np.concatenate([near.right, near.left])
        values = np.tile(near.similarity, 2)
        useful = (first[right] >= 0) & (first[left] < 0)
        order = np.flatnonzero(useful)[np.argsort(values[useful], kind="stable")]
        of[left[order]], similarity[left[order]] = first[right[order]], values[order]
    table = pd.DataFrame({"row": rows, "of": of[groups[rows]], "similarity": similarity[groups[rows]]})
    table["equal"] = first[groups[rows]] >= 0
    return table[table.of >= 0].sort_values(["equal", "similarity"], ascending=False, kind="stable", ignore_index=True)


def has_near_duplicate(groups: np.ndarray, near: SimilarPairs) -> np.ndarray:
    """Returns which of the rows have a near text among them that is not equal, bool [N].

    groups: int [N], as `group_equal_texts` returns them for these and other rows; near: pairs of group numbers.
    """
    present = np.zeros(max(groups.max(initial=-1), near.right.max(initial=-1)) + 1, bool)
    present[groups] = True
    both = present[near.left] & present[near.right]
    found = np.zeros(len(present), bool)
    found[near.left[both]] = found[near.right[both]] = True
    return found[groups]


def conflicting_groups(groups: np.ndarray, targets: Targets) -> np.ndarray:
    """Returns the numbers of the groups of equal texts that differ in their class, or in their set of labels."""
    first = np.unique(groups, return_index=True)[1]
    differs = targets != targets[first[groups]]
    return np.unique(groups[differs if isinstance(differs, np.ndarray) else differs.getnnz(axis=1) > 0])


def unusual_texts(texts: Column) -> dict[str, np.ndarray]:
    """Returns the rows of odd texts by what is odd: one word, no letter, damaged characters, extremely long."""
    trimmed = pc.utf8_trim_whitespace(to_array(texts))
    found = {name: pc.match_substring_regex(trimmed, pattern) for name, pattern in UNUSUAL_PATTERNS.items()}
    lengths = pc.utf8_length(trimmed).to_numpy(zero_copy_only=False)
    rows = {name: np.flatnonzero(mask.to_numpy(zero_copy_only=False)) for name, mask in found.items()}
    return rows | {
        "extremely long": np.flatnonzero(lengths > LONG_FACTOR * np.median(lengths)) if len(lengths) else lengths
    }


def token_lengths(texts: Column, backend: Tokenizer) -> np.ndarray:
    """Returns the tokens of each whole text, int64 [N], special tokens included, none cut; leaves `backend` alone."""
    whole_texts = Tokenizer.from_str(backend.to_str())
    whole_texts.no_truncation()
    whole_texts.no_padding()
    lengths = [np.empty(0, np.int64)]
    for start in range(0, len(texts), 1024):
        encodings = whole_texts.encode_batch_fast(texts[start : start + 1024].to_pylist())
        lengths.append(np.array([len(encoding) for encoding in encodings], np.int64))
    return np.concatenate(lengths)


def imbalance(counts: np.ndarray) -> dict[str, float]:
    """Returns how unequal the counts (int [C], positive) are.

    ratio: largest over smallest; entropy: of the shares, over log C, 1 for equal counts; gini: mean difference of two
    counts over twice their mean, 0 for equal counts; half: the fewest classes that hold half of all.
    """
    ordered, total = np.sort(counts).astype(float), counts.sum()
    shares = ordered / total
    ranks = 2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1
    return {
        "ratio": float(ordered[-1] / ordered[0]),
        "entropy": float(-(shares * np.log(shares)).sum() / np.log(len(shares))) if len(shares) > 1 else 1.0,
        "gini": float((ranks * ordered).sum() / (len(ordered) * total)),
        "half": int(np.searchsorted(np.cumsum(ordered[::-1]), total / 2) + 1),
    }


def recommend_strategy(counts: np.ndarray, rows: int, multi_label: bool, tail: int) -> tuple[str, str]:
    """Returns the name of the strategy to start with, and why.

    The rule: a ratio of counts up to 10 needs no correction (nor, multi-label, does a median label that at least a
    tenth of the texts have) and gets `plain`; beyond, single-label data gets `combined` and multi-label data
    `distribution_balanced`, which were among the best on R52 and on Debian's tags. counts: int [C], of training. rows:
    training texts. tail: classes or labels in the tail.
    """
    ratio, noun = counts.max() / counts.min(), "label" if multi_label else "class"
    negatives = rows / np.median(counts) - 1
    if ratio <= 10 and not (multi_label and negatives > 9):
        return "plain", f"the largest {noun} has {ratio:.3g} times the examples of the smallest: hardly imbalanced"
    if multi_label:
        reason = f"any number of labels, the median one with {negatives:,.0f} negatives for each positive: raw "
        return "distribution_balanced", f"{reason}weights would listen to a few positives, this loss bounds them"
    reason = f"one class each, {ratio:,.0f} : 1: every class counts the same, half by sampler, half by moderate weights"
    if not tail:
        reason += "; no class is in the tail, so that plain may do as well: compare them"
    return "combined", reason


def _stack_targets(splits: Mapping[str, EncodedSplit]) -> tuple[np.ndarray, Targets]:
    """Returns the number of each row's split, int [N], and the targets of all splits, in their order."""
    targets: list[Any] = [each.targets for each in splits.values()]
    together = np.concatenate(targets) if isinstance(targets[0], np.ndarray) else vstack(targets, format="csr")
    return np.repeat(np.arange(len(splits)), [len(each) for each in splits.values()]), together


def _text_hashes(texts: Column, rows: np.ndarray) -> np.ndarray:
    """Returns a hash of each of these texts, but for case, white space and compatibility forms, uint64 [N]."""
    hashes = [np.empty(0, np.uint64)]
    for start in range(0, len(rows), NORMALISE_BLOCK):
        folded = pc.utf8_lower(pc.utf8_normalize(take_rows(texts, rows[start : start + NORMALISE_BLOCK]), form="NFKC"))
        folded = pc.utf8_trim_whitespace(pc.replace_substring_regex(folded, r"\s\s+|[^\S ]", " "))
        hashes.append(hash_array(folded.to_numpy(zero_copy_only=False), categorize=False))
        release_pages()
    return np.concatenate(hashes)


def _number_by_first_occurrence(values: np.ndarray) -> np.ndarray:
    return pd.factorize(values)[0].astype(np.int64)
