"""The token store: every text tokenised once, on disk as one flat array with offsets, mapped into memory."""

import hashlib
import io
import json
import logging
import os
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.progress import Progress
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from counterpoise.data.arrow_cache import release_pages
from counterpoise.data.arrow_columns import Column, whole
from counterpoise.data.cache import cached
from counterpoise.errors import UserError

log = logging.getLogger(__name__)

CHUNK = 4096
"""Texts that are tokenised at a time, on all cores."""
CHUNK_BYTES = 2**22
"""Bytes of text at most that are tokenised at a time, unless one text has more: a byte becomes some 20 meanwhile."""
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


def load_tokenizer(folder: str, revision: str = "main") -> PreTrainedTokenizerBase:
    """Returns the fast tokenizer of a local encoder directory, or of a hub name at a revision."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"encoder {folder}: no tokenizer found ({str(error).splitlines()[0]})") from error
    if not tokenizer.is_fast:
        raise UserError(f"encoder {folder}: its tokenizer has no fast version (tokenizer.json)")
    return tokenizer


def tokenise(
    texts: pa.ChunkedArray, tokenizer: PreTrainedTokenizerBase, max_length: int, what: str, digest: str | None = None
) -> TokenStore:
    """Returns the token store of `texts`, from the cache when the same texts were tokenised alike before.

    A tokenisation that was interrupted or killed goes on where it was. max_length: tokens per text at most, special
    tokens included. what: the name shown beside the progress bar. digest: of the texts, where it is known; the texts
    are then not read unless they must be tokenised.
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
        _write(folder, texts, backend, max_length, dtype, what)

    folder = cached(f"tokens/{_key(texts, backend.to_str(), digest)}", build, resumable=True)
    return TokenStore.open(folder)


@dataclass(frozen=True)
class _Written:
    """How far a tokenisation has come: rows and tokens that are written, and how many of the texts were cut."""

    rows: int = 0
    tokens: int = 0
    truncated: int = 0


def _write(folder: Path, texts: Column, backend: Tokenizer, max_length: int, dtype: str, what: str) -> None:
    """Writes the files of a store into a folder, in which there may be a part of them."""
    header = _header(len(texts))
    done = _resumed(folder, header, np.dtype(dtype).itemsize)
    if done.rows:
        log.info("%s: tokenising goes on after %d of %d texts", what, done.rows, len(texts))
    with (
        (folder / "tokens.bin").open("ab") as token_file,
        (folder / "offsets.npy").open("ab") as offset_file,
        (folder / "journal").open("a") as journal,
        Progress(transient=True) as progress,
    ):
        task = progress.add_task(f"tokenising {what}", total=len(texts), completed=done.rows)
        for chunk in _chunks(texts, done.rows):
            tokens, lengths, truncated = array(np.dtype(dtype).char), array("q"), 0
            for encoding in backend.encode_batch_fast(chunk.to_pylist()):
                ids = encoding.ids
                tokens.fromlist(ids)
                lengths.append(len(ids))
                # To ask for what overflows makes a copy of it.
                truncated += len(ids) == max_length and bool(encoding.overflowing)
            ends = done.tokens + np.cumsum(lengths)
            offsets = ends.tobytes()
            token_file.write(tokens)
            offset_file.write(offsets)
            token_file.flush()
            offset_file.flush()
            done = _Written(done.rows + len(chunk), int(ends[-1]), done.truncated + truncated)
            check = zlib.crc32(offsets, zlib.crc32(tokens))
            journal.write(json.dumps([done.rows, done.tokens, done.truncated, check]) + "\n")
            journal.flush()
            release_pages()
            progress.advance(task, len(chunk))
        for file in (token_file, offset_file):
            os.fsync(file.fileno())  # may take seconds, in which the journal is still needed
    meta = {"dtype": dtype, "tokens": done.tokens, "truncated": done.truncated}
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "journal").unlink()


def _resumed(folder: Path, header: bytes, width: int) -> _Written:
    """Returns how far the chunks in the folder are whole, and cuts off what comes after them.

    Each line of the journal was written after its chunk and holds its checksum: of a machine that lost its power, any
    part of what was written may be missing. header: what the file of offsets begins with. width: bytes of a token.
    """
    names = ("tokens.bin", "offsets.npy", "journal")
    for name in names:
        (folder / name).touch()
    done, lines = _Written(), []
    with (folder / "tokens.bin").open("rb") as tokens, (folder / "offsets.npy").open("rb") as offsets:
        if offsets.read(len(header)) == header:
            for line in (folder / "journal").read_text(errors="replace").splitlines():
                try:
                    rows, end, truncated, check = json.loads(line)
                except ValueError:
                    break
                found = zlib.crc32(tokens.read((end - done.tokens) * width))
                if zlib.crc32(offsets.read((rows - done.rows) * 8), found) != check:
                    break
                done = _Written(rows, end, truncated)
                lines.append(f"{line}\n")
    if not done.rows:
        (folder / "offsets.npy").write_bytes(header)
    (folder / "journal").write_text("".join(lines))
    os.truncate(folder / "tokens.bin", done.tokens * width)
    os.truncate(folder / "offsets.npy", len(header) + done.rows * 8)
    return done


def _header(rows: int) -> bytes:
    """Returns what a .npy file of `rows` + 1 offsets begins with, the first offset included."""
    out = io.BytesIO()
    shape = {"descr": np.dtype(np.int64).str, "fortran_order": False, "shape": (rows + 1,)}
    np.lib.format.write_array_header_1_0(out, shape)
    return out.getvalue() + np.int64(0).tobytes()


def _chunks(texts: Column, start: int) -> Iterator[Column]:
    """Yields the texts from row `start` on, a handful at a time."""
    for first in range(start, len(texts), CHUNK):
        several = texts.slice(first, CHUNK)
        groups = np.cumsum(pc.binary_length(several).to_numpy(zero_copy_only=False)) // CHUNK_BYTES
        cuts = [0, *(np.flatnonzero(np.diff(groups)) + 1), len(several)]
        yield from (several.slice(a, b - a) for a, b in pairwise(cuts))


def _key(texts: Column, tokenizer: str, known: str | None) -> str:
    """Returns a digest of the texts, or of their digest, and of the tokenizer's full state with the truncation."""
    digest = hashlib.blake2b(f"{FORMAT}\n{tokenizer}".encode(), digest_size=16)
    if known is not None:
        digest.update(f"\n{known}".encode())
        return digest.hexdigest()

    class Sink:
        closed = False

        def write(self, data: Any) -> int:
            digest.update(data)
            return len(data)

        def flush(self) -> None: ...

    schema = pa.schema([("text", pa.large_string())])
    with pa.ipc.new_stream(pa.PythonFile(Sink(), mode="w"), schema) as stream:
        # Cut alike, however the column is cut.
        for start in range(0, len(texts), 2**16):
            stream.write_batch(pa.record_batch([whole(texts.slice(start, 2**16).cast(pa.large_string()))], schema))
            release_pages()
    return digest.hexdigest()
