"""Samplers at scale: seconds and bytes of the index, the draw of an epoch, and its batches.

`python benchmarks/samplers.py [--large]`: 1 and 10 million rows of 500 classes of Zipf frequency with class-balanced
sampling, compared to `torch.utils.data.WeightedRandomSampler` as a DataLoader uses it (all row numbers as Python
integers, then lists of 32) and to `torch.multinomial` alone. This project's batches are also sorted by length.
`--large` adds 100 million rows, which torch refuses (see the note), 5 million multi-label rows with 500 labels, and the
splits of both kinds.

build: index of the rows by class, or weights of the rows. draw: rows of an epoch, or the split. batches: all steps of
the epoch. bytes per row: peak memory of the three beyond targets and lengths, in a separate process. slower: total time
relative to this project's, over repeats in turn in one process.
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
    """Measure an epoch of a sampler, in batches of similar lengths."""
    clock = Clock()
    index = ClassIndex.from_targets(targets, CLASSES)
    clock("build")
    rows = sampler.draw(index, np.random.default_rng(0))
    clock("draw")
    for _ in BucketBatchSampler(lambda epoch, rng: rows, len(rows), lengths, BATCH):
        pass
    return clock("batches")


def weighted_random(targets: Targets, lengths: np.ndarray) -> Seconds:
    """Measure torch's sampler as a DataLoader uses it."""
    clock = Clock()
    sampler = WeightedRandomSampler(weights_of(targets), targets.shape[0])  # type: ignore[arg-type]
    clock("build")
    rows = list(sampler)
    clock("draw")
    for _ in BatchSampler(rows, BATCH, drop_last=False):
        pass
    return clock("batches")


def multinomial(targets: Targets, lengths: np.ndarray) -> Seconds:
    """Measure the drawing function of torch's sampler, without the conversion to Python integers."""
    clock = Clock()
    weights = torch.from_numpy(weights_of(targets))
    clock("build")
    torch.multinomial(weights, len(weights), replacement=True)
    return clock("draw")


def label_rates(targets: Targets, lengths: np.ndarray, sampler: Sampler) -> Seconds:
    """Measure the index and the expected draws of each label."""
    clock = Clock()
    index = ClassIndex.from_targets(targets, CLASSES)
    clock("build")
    sampler.expected_class_counts(index)
    return clock("draw")


def stratified_split(targets: Targets, lengths: np.ndarray) -> Seconds:
    """Measure a stratified split."""
    clock = Clock()
    split_off(targets, 0.1, 0)
    return clock("draw")


def batches_by_length(targets: Targets, lengths: np.ndarray) -> Seconds:
    """Measure evaluation batches of similar lengths."""
    clock = Clock()
    evaluation_batches(lengths, BATCH)
    return clock("batches")


def batches_by_class(targets: Targets, lengths: np.ndarray) -> Seconds:
    """Measure evaluation batches with the class proportions of the split."""
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
    "split": (stratified_split,),
    "evaluation by length": (batches_by_length,),
    "evaluation stratified": (batches_by_class,),
}
OF_LABELS = {
    "counterpoise": (ours, PowerSampler(1.0)),
    "WeightedRandomSampler, rarest label": (weighted_random,),
    "square root": (ours, PowerSampler(0.5)),
    "repeat factors": (ours, RepeatFactorSampler(0.001)),
    "mixture, square root": (ours, MixtureSampler(PowerSampler(0.5), 0.5)),
    "label rates, square root": (label_rates, PowerSampler(0.5)),
    "label rates, repeat factors": (label_rates, RepeatFactorSampler(0.001)),
    "split": (stratified_split,),
    "evaluation stratified": (batches_by_class,),
}


def classes(rows: int) -> np.ndarray:
    """Return random classes, int64 [rows]; the frequency of class c is proportional to 1 / (c + 1)."""
    numbers = np.empty(rows, np.int64)
    for start, rng in chunks(rows):
        part = numbers[start : start + CHUNK]
        part[:] = zipf(rng, len(part))
    return numbers


def labels(rows: int) -> csr_matrix:
    """Return random label sets, bool [rows, CLASSES]: about 4 labels per row, with the frequencies of `classes`."""
    indices, starts = np.empty(6 * rows, np.int32), np.zeros(rows + 1, np.int32)
    for start, rng in chunks(rows):
        number, known = min(CHUNK, rows - start), starts[start]
        of_row = np.repeat(np.arange(number), rng.poisson(4, number))
        part = csr_matrix((np.ones(len(of_row), bool), (of_row, zipf(rng, len(of_row)))), (number, CLASSES))
        starts[start + 1 : start + number + 1] = known + part.indptr[1:]
        indices[known : known + part.nnz] = part.indices
    return csr_matrix((np.ones(starts[-1], bool), indices[: starts[-1]], starts), (rows, CLASSES))


