"""Batches: which rows go into each batch, and their tensors.

The sampler of the strategy decides which rows an epoch draws. `BucketBatchSampler` decides only their order, which is a
function of (seed, epoch). It yields arrays of row numbers. `TokenDataset` turns one array into padded tensors, so the
DataLoader runs with `batch_size=None`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from counterpoise.balance.counts import ClassIndex, Targets
from counterpoise.data.padding import pad_sequences
from counterpoise.data.token_store import TokenStore
from counterpoise.errors import UserError

Batch = dict[str, Tensor]
STEPS_PER_BUCKET = 50
"""Optimizer steps whose rows are sorted by length together. More steps save padding; fewer keep the order random."""


class TokenDataset(Dataset[Batch]):
    """Rows of a token store with their targets. Indexing with an array of row numbers returns one batch.

    Args:
        store: The token store. Several datasets may share one.
        store_rows: Position of each row in the store, int [N].
        targets: Class numbers, int64 [N], or label indicators, bool [N, C].
        pad: Token id of padding.
        weights: Weight of each row in the loss, float [N]. Defaults to none.
        packed: Concatenate the tokens of a batch without padding.
    """

    def __init__(
        self,
        store: TokenStore,
        store_rows: np.ndarray,
        targets: Targets,
        pad: int,
        weights: np.ndarray | None = None,
        packed: bool = False,
    ) -> None:
        self.store, self.store_rows, self.targets, self.pad, self.weights = store, store_rows, targets, pad, weights
        self.packed = packed

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each row, int64 [N]."""
        return self.store.lengths[self.store_rows]

    @property
    def full_lengths(self) -> np.ndarray:
        """Number of tokens of each row before truncation, int64 [N]."""
        return self.store.full_lengths[self.store_rows]

    def __len__(self) -> int:
        return len(self.store_rows)

    def __getitem__(self, rows: np.ndarray) -> Batch:
        """Return one batch.

        Args:
            rows: Row numbers, int [B].

        Returns:
            input_ids and attention_mask, int64 [B, T], where T is the largest length (packed: input_ids is int64
            [tokens]); targets, int64 [B] or float32 [B, C]; rows, int64 [B]; with weights also weights, float32 [B].
            Without rows: the first example with a weight of 0, and the key "filler".
        """
        rows = np.asarray(rows)
        if not len(rows):
            # Each process needs a batch for each micro-batch of a step.
            return self[np.zeros(1, np.int64)] | {"weights": torch.zeros(1), "filler": torch.ones(1)}
        targets = self.targets[rows]
        batch = self.inputs(rows) | {
            "targets": torch.from_numpy(
                targets if isinstance(targets, np.ndarray) else targets.toarray().astype(np.float32)
            ),
            "rows": torch.from_numpy(rows.astype(np.int64)),
        }
        if self.weights is not None:
            batch["weights"] = torch.from_numpy(self.weights[rows].astype(np.float32))
        return batch

    def inputs(self, rows: np.ndarray) -> Batch:
        """Return input_ids and attention_mask of the rows, int64 [B, T]. Packed input_ids are [tokens]."""
        where = self.store_rows[rows]
        bounds = zip(self.store.offsets[where], self.store.offsets[where + 1], strict=True)
        ids, mask = pad_sequences([self.store.tokens[start:end] for start, end in bounds], self.pad)
        return {
            "input_ids": torch.from_numpy(ids[mask] if self.packed else ids),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }

    def subset(self, rows: np.ndarray) -> "TokenDataset":
        """Return the dataset of these rows, without weights."""
        return TokenDataset(self.store, self.store_rows[rows], self.targets[rows], self.pad, packed=self.packed)


