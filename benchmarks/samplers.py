"""Samplers at scale: seconds and bytes for the index, one epoch's draw, and its batches.

`python benchmarks/samplers.py [--large]`: 1 and 10 million rows of 500 classes (Zipf), every class drawn equally often,
against `torch.utils.data.WeightedRandomSampler` as a DataLoader consumes it (all row numbers as Python integers, then
lists of 32), and against its bare `torch.multinomial`. Ours sorts the batches by length as well. `--large` adds 100
million rows, which torch refuses (the note says how), 5 million rows with any of 500 labels, and the splits of both
kinds.

build: rows by class, or weights of rows. draw: the rows of an epoch, or the split. batches: all steps of the epoch.
bytes per row: the peak over all three above the targets and lengths, in a process of its own. slower: how many times as
long as ours, in all, over repeats in turn in one process.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from measure import in_fresh_process, interleaved, peak_so_far, ratio, report
from scipy.sparse import csr_matrix
from torch.utils.data import BatchSampler, WeightedRandomSampler

from counterpoise.balance import ClassIndex, MixtureSampler, PowerSampler, RepeatFactorSampler, Sampler
from counterpoise.balance.counts import Targets
from counterpoise.data.batching import BucketBatchSampler, evaluation_batches, stratified_batches
from counterpoise.data.splits import split_off

CLASSES = 500
BATCH = 32
CHUNK = 2**17
Seconds = dict[str, float]


def ours(targets: Targets, lengths: np.ndarray, sampler: Sampler) -> Seconds:
    """Measures an epoch of a sampler, dealt into steps of similar lengths."""
    clock = Clock()
    index = ClassIndex.from_targets(targets, CLASSES)
    clock("build")
    rows = sampler.draw(index, np.random.default_rng(0))
    clock("draw")
    for _ in BucketBatchSampler(lambda epoch, rng: rows, len(rows), lengths, BATCH):
        pass
    return clock("batches")


def weighted_random(targets: Targets, lengths: np.ndarray) -> Seconds:
    """Measures what a DataLoader does with torch's sampler."""
    clock = Clock()
    sampler = WeightedRandomSampler(weights_of(targets), targets.shape[0])  # type: ignore[arg-type]
    clock("build")
    rows = list(sampler)
    clock("draw")
    for _ in BatchSampler(rows, BATCH, drop_last=False):
        pass
    return clock("batches")


def multinomial(targets: Targets, lengths: np.ndarray) -> Seconds:
    """Measures the function that torch's sampler draws with, without making Python integers of the rows."""
    clock = Clock()
    weights = torch.from_numpy(weights_of(targets))
    clock("build")
    torch.multinomial(weights, len(weights), replacement=True)
    return clock("draw")


def balanced(targets: Targets, lengths: np.ndarray, sampler: Sampler) -> Seconds:
    """Measures the index and the share of each label in what is drawn."""
    clock = Clock()
    index = ClassIndex.from_targets(targets, CLASSES)
    clock("build")
    sampler.expected_class_counts(index)
    return clock("draw")


def held_out(targets: Targets, lengths: np.ndarray) -> Seconds:
    """Measures a stratified split."""
    clock = Clock()
    split_off(targets, 0.1, 0)
    return clock("draw")


def evaluated(targets: Targets, lengths: np.ndarray) -> Seconds:
    """Measures batches of all rows, by length."""
    clock = Clock()
    evaluation_batches(lengths, BATCH)
    return clock("batches")


def evaluated_stratified(targets: Targets, lengths: np.ndarray) -> Seconds:
    """Measures batches of all rows, stratified."""
    clock = Clock()
    stratified_batches(targets, BATCH)
    return clock("batches")


AGAINST_TORCH: dict[str, tuple[Any, ...]] = {
    "counterpoise": (ours, PowerSampler(1.0)),
    "WeightedRandomSampler": (weighted_random,),
    "torch.multinomial": (multinomial,),
}
OF_CLASSES = {
    "square root": (ours, PowerSampler(0.5)),
    "repeat factors": (ours, RepeatFactorSampler(0.001)),
    "split": (held_out,),
    "evaluation by length": (evaluated,),
    "evaluation stratified": (evaluated_stratified,),
}
OF_LABELS = {
    "counterpoise": (ours, PowerSampler(1.0)),
    "WeightedRandomSampler, rarest label": (weighted_random,),
    "square root": (ours, PowerSampler(0.5)),
    "repeat factors": (ours, RepeatFactorSampler(0.001)),
    "half square root": (ours, MixtureSampler(PowerSampler(0.5), 0.5)),
    "shares drawn, square root": (balanced, PowerSampler(0.5)),
    "shares drawn, repeat factors": (balanced, RepeatFactorSampler(0.001)),
    "split": (held_out,),
    "evaluation stratified": (evaluated_stratified,),
}


def classes(rows: int) -> np.ndarray:
    """Returns class numbers, int64 [rows]: class c comes in proportion to 1 / (c + 1)."""
    numbers = np.empty(rows, np.int64)
    for start, rng in chunks(rows):
        part = numbers[start : start + CHUNK]
        part[:] = zipf(rng, len(part))
    return numbers


