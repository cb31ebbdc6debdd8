"""`encoder.json` in a run folder: digests of the encoder that was trained, which later commands check.

A checkpoint holds weights only. The tokenizer and config.json are read from `encoder.name` again, and so are the
encoder's weights of a linear probe. If they have changed since training, predictions would change without an error.
"""

import hashlib
import json
import logging
from pathlib import Path

import tokenizers
import transformers
from torch import nn
from transformers import PreTrainedTokenizerBase

from counterpoise.data.tokenizer_checks import tokenizer_digest
from counterpoise.errors import UserError
from counterpoise.io import atomic_path
from counterpoise.model.embeddings import PrecomputedEmbeddings
from counterpoise.model.encoder import Encoder, EncoderSource
from counterpoise.model.pretrained import read_config
from counterpoise.saved_files import read_json

log = logging.getLogger(__name__)

FILE = "encoder.json"
SHOWN_DIGITS = 12
_BOOKKEEPING = ("_commit_hash", "_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Keys of config.json that do not change the vectors of an encoder."""


def record_encoder(
    folder: Path,
    source: EncoderSource,
    encoder: Encoder | PrecomputedEmbeddings,
    tokenizer: PreTrainedTokenizerBase,
    ckpt: str | None = None,
) -> None:
    """Write `encoder.json`: where the encoder is from, and SHA-256 digests of its parts.

    Args:
        folder: Run folder.
        source: Where the encoder was loaded from.
        encoder: The encoder. The digest of its weights is recorded for a linear probe only, because the checkpoint of
            any other run holds the weights.
        tokenizer: Its tokenizer.
        ckpt: Checkpoint that the run is resumed from.

    Raises:
        UserError: The run of the checkpoint was trained with another tokenizer or config.json.
    """
    if ckpt and (resumed := Path(ckpt).absolute().parent.parent / FILE).is_file():
        check_config(resumed.parent, source)
        check_tokenizer(resumed.parent, source, tokenizer)
    content = {
        "name": source.name,
        "revision": source.revision,
        "versions": _versions(),
        "tokenizer": tokenizer_digest(tokenizer),
        "config.json": config_digest(source),
        "weights": encoder.weights_digest if isinstance(encoder, PrecomputedEmbeddings) else None,
    }
    with atomic_path(folder / FILE) as path:
        path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def check_config(run: Path, source: EncoderSource) -> None:
    """Raise UserError if the encoder's config.json is not the one that the run was trained with."""
    _compare(run, "config.json", config_digest(source), source)


def check_tokenizer(run: Path, source: EncoderSource, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if the tokenizer is not the one that the run was trained with."""
    _compare(run, "tokenizer", tokenizer_digest(tokenizer), source)


def check_weights(run: Path, source: EncoderSource, encoder: Encoder) -> None:
    """Raise UserError if the weights of a linear probe's encoder are not those that the run was trained with."""
    _compare(run, "weights", weights_digest(encoder), source)


def config_digest(source: EncoderSource) -> str:
    """Return the SHA-256 digest of the encoder's config.json, without keys that do not change its vectors."""
    content = read_config(source.locate(), source.name, source.revision)
    kept = {key: value for key, value in content.items() if key not in _BOOKKEEPING}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def weights_digest(encoder: nn.Module) -> str:
    """Return the SHA-256 digest of the names and values of all weights."""
    digest = hashlib.sha256()
    for name, values in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(values.cpu().contiguous().numpy())
    return digest.hexdigest()


def _compare(run: Path, part: str, found: str, source: EncoderSource) -> None:
    path = run / FILE
    if not path.is_file():
        log.warning("%s has no %s: cannot check that %s of the encoder is unchanged since training", run, FILE, part)
        return
    try:
        record = read_json(path)
        recorded = record[part]
    except (UserError, KeyError) as error:
        raise UserError(f"{path} is damaged: restore it from a copy of the run") from error
    if recorded in (None, found):
        return
    versions = {name: (record.get("versions", {}).get(name), now) for name, now in _versions().items()}
    other = [f"{name} {then} at training and {now} now" for name, (then, now) in versions.items() if then != now]
    raise UserError(
        f"{run}: the {part} of the encoder at {source.locate()} (SHA-256 {found[:SHOWN_DIGITS]}...) is not the one of "
        f"the training, which was read from {record.get('name')} ({recorded[:SHOWN_DIGITS]}... in {FILE}); "
        + (f"the versions differ, too ({', '.join(other)}); " if other else "")
        + "restore it, since the logits would change, or train again"
    )


def _versions() -> dict[str, str]:
    return {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