def text_lengths(rows: int) -> np.ndarray:
    """Return random numbers of tokens, uint16 [rows]: log-normal, from 3 to 256."""
    lengths = np.empty(rows, np.uint16)
    for start, rng in chunks(rows):
        part = lengths[start : start + CHUNK]
        part[:] = np.clip(rng.lognormal(4, 0.8, len(part)), 3, 256)
    return lengths


def weights_of(targets: Targets) -> np.ndarray:
    """Return 1 / n of each row's class or rarest label, float64 [N]; 1 / N for a row without labels."""
    if isinstance(targets, np.ndarray):
        return (1 / np.bincount(targets))[targets]
    inverse = 1 / np.bincount(targets.indices, minlength=CLASSES)
    weights = np.full(targets.shape[0], 1 / targets.shape[0])
    labelled = np.diff(targets.indptr) > 0
    weights[labelled] = np.maximum.reduceat(inverse[targets.indices], targets.indptr[:-1][labelled])
    return weights


class Clock:
    """Measures the time between consecutive parts."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}
        self.last = time.perf_counter()

    def __call__(self, part: str) -> Seconds:
        """Record the end of a part; return the seconds of all parts."""
        now = time.perf_counter()
        self.seconds[part], self.last = now - self.last, now
        return self.seconds


def compare(
    data: Callable[[int], Targets], rows: int, candidates: dict[str, tuple[Any, ...]], repeats: int
) -> list[dict[str, Any]]:
    """Return the rows of the table for one data set."""
    peers = [name for name, (function, *_) in candidates.items() if function in (weighted_random, multinomial)]
    refusal = multinomial_error(rows)
    measured = {name: candidate for name, candidate in candidates.items() if not (refusal and name in peers)}
    peaks = {name: in_fresh_process(peak, data, rows, candidate) / rows for name, candidate in measured.items()}
    targets, lengths = data(rows), text_lengths(rows)
    parts: dict[str, list[Seconds]] = {name: [] for name in measured}

    def run(name: str, function: Callable[..., Seconds], *options: Any) -> float:
        parts[name].append(function(targets, lengths, *options))
        return sum(parts[name][-1].values())

    totals = interleaved({name: partial(run, name, *candidate) for name, candidate in measured.items()}, repeats)
    lines = []
    for name in candidates:
        line: dict[str, Any] = {"targets": data.__name__, "rows": rows, "candidate": name}
        for part in ("build", "draw", "batches"):
            known = [seconds[part] for seconds in parts.get(name, []) if part in seconds]
            line[f"{part} s"] = float(np.median(known)) if known else None
        line["bytes per row"] = round(peaks[name], 1) if name in measured else None
        slower = ratio(totals[name], totals["counterpoise"]) if name in peers and name in measured else None
        line["slower"] = slower[0] if slower else None
        line["spread"] = f"{slower[1]:.3g} to {slower[2]:.3g}" if slower else ""
        line["note"] = refusal if name not in measured else ""
        lines.append(line)
    return lines


def peak(data: Callable[[int], Targets], rows: int, candidate: tuple[Any, ...]) -> int:
    """Return the peak memory of a candidate beyond its data, in bytes. Run it in a new process."""
    targets, lengths = data(rows), text_lengths(rows)
    before = psutil.Process().memory_info().rss
    function, *options = candidate
    function(targets, lengths, *options)
    return peak_so_far() - before


def multinomial_error(rows: int) -> str:
    """Return the error message of `torch.multinomial` for this many rows, or an empty string."""
    try:
        torch.multinomial(torch.ones(1).expand(rows), 1, replacement=True)
    except RuntimeError as error:
        return str(error)
    return ""


def zipf(rng: np.random.Generator, number: int) -> np.ndarray:
    """Return random classes of Zipf frequency, int [number]."""
    edges = np.cumsum(1 / np.arange(1, CLASSES + 1))
    return np.searchsorted(edges, rng.random(number) * edges[-1])


def chunks(rows: int) -> list[tuple[int, np.random.Generator]]:
    """Return first row and random generator of each chunk. Chunks limit the memory that the generation takes."""
    return [(start, np.random.default_rng(start)) for start in range(0, rows, CHUNK)]


def main() -> None:
    """Read the command line, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="*", default=[1e6, 1e7], help="numbers of single-label rows")
    parser.add_argument("--large", action="store_true", help="add 1e8 single-label and 5e6 multi-label rows")
    parser.add_argument("--repeats", type=int, default=3, help="repeats (default: 3)")
    parser.add_argument("--json", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    lines = []
    for rows in map(int, arguments.rows):
        lines += compare(classes, rows, AGAINST_TORCH, arguments.repeats)
    if arguments.large:
        lines += compare(classes, 10**7, OF_CLASSES, 1)
        lines += compare(labels, 5 * 10**6, OF_LABELS, 1)
        lines += compare(classes, 10**8, AGAINST_TORCH, 1)
    report(f"{CLASSES} classes or labels, batches of {BATCH}", lines, arguments.json)


if __name__ == "__main__":
    main()
