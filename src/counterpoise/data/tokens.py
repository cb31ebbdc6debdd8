"""The token store: every text tokenised once, on disk as one flat array with offsets, mapped into memory."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.progress import Progress
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from counterpoise.data.cache import cached
from counterpoise.errors import UserError

log = logging.getLogger(__name__)

CHUNK = 4096
FORMAT = 1


@dataclass(frozen=True)
class TokenStore:
    """The token ids of N texts: those of row i are `tokens[offsets[i]:offsets[i + 1]]`, special tokens included.

    Both arrays are memory maps; a pickled store holds its path alone.
    """

    folder: Path
    tokens: np.ndarray
    offsets: np.ndarray
    truncated: int

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """Opens a store that `tokenise` wrote."""
        meta = json.loads((folder / "meta.json").read_text())
        tokens = np.memmap(folder / "tokens.bin", dtype=meta["dtype"], mode="r", shape=(meta["tokens"],))
        return cls(folder, tokens, np.load(folder / "offsets.npy", mmap_mode="r"), meta["truncated"])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, int64 [N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore.open, (self.folder,)


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """Returns the fast tokenizer of a local encoder directory or hub name."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"encoder {folder}: no tokenizer found ({str(error).splitlines()[0]})") from error
    if not tokenizer.is_fast:
        raise UserError(f"encoder {folder}: its tokenizer has no fast version (tokenizer.json)")
    return tokenizer


def tokenise(texts: pa.ChunkedArray, tokenizer: PreTrainedTokenizerBase, max_length: int, what: str) -> TokenStore:
    """Returns the token store of `texts`, from the cache when the same texts were tokenised alike before.

    max_length: tokens per text at most, special tokens included. what: the name shown beside the progress bar.
    """
    longest = tokenizer.model_max_length
    if max_length > longest:
        raise UserError(f"encoder.max_length={max_length}: this encoder takes at most {longest} tokens")
    backend = tokenizer.backend_tokenizer
    special = backend.num_special_tokens_to_add(is_pair=False)
    if max_length <= special:
        raise UserError(f"encoder.max_length={max_length}: {special} special tokens leave no room for the text")
    backend.no_padding()
    backend.enable_truncation(max_length)
    dtype = "uint16" if len(tokenizer) <= 2**16 else "int32"

    def build(folder: Path) -> None:
        lengths = np.zeros(len(texts), np.int64)
        truncated = 0
        with (folder / "tokens.bin").open("wb") as file, Progress(transient=True) as progress:
            task = progress.add_task(f"tokenising {what}", total=len(texts))
            for start in range(0, len(texts), CHUNK):
                encodings = backend.encode_batch_fast(texts[start : start + CHUNK].to_pylist())
                for row, encoding in enumerate(encodings, start):
                    ids = encoding.ids
                    lengths[row] = len(ids)
                    truncated += bool(encoding.overflowing)
                    file.write(np.array(ids, dtype).tobytes())
                progress.advance(task, len(encodings))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        np.save(folder / "offsets.npy", offsets)
        meta = {"dtype": dtype, "tokens": int(offsets[-1]), "truncated": truncated}
        (folder / "meta.json").write_text(json.dumps(meta))

    return TokenStore.open(cached(f"tokens/{_key(texts, backend.to_str())}", build))


def _key(texts: pa.ChunkedArray, tokenizer: str) -> str:
    """Returns a digest of the texts and of the tokenizer's full state, which includes the truncation length."""
    digest = hashlib.blake2b(f"{FORMAT}\n{tokenizer}".encode(), digest_size=16)

    class Sink:
        closed = False

        def write(self, data: Any) -> int:
            digest.update(data)
            return len(data)

        def flush(self) -> None: ...

    table = pa.table({"text": texts.cast(pa.large_string())}).combine_chunks()
    with pa.ipc.new_stream(pa.PythonFile(Sink(), mode="w"), table.schema) as stream:
        stream.write_table(table, max_chunksize=2**16)
    return digest.hexdigest()
