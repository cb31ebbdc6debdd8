"""Token lengths of the texts before truncation, and warnings about truncation."""

from collections.abc import Mapping

import numpy as np

from counterpoise.data.tokenisation import Tokenisation

PERCENTILES = {"median": 50, "95%": 95, "99%": 99, "longest": 100}
"""Percentiles of the token lengths, by name."""
MAX_TRUNCATED = 0.2
"""Largest fraction of truncated texts without a warning."""


def length_percentiles(lengths: np.ndarray) -> dict[str, int]:
    """Return the `PERCENTILES` of token lengths, int [N]; zeros without texts."""
    return {name: int(np.percentile(lengths, q)) if len(lengths) else 0 for name, q in PERCENTILES.items()}


def truncated_fraction(lengths: np.ndarray, max_length: int) -> float:
    """Return the fraction of texts that are longer than `max_length` tokens; 0 without texts."""
    return float((lengths > max_length).mean()) if len(lengths) else 0.0


def truncation_warnings(
    lengths: Mapping[str, np.ndarray], tokenisation: Tokenisation, readable: int, limit: int
) -> list[str]:
    """Return a data warning if more than `MAX_TRUNCATED` of a split's texts, or any with chunks, are not read whole.

    Args:
        lengths: Tokens of each text before truncation by split, int [N]; "train" first.
        tokenisation: What is read of each text.
        readable: Largest number of tokens of a text that is read whole.
        limit: Maximum `max_length` of the encoder.
    """
    if tokenisation.chunked:
        counts = {name: int((each > readable).sum()) for name, each in lengths.items()}
        if not any(counts.values()):
            return []
        shown = ", ".join(f"{count:,} of {len(lengths[name]):,} {name}" for name, count in counts.items())
        return [
            f"texts longer than {tokenisation.limit}: {shown}. What follows their first {readable:,} tokens is not "
            "read: raise encoder.max_chunks or encoder.max_length"
        ]
    fractions = {name: truncated_fraction(each, readable) for name, each in lengths.items()}
    if max(fractions.values(), default=0.0) <= MAX_TRUNCATED:
        return []
    shares = ", ".join(f"{fraction:.0%} of {name}" for name, fraction in fractions.items())
    percentiles = length_percentiles(lengths["train"])
    if limit <= readable:
        advice = (
            "this is the limit of the encoder; set encoder.long_texts=chunk, use an encoder for longer texts, or "
            "shorten the texts yourself"
        )
    else:
        # Tokenizers without a limit report a very large number.
        most = f" (at most {limit})" if limit < 2**24 else ""
        advice = f"raise encoder.max_length{most}, or set encoder.long_texts=chunk"
    kept = " (their first and last tokens)" if tokenisation.long_texts == "head_tail" else ""
    return [
        f"texts truncated to encoder.max_length={readable} tokens{kept}: {shares}. Training texts have a median of "
        f"{percentiles['median']:,} and a 95th percentile of {percentiles['95%']:,} tokens: {advice}"
    ]
