"""Chunks of long texts: encode each chunk and pool the vectors of the chunks of a text."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoise.errors import UserError

POOLINGS = ("mean", "max")


@dataclass(frozen=True)
class Chunks:
    """Vectors of texts whose tokens are those of their chunks, one after another.

    Args:
        length: Number of tokens of a chunk. A text of several chunks consists of full ones.
        pooling: "mean" or "max" of the vectors of the chunks.
    """

    length: int
    pooling: str = "mean"

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise UserError(f"encoder.chunk_pooling={self.pooling}: use {' or '.join(POOLINGS)}")

    def pooled(self, encode: Callable[[Tensor, Tensor], Tensor], input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return pooled vectors [B, H] of texts.

        Args:
            encode: Returns vectors [N, H] of token ids and their mask, both [N, T].
            input_ids: Token ids, int64 [B, T], or of separate chunks [B, chunks, T].
            attention_mask: 1 for tokens and 0 for padding, of the same shape.
        """
        if input_ids.ndim == 2:
            if input_ids.shape[1] <= self.length:
                return encode(input_ids, attention_mask)
            input_ids, attention_mask = (
                values.unflatten(1, (-1, self.length)) for values in (input_ids, attention_mask)
            )
        number = attention_mask.shape[1]
        exists = attention_mask.any(-1, keepdim=True)
        ids, mask = input_ids.flatten(0, 1), attention_mask.flatten(0, 1)
        # A text with fewer chunks than others is padded with empty ones. Attention over no token is not a number, so
        # that they get one token; their vectors are not used.
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        vectors = encode(ids, torch.where(first, 1, mask)).unflatten(0, (-1, number))
        if self.pooling == "max":
            return vectors.masked_fill(~exists, float("-inf")).amax(1)
        kept = exists.to(vectors.dtype)
        return (vectors * kept).sum(1) / kept.sum(1)
