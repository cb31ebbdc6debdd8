"""Linear probes: the texts of all splits are replaced by embeddings that a frozen encoder computes once."""

import torch
from omegaconf import DictConfig

from counterpoise.data.datamodule import TextDataModule
from counterpoise.model.embeddings import PrecomputedEmbeddings, cached_embeddings, fingerprint
from counterpoise.model.encoder import EncoderSource
from counterpoise.training.encoder_record import weights_digest

_identities: dict[str, tuple[str, int, str]] = {}
"""Fingerprint, embedding size and weights digest by encoder settings; the jobs of a sweep load an encoder once."""


def embed_splits(source: EncoderSource, data: TextDataModule, config: DictConfig) -> PrecomputedEmbeddings:
    """Replace the tokens of all splits by embeddings and return the module that takes the encoder's place.

    Embeddings are read from the cache if the same encoder has encoded the same texts before.

    Args:
        source: The encoder to load.
        data: Data module after `setup`; its splits are replaced.
        config: `trainer.accelerator` decides whether a GPU encodes.
    """
    if repr(source) not in _identities:
        encoder = source.load()
        _identities[repr(source)] = fingerprint(encoder), encoder.size, weights_digest(encoder)
    key, size, weights = _identities[repr(source)]
    use_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if use_gpu else "cpu")
    pad, batch_size = data.splits["train"].dataset.pad, data.eval_batch_size
    data.embed(lambda store: cached_embeddings(source.load, key, store, pad, batch_size, device))
    torch.set_num_threads(1)  # A head is too small for several threads.
    return PrecomputedEmbeddings(size, weights)