class EmbeddingDataset(TokenDataset):
    """Rows of a token dataset with the embedding of each text in place of its tokens.

    Args:
        tokens: The token dataset.
        vectors: Embedding of each row of the store, float32 [M, H].
    """

    def __init__(self, tokens: TokenDataset, vectors: np.ndarray) -> None:
        super().__init__(tokens.store, tokens.store_rows, tokens.targets, tokens.pad, tokens.weights)
        self.vectors = vectors

    def inputs(self, rows: np.ndarray) -> Batch:
        """Return the embeddings of the rows under the key "vectors", float32 [B, H]."""
        return {"vectors": torch.from_numpy(self.vectors[self.store_rows[rows]])}

    def subset(self, rows: np.ndarray) -> "EmbeddingDataset":
        """Return the dataset of these rows, without weights."""
        return EmbeddingDataset(super().subset(rows), self.vectors)


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into `parts` batches whose sizes differ by at most 1."""
    if parts == 1:
        return [batch]
    pieces = {name: values.tensor_split(parts) for name, values in batch.items()}
    if "input_ids" in batch and batch["input_ids"].ndim == 1:
        pieces["input_ids"] = batch["input_ids"].split([int(mask.sum()) for mask in pieces["attention_mask"]])
    return [{name: values[i] for name, values in pieces.items()} for i in range(parts)]


@dataclass(frozen=True)
class EpochSteps:
    """Optimizer steps of one epoch, in training order.

    Step i is `rows[size * order[i] : size * order[i] + size]`. It is sliced when it is requested.

    Args:
        rows: Row numbers of the epoch, int [M].
        order: Permutation of the steps, int [steps].
        size: Rows per step.
    """

    rows: np.ndarray
    order: np.ndarray
    size: int

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> np.ndarray:
        start = int(self.order[i]) * self.size
        return self.rows[start : start + self.size]


class BucketBatchSampler(Sampler[np.ndarray]):
    """Batch sampler that groups rows of similar length.

    The optimizer steps of an epoch depend only on (seed, epoch), the drawn rows and `batch_size`. Each step is split
    over `world_size` processes times `accumulate` micro-batches: 1 x 32, 4 x 8 and 2 processes x 16 train on the same
    examples at each step.

    Rows are sorted by length within `STEPS_PER_BUCKET` steps, then the steps are shuffled. The longest step comes
    first, so that an out-of-memory error occurs at once. One step has the rows that are left over and may be smaller
    than `batch_size`. If it has fewer rows than there are micro-batches, some micro-batches are empty arrays.

    Args:
        draw: Returns the rows of an epoch, given its number and a random generator. The array is reordered in place.
        size: Number of rows that `draw` returns.
        lengths: Tokens per row, int [N]. None keeps the drawn order.
        batch_size: Examples per optimizer step, over all processes.
        seed: Seed of the order. Defaults to 0.
        accumulate: Micro-batches per optimizer step and process. Defaults to 1.
        rank: Rank of this process. Defaults to 0.
        world_size: Number of processes. Defaults to 1.

    Raises:
        UserError: `batch_size` is not a multiple of the micro-batches.
    """

    def __init__(
        self,
        draw: Callable[[int, np.random.Generator], np.ndarray],
        size: int,
        lengths: np.ndarray | None,
        batch_size: int,
        *,
        seed: int = 0,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.draw, self.size, self.batch_size = draw, size, batch_size
        # NumPy sorts integers of two bytes in linear time.
        narrow = np.min_scalar_type(0 if lengths is None else int(lengths.max(initial=0)))
        self.lengths = None if lengths is None else lengths.astype(narrow, copy=False)
        self.seed, self.accumulate, self.rank, self.world_size = seed, accumulate, rank, world_size
        self.epoch = 0
        self._first_step = 0
        micro = accumulate * world_size
        if batch_size % micro:
            raise UserError(
                f"loader.batch_size={batch_size} is not divisible into {accumulate} accumulated micro-batches on "
                f"{world_size} devices: use a multiple of {micro}"
            )
        self.steps = optimizer_steps(size, batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration. Lightning calls this before each epoch."""
        if epoch != self.epoch:
            self.epoch, self._first_step = epoch, 0

    def resume(self, epoch: int, step: int) -> None:
        """Start the next iteration after the first `step` optimizer steps of an epoch."""
        self.epoch, self._first_step = epoch, step

    def epoch_steps(self) -> EpochSteps:
        """Return the optimizer steps of the current epoch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = self.draw(self.epoch, rng)
        if self.lengths is None:
            return EpochSteps(rows, np.arange(self.steps), self.batch_size)
        for start in range(0, len(rows), STEPS_PER_BUCKET * self.batch_size):
            group = rows[start : start + STEPS_PER_BUCKET * self.batch_size]
            group[:] = group[np.argsort(self.lengths[group], kind="stable")]
        order = rng.permutation(self.steps)
        # The last row of a step is its longest.
        ends = np.minimum((order + 1) * self.batch_size, len(rows))
        longest = int(self.lengths[rows[ends - 1]].argmax())
        order[[0, longest]] = order[[longest, 0]]
        return EpochSteps(rows, order, self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        first, self._first_step = self._first_step, 0
        steps = self.epoch_steps()
        for number in range(first * self.accumulate, len(steps) * self.accumulate):
            step, micro = divmod(number, self.accumulate)
            yield _array_part(steps[step], self.rank + micro * self.world_size, self.accumulate * self.world_size)

    def __len__(self) -> int:
        return self.steps * self.accumulate


def optimizer_steps(size: int, batch_size: int) -> int:
    """Return the number of optimizer steps of an epoch of `size` rows. The last one may be smaller."""
    return -(-size // batch_size)


def evaluation_batches(lengths: np.ndarray, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[np.ndarray]:
    """Return the batches of this process: each row once over all processes, longest first.

    All processes get the same number of batches and no row is repeated, so metrics are exact on several devices.

    Args:
        lengths: Tokens per row, int [N].
        batch_size: Maximum number of rows per batch and process.
        rank: Rank of this process. Defaults to 0.
        world_size: Number of processes. Defaults to 1.

    Returns:
        Arrays of row numbers.
    """
    longest = int(lengths.max(initial=0))
    return _shard(ClassIndex.from_targets(longest - lengths, longest + 1).rows, batch_size, rank, world_size)


def stratified_batches(targets: Targets, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[np.ndarray]:
    """Return batches like `evaluation_batches`, each with approximately the class proportions of all rows.

    A multi-label row counts as a row of its rarest label.
    """
    classes = targets if isinstance(targets, np.ndarray) else _rarest_label(targets)
    index = ClassIndex.from_targets(classes, int(classes.max(initial=-1)) + 1)
    places = np.empty(len(classes))
    places[index.rows] = np.concatenate([(np.arange(n) + 0.5) / n for n in index.counts if n] or [np.empty(0)])
    return _shard(np.argsort(places, kind="stable"), batch_size, rank, world_size)


def _rarest_label(targets: csr_matrix) -> np.ndarray:
    """Return the rarest label of each row, int64 [N]. A row without labels gets C."""
    num_rows, num_labels = targets.shape
    index = ClassIndex.from_targets(targets, num_labels)
    rarest = np.full(num_rows, num_labels)
    # Labels are assigned from frequent to rare: the rarest label of a row is assigned last.
    for c in np.argsort(-index.counts, kind="stable"):
        rarest[index.members(c)] = c
    return rarest


def _array_part(rows: np.ndarray, part: int, parts: int) -> np.ndarray:
    """Return `np.array_split(rows, parts)[part]` without building the other parts."""
    size, longer = divmod(len(rows), parts)
    start = part * size + min(part, longer)
    return rows[start : start + size + (part < longer)]


def _shard(order: np.ndarray, batch_size: int, rank: int, world_size: int) -> list[np.ndarray]:
    """Cut the rows into batches and return those of this process."""
    if len(order) < world_size:
        raise UserError(f"{len(order)} evaluation examples are too few for {world_size} devices")
    batches = -(-len(order) // (batch_size * world_size)) * world_size
    batches = min(batches, len(order) // world_size * world_size)
    return np.array_split(order, batches)[rank::world_size]
