"""The LightningDataModule: from a source to batches of token ids."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from counterpoise.balance import ClassIndex, PowerSampler, Sampler
from counterpoise.balance.counts import Targets
from counterpoise.data.arrow_cache import release_pages
from counterpoise.data.batching import (
    Batch,
    BucketBatchSampler,
    EmbeddingDataset,
    TokenDataset,
    evaluation_batches,
    stratified_batches,
    trained_batches,
)
from counterpoise.data.encoded_split import EncodedSplit
from counterpoise.data.quality import find_data_warnings
from counterpoise.data.sources import Source
from counterpoise.data.splits import Vocabulary, label_counts, split_off, unseen_labels
from counterpoise.data.table import Split
from counterpoise.data.token_store import TokenStore, tokenise
from counterpoise.errors import UserError

log = logging.getLogger(__name__)

ORDERS = ("length", "stratified")


class TextDataModule(pl.LightningDataModule):
    """Texts of imbalanced classes as length-grouped, dynamically padded batches.

    Training draws what `sampler` says of the epoch (set it before fitting; plain until then). Validation and test
    always hold the natural distribution.

    max_length: tokens per text at most. packed: batches without padding, see `TokenDataset`. batch_size: examples of
    an optimiser step, over all devices and accumulated micro-batches. eval_batch_size: examples of an evaluation batch
    on one device. validation_fraction and test_fraction: split off the training data, stratified, where the source has
    no such split. group_by_length: sort by length within a few steps to save padding. eval_order: "length" (fastest) or
    "stratified" (each batch has the class proportions of the split). train_limit: train on a stratified sample of
    about this many examples (classes too small for a share in it go; where that is most of the data, the sample is
    uniform). seed: of the order. split_seed: of the splits.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int = 128,
        packed: bool = False,
        batch_size: int = 16,
        eval_batch_size: int = 64,
        validation_fraction: float = 0.1,
        test_fraction: float = 0.2,
        group_by_length: bool = True,
        eval_order: str = "length",
        train_limit: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        if eval_order not in ORDERS:
            raise UserError(f"loader.eval_order={eval_order}: use {' or '.join(ORDERS)}")
        sizes = {
            "batch_size": (batch_size, 1),
            "eval_batch_size": (eval_batch_size, 1),
            "num_workers": (num_workers, 0),
            "split_seed": (split_seed, 0),
            "train_limit": (1 if train_limit is None else train_limit, 1),
        }
        for name, (size, least) in sizes.items():
            if size < least:
                raise UserError(f"loader.{name}={size}: use a whole number from {least} on")
        for name, fraction in (("validation", validation_fraction), ("test", test_fraction)):
            if not 0 < fraction < 1:
                raise UserError(f"loader.{name}_fraction={fraction}: use a fraction between 0 and 1")
        self.source, self.tokenizer, self.max_length, self.packed = source, tokenizer, max_length, packed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.validation_fraction, self.test_fraction = validation_fraction, test_fraction
        self.group_by_length, self.eval_order, self.num_workers = group_by_length, eval_order, num_workers
        self.train_limit, self.seed, self.split_seed = train_limit, seed, split_seed
        self.sampler: Callable[[int], Sampler] = lambda epoch: PowerSampler()
        self.splits: dict[str, EncodedSplit] = {}
        self._loaded: dict[str, Split] | None = None
        self._stores: dict[str, TokenStore] = {}
        self._order: BucketBatchSampler | None = None
        self._resume: dict[str, int] | None = None

    @property
    def labels(self) -> list[str]:
        """The classes or labels of the training data."""
        return self.vocabulary.labels

    @property
    def task(self) -> str:
        """Either "single_label" or "multi_label"."""
        return self.splits["train"].split.task

    @cached_property
    def index(self) -> ClassIndex:
        """The training rows of each class or label."""
        return ClassIndex.of(self.splits["train"].targets, len(self.labels))

    @property
    def counts(self) -> np.ndarray:
        """Training examples of each class or positives of each label, int64 [C]."""
        return self.index.counts

    @cached_property
    def data_warnings(self) -> list[str]:
        """What is remarkable about the data, a line each; see `data.audit.remarkable`."""
        return find_data_warnings(self.splits, self.labels)

    def prepare_data(self) -> None:
        """Downloads and tokenises, so that `setup` finds both in the cache."""
        if self.splits:
            return
        self.source.prepare()
        self._loaded = self.source.load()
        for split in self._loaded.values():
            self._tokenise(split)

    def setup(self, stage: str | None = None) -> None:
        """Loads, splits and indexes the data, once."""
        if self.splits:
            return
        loaded, self._loaded = self._loaded or self.source.load(), None
        train = loaded["train"]
        everything = Vocabulary.of(train.labels)
        targets, groups = everything.encode(train.labels), train.group_numbers
        kept, held = np.arange(len(train)), {}
        for name, fraction in (("test", self.test_fraction), ("validation", self.validation_fraction)):
            if name not in loaded:
                whole = None if groups is None else groups[kept]
                part, out = split_off(targets[kept], fraction, self.split_seed, whole)
                if not len(out):
                    raise UserError(
                        f"{train.file}: no class is large enough to split off {fraction:.0%} for {name}: "
                        f"give data.{name}, or raise loader.{name}_fraction"
                    )
                kept, held[name] = kept[part], kept[out]
        if self.train_limit is not None and self.train_limit < len(kept):
            kept = kept[_sample(targets[kept], self.train_limit, 0)]
        present = np.flatnonzero(label_counts(targets[kept], len(everything)))
        self.vocabulary = Vocabulary.of(pa.array([everything.labels[number] for number in present], pa.string()))
        least = 2 if train.task == "single_label" else 1
        if len(self.vocabulary) < least <= len(everything):
            raise UserError(
                f"loader.train_limit={self.train_limit} leaves fewer than {least} of the {len(everything)} "
                f"{train.noun}: raise it"
            )
        if len(self.vocabulary) < least:
            raise UserError(
                f"{train.file}: all {len(train)} rows have the label '{everything.labels[0]}': "
                "classification needs at least two classes"
            )
        encoded = targets if self.vocabulary == everything else None
        self.splits["train"] = self._encode_split("train", train, kept, encoded)
        for name in ("validation", "test"):
            if name in held:
                self.splits[name] = self._encode_split(name, train, held[name], encoded)
            else:
                self.splits[name] = self._encode_split(name, loaded[name], np.arange(len(loaded[name])))
        release_pages()

    def embed(self, vectors: Callable[[TokenStore], np.ndarray]) -> None:
        """Replaces the tokens of all splits by vectors, given a function that returns those of a store, [N, H]."""
        for name, part in self.splits.items():
            self.splits[name] = replace(part, dataset=EmbeddingDataset(part.dataset, vectors(part.dataset.store)))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Returns the training batches of this process, drawn by `sampler`."""
        dataset, index = self.splits["train"].dataset, self.index
        accumulate = self.trainer.accumulate_grad_batches if self.trainer else 1
        self._order = BucketBatchSampler(
            lambda epoch, rng: self.sampler(epoch).draw(index, rng),
            self.sampler(0).size(index),
            dataset.lengths if self.group_by_length else None,
            self.batch_size,
            seed=self.seed,
            accumulate=accumulate,
            rank=self._rank,
            world_size=self._world_size,
        )
        if self._resume:
            self._order.load_state_dict(self._resume)
            self._resume = None
        return self._loader(dataset, self._order)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Returns the validation batches of this process, natural distribution."""
        return self.evaluation_dataloader("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Returns the test batches of this process, natural distribution."""
        return self.evaluation_dataloader("test")

    def evaluation_dataloader(self, split: str, limit: int | None = None) -> DataLoader[Batch]:
        """Returns batches of a split in its natural distribution, each row once.

        limit: take at most about this many rows, a sample as of `train_limit` (the training split is evaluated so).
        """
        dataset = self.splits[split].dataset
        if limit is not None and len(dataset) > limit:
            dataset = dataset.subset(_sample(dataset.targets, limit, self.split_seed))
        shard = {"rank": self._rank, "world_size": self._world_size}
        if self.eval_order == "stratified":
            batches = stratified_batches(dataset.targets, self.eval_batch_size, **shard)
        else:
            batches = evaluation_batches(dataset.lengths, self.eval_batch_size, **shard)
        return self._loader(dataset, batches)

    def state_dict(self) -> dict[str, Any]:
        """Returns the epoch and the micro-batches of it that have become optimiser steps."""
        if not (self._order and self.trainer):
            return {}
        trained = trained_batches(self.trainer)
        # Workers fetch ahead as soon as training is set up: a finished epoch must not be what they fetch from.
        finished = trained >= len(self._order)
        return {"epoch": self._order.epoch + finished, "position": 0 if finished else trained}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next training epoch continue where the checkpoint was taken."""
        self._resume = dict(state_dict) or None

    def save_splits(self, path: Path) -> None:
        """Writes the 1-based source rows of each split to an .npz file."""
        np.savez_compressed(path, **{name: part.rows for name, part in self.splits.items()})  # type: ignore[arg-type]

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _tokenise(self, split: Split) -> TokenStore:
        # Parts split off training share its store: its texts are hashed for the cache once.
        if split.name not in self._stores:
            what = f"{split.file} ({split.name})"
            self._stores[split.name] = tokenise(split.texts, self.tokenizer, self.max_length, what, split.digest)
        return self._stores[split.name]

    def _encode_split(self, name: str, split: Split, rows: np.ndarray, encoded: Targets | None = None) -> EncodedSplit:
        """Returns the examples of these rows of a split. encoded: its labels by the vocabulary, which has them all."""
        targets = (self.vocabulary.encode(split.labels) if encoded is None else encoded)[rows]
        lacking = unseen_labels(split.labels.take(pa.array(rows)), self.vocabulary) if encoded is None else []
        missing = sum(count for _, count in lacking)
        if missing:
            names = ", ".join(f"'{label}' ({count})" for label, count in lacking[:5])
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            message = f"{split.file}: {missing} {name} rows have {split.noun} that training lacks: {names}{more}"
            if self.source.on_bad_row == "error":
                raise UserError(f"{message}; data.on_bad_row=drop leaves them out")
            log.warning("%s; they are left out and counted in metrics.json", message)
        if isinstance(targets, np.ndarray):
            rows, targets = rows[targets >= 0], targets[targets >= 0]
        if not (len(rows) if isinstance(targets, np.ndarray) else targets.nnz):
            kind = "class" if split.task == "single_label" else "label"
            raise UserError(f"{split.file}: no {name} row has a {kind} that training knows")
        weights = None
        if name == "train" and split.weights is not None:
            weights = split.weights[rows]
            weights = weights / weights.mean()
        pad = self.tokenizer.pad_token_id or 0
        dataset = TokenDataset(self._tokenise(split), rows, targets, pad, weights, self.packed)
        return EncodedSplit(split, rows, dataset, missing)

    def _loader(self, dataset: TokenDataset, order: BucketBatchSampler | Sequence[np.ndarray]) -> DataLoader[Batch]:
        pin = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        sampler: Any = order
        return DataLoader(
            dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=pin,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator(),  # its own: the global one drives dropout, and must resume where it was
        )


def _sample(targets: Targets, limit: int, seed: int) -> np.ndarray:
    """Returns the sorted numbers of about `limit` rows, a stratified sample.

    Where most of the data is classes too small for a share, which would leave it empty or nearly so, it is uniform.
    """
    rows = targets.shape[0]
    _, sample = split_off(targets, limit / rows, seed)
    if len(sample) < limit / 2:
        sample = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    return sample
