"""From a text to the token ids that an encoder reads, and what is read of a text longer than the encoder takes at once.

It needs `tokenizers` and NumPy only, because exported models read texts with it, too.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from counterpoise.errors import UserError

LONG_TEXTS = ("truncate", "head_tail", "chunk")
HEAD = 0.25
"""Fraction of the tokens that `head_tail` takes from the start: 128 of 510 (Sun et al., 2019, section 5.3.1)."""


class Tokens(NamedTuple):
    """Token ids of one text.

    Args:
        ids: What the encoder reads, special tokens included.
        full_length: Number of tokens of the whole text, special tokens included.
    """

    ids: Sequence[int]
    full_length: int


@dataclass(frozen=True)
class Tokenisation:
    """How a text becomes token ids.

    Args:
        max_length: Maximum number of tokens that the encoder reads at once, special tokens included.
        long_texts: What is read of a longer text. "truncate": its first tokens. "head_tail": its first and its last
            tokens, a quarter and three quarters of them. "chunk": overlapping chunks of `max_length` tokens, one after
            another in `Tokens.ids`, each with special tokens; the last chunk ends where the text ends.
        chunk_overlap: Fraction of a chunk that repeats the end of the chunk before it.
        max_chunks: Maximum number of chunks of a text. What follows them is not read.

    Reference:
        Sun et al., "How to Fine-Tune BERT for Text Classification?", 2019.

    Raises:
        UserError: A setting is out of range.
    """

    max_length: int = 128
    long_texts: str = "truncate"
    chunk_overlap: float = 0.25
    max_chunks: int = 8

    def __post_init__(self) -> None:
        if self.long_texts not in LONG_TEXTS:
            raise UserError(f"encoder.long_texts={self.long_texts}: use {', '.join(LONG_TEXTS)}")
        if not 0 <= self.chunk_overlap <= 0.9:
            raise UserError(f"encoder.chunk_overlap={self.chunk_overlap}: use a fraction from 0 to 0.9")
        if self.max_chunks < 1:
            raise UserError(f"encoder.max_chunks={self.max_chunks}: use a whole number of at least 1")

    @property
    def chunked(self) -> bool:
        """Whether long texts are read in chunks."""
        return self.long_texts == "chunk"

    @property
    def limit(self) -> str:
        """The setting that limits what is read of a text, for messages."""
        if self.chunked:
            return f"encoder.max_chunks={self.max_chunks} (chunks of {self.max_length} tokens)"
        return f"encoder.max_length={self.max_length}"

    @property
    def unread(self) -> str:
        """Which part of a text beyond the limit is not read, for messages."""
        return "middle" if self.long_texts == "head_tail" else "end"

    @property
    def key(self) -> str:
        """What decides the token ids besides the state of the prepared tokenizer; empty for truncation."""
        return "" if self.long_texts == "truncate" else repr(self)

    def readable_length(self, special: int) -> int:
        """Return the largest number of tokens of a text that is read whole.

        Args:
            special: Number of special tokens that the tokenizer adds to a text.
        """
        if not self.chunked:
            return self.max_length
        width = self.max_length - special
        return special + width + (self.max_chunks - 1) * self._step(width)

    def prepare(self, tokenizer: Tokenizer) -> None:
        """Set truncation and padding of a tokenizer for `encode`."""
        tokenizer.no_padding()
        if self.long_texts == "truncate":
            tokenizer.enable_truncation(self.max_length)
        else:
            tokenizer.no_truncation()

    def encode(self, tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Tokens]:
        """Yield the token ids of each text. The tokenizer must have been prepared."""
        for encoding in tokenizer.encode_batch_fast(list(texts)):
            yield self._truncated(encoding) if self.long_texts == "truncate" else self._read(encoding)

    def _truncated(self, encoding: Encoding) -> Tokens:
        ids = encoding.ids
        # Reading `overflowing` copies the rest of the text: read it only for texts that may be truncated. Its parts
        # repeat the special tokens.
        rest: Iterable[Encoding] = encoding.overflowing if len(ids) == self.max_length else ()
        return Tokens(ids, len(ids) + sum(len(part) - sum(part.special_tokens_mask) for part in rest))

    def _read(self, encoding: Encoding) -> Tokens:
        ids = encoding.ids
        if len(ids) <= self.max_length:
            return Tokens(ids, len(ids))
        own = np.flatnonzero(np.asarray(encoding.special_tokens_mask) == 0)
        first, last = int(own[0]), int(own[-1]) + 1
        before, content, after = ids[:first], ids[first:last], ids[last:]
        width = self.max_length - len(before) - len(after)
        if self.long_texts == "head_tail":
            head = round(HEAD * width)
            return Tokens([*before, *content[:head], *content[len(content) - width + head :], *after], len(ids))
        read: list[int] = []
        for start in self._starts(len(content), width):
            read += [*before, *content[start : start + width], *after]
        return Tokens(read, len(ids))

    def _step(self, width: int) -> int:
        return max(1, width - round(self.chunk_overlap * width))

    def _starts(self, length: int, width: int) -> list[int]:
        """Return where the chunks of a text of more than `width` tokens start, special tokens aside."""
        step = self._step(width)
        number = 1 + math.ceil((length - width) / step)
        return [min(i * step, length - width) for i in range(min(number, self.max_chunks))]
