"""Time and memory from a file of texts to training steps, by number of rows.

`python benchmarks/data_scale.py`; `--rows 200000 1000000 2000000` is the full measurement (ten minutes on 2 cores).

The CSV file holds texts of 20 to 40 random words of Reuters news and 50 classes of Zipf frequency. For each size, three
new processes run:

1. With an empty cache: read the file, tokenise it with the tokenizer of MiniLM, set up the data module.
2. With the cache of the first: set up again, and train 20 steps of a randomly initialised BERT (2 layers, width 128).
3. Tokenise part of the texts, in turn with a plain call of `tokenizers` that keeps no result. "ours / tokenizers" is
   the ratio of the speeds.

Memory is resident memory of the process beyond its imports: the peak during each step, and what remains after it.
Resident memory includes mapped files, which the system can reclaim at any time; "anonymous" excludes them. "start" is
the time since the start of the process, imports included.
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
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.model.encoder import EncoderSource
from counterpoise.model.module import Classifier
from counterpoise.model.optim import Optim
from counterpoise.terminal import command_line

CONF = Path(__file__).resolve().parent.parent / "conf"
CLASSES, STEPS, MAX_LENGTH = 50, 20, 64
SAMPLE, REPEATS = 20_000, 3
"""Number of texts for the comparison with `tokenizers`, and of repeats."""


def main() -> None:
    """Read the command line, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[100_000, 200_000, 400_000], help="sizes of the file, in rows"
    )
    parser.add_argument("--json", type=Path, help="JSON file to write")
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
            steps[1]["ours / tokenizers"] = in_fresh_process(relative_tokenisation_speed, str(file), name)
            rows += [{"rows": size, **step} for step in steps]
            shutil.rmtree(folder / "cache")
            file.unlink()
    report("From a file of texts to training steps", rows, arguments.json)


def first_start(file: str, folder: str) -> list[dict[str, Any]]:
    """Return time and memory of reading, tokenising and setting up with an empty cache."""
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
    """Return time and memory of setting up from the cache, and of training."""
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


def relative_tokenisation_speed(file: str, folder: str) -> float:
    """Return the speed of `tokenise` relative to a plain call of the tokenizer, on the first texts of the file."""
    texts = FileSource(file).load()["train"].texts.slice(0, SAMPLE)
    tokenizer = load_tokenizer(f"{folder}/encoder")
    plain = texts.to_pylist()

    def ours() -> float:
        shutil.rmtree(cache_root() / "tokens", ignore_errors=True)
        return timed(lambda: tokenise(texts, tokenizer, Tokenisation(MAX_LENGTH), "texts"))

    ours()  # warm-up: sets the truncation length and starts the threads of the tokenizer
    seconds = interleaved(
        {"ours": ours, "tokenizers": lambda: timed(lambda: tokenizer.backend_tokenizer.encode_batch_fast(plain))},
        REPEATS,
    )
    return ratio(seconds["tokenizers"], seconds["ours"])[0]


def module(file: str, folder: str) -> TextDataModule:
    """Return the data module of a file, before `setup`."""
    return TextDataModule(FileSource(file), load_tokenizer(f"{folder}/encoder"), Tokenisation(MAX_LENGTH))


def set_up(data: TextDataModule) -> None:
    """Prepare the data as a run does before training."""
    data.prepare_data()
    data.setup()
    _ = data.counts, data.data_warnings


class Meter:
    """Measures steps of a program: seconds, and resident memory in MiB beyond that at construction."""

    def __init__(self) -> None:
        self.before = memory()
        self.steps: list[dict[str, Any]] = []

    def step(self, name: str, work: Any) -> None:
        """Do the work and append its time and memory to `steps`."""
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        seconds = timed(work)
        after = memory()
        grown = {key: round((after[key] - self.before[start]) / 2**20, 1) for key, start in GROWTH.items()}
        self.steps.append(
            {"step": name, "seconds": seconds, "start": None, **grown, "tokens/s": None, "ours / tokenizers": None}
        )


GROWTH = {"peak MiB": "resident MiB", "resident MiB": "resident MiB", "anonymous MiB": "anonymous MiB"}
FIELDS = {"VmHWM": "peak MiB", "VmRSS": "resident MiB", "RssAnon": "anonymous MiB"}


def memory() -> dict[str, int]:
    """Return the memory of this process in bytes, from /proc of Linux."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[field].split()[0]) * 1024 for field, name in FIELDS.items()}


class FirstStep(pl.Callback):
    """Records the time from the start of the process to the end of the first optimizer step."""

    seconds: float | None = None

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Record the time of the first step."""
        self.seconds = self.seconds or time.time() - psutil.Process().create_time()


def encoder(folder: Path) -> pa.Array:
    """Write a random encoder with the tokenizer of MiniLM into a folder; return the words of Reuters R52."""
    settings = OmegaConf.load(CONF / "encoder" / "minilm.yaml")
    tokenizer = load_tokenizer(str(instantiate(settings.mirror).locate()))
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
    """Write a CSV of random texts and classes, in blocks of 100,000 rows."""
    rng = np.random.default_rng(0)
    frequencies = 1 / np.arange(1, CLASSES + 1)
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    with pa.csv.CSVWriter(file, schema) as writer:
        for start in range(0, rows, 100_000):
            lengths = rng.integers(20, 41, min(100_000, rows - start))
            offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
            drawn = words.take(pa.array(rng.integers(0, len(words), lengths.sum())))
            texts = pc.binary_join(pa.ListArray.from_arrays(offsets, drawn), " ")
            classes = rng.choice(CLASSES, len(lengths), p=frequencies / frequencies.sum())
            labels = pa.array([f"class {number}" for number in range(CLASSES)]).take(pa.array(classes))
            writer.write_table(pa.table([texts, labels], schema))


if __name__ == "__main__":
    command_line(main)
