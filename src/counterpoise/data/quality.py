"""What is remarkable about texts and labels before anything is trained on them: repeats, leaks, conflicts, oddities.

Functions of Arrow texts, targets and row numbers. Rows of several splits are measured as one list in which `part`
(int [N]) says where each comes from: 0 is training. Two texts are *equal* when they differ only in case, white space
and compatibility forms of characters (NFKC), and *near* when their sets of character 5-grams, letters and digits only
and any number as a 0 (unless digits are what the texts are made of), have a Jaccard similarity of 0.8 or more.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array
from scipy.sparse import csr_matrix, vstack
from tokenizers import Tokenizer

from counterpoise.balance.counts import Targets
from counterpoise.data.arrow_cache import release_pages
from counterpoise.data.arrow_columns import Column, take, whole

if TYPE_CHECKING:
    from counterpoise.data.datamodule import EncodedSplit
from counterpoise.data.splits import label_counts

NEAR = 0.8
"""Jaccard similarity from which on two texts are near."""
SHINGLE = 5
"""Characters of a shingle."""
DIGITS = 0.15
"""Share of digits among all characters from which on they are words, as in anonymised texts, and stay as they are."""
BANDS, BAND = 20, 6
"""Of the signature: two texts of similarity s share a band with probability 1 - (1 - s^6)^20, 0.997 at 0.8."""
WINDOW = 32
"""How many texts after it, of all that share a band with a text, in random order, it is compared with."""
BLOCK = 2**21
"""Characters read at a time."""
RARE = 5
"""Test examples under which a class's recall says little."""
FOLDED = 2**13
"""Texts that are folded at a time."""
COMPARABLE = 2**27
"""Bytes of text that every run compares: a second's work."""

ODD = {
    "one word": r"^[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+$",
    "no letter": r"^[^\p{L}]*$",
    "damaged characters": r"[\x{FFFD}\x{0}-\x{8}\x{E}-\x{1F}\x{7F}-\x{9F}]",
}
"""Patterns of texts that may be no texts; damaged: replacement and control characters."""
LONG = 20
"""Times the median length from which on a text is extremely long."""


class Near(NamedTuple):
    """Pairs of near texts: their numbers, int64 [P] each with left < right, and their similarity, float64 [P]."""

    left: np.ndarray
    right: np.ndarray
    similarity: np.ndarray


def find_data_warnings(splits: Mapping[str, "EncodedSplit"], labels: Sequence[str]) -> list[str]:
    """Returns the audit in short: a line each for equal texts across splits, conflicts and absent classes.

    An empty list where nothing is remarkable. Takes a fraction of a second for 10 MB of text, which is never in memory
    as a whole; more than `COMPARABLE` is not compared, which a line says. splits: "train" first.
    """
    train = splits["train"]
    noun, lines = train.split.noun, []
    if sum(split.texts.nbytes for split in {id(e.split): e.split for e in splits.values()}.values()) > COMPARABLE:
        lines.append("the texts are too many to look for repeats in each run: python -m counterpoise.audit does")
    else:
        part, targets = _together(splits)
        groups = _numbered(np.concatenate([_hashes(each.split.texts, each.kept) for each in splits.values()]))
        leaking = {name: len(leaks(groups, part, 0, n)) for n, name in enumerate(splits) if n}
        shown = [f"{count:,} of {len(splits[name]):,} {name}" for name, count in leaking.items() if count]
        if shown:
            lines.append(f"also in training, but for case and spaces: {' and '.join(shown)} texts")
        conflicting = len(conflicts(groups, targets))
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


def stacked(splits: Mapping[str, "EncodedSplit"]) -> Rows:
    """Returns the rows of all splits, in their order."""
    part, targets = _together(splits)
    return Rows(part, pa.concat_arrays([take(each.split.texts, each.kept) for each in splits.values()]), targets)


def unlabelled(targets: Targets) -> int:
    """Returns how many rows have no label."""
    return 0 if isinstance(targets, np.ndarray) else int((targets.getnnz(axis=1) == 0).sum())


def equal_texts(texts: Column) -> np.ndarray:
    """Returns a number for each text, int64 [N], the same for equal texts: 0, 1, 2, ... by first occurrence.

    Texts are told apart by a hash of 64 bits: of ten million, the chance that any two are mistaken is 3 in a million.
    """
    return _numbered(_hashes(texts, np.arange(len(texts))))


