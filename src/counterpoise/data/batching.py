"""Batches: which rows go into each, in an order that is a function of (seed, epoch) alone, and their tensors.

A sampler decides what is drawn; this decides only the order. `BucketBatchSampler` yields arrays of row numbers and
`TokenDataset` turns such an array into padded tensors at once, so a DataLoader runs them with `batch_size=None`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from counterpoise.balance.counts import ClassIndex, Targets
from counterpoise.data.token_store import TokenStore
from counterpoise.errors import UserError

Batch = dict[str, Tensor]
STEPS_PER_BUCKET = 50
"""Batches sorted by length together: long enough for little padding, short enough to keep the order random."""


class TokenDataset(Dataset[Batch]):
    """Rows of a token store with their targets; indexed by an array of row numbers, returns one batch.

    store_rows: int [N], where row i of this dataset lies in the store (several splits may share one).
    pad: the token id of padding. weights: float [N], how much each row counts in the loss, where they differ.
    packed: batches have the tokens of their texts end to end, without padding.
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
        """Tokens per row, int64 [N]."""
        return self.store.lengths[self.store_rows]

    def __len__(self) -> int:
        return len(self.store_rows)

    def __getitem__(self, rows: np.ndarray) -> Batch:
        """Returns input_ids and attention_mask, int64 [B, T]; targets, int64 [B] or float32 [B, C]; rows, int64 [B].

        T is the longest length in the batch; packed input_ids are [tokens]. With weights there is also weights,
        float32 [B].
        """
        rows = np.asarray(rows)
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
        """Returns input_ids and attention_mask of the rows, int64 [B, T]; packed input_ids are [tokens]."""
        where = self.store_rows[rows]
        bounds = zip(self.store.offsets[where], self.store.offsets[where + 1], strict=True)
        ids, mask = pad_sequences([self.store.tokens[start:end] for start, end in bounds], self.pad)
        return {
            "input_ids": torch.from_numpy(ids[mask] if self.packed else ids),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }

    def subset(self, rows: np.ndarray) -> "TokenDataset":
        """Returns the dataset of these rows, without weights."""
        return TokenDataset(self.store, self.store_rows[rows], self.targets[rows], self.pad, packed=self.packed)


class EmbeddingDataset(TokenDataset):
    """The rows of a token dataset with the vector of each text instead of its tokens.

    vectors: float32, one for each row of the store.
    """

    def __init__(self, tokens: TokenDataset, vectors: np.ndarray) -> None:
        super().__init__(tokens.store, tokens.store_rows, tokens.targets, tokens.pad, tokens.weights)
        self.vectors = vectors

    def inputs(self, rows: np.ndarray) -> Batch:
        """Returns vectors of the rows, float32 [B, H]."""
        return {"vectors": torch.from_numpy(self.vectors[self.store_rows[rows]])}

    def subset(self, rows: np.ndarray) -> "EmbeddingDataset":
        """Returns the dataset of these rows, without weights."""
        return EmbeddingDataset(super().subset(rows), self.vectors)


