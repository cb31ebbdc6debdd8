"""Near-duplicate texts, found by MinHash and banding.

Two texts are near-duplicates when the sets of their character 5-grams have a Jaccard similarity of 0.8 or more. Only
letters and digits count, and each number counts as a 0 unless digits make up much of the texts.

References:
    Broder, On the resemblance and containment of documents, 1997.
    Leskovec et al., Mining of Massive Datasets, section 3.4.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, vstack

from counterpoise.data.arrow_columns import Column, to_array

MIN_SIMILARITY = 0.8
"""Minimum Jaccard similarity of near-duplicates."""
SHINGLE = 5
"""Characters per shingle (character n-gram)."""
DIGIT_SHARE = 0.15
"""If digits make up this share of all characters, as in anonymised texts, they are kept as they are."""
NUM_BANDS, BAND_SIZE = 20, 6
"""Bands of the signature. Texts of similarity s share a band with probability 1 - (1 - s^6)^20: 0.997 at 0.8."""
WINDOW = 32
"""Number of texts that a text is compared with, in random order, among those that share a band."""
BLOCK = 2**21
"""Characters that are processed at a time."""


class SimilarPairs(NamedTuple):
    """Pairs of near-duplicates.

    Args:
        left: Number of the first text, int64 [P], less than `right`.
        right: Number of the second text, int64 [P].
        similarity: Jaccard similarity, float64 [P].
    """

    left: np.ndarray
    right: np.ndarray
    similarity: np.ndarray


def find_near_duplicates(texts: Column, seed: int = 0) -> SimilarPairs:
    """Return the pairs of near-duplicates among N texts, sorted.

    MinHash and banding find candidates, whose similarity is then computed exactly. No returned pair is wrong; a few
    pairs close to the minimum similarity may be missing. Of more than 32 texts that share a band, each is compared with
    a random subset.

    Args:
        texts: string [N].
        seed: Seed of the hash functions. Defaults to 0.
    """
    folded = _normalise_for_shingles(to_array(texts))
    order = np.random.default_rng(seed).permutation(len(folded))
    folded = folded.take(pa.array(order))
    none = np.empty((NUM_BANDS * BAND_SIZE, 0), np.uint32)
    signatures = np.concatenate([none, *(_minhash(*block, seed) for block in _shingles(folded))], axis=1)
    pairs = _candidate_pairs(signatures)
    agreement = [(signatures[:, a] == signatures[:, b]).mean(0) for a, b in _chunks(pairs, 2**16)]
    pairs = pairs[:, np.concatenate([np.empty(0), *agreement]) >= MIN_SIMILARITY - 0.15]  # 4 standard deviations
    involved, places = np.unique(pairs, return_inverse=True)
    similarity = _jaccard(folded.take(pa.array(involved)), places.reshape(pairs.shape))
    left, right = np.sort(order[pairs[:, similarity >= MIN_SIMILARITY]], axis=0)
    similarity = similarity[similarity >= MIN_SIMILARITY]
    by_number = np.lexsort((right, left))
    return SimilarPairs(left[by_number], right[by_number], similarity[by_number])


def _normalise_for_shingles(texts: pa.Array) -> pa.Array:
    """Return the texts in lower case, with each number as 0 and other non-letters as one space.

    Texts without letters are not changed: "12" and "7" differ. All texts are padded to the length of a shingle.
    """
    folded = plain = pc.utf8_lower(pc.utf8_normalize(texts, form="NFKC"))
    digits = pc.sum(pc.count_substring_regex(folded, r"\p{Nd}")).as_py() or 0
    if digits < DIGIT_SHARE * (pc.sum(pc.utf8_length(folded)).as_py() or 1):
        plain = pc.replace_substring_regex(folded, r"\p{Nd}+", "0")
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(plain, r"[^\p{L}\p{M}\p{Nd}]+", " "))
    lettered = pc.match_substring_regex(plain, r"\p{L}")
    return pc.utf8_rpad(pc.if_else(lettered, plain, folded), SHINGLE)


def _shingles(texts: pa.Array) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each block of texts the hashes of all shingles, uint32 [S], and the first of each text."""
    lengths = pc.utf8_length(texts).to_numpy().astype(np.int64)
    blocks = np.cumsum(lengths) // BLOCK
    multipliers = np.random.default_rng(0).integers(0, 2**63, SHINGLE, np.uint64) * np.uint64(2) + np.uint64(1)
    for start, end in _equal_runs(blocks):
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


def _minhash(hashes: np.ndarray, starts: np.ndarray, seed: int) -> np.ndarray:
    """Return the MinHash signature of each text under 120 hash functions, uint32 [120, B]."""
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 2**31, NUM_BANDS * BAND_SIZE, np.uint32) * np.uint32(2) + np.uint32(1)
    return np.stack([np.minimum.reduceat(hashes * factor, starts) for factor in factors])


def _candidate_pairs(signatures: np.ndarray) -> np.ndarray:
    """Return the distinct pairs of texts that agree in a whole band, int64 [2, P]."""
    total = signatures.shape[1]
    codes = [np.empty(0, np.int64)]
    for band in signatures.reshape(NUM_BANDS, BAND_SIZE, total).astype(np.uint64):
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
    """Return the Jaccard similarity of the shingles of each pair (int [2, P]), float64 [P]."""
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


def _equal_runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Return the start and end of each run of equal values."""
    cuts = np.flatnonzero(np.diff(values)) + 1
    return list(zip([0, *cuts], [*cuts, len(values)], strict=True)) if len(values) else []