def near_texts(texts: Column, seed: int = 0) -> Near:
    """Returns the pairs of near texts among N, sorted.

    Candidates are found by MinHash and banding (Broder 1997; Leskovec et al., Mining of Massive Datasets, 3.4), and
    the similarity of each is then computed from all shingles: no pair is wrong, a few close to the bound may be
    missing. Of families of more than 32 near texts, each is compared with a random part of the others.
    """
    folded = _letters(whole(texts))
    order = np.random.default_rng(seed).permutation(len(folded))
    folded = folded.take(pa.array(order))
    none = np.empty((BANDS * BAND, 0), np.uint32)
    signatures = np.concatenate([none, *(_signature(*block, seed) for block in _shingles(folded))], axis=1)
    pairs = _sharing_a_band(signatures)
    drop_rare_labels = [(signatures[:, a] == signatures[:, b]).mean(0) for a, b in _chunks(pairs, 2**16)]
    pairs = pairs[:, np.concatenate([np.empty(0), *drop_rare_labels]) >= NEAR - 0.15]  # 4 standard deviations
    involved, places = np.unique(pairs, return_inverse=True)
    similarity = _jaccard(folded.take(pa.array(involved)), places.reshape(pairs.shape))
    left, right = np.sort(order[pairs[:, similarity >= NEAR]], axis=0)
    similarity = similarity[similarity >= NEAR]
    by_number = np.lexsort((right, left))
    return Near(left[by_number], right[by_number], similarity[by_number])


def leaks(groups: np.ndarray, part: np.ndarray, source: int, into: int, near: Near | None = None) -> pd.DataFrame:
    """Returns the rows of part `into` whose text is equal or near to one of part `source`, equal ones first.

    groups: int [N], as `equal_texts` returns them; near: pairs of group numbers. Columns: row, and of, the most similar
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


def with_near(groups: np.ndarray, near: Near) -> np.ndarray:
    """Returns which of the rows have a near text among them that is not equal, bool [N].

    groups: int [N], as `equal_texts` returns them for these and other rows; near: pairs of group numbers.
    """
    present = np.zeros(max(groups.max(initial=-1), near.right.max(initial=-1)) + 1, bool)
    present[groups] = True
    both = present[near.left] & present[near.right]
    found = np.zeros(len(present), bool)
    found[near.left[both]] = found[near.right[both]] = True
    return found[groups]


def conflicts(groups: np.ndarray, targets: Targets) -> np.ndarray:
    """Returns the numbers of the groups of equal texts that differ in their class, or in their set of labels."""
    first = np.unique(groups, return_index=True)[1]
    differs = targets != targets[first[groups]]
    return np.unique(groups[differs if isinstance(differs, np.ndarray) else differs.getnnz(axis=1) > 0])


def odd_texts(texts: Column) -> dict[str, np.ndarray]:
    """Returns the rows of odd texts by what is odd: one word, no letter, damaged characters, extremely long."""
    trimmed = pc.utf8_trim_whitespace(whole(texts))
    found = {name: pc.match_substring_regex(trimmed, pattern) for name, pattern in ODD.items()}
    lengths = pc.utf8_length(trimmed).to_numpy(zero_copy_only=False)
    rows = {name: np.flatnonzero(mask.to_numpy(zero_copy_only=False)) for name, mask in found.items()}
    return rows | {"extremely long": np.flatnonzero(lengths > LONG * np.median(lengths)) if len(lengths) else lengths}


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


def recommended(counts: np.ndarray, rows: int, multi_label: bool, tail: int) -> tuple[str, str]:
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


def _together(splits: Mapping[str, "EncodedSplit"]) -> tuple[np.ndarray, Targets]:
    """Returns the number of each row's split, int [N], and the targets of all splits, in their order."""
    targets: list[Any] = [each.targets for each in splits.values()]
    together = np.concatenate(targets) if isinstance(targets[0], np.ndarray) else vstack(targets, format="csr")
    return np.repeat(np.arange(len(splits)), [len(each) for each in splits.values()]), together


def _hashes(texts: Column, rows: np.ndarray) -> np.ndarray:
    """Returns a hash of each of these texts, but for case, white space and compatibility forms, uint64 [N]."""
    hashes = [np.empty(0, np.uint64)]
    for start in range(0, len(rows), FOLDED):
        folded = pc.utf8_lower(pc.utf8_normalize(take(texts, rows[start : start + FOLDED]), form="NFKC"))
        folded = pc.utf8_trim_whitespace(pc.replace_substring_regex(folded, r"\s\s+|[^\S ]", " "))
        hashes.append(hash_array(folded.to_numpy(zero_copy_only=False), categorize=False))
        release_pages()
    return np.concatenate(hashes)