def pad_sequences(texts: Sequence[np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the token ids of B texts filled up to the longest, int64 [B, T], and where they are, bool [B, T]."""
    lengths = np.array([len(ids) for ids in texts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad, np.int64)
    ids[mask] = np.concatenate(texts)
    return ids, mask


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Returns a batch of B texts as `parts` of them, of equally many to within one."""
    if parts == 1:
        return [batch]
    pieces = {name: values.tensor_split(parts) for name, values in batch.items()}
    if "input_ids" in batch and batch["input_ids"].ndim == 1:
        pieces["input_ids"] = batch["input_ids"].split([int(mask.sum()) for mask in pieces["attention_mask"]])
    return [{name: values[i] for name, values in pieces.items()} for i in range(parts)]


@dataclass(frozen=True)
class EpochSteps:
    """The optimiser steps of an epoch, in the order in which they are taken; each is cut out when it is asked for.

    rows: int [M]. Step i is rows[size * order[i] : size * order[i] + size], where order is int [steps].
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
    """Deals what a sampler draws into optimiser steps, and these into the micro-batches of one process.

    The steps of an epoch depend on (seed, epoch) and on `batch_size` alone. Each is split over `world_size` processes
    times `accumulate` micro-batches, so 1 x 32, 4 x 8 and 2 processes x 16 train on the same examples at each step.

    draw: returns the rows of an epoch, given its number and a random generator; the array is put in order in place.
    lengths: tokens per row, int [N], or None to leave the drawn order as it is. batch_size: examples of an optimiser
    step, over all processes.

    Rows are sorted by length within `STEPS_PER_BUCKET` steps and the steps shuffled; the longest step comes first, so that
    what does not fit into memory shows at once. A step may be smaller than `batch_size` at the end of the draw; one
    with fewer rows than micro-batches is left out.
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
        # In two bytes lengths are sorted in linear time.
        narrow = np.min_scalar_type(0 if lengths is None else int(lengths.max(initial=0)))
        self.lengths = None if lengths is None else lengths.astype(narrow, copy=False)
        self.seed, self.accumulate, self.rank, self.world_size = seed, accumulate, rank, world_size
        self.epoch = 0
        self.position = 0
        micro = accumulate * world_size
        if batch_size % micro:
            raise UserError(
                f"loader.batch_size={batch_size} does not divide into {accumulate} accumulated micro-batches on "
                f"{world_size} devices: use a multiple of {micro}"
            )
        self.steps = optimizer_steps(size, batch_size, micro)
        if not self.steps:
            raise UserError(f"an epoch of {size} examples is too small for {micro} micro-batches")

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration deals; Lightning calls it before each."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def epoch_steps(self) -> EpochSteps:
        """Returns the optimiser steps of the epoch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = self.draw(self.epoch, rng)
        number = -(-len(rows) // self.batch_size)
        if self.lengths is None:
            return EpochSteps(rows, np.arange(min(number, self.steps)), self.batch_size)
        for start in range(0, len(rows), STEPS_PER_BUCKET * self.batch_size):
            group = rows[start : start + STEPS_PER_BUCKET * self.batch_size]
            group[:] = group[np.argsort(self.lengths[group], kind="stable")]
        # Permuted before the last one may be left out, which then does not change the order of the others.
        order = rng.permutation(number)
        order = order[order < self.steps]
        # The last row of a step is its longest.
        ends = np.minimum((order + 1) * self.batch_size, len(rows))
        longest = int(self.lengths[rows[ends - 1]].argmax())
        order[[0, longest]] = order[[longest, 0]]
        return EpochSteps(rows, order, self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        start, self.position = self.position, 0
        steps = self.epoch_steps()
        for number in range(start, len(steps) * self.accumulate):
            step, micro = divmod(number, self.accumulate)
            yield _array_part(steps[step], self.rank + micro * self.world_size, self.accumulate * self.world_size)

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def state_dict(self) -> dict[str, int]:
        """Returns the epoch and the micro-batches of it to skip."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues within the epoch of `state`."""
        self.epoch, self.position = state["epoch"], state["position"]


def optimizer_steps(size: int, batch_size: int, micro: int) -> int:
    """Returns the optimiser steps of an epoch of so many rows; the last one has a row for each of the micro-batches."""
    full, rest = divmod(size, batch_size)
    return full + (rest >= micro)


def evaluation_batches(lengths: np.ndarray, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[np.ndarray]:
    """Returns this process's batches of row numbers: every row once over all processes, longest first.

    All processes get equally many batches and none repeats a row, so that metrics are exact on several devices.
    """
    longest = int(lengths.max(initial=0))
    return _shard(ClassIndex.of(longest - lengths, longest + 1).rows, batch_size, rank, world_size)


def stratified_batches(targets: Targets, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[np.ndarray]:
    """Returns batches like `evaluation_batches`, each with the class proportions of the whole, as near as may be.

    Of several labels, a row counts as one of its rarest.
    """
    classes = targets if isinstance(targets, np.ndarray) else _rarest_label(targets)
    index = ClassIndex.of(classes, int(classes.max(initial=-1)) + 1)
    places = np.empty(len(classes))
    places[index.rows] = np.concatenate([(np.arange(n) + 0.5) / n for n in index.counts if n] or [np.empty(0)])
    return _shard(np.argsort(places, kind="stable"), batch_size, rank, world_size)


def _rarest_label(targets: csr_matrix) -> np.ndarray:
    """Returns the label of each row that the fewest rows have, int64 [N]; C where a row has none."""
    num_rows, num_labels = targets.shape
    index = ClassIndex.of(targets, num_labels)
    rarest = np.full(num_rows, num_labels)
    # The rarest label comes last for every row, and what is written last stays.
    for c in np.argsort(-index.counts, kind="stable"):
        rarest[index.members(c)] = c
    return rarest


def _array_part(rows: np.ndarray, part: int, parts: int) -> np.ndarray:
    """Returns `np.array_split(rows, parts)[part]`, without cutting out the others."""
    size, longer = divmod(len(rows), parts)
    start = part * size + min(part, longer)
    return rows[start : start + size + (part < longer)]


def _shard(order: np.ndarray, batch_size: int, rank: int, world_size: int) -> list[np.ndarray]:
    if len(order) < world_size:
        raise UserError(f"{len(order)} evaluation examples are too few for {world_size} devices")
    batches = -(-len(order) // (batch_size * world_size)) * world_size
    batches = min(batches, len(order) // world_size * world_size)
    return np.array_split(order, batches)[rank::world_size]


def trained_batches(trainer: pl.Trainer) -> int:
    """Returns the micro-batches of the epoch, or of the last one, that have become optimiser steps."""
    epoch = trainer.fit_loop.epoch_loop
    steps = epoch.automatic_optimization.optim_progress.optimizer.step.current.completed
    return min(steps * trainer.accumulate_grad_batches, int(trainer.num_training_batches))
