"""Training speed compared to common alternatives, and the overhead relative to a plain PyTorch loop.

`python benchmarks/training.py` trains MiniLM on Reuters R52 (`--data reuters_r8`) on the CPU in five ways, in turn, and
prints the fraction of padding of each sampler. All train the same encoder (mean pooling, dropout, linear head) with
class-weighted cross-entropy, the AdamW, learning rates and schedule of conf/optim, batches of 16, at most 128 tokens,
gradients clipped to a norm of 1, and one seed:

forum              the loop of many tutorials: texts padded to the maximum length, shuffled, fp32, `loss.item()`
trainer            Hugging Face `Trainer` with a weighted `compute_loss` and padding to the longest text of a batch
trainer, grouped   the same with `train_sampling_strategy="group_by_length"`, without logging and saving, and in the
                   precision of this project ("batch_rebalance" balances devices and micro-batches; with one of
                   each its batches equal those of "trainer")
bare loop          plain PyTorch with the batches, model, loss and optimizer of this project: the difference to "ours"
                   is the overhead of Lightning, callbacks and loggers
ours               data module, classifier and Trainer with the callbacks and loggers of `python train.py`, without the
                   time of validation

Each splits a whole epoch into batches in its own way and trains on a sample of them that is evenly spread over the
lengths. "real tokens" excludes padding.

`--quality` instead trains a whole epoch each and evaluates it on the test split (tens of minutes).
"""

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from measure import interleaved, peak_memory, ratio, report
from sklearn.metrics import accuracy_score, f1_score
from training_candidates import CANDIDATES, Batches, padded_tokens, prepare

from counterpoise.data.batching import BucketBatchSampler
from counterpoise.terminal import command_line

SAMPLERS = ("plain", "oversampled", "undersampled", "combined", "repeat_factor", "progressive")
WARM_UP = 3
"""Steps before the measurement."""


@dataclass
class Sample:
    """Selects `steps` full batches of an epoch, evenly spread over their lengths, after `WARM_UP` others."""

    steps: int
    batch_size: int
    seed: int = 0

    def __call__(self, batches: Batches, lengths: np.ndarray) -> Batches:
        """Return the warm-up batches, the longest first, and the sample in random order."""
        full = [batch for batch in batches if len(batch) == self.batch_size]
        full.sort(key=lambda batch: (lengths[batch].max(), lengths[batch].sum()))
        chosen = [full[int((i + 0.5) * len(full) / self.steps)] for i in range(self.steps)]
        warm_up = [full[-1], *chosen[: WARM_UP - 1]]
        order = np.random.default_rng(self.seed).permutation(len(chosen))
        return [*warm_up, *(chosen[i] for i in order)]


def speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per candidate: its speed, measured in turn, and its peak memory in a new process."""
    setting = prepare(arguments.data, arguments.max_length, arguments.precision)
    sample = Sample(arguments.steps, setting.data.batch_size)
    lengths = setting.data.splits["train"].dataset.lengths
    tokens: dict[str, tuple[int, int]] = {}

    def measured(name: str) -> float:
        training = CANDIDATES[name](setting, sample)
        batches = training.batches[WARM_UP:]
        real, processed = sum(int(lengths[b].sum()) for b in batches), sum(map(training.processed, batches))
        tokens[name] = real, processed
        return sum(map(len, batches)) / (training.ends[-1] - training.ends[WARM_UP - 1])

    rates = interleaved({name: partial(measured, name) for name in CANDIDATES}, arguments.repeats)
    examples = arguments.steps * setting.data.batch_size
    rows = []
    for name, rate in rates.items():
        times, least, most = ratio(rates["ours"], rate)
        (real, processed), typical = tokens[name], statistics.median(rate)
        rows.append(
            {
                "": name,
                "examples/s": typical,
                "real tokens/s": typical * real / examples,
                "padding %": 100 * (1 - real / processed),
                "ours / this": times,
                "spread": f"{least:.2f} to {most:.2f}",
                "peak memory MB": None,
            }
        )
        if not arguments.no_memory:
            _, peak = peak_memory(train_briefly, name, arguments.data, arguments.max_length, arguments.precision)
            rows[-1]["peak memory MB"] = peak / 2**20
    return rows


def train_briefly(name: str, data: str, max_length: int, precision: str) -> None:
    """Train a few steps, including the longest batch."""
    setting = prepare(data, max_length, precision)
    CANDIDATES[name](setting, Sample(4, setting.data.batch_size))


def quality(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per candidate: time of a whole epoch and scores on the test split."""
    setting = prepare(arguments.data, arguments.max_length, arguments.precision)
    rows = []
    for name in CANDIDATES:
        start = time.perf_counter()
        training = CANDIDATES[name](setting, lambda batches, lengths: batches)
        seconds = training.ends[-1] - start
        print(f"{name}: an epoch in {seconds:,.0f} s", file=sys.stderr, flush=True)
        logits, targets = training.evaluate()
        predicted = logits.argmax(1)
        rows.append(
            {
                "": name,
                "seconds": seconds,
                "accuracy": float(accuracy_score(targets, predicted)),
                "macro F1": float(f1_score(targets, predicted, average="macro", zero_division=0)),
            }
        )
    return rows


def padding(max_length: int, epochs: int = 3) -> list[dict[str, Any]]:
    """Return one row per sampler: the largest fraction of padding among the tokens of an epoch."""
    rows: list[dict[str, Any]] = [{"sampler": name} for name in SAMPLERS]
    for data in ("reuters_r8", "reuters_r52"):
        for row in rows:
            overrides = (f"strategy={row['sampler']}", f"trainer.max_epochs={epochs}")
            module = prepare(data, max_length, "32-true", *overrides).data
            lengths, order = (
                module.splits["train"].dataset.lengths,
                cast(BucketBatchSampler, module.train_dataloader().sampler),
            )
            shares = []
            for epoch in range(epochs):
                order.set_epoch(epoch)
                batches = list(order)
                real = sum(int(lengths[batch].sum()) for batch in batches)
                shares.append(1 - real / sum(padded_tokens(module, batch) for batch in batches))
            row[data] = 100 * max(shares)
    return rows


def main() -> None:
    """Read the command line, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="reuters_r52", choices=("reuters_r52", "reuters_r8"), help="data set")
    parser.add_argument("--max-length", type=int, default=128, help="maximum number of tokens per text (default: 128)")
    parser.add_argument("--precision", default="auto", help="precision of this project, as in trainer.precision")
    parser.add_argument("--steps", type=int, default=16, help="measured steps of 16 examples per repeat (default: 16)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats (default: 3)")
    parser.add_argument("--quality", action="store_true", help="train a whole epoch each and evaluate it instead")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--json", type=Path, help="JSON file to write; padding is written to NAME-padding.json")
    arguments = parser.parse_args()
    title = f"{arguments.data}, at most {arguments.max_length} tokens, batches of 16"
    if arguments.quality:
        report(f"One epoch: {title}", quality(arguments), arguments.json)
        return
    report(f"Training: {title}", speed(arguments), arguments.json)
    beside = arguments.json and arguments.json.with_stem(f"{arguments.json.stem}-padding")
    report("Padding, % of tokens, maximum of three epochs", padding(arguments.max_length), beside)


if __name__ == "__main__":
    command_line(main)
