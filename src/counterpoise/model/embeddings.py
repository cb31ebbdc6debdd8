"""Embeddings: pooled vectors of a frozen encoder, computed once and cached, on which linear probes are trained."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from counterpoise.data.batching import TokenDataset, evaluation_batches
from counterpoise.data.cache import cached, save_array
from counterpoise.data.token_store import TokenStore
from counterpoise.model.encoder import Encoder
from counterpoise.terminal import progress


class PrecomputedEmbeddings(nn.Module):
    """Passes on the embeddings [B, size] of a batch in place of an encoder. It has no parameters.

    Args:
        size: Size of an embedding.
        weights_digest: Digest of the weights of the encoder that computed the embeddings.
    """

    inputs = ("vectors",)
    unfreeze_at_epoch = None

    def __init__(self, size: int, weights_digest: str | None = None) -> None:
        super().__init__()
        self.size, self.weights_digest = size, weights_digest
        self.layers = nn.ModuleList()
        self.embeddings = nn.Identity()

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the embeddings."""
        return vectors


def cached_embeddings(
    load: Callable[[], Encoder], key: str, store: TokenStore, pad: int, batch_size: int, device: torch.device
) -> np.ndarray:
    """Return the embeddings of all texts of a token store, float32 [N, size], memory-mapped from the cache.

    Args:
        load: Loads the encoder; called only if the cache has no embeddings of the same encoder and tokens.
        key: `fingerprint` of the encoder.
        store: The tokens.
        pad: Token id of padding.
        batch_size: Texts per batch.
        device: Device to encode on.
    """

    def build(folder: Path) -> None:
        rows = np.arange(len(store))
        vectors = encode(load(), TokenDataset(store, rows, np.zeros_like(rows), pad), batch_size, device)
        save_array(folder / "vectors.npy", vectors)

    return np.load(cached(f"vectors/{store.folder.name}-{key}", build) / "vectors.npy", mmap_mode="r")


@torch.inference_mode()
def encode(encoder: Encoder, dataset: TokenDataset, batch_size: int, device: torch.device) -> np.ndarray:
    """Return the embedding of each row of a dataset, float32 [N, size], in evaluation mode, and show progress."""
    vectors = np.empty((len(dataset), encoder.size), np.float32)
    encoder = encoder.to(device)
    training, _ = encoder.training, encoder.eval()
    with progress() as display:
        task = display.add_task("encoding", total=len(dataset))
        for rows in evaluation_batches(dataset.lengths, batch_size):
            inputs = {name: values.to(device) for name, values in dataset.inputs(rows).items()}
            vectors[rows] = encoder(**inputs).float().cpu().numpy()
            display.advance(task, len(rows))
    encoder.train(training)
    return vectors


def fingerprint(encoder: Encoder) -> str:
    """Return a digest of the weights, the architecture and the pooling of an encoder."""
    config: Any = encoder.backbone.config
    settings = f"{config.to_json_string()}\n{encoder.pooling}" + (f"\n{encoder.chunks}" if encoder.chunks else "")
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    for name, values in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(values.cpu().contiguous().numpy())
    return digest.hexdigest()
