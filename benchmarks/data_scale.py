"""Data at scale: time and memory from a file of texts to training steps, against the number of rows.

`python benchmarks/data_scale.py`; `--rows 200000 1000000 2000000` is the full measurement (ten minutes on 2 cores).

Texts of 20 to 40 words of Reuters news are drawn at random, with 50 classes of Zipf frequency, into a CSV. A fresh
process reads it (a large file is staged), tokenises it with the tokenizer of MiniLM and sets the data module up, with
an empty cache. A second one starts with what the first left there, and trains for 20 steps on a randomly initialised
BERT of 2 layers, 128 wide. A third tokenises a part of the texts, in turn with a bare call of `tokenizers` on a list of
the same texts, which keeps nothing of the result: "ours / bare" is the ratio of their
speeds.

Memory is the resident memory of the process beyond what it has after its imports: at its worst within each step, and
what stays after it. It includes mapped files as far as they are resident, which the system can take back at any time;
"anonymous" is what it cannot. "start" is the time from the start of the process, imports included.
"""

import argparse
import logging
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from measure import in_fresh_process, interleaved, ratio, report, timed
from omegaconf import OmegaConf
from transformers import BertConfig, BertModel

from counterpoise.balance import Strategy
from counterpoise.data.cache import cache_root
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.sources.files import FileSource
from counterpoise.data.token_store import load_tokenizer, tokenise
from counterpoise.model.encoder import EncoderSource
from counterpoise.model.module import Classifier
from counterpoise.model.optim import Optim
from counterpoise.terminal import command_line

CONF = Path(__file__).resolve().parent.parent / "conf"
CLASSES, STEPS, MAX_LENGTH = 50, 20, 64
SAMPLE, REPEATS = 20_000, 3
"""Texts that are tokenised in turn with the bare call, and how often."""


def main() -> None:
    """Reads the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 200_000, 400_000])
    parser.add_argument("--json", type=Path, help="where to write the rows of the table")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = encoder(folder / "encoder")
        os.environ["COUNTERPOISE_CACHE"] = str(folder / "cache")
        for size in arguments.rows:
            file = folder / f"{size}.csv"
            write(file, size, words)
            steps = [step for start in (first_start, second_start) for step in in_fresh_process(start, str(file), name)]
            steps[1]["ours / bare"] = in_fresh_process(speed_beside_bare, str(file), name)
            rows += [{"rows": size, **step} for step in steps]
            shutil.rmtree(folder / "cache")
            file.unlink()
    report("From a file of texts to training steps", rows, arguments.json)


def first_start(file: str, folder: str) -> list[dict[str, Any]]:
    """Returns what it takes to read, tokenise and set up with an empty cache."""
    meter = Meter()
    data = module(file, folder)
    load, loaded = data.source.load, {}
    meter.step("read", lambda: loaded.update(load()))
    data.source.load = lambda: loaded  # type: ignore[method-assign]
    meter.step("tokenise", data.prepare_data)
    meter.step("set up", lambda: set_up(data))
    tokens = len(data.splits["train"].dataset.store.tokens)
    meter.steps[1]["tokens/s"] = round(tokens / meter.steps[1]["seconds"])
    return meter.steps


def second_start(file: str, folder: str) -> list[dict[str, Any]]:
    """Returns what it takes to set up with all in the cache, and to train."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    meter = Meter()
    data = module(file, folder)
    meter.step("set up again", lambda: set_up(data))
    fitted = Strategy().fit(data.labels, data.index, 1)
    data.sampler = lambda epoch: fitted.at_epoch(epoch).sampler
    source = EncoderSource(f"{folder}/encoder", max_length=MAX_LENGTH)
    model = Classifier(source.load(), fitted.at_epoch(0).loss, Optim(), data.labels, data.counts, data.batch_size)
    first = FirstStep()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        limit_val_batches=0,
        logger=False,
        callbacks=[first],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    meter.step(f"train {STEPS} steps", lambda: trainer.fit(model, datamodule=data))
    meter.steps[-1]["start"] = first.seconds
    return meter.steps