def labels(rows: int) -> csr_matrix:
    """Returns which labels each row holds, bool [rows, CLASSES]: none to a dozen, as frequent as classes are."""
    indices, starts = np.empty(6 * rows, np.int32), np.zeros(rows + 1, np.int32)
    for start, rng in chunks(rows):
        number, known = min(CHUNK, rows - start), starts[start]
        of_row = np.repeat(np.arange(number), rng.poisson(4, number))
        part = csr_matrix((np.ones(len(of_row), bool), (of_row, zipf(rng, len(of_row)))), (number, CLASSES))
        starts[start + 1 : start + number + 1] = known + part.indptr[1:]
        indices[known : known + part.nnz] = part.indices
    return csr_matrix((np.ones(starts[-1], bool), indices[: starts[-1]], starts), (rows, CLASSES))


def text_lengths(rows: int) -> np.ndarray:
    """Returns tokens per row, uint16 [rows], log-normal from 3 to 256."""
    lengths = np.empty(rows, np.uint16)
    for start, rng in chunks(rows):
        part = lengths[start : start + CHUNK]
        part[:] = np.clip(rng.lognormal(4, 0.8, len(part)), 3, 256)
    return lengths


def weights_of(targets: Targets) -> np.ndarray:
    """Returns 1 / n of the class of each row, of its rarest label, float64 [N]; that of all rows where it has none."""
    if isinstance(targets, np.ndarray):
        return (1 / np.bincount(targets))[targets]
    inverse = 1 / np.bincount(targets.indices, minlength=CLASSES)
    weights = np.full(targets.shape[0], 1 / targets.shape[0])
    some = np.diff(targets.indptr) > 0
    weights[some] = np.maximum.reduceat(inverse[targets.indices], targets.indptr[:-1][some])
    return weights


class Clock:
    """The seconds of each part, since the one before."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}
        self.last = time.perf_counter()

    def __call__(self, part: str) -> Seconds:
        """Returns the parts so far, of which `part` ends now."""
        now = time.perf_counter()
        self.seconds[part], self.last = now - self.last, now
        return self.seconds


def compared(
    data: Callable[[int], Targets], rows: int, candidates: dict[str, tuple[Any, ...]], repeats: int
) -> list[dict[str, Any]]:
    """Returns the lines of the table for one data set."""
    peers = [name for name, (function, *_) in candidates.items() if function in (weighted_random, multinomial)]
    refused = weight_limit(rows)
    able = {name: candidate for name, candidate in candidates.items() if not (refused and name in peers)}
    peaks = {name: in_fresh_process(peak, data, rows, candidate) / rows for name, candidate in able.items()}
    targets, lengths = data(rows), text_lengths(rows)
    parts: dict[str, list[Seconds]] = {name: [] for name in able}

    def run(name: str, function: Callable[..., Seconds], *options: Any) -> float:
        parts[name].append(function(targets, lengths, *options))
        return sum(parts[name][-1].values())

    totals = interleaved({name: partial(run, name, *candidate) for name, candidate in able.items()}, repeats)
    lines = []
    for name in candidates:
        line: dict[str, Any] = {"targets": data.__name__, "rows": rows, "candidate": name}
        for part in ("build", "draw", "batches"):
            known = [seconds[part] for seconds in parts.get(name, []) if part in seconds]
            line[f"{part} s"] = float(np.median(known)) if known else None
        line["bytes per row"] = round(peaks[name], 1) if name in able else None
        slower = ratio(totals[name], totals["counterpoise"]) if name in peers and name in able else None
        line["slower"] = slower[0] if slower else None
        line["spread"] = f"{slower[1]:.3g} to {slower[2]:.3g}" if slower else ""
        line["note"] = refused if name not in able else ""
        lines.append(line)
    return lines


def peak(data: Callable[[int], Targets], rows: int, candidate: tuple[Any, ...]) -> int:
    """Returns the bytes that a candidate takes at its worst, beside its data; for a process of its own."""
    targets, lengths = data(rows), text_lengths(rows)
    before = psutil.Process().memory_info().rss
    function, *options = candidate
    function(targets, lengths, *options)
    return peak_so_far() - before


def weight_limit(rows: int) -> str:
    """Returns what torch says where it cannot draw from so many rows, or ""."""
    try:
        torch.multinomial(torch.ones(1).expand(rows), 1, replacement=True)
    except RuntimeError as error:
        return str(error)
    return ""


def zipf(rng: np.random.Generator, number: int) -> np.ndarray:
    """Returns so many class numbers."""
    edges = np.cumsum(1 / np.arange(1, CLASSES + 1))
    return np.searchsorted(edges, rng.random(number) * edges[-1])


def chunks(rows: int) -> list[tuple[int, np.random.Generator]]:
    """Returns the first row of each chunk, and what draws it: data is made without much memory beside it."""
    return [(start, np.random.default_rng(start)) for start in range(0, rows, CHUNK)]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="*", default=[1e6, 1e7], help="rows with one class each")
    parser.add_argument("--large", action="store_true", help="add 1e8 rows, and 5e6 rows with any labels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    lines = []
    for rows in map(int, arguments.rows):
        lines += compared(classes, rows, AGAINST_TORCH, arguments.repeats)
    if arguments.large:
        lines += compared(classes, 10**7, OF_CLASSES, 1)
        lines += compared(labels, 5 * 10**6, OF_LABELS, 1)
        lines += compared(classes, 10**8, AGAINST_TORCH, 1)
    report(f"{CLASSES} classes or labels, batches of {BATCH}", lines, arguments.json)


if __name__ == "__main__":
    main()
