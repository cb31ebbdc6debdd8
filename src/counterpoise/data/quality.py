"""Quality of texts and labels before training: equal texts, leaks between splits, conflicting labels, unusual texts.

The functions take Arrow texts, targets and row numbers. The rows of several splits form one list; `part` (int [N])
holds the split number of each row, 0 for training. Two texts are *equal* if they differ only in case, white space and
compatibility forms of characters (NFKC). `near_duplicates` finds texts that are similar but not equal.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array
from scipy.sparse import vstack

from counterpoise.balance.counts import Targets
from counterpoise.data.arrow_cache import release_pages
from counterpoise.data.arrow_columns import Column, only_numbers, take_rows, to_array
from counterpoise.data.encoded_split import EncodedSplit
from counterpoise.data.label_spelling import label_counts_of
from counterpoise.data.near_duplicates import SimilarPairs
from counterpoise.data.splits import label_counts

MIN_TEST_EXAMPLES = 5
"""Recall of a class with fewer test examples is unreliable."""
TINY = 5
"""A class with fewer training examples is tiny: too small to learn from."""
MAX_TINY = 1 / 3
"""Largest fraction of tiny classes for which a full correction is recommended."""
NORMALISE_BLOCK = 2**13
"""Number of texts that are normalised at a time."""
MAX_COMPARED_BYTES = 2**27
"""Maximum bytes of text that each run compares: about one second of work."""

CP1252 = bytes(byte for byte in range(0x80, 0xA0) if byte not in b"\x92\x94").decode("cp1252", "ignore")
CONTINUATION = rf"[\x{{80}}-\x{{BF}}{CP1252}]"
"""Second byte of a UTF-8 sequence, read as cp1252. Closing quotation marks are left out: they follow capitals."""
DAMAGED = (
    r"[\x{FFFD}\x{0}-\x{8}\x{E}-\x{1F}\x{7F}-\x{9F}]"
    rf"|[ÂÃ]{CONTINUATION}|â€|ðŸ|(?:[ÐÑ]{CONTINUATION}|[à-ï]{CONTINUATION}{{2}}){{2}}"
)
"""Replacement and control characters, and UTF-8 that was read as cp1252, such as "cafÃ©"."""
UNUSUAL_PATTERNS = {
    "one word": r"^[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+$",
    "no letter": r"^[^\p{L}]*$",
    "damaged characters": DAMAGED,
}
"""Patterns of texts that are probably not texts."""
LONG_FACTOR = 20
"""A text is extremely long if it exceeds the median length by this factor."""


def find_data_warnings(splits: Mapping[str, EncodedSplit], labels: Sequence[str]) -> list[str]:
    """Return data warnings, one line each: classes without texts, damaged texts, leaks and conflicting labels.

    Takes a fraction of a second for 10 MB of text and does not hold all texts in memory. More than `MAX_COMPARED_BYTES`
    of text is not compared; a warning says so.

    Args:
        splits: Splits by name, "train" first.
        labels: Names of the C classes or labels.
    """
    train = splits["train"]
    noun, lines = train.split.noun, []
    trained = {labels[int(c)] for c in np.flatnonzero(label_counts(train.targets, len(labels)))}
    declared = dict.fromkeys([*(train.split.label_names or ()), *label_counts_of(train.split.labels)])
    if untrained := [repr(label) for label in declared if label not in trained]:
        more = f" and {len(untrained) - 8:,} more" if len(untrained) > 8 else ""
        lines.append(f"{noun} without a training text, which cannot be learned: {', '.join(untrained[:8])}{more}")
    if only_numbers(train.split.texts):
        lines.append("all training texts are numbers: is data.text the column of the text?")
    if (
        sum(split.texts.nbytes for split in {id(e.split): e.split for e in splits.values()}.values())
        > MAX_COMPARED_BYTES
    ):
        lines.append("too much text to search for repeated texts in each run; python -m counterpoise.audit does it")
    else:
        part, targets = _stack_targets(splits)
        groups = _number_by_first_occurrence(
            np.concatenate([_text_hashes(each.split.texts, each.kept) for each in splits.values()])
        )
        leaking = {name: len(leaks(groups, part, 0, n)) for n, name in enumerate(splits) if n}
        shown = [f"{count:,} of {len(splits[name]):,} {name}" for name, count in leaking.items() if count]
        if shown:
            lines.append(f"texts that also occur in training (ignoring case and spaces): {' and '.join(shown)}")
        conflicting = len(conflicting_groups(groups, targets))
        if conflicting:
            lines.append(f"equal texts with different {noun}: {conflicting:,}")
        damaged = {name: _count_damaged(each.split.texts, each.kept) for name, each in splits.items()}
        shown = [f"{count:,} of {len(splits[name]):,} {name}" for name, count in damaged.items() if count]
        if shown:
            lines.append(f"texts with damaged characters, as from a wrong encoding: {', '.join(shown)}")
    absent = int((label_counts(splits["test"].targets, len(labels)) == 0).sum())
    if absent:
        lines.append(f"{noun} without a test text, which cannot be evaluated: {absent:,} of {len(labels):,}")
    return lines


class Rows(NamedTuple):
    """Rows of several splits as one list of N rows.

    Args:
        part: Split number of each row, int [N].
        texts: Texts, [N].
        targets: Class numbers, int64 [N], or label indicators, bool [N, C].
    """

    part: np.ndarray
    texts: pa.Array
    targets: Targets


def stack_splits(splits: Mapping[str, EncodedSplit]) -> Rows:
    """Return the rows of all splits, in their order."""
    part, targets = _stack_targets(splits)
    return Rows(part, pa.concat_arrays([take_rows(each.split.texts, each.kept) for each in splits.values()]), targets)


def count_unlabelled(targets: Targets) -> int:
    """Return the number of rows without a label."""
    return 0 if isinstance(targets, np.ndarray) else int((targets.getnnz(axis=1) == 0).sum())


def group_equal_texts(texts: Column) -> np.ndarray:
    """Number the groups of equal texts by first occurrence.

    Texts are compared by a 64-bit hash. For ten million texts the probability of any collision is 3e-6.

    Returns:
        Group number of each text, int64 [N].
    """
    return _number_by_first_occurrence(_text_hashes(texts, np.arange(len(texts))))


def equal_texts(texts: Column, others: Column) -> np.ndarray:
    """Return which texts are equal to one of other texts, bool [N]. See `group_equal_texts`."""
    found, known = (_text_hashes(each, np.arange(len(each))) for each in (texts, others))
    return np.isin(found, known)


def leaks(
    groups: np.ndarray, part: np.ndarray, source: int, into: int, near: SimilarPairs | None = None
) -> pd.DataFrame:
    """Find the rows of one part whose text is equal or similar to a text of another part.

    Args:
        groups: Result of `group_equal_texts`, int [N].
        part: Split number of each row, int [N].
        source: Split number of the rows to search in.
        into: Split number of the rows to search for.
        near: Pairs of similar groups. Defaults to none: only equal texts are found.

    Returns:
        One line per leaking row, equal texts first: row; of, the first most similar row of the source; similarity (1
        for equal texts); equal, bool.
    """
    rows = np.flatnonzero(part == into)
    first = np.full(groups.max(initial=-1) + 1, -1)
    sources = np.flatnonzero(part == source)[::-1]
    first[groups[sources]] = sources  # The last assignment wins: the first row.
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
    """Return which rows have a similar but not equal text among these rows, bool [N].

    Args:
        groups: Result of `group_equal_texts` for these rows, int [N].
        near: Pairs of similar groups.
    """
    present = np.zeros(max(groups.max(initial=-1), near.right.max(initial=-1)) + 1, bool)
    present[groups] = True
    both = present[near.left] & present[near.right]
    found = np.zeros(len(present), bool)
    found[near.left[both]] = found[near.right[both]] = True
    return found[groups]


def conflicting_groups(groups: np.ndarray, targets: Targets) -> np.ndarray:
    """Return the numbers of the groups of equal texts that differ in their class or set of labels."""
    first = np.unique(groups, return_index=True)[1]
    differs = targets != targets[first[groups]]
    return np.unique(groups[differs if isinstance(differs, np.ndarray) else differs.getnnz(axis=1) > 0])


def unusual_texts(texts: Column) -> dict[str, np.ndarray]:
    """Return the rows of unusual texts by reason: one word, no letter, damaged characters, extremely long."""
    trimmed = pc.utf8_trim_whitespace(to_array(texts))
    found = {name: pc.match_substring_regex(trimmed, pattern) for name, pattern in UNUSUAL_PATTERNS.items()}
    lengths = pc.utf8_length(trimmed).to_numpy(zero_copy_only=False)
    rows = {name: np.flatnonzero(mask.to_numpy(zero_copy_only=False)) for name, mask in found.items()}
    return rows | {
        "extremely long": np.flatnonzero(lengths > LONG_FACTOR * np.median(lengths)) if len(lengths) else lengths
    }


def imbalance(counts: np.ndarray) -> dict[str, float]:
    """Return measures of imbalance.

    Args:
        counts: Positive class counts, int [C].

    Returns:
        ratio: largest over smallest count. entropy: entropy of the class shares over log C; 1 for equal counts. gini:
        Gini coefficient; 0 for equal counts. half: the smallest number of classes that hold half of all examples.
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
    """Recommend a strategy to start with.

    `plain` if the ratio of counts is at most 10 and, for multi-label data, the median label has at most 9 negatives per
    positive. Otherwise `distribution_balanced` for multi-label and `combined` for single-label data: both were among
    the best on R52 and on Debian's tags. With many tiny classes `square_root_sampled` instead of `combined`: a full
    correction gives each class the same weight, however few texts it has.

    Args:
        counts: Positive training counts, int [C].
        rows: Number of training texts.
        multi_label: Whether the data is multi-label.
        tail: Number of tail classes or labels.

    Returns:
        The name of the strategy and the reason.
    """
    ratio, noun = counts.max() / counts.min(), "label" if multi_label else "class"
    negatives = rows / np.median(counts) - 1
    if ratio <= 10 and not (multi_label and negatives > 9):
        return "plain", f"the largest {noun} has {ratio:.3g} times the examples of the smallest: hardly imbalanced"
    if multi_label:
        reason = f"multi-label; the median label has {negatives:,.0f} negatives per positive: "
        return (
            "distribution_balanced",
            f"{reason}unbounded weights would be dominated by a few positives; this loss bounds them",
        )
    tiny = int((counts < TINY).sum())
    if tiny > MAX_TINY * len(counts):
        return "square_root_sampled", (
            f"single-label, imbalance {ratio:,.0f} : 1, but {tiny:,} of {len(counts):,} classes have fewer than {TINY} "
            f"texts: a full correction such as combined would give them {tiny / len(counts):.0%} of the training "
            "weight; half a correction gives them less"
        )
    reason = (
        f"single-label, imbalance {ratio:,.0f} : 1: a full correction, half by the sampler and half by class weights"
    )
    if not tail:
        reason += "; no class is in the tail, so plain may be as good: compare them"
    return "combined", reason


