"""The token store: every text tokenised once, stored as one flat array with offsets and mapped into memory."""

import hashlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from counterpoise.data.arrow_cache import release_pages
from counterpoise.data.arrow_columns import Column, to_array
from counterpoise.data.cache import cached, save_array
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.data.tokenizer_checks import check_tokenizer
from counterpoise.errors import UserError, one_line
from counterpoise.terminal import progress

TEXTS_PER_CHUNK = 4096
"""Maximum number of texts that are tokenised at a time, on all cores."""
BYTES_PER_CHUNK = 2**22
"""Maximum bytes of text that are tokenised at a time, unless one text is larger. A byte needs about 20 in memory."""
FORMAT = 2


@dataclass(frozen=True)
class TokenStore:
    """Token ids of N texts, special tokens included.

    Row i is `tokens[offsets[i]:offsets[i + 1]]`. All arrays are memory maps. A pickled store holds only its path.

    Args:
        folder: Folder of the files.
        tokens: Token ids of all texts, uint16 or int32.
        offsets: Start of each text in `tokens`, and the end of the last one, int64 [N + 1].
        full_lengths: Number of tokens of each text before truncation, int64 [N].
    """

    folder: Path
    tokens: np.ndarray
    offsets: np.ndarray
    full_lengths: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """Open a store that `tokenise` wrote."""
        meta = json.loads((folder / "meta.json").read_text())
        tokens = np.memmap(folder / "tokens.bin", dtype=meta["dtype"], mode="r", shape=(meta["tokens"],))
        arrays = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("offsets", "full_lengths"))
        return cls(folder, tokens, *arrays)

    @property
    def lengths(self) -> np.ndarray:
        """Number of stored tokens of each text, int64 [N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore.open, (self.folder,)


def load_tokenizer(folder: str, revision: str = "main") -> PreTrainedTokenizerBase:
    """Return the fast tokenizer of an encoder.

    Args:
        folder: Local folder of the encoder, or its name on the Hugging Face Hub.
        revision: Branch, tag or commit on the Hub.

    Raises:
        UserError: There is no tokenizer, it has no fast version, or it has more tokens than the encoder embeds.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises no narrower class
        raise UserError(f"encoder {folder}: no tokenizer found ({one_line(error)})") from error
    if not tokenizer.is_fast:
        raise UserError(f"encoder {folder}: its tokenizer has no fast version (tokenizer.json)")
    check_tokenizer(tokenizer, folder, config)
    return tokenizer


def tokenise(
    texts: pa.ChunkedArray,
    tokenizer: PreTrainedTokenizerBase,
    tokenisation: Tokenisation,
    what: str,
    digest: str | None = None,
) -> TokenStore:
    """Return the token store of `texts`, from the cache if the same texts were tokenised with the same settings.

    Args:
        texts: large_string [N].
        tokenizer: A fast tokenizer.
        tokenisation: What is read of each text.
        what: Name shown beside the progress bar.
        digest: Digest of the texts, if known. The texts are then read only if they must be tokenised.

    Raises:
        UserError: `max_length` exceeds the encoder's limit or leaves no token for the text.
    """
    longest, max_length = tokenizer.model_max_length, tokenisation.max_length
    if max_length > longest:
        raise UserError(f"encoder.max_length={max_length} is too long: this encoder takes at most {longest} tokens")
    backend = tokenizer.backend_tokenizer
    tokenisation.prepare(backend)
    special = tokenisation.special_tokens(backend)
    if max_length <= special:
        raise UserError(
            f"encoder.max_length={max_length} leaves no token for the text: use more than the {special} special tokens"
        )
    dtype = "uint16" if len(tokenizer) <= 2**16 else "int32"

    def build(folder: Path) -> None:
        _write_store(folder, texts, backend, tokenisation, dtype, what)

    key = _cache_key(texts, backend.to_str() + tokenisation.key, digest)
    return TokenStore.open(cached(f"tokens/{key}", build))


def _write_store(
    folder: Path, texts: Column, backend: Tokenizer, tokenisation: Tokenisation, dtype: str, what: str
) -> None:
    """Tokenise the texts and write the files of a store."""
    lengths, full_lengths = array("q"), array("q")
    with (folder / "tokens.bin").open("wb") as file, progress() as display:
        task = display.add_task(f"tokenising {what}", total=len(texts))
        for chunk in _chunks(texts):
            tokens = array(np.dtype(dtype).char)
            for ids, full_length in tokenisation.encode(backend, chunk.to_pylist()):
                tokens.extend(ids)
                lengths.append(len(ids))
                full_lengths.append(full_length)
            file.write(tokens)
            release_pages()
            display.advance(task, len(chunk))
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    save_array(folder / "offsets.npy", offsets)
    save_array(folder / "full_lengths.npy", np.asarray(full_lengths, np.int64))
    meta = {"dtype": dtype, "tokens": int(offsets[-1])}
    (folder / "meta.json").write_text(json.dumps(meta))


def _chunks(texts: Column) -> Iterator[Column]:
    """Yield slices of at most `TEXTS_PER_CHUNK` texts and about `BYTES_PER_CHUNK` bytes."""
    for first in range(0, len(texts), TEXTS_PER_CHUNK):
        part = texts.slice(first, TEXTS_PER_CHUNK)
        groups = np.cumsum(pc.binary_length(part).to_numpy(zero_copy_only=False)) // BYTES_PER_CHUNK
        cuts = [0, *(np.flatnonzero(np.diff(groups)) + 1), len(part)]
        yield from (part.slice(a, b - a) for a, b in pairwise(cuts))


def _cache_key(texts: Column, tokenizer: str, text_digest: str | None) -> str:
    """Return a digest of the texts (or of their digest) and of the tokenizer's full state, truncation included."""
    digest = hashlib.blake2b(f"{FORMAT}\n{tokenizer}".encode(), digest_size=16)
    if text_digest is not None:
        digest.update(f"\n{text_digest}".encode())
        return digest.hexdigest()

    class Sink:
        closed = False

        def write(self, data: Any) -> int:
            digest.update(data)
            return len(data)

        def flush(self) -> None: ...

    schema = pa.schema([("text", pa.large_string())])
    with pa.ipc.new_stream(pa.PythonFile(Sink(), mode="w"), schema) as stream:
        # Fixed batches: the digest must not depend on how the column is chunked.
        for start in range(0, len(texts), 2**16):
            stream.write_batch(pa.record_batch([to_array(texts.slice(start, 2**16).cast(pa.large_string()))], schema))
            release_pages()
    return digest.hexdigest()
