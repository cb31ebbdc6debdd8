"""Batch sizes for resampling: how many replicates are computed at a time."""

from collections.abc import Iterator

# Small enough for the processor's cache and for memory.
MAX_REPLICATES = 250
MAX_CELLS = 2**25


def batch_sizes(replicates: int, texts: int) -> Iterator[int]:
    """Yield the sizes of the batches that add up to `replicates`, for this number of texts."""
    step = max(1, min(MAX_REPLICATES, MAX_CELLS // max(texts, 1)))
    for start in range(0, replicates, step):
        yield min(step, replicates - start)