def _stack_targets(splits: Mapping[str, EncodedSplit]) -> tuple[np.ndarray, Targets]:
    """Return the split number of each row, int [N], and the targets of all splits."""
    targets: list[Any] = [each.targets for each in splits.values()]
    together = np.concatenate(targets) if isinstance(targets[0], np.ndarray) else vstack(targets, format="csr")
    return np.repeat(np.arange(len(splits)), [len(each) for each in splits.values()]), together


def _text_hashes(texts: Column, rows: np.ndarray) -> np.ndarray:
    """Return a hash of each text that ignores case, white space and compatibility forms, uint64 [N]."""
    hashes = [np.empty(0, np.uint64)]
    for start in range(0, len(rows), NORMALISE_BLOCK):
        folded = pc.utf8_lower(pc.utf8_normalize(take_rows(texts, rows[start : start + NORMALISE_BLOCK]), form="NFKC"))
        folded = pc.utf8_trim_whitespace(pc.replace_substring_regex(folded, r"\s\s+|[^\S ]", " "))
        hashes.append(hash_array(folded.to_numpy(zero_copy_only=False), categorize=False))
        release_pages()
    return np.concatenate(hashes)


def _count_damaged(texts: Column, rows: np.ndarray) -> int:
    """Return how many of these rows have damaged characters."""
    count = 0
    for start in range(0, len(rows), NORMALISE_BLOCK):
        found = pc.match_substring_regex(take_rows(texts, rows[start : start + NORMALISE_BLOCK]), DAMAGED)
        count += pc.sum(found).as_py() or 0
        release_pages()
    return count


def _number_by_first_occurrence(values: np.ndarray) -> np.ndarray:
    return pd.factorize(values)[0].astype(np.int64)
