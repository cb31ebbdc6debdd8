"""LightningDataModule: from a source to batches of token ids."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
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
from counterpoise.data.arrow_columns import take_rows
from counterpoise.data.batching import (
    Batch,
    BucketBatchSampler,
    EmbeddingDataset,
    TokenDataset,
    evaluation_batches,
    stratified_batches,
)
from counterpoise.data.encoded_split import EncodedSplit
from counterpoise.data.partition import partition
from counterpoise.data.position import Position, array_digest, training_position
from counterpoise.data.quality import find_data_warnings
from counterpoise.data.sources import Source
from counterpoise.data.splits import describe_unseen, sample_rows, unseen_labels
from counterpoise.data.table import Split
from counterpoise.data.text_lengths import truncation_warnings
from counterpoise.data.token_store import TokenStore, tokenise
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.data.tokenizer_checks import warn_of_unknown_tokens
from counterpoise.errors import UserError, check_whole_number

log = logging.getLogger(__name__)

ORDERS = ("length", "stratified")


class TextDataModule(pl.LightningDataModule):
    """Data module of imbalanced texts: splits, token stores and length-bucketed batches with dynamic padding.

    Training draws rows with the sampler of the epoch. Set `sampler` before fitting; it defaults to a plain sampler.
    Validation and test always have the natural distribution.

    Args:
        source: Provider of the splits.
        tokenizer: A fast tokenizer.
        tokenisation: What the encoder reads of each text. Defaults to its first 128 tokens.
        packed: Make batches without padding, see `TokenDataset`. Defaults to False.
        batch_size: Examples per optimizer step, over all devices and accumulated micro-batches. Defaults to 16.
        eval_batch_size: Examples per evaluation batch on one device. Defaults to 64.
        validation_fraction: Fraction of the training data that becomes validation if the source has none. Stratified.
        test_fraction: Likewise for test.
        folds: Number of stratified folds of the training data, one of which is the validation split instead of
            `validation_fraction`. None: no folds.
        fold: Number of that fold, from 0.
        group_by_length: Sort rows by length within a few steps to save padding. Defaults to True.
        eval_order: "length" (fastest) or "stratified" (each batch has the class proportions of the split).
        train_limit: Train on a stratified sample of about this many examples. Classes too small for a share are
            dropped; if that is most of the data, the sample is uniform. None: all examples.
        validation_limit: Validate on such a sample of about this many examples, seeded by `split_seed`. None: all.
        num_workers: Worker processes of each data loader. Defaults to 0.
        seed: Seed of the order.
        split_seed: Seed of the splits.

    Raises:
        UserError: A setting is out of range.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: PreTrainedTokenizerBase,
        tokenisation: Tokenisation | None = None,
        *,
        packed: bool = False,
        batch_size: int = 16,
        eval_batch_size: int = 64,
        validation_fraction: float = 0.1,
        test_fraction: float = 0.2,
        folds: int | None = None,
        fold: int = 0,
        group_by_length: bool = True,
        eval_order: str = "length",
        train_limit: int | None = None,
        validation_limit: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        if eval_order not in ORDERS:
            raise UserError(f"loader.eval_order={eval_order}: use {' or '.join(ORDERS)}")
        for name, size, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("split_seed", split_seed, 0),
            ("fold", fold, 0),
        ):
            check_whole_number(f"loader.{name}", size, least)
        for name, number, least in (
            ("folds", folds, 2),
            ("train_limit", train_limit, 1),
            ("validation_limit", validation_limit, 1),
        ):
            check_whole_number(f"loader.{name}", number, least, null=True)
        for name, fraction in (("validation", validation_fraction), ("test", test_fraction)):
            if not 0 < fraction < 1:
                raise UserError(f"loader.{name}_fraction={fraction}: use a fraction between 0 and 1")
        if folds is not None and fold >= folds:
            raise UserError(f"loader.fold={fold}: the {folds} folds of loader.folds have the numbers 0 to {folds - 1}")
        if folds is None and fold:
            raise UserError(f"loader.fold={fold} needs the number of folds: set loader.folds, for example to 5")
        self.folds, self.fold = folds, fold
        self.source, self.tokenizer, self.packed = source, tokenizer, packed
        self.tokenisation = tokenisation or Tokenisation()
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.validation_fraction, self.test_fraction = validation_fraction, test_fraction
        self.group_by_length, self.eval_order, self.num_workers = group_by_length, eval_order, num_workers
        self.train_limit, self.validation_limit = train_limit, validation_limit
        self.seed, self.split_seed = seed, split_seed
        self.sampler: Callable[[int], Sampler] = lambda epoch: PowerSampler()
        self.splits: dict[str, EncodedSplit] = {}
        self._stores: dict[str, tuple[TokenStore, np.ndarray]] = {}
        self._order: BucketBatchSampler | None = None
        self._resume: tuple[int, int] | None = None

    @property
    def labels(self) -> list[str]:
        """Classes or labels of the training data."""
        return self.vocabulary.labels

    @property
    def task(self) -> str:
        """The task: "single_label" or "multi_label"."""
        return self.splits["train"].split.task

    @cached_property
    def index(self) -> ClassIndex:
        """Training rows of each class or label, with their instance weights."""
        train = self.splits["train"]
        return ClassIndex.from_targets(train.targets, len(self.labels), train.dataset.weights)

    @property
    def counts(self) -> np.ndarray:
        """Training examples of each class, or positives of each label, int64 [C]."""
        return self.index.counts

    @cached_property
    def data_warnings(self) -> list[str]:
        """Data warnings, one line each: notices of the files, truncation, and those of `quality.find_data_warnings`."""
        lengths = {name: part.dataset.full_lengths for name, part in self.splits.items()}
        truncation = truncation_warnings(
            lengths, self.tokenisation, self.readable_length, self.tokenizer.model_max_length
        )
        return [*self.notices, *truncation, *find_data_warnings(self.splits, self.labels)]

    @property
    def readable_length(self) -> int:
        """Largest number of tokens of a text that is read whole."""
        return self.tokenisation.readable_length(self.tokenizer.backend_tokenizer)

    @property
    def notices(self) -> list[str]:
        """Notices of the files, one line each, which were logged when the files were read."""
        return list(dict.fromkeys(notice for split in self.splits.values() for notice in split.split.notices))

    def prepare_data(self) -> None:
        """Download what the source needs, so that `setup` finds it in the cache."""
        if not self.splits:
            self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Load, split, tokenise and index the data. Further calls do nothing."""
        if self.splits:
            return
        fractions = {"test": self.test_fraction, "validation": self.validation_fraction}
        loaded = self.source.load()
        self.tokenisation = replace(self.tokenisation, columns=loaded["train"].columns)
        found = partition(
            loaded,
            fractions,
            self.split_seed,
            self.train_limit,
            self.validation_limit,
            self.folds,
            self.fold,
        )
        self.vocabulary = found.vocabulary
        self._tokenise(found.parts.values())
        train = found.parts["train"][0]
        for name, (split, rows) in found.parts.items():
            self.splits[name] = self._encode_split(name, split, rows, found.targets if split is train else None)
        for name, (store, _) in self._stores.items():
            warn_of_unknown_tokens(store.tokens, len(store), self.tokenizer, f"the {name} texts")
        release_pages()

    def embed(self, vectors: Callable[[TokenStore], np.ndarray]) -> None:
        """Replace the tokens of all splits by embeddings.

        Args:
            vectors: Returns the embeddings of a store, float32 [N, H].
        """
        for name, part in self.splits.items():
            self.splits[name] = replace(part, dataset=EmbeddingDataset(part.dataset, vectors(part.dataset.store)))

    def join_validation(self) -> None:
        """Add the rows of the validation split to the training split. Both must be rows of the same file."""
        train, rows = self.splits["train"], np.concatenate([self.splits[name].kept for name in ("train", "validation")])
        self.splits["train"] = self._encode_split("train", train.split, np.sort(rows))
        self.__dict__.pop("index", None)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the training batches of this process, drawn by `sampler`."""
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
            self._order.resume(*self._resume)
            self._resume = None
        return self._loader(dataset, self._order)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the validation batches of this process."""
        return self.evaluation_dataloader("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the test batches of this process."""
        return self.evaluation_dataloader("test")

    def evaluation_dataloader(self, split: str, limit: int | None = None) -> DataLoader[Batch]:
        """Return batches of a split in its natural distribution, each row once.

        Args:
            split: "train", "validation" or "test".
            limit: Use a sample of about this many rows, as for `train_limit`. Defaults to all rows.
        """
        dataset = self.splits[split].dataset
        if limit is not None and len(dataset) > limit:
            dataset = dataset.subset(sample_rows(dataset.targets, limit, self.split_seed))
        shard = {"rank": self._rank, "world_size": self._world_size}
        if self.eval_order == "stratified":
            batches = stratified_batches(dataset.targets, self.eval_batch_size, **shard)
        else:
            batches = evaluation_batches(dataset.lengths, self.eval_batch_size, **shard)
        return self._loader(dataset, batches)

    def order(self, position: Position) -> dict[str, Any]:
        """Return the position, and what decides the order of the examples after it.

        Devices, accumulated micro-batches and worker processes do not change the order.
        """
        names = (
            "batch_size",
            "group_by_length",
            "train_limit",
            "split_seed",
            "validation_fraction",
            "test_fraction",
            "folds",
            "fold",
        )
        epoch, step = position.next
        sampler, drawn = self.sampler(epoch), None
        if step:
            drawn = array_digest(sampler.draw(self.index, np.random.default_rng([self.seed, epoch])))
        return {
            "epoch": epoch,
            "step": step,
            "steps": position.steps,
            "settings": {
                "seed": self.seed,
                **{f"loader.{name}": getattr(self, name) for name in names},
                **{f"encoder.{name}": value for name, value in asdict(self.tokenisation).items() if name != "columns"},
            },
            "number": len(self.splits["train"]),
            "examples": self._examples,
            "tokens": self._tokens,
            "sampler": str(sampler),
            "drawn": drawn,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the training and the settings of its order."""
        return self.order(training_position(self.trainer)) if self._order and self.trainer else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the next training epoch where the checkpoint was saved."""
        self._resume = state_dict["epoch"], state_dict["step"]

    def save_splits(self, path: Path) -> None:
        """Write the source row numbers of each split to an .npz file."""
        np.savez_compressed(path, **{name: part.rows for name, part in self.splits.items()})  # type: ignore[arg-type]

    @cached_property
    def _examples(self) -> str:
        """Digest of the rows, targets and lengths of the training examples."""
        train = self.splits["train"]
        targets = (
            (train.targets,) if isinstance(train.targets, np.ndarray) else (train.targets.indptr, train.targets.indices)
        )
        return array_digest(train.rows, *targets, train.dataset.lengths)

    @cached_property
    def _tokens(self) -> str:
        """Digest of the token ids of the file with the training examples."""
        return hashlib.blake2b(self.splits["train"].dataset.store.tokens.data, digest_size=16).hexdigest()

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _tokenise(self, parts: Iterable[tuple[Split, np.ndarray]]) -> None:
        """Tokenise the rows of each file that are used. Splits made from the training data share its store."""
        files: dict[str, tuple[Split, list[np.ndarray]]] = {}
        for split, rows in parts:
            files.setdefault(split.name, (split, []))[1].append(rows)
        for name, (split, used) in files.items():
            rows = np.sort(np.concatenate(used))
            texts, digest = split.texts, split.digest
            if len(rows) < len(split):
                texts = pa.chunked_array([take_rows(split.texts, rows)])
                digest = digest and f"{digest}-{array_digest(rows)}"
            store = tokenise(texts, self.tokenizer, self.tokenisation, f"{split.file} ({name})", digest)
            self._stores[name] = store, rows

    def _encode_split(self, name: str, split: Split, rows: np.ndarray, encoded: Targets | None = None) -> EncodedSplit:
        """Return these rows of a split with their targets.

        `encoded` holds the targets of the whole split if the vocabulary covers all its labels.
        """
        targets = (self.vocabulary.encode(split.labels) if encoded is None else encoded)[rows]
        lacking = unseen_labels(split.labels.take(pa.array(rows)), self.vocabulary) if encoded is None else []
        missing = sum(count for _, count in lacking)
        if missing:
            hint = "some differ only in spelling: set data.normalise_labels=true"
            described = describe_unseen(lacking, self.labels, hint)
            sample = f" on a sample (loader.train_limit={self.train_limit})" if self.train_limit else ""
            message = (
                f"{split.file}: {missing} {name} rows have {split.noun} that do not occur in training{sample}: "
                f"{described}"
            )
            if self.source.on_bad_row == "error":
                raise UserError(f"{message}; set data.on_bad_row=drop to drop them")
            log.warning("%s; dropped, and counted in metrics.json", message)
        if isinstance(targets, np.ndarray):
            rows, targets = rows[targets >= 0], targets[targets >= 0]
        if not (len(rows) if isinstance(targets, np.ndarray) else targets.nnz):
            kind = "class" if split.task == "single_label" else "label"
            found = f"; it has {described}" if missing else ""
            raise UserError(f"{split.file}: no {name} row has a {kind} that occurs in training{found}")
        weights = None
        if name == "train" and split.weights is not None:
            weights = split.weights[rows]
            weights = weights / weights.mean()
        pad = self.tokenizer.pad_token_id or 0
        store, stored = self._stores[split.name]
        dataset = TokenDataset(store, np.searchsorted(stored, rows), targets, pad, weights, self.packed)
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
            generator=torch.Generator(),  # The global generator drives dropout and must resume unchanged.
        )
