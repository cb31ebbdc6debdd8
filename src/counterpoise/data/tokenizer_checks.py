"""Checks that a tokenizer fits its encoder and its texts, and a digest that recognises it."""

import hashlib
import logging
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from counterpoise.errors import UserError

log = logging.getLogger(__name__)

MAX_UNKNOWN = 0.05
"""Share of unknown tokens above which a warning is given. Tokenizers of subwords have less than 0.01."""
TOKENS_PER_BLOCK = 2**22
"""Number of token ids that are counted at a time."""


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str, config: Any) -> None:
    """Raise UserError for a tokenizer without a vocabulary, and for one with more tokens than its encoder embeds.

    transformers makes up a tokenizer of special tokens for a folder without tokenizer files. Every text would then
    consist of unknown tokens.

    Args:
        tokenizer: The tokenizer.
        folder: Local folder or hub name of the encoder, for messages.
        config: Configuration of the encoder in transformers.
    """
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    if not any(character.isalnum() for token in vocabulary if token not in special for character in token):
        raise UserError(
            f"encoder {folder}: no tokenizer found (no tokenizer.json or vocabulary, only {len(vocabulary)} special "
            "tokens): copy the tokenizer files of the model beside its config.json"
        )
    embedded = getattr(config.get_text_config(), "vocab_size", None)
    needed = max(vocabulary.values()) + 1
    if embedded is not None and needed > embedded:
        raise UserError(
            f"encoder {folder}: its tokenizer has {needed:,} token ids and its model only {embedded:,} embeddings: use "
            "the tokenizer that the model was trained with, or resize the model's embeddings and save it again"
        )


def warn_of_unknown_tokens(tokens: np.ndarray, rows: int, tokenizer: PreTrainedTokenizerBase, what: str) -> None:
    """Warn if more than `MAX_UNKNOWN` of the tokens are the unknown token.

    Args:
        tokens: Token ids of all texts with their special tokens, int [T].
        rows: Number of texts.
        tokenizer: The tokenizer.
        what: Name of the texts, for the message.
    """
    unknown = tokenizer.unk_token_id
    total = len(tokens) - rows * tokenizer.backend_tokenizer.num_special_tokens_to_add(is_pair=False)
    if unknown is None or total <= 0:
        return
    starts = range(0, len(tokens), TOKENS_PER_BLOCK)
    found = sum(int(np.count_nonzero(tokens[start : start + TOKENS_PER_BLOCK] == unknown)) for start in starts)
    if found > MAX_UNKNOWN * total:
        log.warning(
            "%s: %.0f%% of the tokens are unknown to the tokenizer (%s) and carry no information: choose an encoder "
            "for the language of the texts (encoder=...)",
            what,
            100 * found / total,
            tokenizer.unk_token,
        )


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 digest of all that decides the token ids of a text, except truncation and padding."""
    backend = tokenizer.backend_tokenizer
    truncation, padding = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    state = backend.to_str()
    if truncation is not None:
        backend.enable_truncation(**truncation)
    if padding is not None:
        backend.enable_padding(**padding)
    return hashlib.sha256(f"{tokenizer.pad_token_id}\n{state}".encode()).hexdigest()
