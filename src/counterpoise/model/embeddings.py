"""Texts as vectors that an encoder made once: what heads are trained on when the encoder stays as it is."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from counterpoise.data.batching import TokenDataset, evaluation_batches
from counterpoise.data.cache import cached
from counterpoise.data.token_store import TokenStore
from counterpoise.model.encoder import Encoder


class PrecomputedEmbeddings(nn.Module):
    """Takes the place of an encoder whose vectors, [B, size], are in the batch already. Nothing in it is trained."""

    inputs = ("vectors",)
    unfreeze_at_epoch = None

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.layers = nn.ModuleList()
        self.embeddings = nn.Identity()

    def forward(self, vectors: Tensor) -> Tensor:
        """Returns the vectors."""
        return vectors


def cached_embeddings(
    load: Callable[[], Encoder], key: str, store: TokenStore, pad: int, batch_size: int, device: torch.device
) -> np.ndarray:
    """Returns the vectors of all texts of a token store, float32 [N, size], a memory map.

    From the cache when the same encoder has encoded the same tokens before; loaded only when it has not. key: its
    `fingerprint`. pad: the token id of padding. batch_size: texts encoded at a time.
    """

    def build(folder: Path) -> None:
        rows = np.arange(len(store))
        vectors = encode(load(), TokenDataset(store, rows, np.zeros_like(rows), pad), batch_size, device)
        np.save(folder / "vectors.npy", vectors)

    return np.load(cached(f"vectors/{store.folder.name}-{key}", build) / "vectors.npy", mmap_mode="r")


@torch.inference_mode()
def encode(encoder: Encoder, dataset: TokenDataset, batch_size: int, device: torch.device) -> np.ndarray:
    """Returns the vector of each row of a dataset, float32 [N, size], in evaluation mode; shows progress."""
    vectors = np.empty((len(dataset), encoder.size), np.float32)
    encoder = encoder.to(device)
    training, _ = encoder.training, encoder.eval()
    # The last progress a run shows may be another's that is still open.
    with Progress(transient=True) as progress:
        task = progress.add_task("encoding", total=len(dataset))
        for rows in evaluation_batches(dataset.lengths, batch_size):
            inputs = {name: values.to(device) for name, values in dataset.inputs(rows).items()}
            vectors[rows] = encoder(**inputs).float().cpu().numpy()
            progress.advance(task, len(rows))
    encoder.train(training)
    return vectors


def fingerprint(encoder: Encoder) -> str:
    """Returns a digest of what vectors depend on: the weights, the architecture and the pooling."""
    config: Any = encoder.backbone.config
    digest = hashlib.blake2b(f"{config.to_json_string()}\n{encoder.pooling}".encode(), digest_size=16)
    for name, values in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(values.cpu().contiguous().numpy())
    return digest.hexdigest()
