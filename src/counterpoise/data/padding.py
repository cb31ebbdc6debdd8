"""Padding of token ids to the length of a batch."""

from collections.abc import Sequence

import numpy as np


def pad_sequences(texts: Sequence[np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad the token ids of B texts to the longest.

    Returns:
        Token ids, int64 [B, T], and the mask of tokens that are not padding, bool [B, T].
    """
    lengths = np.array([len(ids) for ids in texts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad, np.int64)
    ids[mask] = np.concatenate(texts)
    return ids, mask
