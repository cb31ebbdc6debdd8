"""From a text to the token ids that an encoder reads, and what is read of a text longer than the encoder takes at once.

Exported models read texts with it, too, so it needs no PyTorch.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from counterpoise.data.text_columns import split_columns
from counterpoise.errors import UserError, check_whole_number

LONG_TEXTS = ("truncate", "head_tail", "chunk")
HEAD = 0.25
"""Fraction of the tokens that `head_tail` takes from the start: 128 of 510 (Sun et al., 2019)."""


class Tokens(NamedTuple):
    """Token ids of one text.

    Args:
        ids: What the encoder reads, special tokens included.
        full_length: Number of tokens of the whole text, special tokens included.
    """

    ids: Sequence[int]
    full_length: int


class Specials(NamedTuple):
    """Special tokens that a tokenizer adds to a text.

    Args:
        before: Token ids at the start.
        between: Token ids between the texts of two columns.
        after: Token ids at the end.
    """

    before: list[int]
    between: list[int]
    after: list[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Specials":
        """Return the special tokens of a tokenizer, found on a text and on a pair of texts."""
        one, pair = tokenizer.encode("a"), tokenizer.encode("a", "a")
        places = [number == 0 for number in one.sequence_ids]
        if True not in places:
            raise UserError(
                "data.text: this tokenizer has no token for the letter a, by which its special tokens are found: name "
                "one column"
            )
        first, last = places.index(True), len(places) - places[::-1].index(True)
        before, after = one.ids[:first], one.ids[last:]
        columns = pair.sequence_ids
        start, end = len(columns) - columns[::-1].index(0), columns.index(1)
        # A tokenizer that marks no pairs: its last special tokens separate the texts, or a line break.
        between = pair.ids[start:end] or after or tokenizer.encode("\n", add_special_tokens=False).ids
        return cls(before, between, after)


@dataclass(frozen=True)
class Tokenisation:
    """How a text becomes token ids.

    The texts of several columns (`data.text=[title,body]`) are joined by the tokens that the tokenizer puts between the
    texts of a pair. With "truncate" the longest columns are shortened first, to equal lengths: a short title stays
    whole. The other modes read the joined tokens as one text.

    Args:
        max_length: Maximum number of tokens that the encoder reads at once, special tokens included.
        long_texts: What is read of a longer text. "truncate": its first tokens. "head_tail": its first and its last
            tokens, a quarter and three quarters of them. "chunk": overlapping chunks of `max_length` tokens, one after
            another in `Tokens.ids`, each with special tokens; the last chunk ends where the text ends.
        chunk_overlap: Fraction of a chunk that repeats the end of the chunk before it.
        max_chunks: Maximum number of chunks of a text. What follows them is not read.
        columns: Number of columns of a text. See `data.text_columns`.

    Reference:
        Sun et al., "How to Fine-Tune BERT for Text Classification?", 2019.

    Raises:
        UserError: A setting is out of range.
    """

    max_length: int = 128
    long_texts: str = "truncate"
    chunk_overlap: float = 0.25
    max_chunks: int = 8
    columns: int = 1

    def __post_init__(self) -> None:
        if self.long_texts not in LONG_TEXTS:
            raise UserError(f"encoder.long_texts={self.long_texts}: use {', '.join(LONG_TEXTS)}")
        check_whole_number("encoder.max_length", self.max_length)
        if not 0 <= self.chunk_overlap <= 0.9:
            raise UserError(f"encoder.chunk_overlap={self.chunk_overlap}: use a fraction from 0 to 0.9")
        check_whole_number("encoder.max_chunks", self.max_chunks)

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
        return "" if self._truncates else repr(self)

    @property
    def _truncates(self) -> bool:
        """Whether the tokenizer itself cuts the texts."""
        return self.long_texts == "truncate" and self.columns == 1

    def special_tokens(self, tokenizer: Tokenizer) -> int:
        """Return the number of tokens that are added to a text."""
        if self.columns == 1:
            return tokenizer.num_special_tokens_to_add(is_pair=False)
        before, between, after = Specials.of(tokenizer)
        return len(before) + len(after) + (self.columns - 1) * len(between)

    def readable_length(self, tokenizer: Tokenizer) -> int:
        """Return the largest number of tokens of a text that is read whole, special tokens included."""
        if not self.chunked:
            return self.max_length
        special = tokenizer.num_special_tokens_to_add(is_pair=False)
        width = self.max_length - special
        return special + width + (self.max_chunks - 1) * self._step(width)

    def prepare(self, tokenizer: Tokenizer) -> None:
        """Set truncation and padding of a tokenizer for `encode`."""
        tokenizer.no_padding()
        if self._truncates:
            tokenizer.enable_truncation(self.max_length)
        else:
            tokenizer.no_truncation()

    def encode(self, tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Tokens]:
        """Yield the token ids of each text. The tokenizer must have been prepared."""
        if self.columns > 1:
            yield from self._encode_columns(tokenizer, texts)
            return
        for encoding in tokenizer.encode_batch_fast(list(texts)):
            yield self._truncated(encoding) if self._truncates else self._read(*_parts(encoding))

    def token_ids(self, tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Sequence[int]]:
        """Yield the token ids of each text, without counting what is not read. See `encode`."""
        if self._truncates:
            return (encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts)))
        return (tokens.ids for tokens in self.encode(tokenizer, texts))

    def _truncated(self, encoding: Encoding) -> Tokens:
        ids = encoding.ids
        # Reading `overflowing` copies the rest of the text: read it only for texts that may be truncated. Its parts
        # repeat the special tokens.
        rest: Iterable[Encoding] = encoding.overflowing if len(ids) == self.max_length else ()
        return Tokens(ids, len(ids) + sum(len(part) - sum(part.special_tokens_mask) for part in rest))

    def _encode_columns(self, tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Tokens]:
        before, between, after = Specials.of(tokenizer)
        columns = [split_columns(text) for text in texts]
        encodings = iter(tokenizer.encode_batch_fast([*chain(*columns)], add_special_tokens=False))
        for row in columns:
            parts = [next(encodings).ids for _ in row]
            full_length = len(before) + len(after) + sum(map(len, parts)) + (len(parts) - 1) * len(between)
            if self.long_texts == "truncate":
                room = self.max_length - len(before) - len(after) - (len(parts) - 1) * len(between)
                parts = [part[:kept] for part, kept in zip(parts, shortened([*map(len, parts)], room), strict=True)]
            content = [*parts[0], *chain(*([*between, *part] for part in parts[1:]))]
            yield self._read(before, content, after)._replace(full_length=full_length)

    def _read(self, before: list[int], content: list[int], after: list[int]) -> Tokens:
        """Return what is read of a text, given its own tokens and the special ones."""
        width, full_length = self.max_length - len(before) - len(after), len(before) + len(content) + len(after)
        if len(content) <= width:
            return Tokens([*before, *content, *after], full_length)
        if self.long_texts == "head_tail":
            head = round(HEAD * width)
            return Tokens([*before, *content[:head], *content[len(content) - width + head :], *after], full_length)
        step = self._step(width)
        number = min(self.max_chunks, 1 + math.ceil((len(content) - width) / step))
        # The last chunk ends with the text.
        starts = [min(i * step, len(content) - width) for i in range(number)]
        read = [[*before, *content[start : start + width], *after] for start in starts]
        return Tokens([*chain(*read)], full_length)

    def _step(self, width: int) -> int:
        return max(1, width - round(self.chunk_overlap * width))


def shortened(lengths: Sequence[int], room: int) -> list[int]:
    """Return the lengths of columns that together fit into `room` tokens: the longest are shortened, to equal lengths.

    What does not divide evenly goes to the longest ones.
    """
    kept = [0] * len(lengths)
    for rank, column in enumerate(sorted(range(len(lengths)), key=lambda column: lengths[column])):
        kept[column] = min(lengths[column], room // (len(lengths) - rank))
        room -= kept[column]
    return kept


def _parts(encoding: Encoding) -> tuple[list[int], list[int], list[int]]:
    """Return the special tokens before the text, the tokens of the text, and the special tokens after it."""
    ids, own = encoding.ids, np.flatnonzero(np.asarray(encoding.special_tokens_mask) == 0)
    first, last = (int(own[0]), int(own[-1]) + 1) if len(own) else (len(ids), len(ids))
    return ids[:first], ids[first:last], ids[last:]