def _numbered(values: np.ndarray) -> np.ndarray:
    return pd.factorize(values)[0].astype(np.int64)


def _letters(texts: pa.Array) -> pa.Array:
    """Returns the texts in lower case, each number as a 0 and what is neither letter nor digit as one space.

    A text without letters stays as it is: "12" and "7" are not equal. All are padded to a shingle's length.
    """
    folded = plain = pc.utf8_lower(pc.utf8_normalize(texts, form="NFKC"))
    digits = pc.sum(pc.count_substring_regex(folded, r"\p{Nd}")).as_py() or 0
    if digits < DIGITS * (pc.sum(pc.utf8_length(folded)).as_py() or 1):
        plain = pc.replace_substring_regex(folded, r"\p{Nd}+", "0")
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(plain, r"[^\p{L}\p{M}\p{Nd}]+", " "))
    lettered = pc.match_substring_regex(plain, r"\p{L}")
    return pc.utf8_rpad(pc.if_else(lettered, plain, folded), SHINGLE)


def _shingles(texts: pa.Array) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields, for one block of texts after another, the hashes of all shingles, uint32 [S], and each text's first."""
    lengths = pc.utf8_length(texts).to_numpy().astype(np.int64)
    blocks = np.cumsum(lengths) // BLOCK
    multipliers = np.random.default_rng(0).integers(0, 2**63, SHINGLE, np.uint64) * np.uint64(2) + np.uint64(1)
    for start, end in _runs(blocks):
        text = "".join(texts[start:end].to_pylist())
        characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        hashes = np.zeros(len(characters) - SHINGLE + 1, np.uint64)
        for place, multiplier in enumerate(multipliers):
            hashes += characters[place : place + len(hashes)] * multiplier
        hashes ^= hashes >> np.uint64(32)
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        inside = np.ones(len(hashes), bool)
        borders = np.cumsum(lengths[start:end])[:-1]
        for place in range(1, SHINGLE):
            inside[borders - place] = False
        counts = lengths[start:end] - SHINGLE + 1
        yield (hashes[inside] >> np.uint64(32)).astype(np.uint32), np.cumsum(counts) - counts


def _signature(hashes: np.ndarray, starts: np.ndarray, seed: int) -> np.ndarray:
    """Returns the least of each text's shingles under 120 hash functions, uint32 [120, B]."""
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 2**31, BANDS * BAND, np.uint32) * np.uint32(2) + np.uint32(1)
    return np.stack([np.minimum.reduceat(hashes * factor, starts) for factor in factors])


def _sharing_a_band(signatures: np.ndarray) -> np.ndarray:
    """Returns the pairs of texts that agree in a whole band, int64 [2, P], each once."""
    total = signatures.shape[1]
    codes = [np.empty(0, np.int64)]
    for band in signatures.reshape(BANDS, BAND, total).astype(np.uint64):
        key = np.zeros(total, np.uint64)
        for row in band:
            key = (key ^ row) * np.uint64(0x9E3779B97F4A7C15)
        order = np.argsort(key, kind="stable")
        key = key[order]
        for distance in range(1, min(WINDOW, total - 1) + 1):
            same = np.flatnonzero(key[distance:] == key[:-distance])
            if not len(same):
                break
            codes.append(order[same] * total + order[same + distance])
    return np.stack(np.divmod(np.unique(np.concatenate(codes)), max(total, 1)))


def _jaccard(texts: pa.Array, pairs: np.ndarray) -> np.ndarray:
    """Returns the similarity of the shingles of each pair (int [2, P]), float64 [P]."""
    if not len(texts):
        return np.empty(0)
    blocks = []
    for hashes, starts in _shingles(texts):
        ends = np.append(starts, len(hashes))
        blocks.append(csr_matrix((np.ones(len(hashes), bool), hashes.astype(np.int64), ends), (len(starts), 2**32)))
        blocks[-1].sum_duplicates()
    sets = vstack(blocks, format="csr")
    sizes = sets.getnnz(axis=1)
    common = [sets[left].multiply(sets[right]).getnnz(axis=1) for left, right in _chunks(pairs, 2**11)]
    shared = np.concatenate(common)
    return shared / (sizes[pairs[0]] + sizes[pairs[1]] - shared)


def _chunks(pairs: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (pairs[:, start : start + size] for start in range(0, pairs.shape[1], size))


def _runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Returns where each run of equal values begins and ends."""
    cuts = np.flatnonzero(np.diff(values)) + 1
    return list(zip([0, *cuts], [*cuts, len(values)], strict=True)) if len(values) else []