def speed_beside_bare(file: str, folder: str) -> float:
    """Returns the speed of `tokenise` over that of a bare call of the tokenizer, on the first texts of the file."""
    texts = FileSource(file).load()["train"].texts.slice(0, SAMPLE)
    tokenizer = load_tokenizer(f"{folder}/encoder")
    plain = texts.to_pylist()

    def ours() -> float:
        shutil.rmtree(cache_root() / "tokens", ignore_errors=True)
        return timed(lambda: tokenise(texts, tokenizer, MAX_LENGTH, "texts"))

    ours()  # sets the tokenizer's length, and starts its threads
    seconds = interleaved(
        {"ours": ours, "bare": lambda: timed(lambda: tokenizer.backend_tokenizer.encode_batch_fast(plain))}, REPEATS
    )
    return ratio(seconds["bare"], seconds["ours"])[0]


def module(file: str, folder: str) -> TextDataModule:
    """Returns the data module of a file, not set up yet."""
    return TextDataModule(FileSource(file), load_tokenizer(f"{folder}/encoder"), max_length=MAX_LENGTH)


def set_up(data: TextDataModule) -> None:
    """Does what a run does before it trains."""
    data.prepare_data()
    data.setup()
    _ = data.counts, data.data_warnings


class Meter:
    """Measures steps of a program: seconds, and resident memory in MiB beyond what there was when it was made."""

    def __init__(self) -> None:
        self.before = memory()
        self.steps: list[dict[str, Any]] = []

    def step(self, name: str, work: Any) -> None:
        """Does the work and adds what it took to `steps`."""
        Path("/proc/self/clear_refs").write_text("5")  # the greatest resident memory counts from now on
        seconds = timed(work)
        after = memory()
        grown = {key: round((after[key] - self.before[of]) / 2**20, 1) for key, of in GROWTH.items()}
        self.steps.append(
            {"step": name, "seconds": seconds, "start": None, **grown, "tokens/s": None, "ours / bare": None}
        )


GROWTH = {"peak MiB": "resident MiB", "resident MiB": "resident MiB", "anonymous MiB": "anonymous MiB"}
RATES = {"tokens/s": None, "ours / bare": None}
"""Filled in where they are known."""
FIELDS = {"VmHWM": "peak MiB", "VmRSS": "resident MiB", "RssAnon": "anonymous MiB"}


def memory() -> dict[str, int]:
    """Returns the memory of this process in bytes, as Linux tells it."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[field].split()[0]) * 1024 for field, name in FIELDS.items()}


class FirstStep(pl.Callback):
    """Notes how long after the start of the process the first optimiser step ended."""

    seconds: float | None = None

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Lightning calls this after each step."""
        self.seconds = self.seconds or time.time() - psutil.Process().create_time()


def encoder(folder: Path) -> pa.Array:
    """Writes a random encoder with the tokenizer of MiniLM into a folder, and returns the words of Reuters R52."""
    settings = OmegaConf.load(CONF / "encoder" / "minilm.yaml")
    tokenizer = load_tokenizer(str(instantiate(settings.download).folder() / settings.name))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
    )
    BertModel(config).save_pretrained(folder)
    logging.getLogger("counterpoise.data").setLevel(logging.ERROR)
    texts = instantiate(OmegaConf.load(CONF / "data" / "reuters_r52.yaml")).load()["train"].texts
    return pa.array(" ".join(texts.to_pylist()).split())


def write(file: Path, rows: int, words: pa.Array) -> None:
    """Writes a CSV of random texts and their classes, 100,000 rows at a time."""
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1, CLASSES + 1)
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    with pa.csv.CSVWriter(file, schema) as writer:
        for start in range(0, rows, 100_000):
            lengths = rng.integers(20, 41, min(100_000, rows - start))
            offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
            drawn = words.take(pa.array(rng.integers(0, len(words), lengths.sum())))
            texts = pc.binary_join(pa.ListArray.from_arrays(offsets, drawn), " ")
            classes = rng.choice(CLASSES, len(lengths), p=chances / chances.sum())
            labels = pa.array([f"class {number}" for number in range(CLASSES)]).take(pa.array(classes))
            writer.write_table(pa.table([texts, labels], schema))


if __name__ == "__main__":
    command_line(main)
