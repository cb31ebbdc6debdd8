"""Token lengths of the texts before truncation, and warnings about truncation."""

from collections.abc import Mapping

import numpy as np

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


def truncation_warnings(lengths: Mapping[str, np.ndarray], max_length: int, limit: int) -> list[str]:
    """Return a data warning if more than `MAX_TRUNCATED` of the texts of a split are truncated.

    Args:
        lengths: Tokens of each text before truncation by split, int [N]; "train" first.
        max_length: Maximum number of tokens per text.
        limit: Maximum `max_length` of the encoder.
    """
    fractions = {name: truncated_fraction(each, max_length) for name, each in lengths.items()}
    if max(fractions.values(), default=0.0) <= MAX_TRUNCATED:
        return []
    shares = ", ".join(f"{fraction:.0%} of {name}" for name, fraction in fractions.items())
    percentiles = length_percentiles(lengths["train"])
    if limit <= max_length:
        advice = "this is the limit of the encoder; use an encoder for longer texts, or shorten the texts yourself"
    else:
        # Tokenizers without a limit report a very large number.
        advice = "raise encoder.max_length" + (f" (at most {limit})" if limit < 2**24 else "")
    return [
        f"texts truncated to encoder.max_length={max_length} tokens: {shares}. Training texts have a median of "
        f"{percentiles['median']:,} and a 95th percentile of {percentiles['95%']:,} tokens: {advice}"
    ]
