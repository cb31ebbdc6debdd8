"""GPU utilisation of training: bert-base on texts of natural lengths, truncated to 128 and 512 tokens.

`python benchmarks/gpu_utilisation.py` trains a randomly initialised bert-base in bf16-mixed with fused AdamW through
this project's classifier and Trainer, on padded batches of similar length and on packed batches (`encoder.packed`),
each with and without `encoder.compile`; and through Hugging Face's Trainer, with its defaults (fp32, random batches
padded to their longest text) and in bf16. `--device cpu` tries all of it with a tiny model. Nothing is downloaded:
texts are random tokens with the lengths of Reuters R52.

Model FLOPs utilisation (MFU; Chowdhery et al., PaLM, 2022) is the number of floating-point operations per second that
the texts require, relative to the peak of the GPU in dense bf16. A text of s tokens requires s * (6 N + 12 L s d), with
N parameters of layers and head (embeddings are looked up), L layers and width d; two thirds of it are the backward
pass. Padding does not count. Set the peak of a GPU that is not in the table below with `--peak`, in TFLOP/s.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytorch_lightning as pl
import torch
from measure import interleaved, ratio, report
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from training_candidates import silence_libraries
from transformers import BertConfig, BertModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from counterpoise.balance import ClassIndex, Strategy
from counterpoise.data.batching import BucketBatchSampler, TokenDataset
from counterpoise.data.token_store import TokenStore
from counterpoise.errors import UserError
from counterpoise.model.encoder import EncoderSource
from counterpoise.model.module import Classifier
from counterpoise.model.optim import Optim
from counterpoise.terminal import command_line
from counterpoise.training.trainer import build

# Quantiles 0, 1/40, ... 1 of the number of WordPiece tokens of R52's training texts.
# fmt: off
LENGTHS = (
    9, 15, 16, 19, 26, 28, 30, 34, 40, 45, 49, 53, 56, 61, 64, 68, 72, 77, 81, 84, 89, 94, 99, 103, 107, 112, 116, 122,
    130, 141, 155, 172, 190, 207, 225, 250, 290, 329, 406, 546, 1102,
)
# fmt: on
PEAKS = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
"""Dense bf16 TFLOP/s by part of the GPU's name, from the manufacturers' data sheets. The first match counts.

Lightning's table (`lightning_fabric.utilities.throughput`) has the rates of sparse matrices for some GPUs.
"""
CLASSES = 8
WARM_UP = 10
"""Steps before the measurement, in which an encoder is compiled."""


@dataclass(frozen=True)
class Texts:
    """Random texts and the settings of a training on them."""

    store: TokenStore
    targets: np.ndarray
    encoder: Path
    max_length: int
    batch_size: int
    steps: int
    device: torch.device

    def dataset(self, packed: bool) -> TokenDataset:
        """Return the texts as a dataset of this project."""
        return TokenDataset(self.store, np.arange(len(self.store)), self.targets, 0, packed=packed)

    def source(self, **settings: Any) -> EncoderSource:
        """Return the encoder, without dropout of attention weights."""
        return EncoderSource(str(self.encoder), self.max_length, attention_dropout=0.0, **settings)


class Clock:
    """Measures the time from the end of the warm-up to the end of the last step on the device."""

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device, self.timed_steps, self.steps = device, (WARM_UP, WARM_UP + steps), 0
        self.times: list[float] = []

    def step(self) -> None:
        """Record the end of a step. Only the first and the last timed step wait for the device."""
        self.steps += 1
        if self.steps in self.timed_steps:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """The measured time."""
        return self.times[1] - self.times[0]


def make_texts(arguments: argparse.Namespace, max_length: int, folder: Path) -> Texts:
    """Return texts for all steps, and write the encoder to the folder."""
    small = arguments.device == "cpu"
    size: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 256,
    }
    config = BertConfig(**(size if small else {}))
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "encoder")
    batch_size = arguments.batch_size or (8 if small else 128)
    steps = arguments.steps or (4 if small else 50)
    rng = np.random.default_rng(0)
    quantiles = rng.random((WARM_UP + steps) * batch_size) * (len(LENGTHS) - 1)
    lengths = np.minimum(np.interp(quantiles, np.arange(len(LENGTHS)), LENGTHS).astype(np.int64), max_length)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.integers(5, config.vocab_size, offsets[-1]).astype(np.uint16)
    store = TokenStore(folder, tokens, offsets, 0)
    targets = rng.integers(0, CLASSES, len(lengths))
    return Texts(store, targets, folder / "encoder", max_length, batch_size, steps, torch.device(arguments.device))


# Each candidate trains on all texts and returns the measured seconds and the rows of the measured steps.


class LightningClock(pl.Callback):
    """Reports Lightning's steps to a clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *arguments: Any) -> None:  # noqa: D102
        self.clock.step()


def ours(texts: Texts, packed: bool, compiled: bool) -> tuple[float, np.ndarray]:
    """Train with this project's classifier and Trainer."""
    torch.compiler.reset()
    torch.manual_seed(0)
    dataset = texts.dataset(packed)
    index = ClassIndex.from_targets(texts.targets, CLASSES)
    labels = [str(c) for c in range(CLASSES)]
    fitted = Strategy().fit(labels, index, 1)
    encoder = texts.source(packed=packed, compile=compiled).load()
    model = Classifier(encoder, fitted.final.loss, Optim(), labels, index.counts, texts.batch_size)
    order = BucketBatchSampler(
        lambda epoch, rng: fitted.at_epoch(epoch).sampler.draw(index, rng),
        len(dataset),
        dataset.lengths,
        texts.batch_size,
    )
    clock, on_gpu = Clock(texts.device, texts.steps), texts.device.type == "cuda"
    trainer = build(
        "gpu" if on_gpu else "cpu",
        1,
        "bf16-mixed",
        max_epochs=1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LightningClock(clock)],
    )
    loader = DataLoader(dataset, sampler=order, batch_size=None, pin_memory=on_gpu)
    trainer.fit(model, loader)
    return clock.seconds, np.concatenate(list(order.epoch_steps())[WARM_UP:])


class Peer(nn.Module):
    """The encoder, mean pooling and a linear head."""

    def __init__(self, texts: Texts) -> None:
        super().__init__()
        self.backbone = BertModel.from_pretrained(
            texts.encoder, attention_probs_dropout_prob=0.0, add_pooling_layer=False
        )
        self.dropout, self.head = nn.Dropout(0.1), nn.Linear(self.backbone.config.hidden_size, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss and logits [B, C] of token ids [B, T]."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        logits = self.head(self.dropout((hidden * mask).sum(1) / mask.sum(1)))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class TrainerClock(TrainerCallback):
    """Reports the Trainer's steps to a clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *arguments: Any, **more: Any) -> None:  # noqa: D102
        self.clock.step()


class InOrder(Trainer):
    """The Trainer with a given order of the rows."""

    rows: np.ndarray

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.rows.tolist()


def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Return a batch padded to its longest text, as `DataCollatorWithPadding` does."""
    ids = [torch.as_tensor(item["input_ids"]) for item in items]
    return {
        "input_ids": nn.utils.rnn.pad_sequence(ids, batch_first=True),
        "attention_mask": nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in ids], batch_first=True),
        "labels": torch.tensor([item["labels"] for item in items]),
    }


def hugging_face(texts: Texts, bf16: bool) -> tuple[float, np.ndarray]:
    """Train with Hugging Face's Trainer and its defaults, except for the precision."""
    torch.manual_seed(0)
    offsets, tokens = texts.store.offsets, texts.store.tokens
    clock = Clock(texts.device, texts.steps)
    rows = {"input_ids": np.split(tokens.astype(np.int64), offsets[1:-1]), "labels": texts.targets}
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            Peer(texts),
            TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=texts.batch_size,
                num_train_epochs=1,
                bf16=bf16,
                use_cpu=texts.device.type == "cpu",
                dataloader_pin_memory=texts.device.type == "cuda",
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            collate,
            datasets.Dataset.from_dict(rows),
            callbacks=[TrainerClock(clock)],
        )
        trainer.rows = torch.randperm(len(texts.targets)).numpy()
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.seconds, trainer.rows[WARM_UP * texts.batch_size :]


CANDIDATES: dict[str, Callable[[Texts], tuple[float, np.ndarray]]] = {
    "Trainer, defaults": partial(hugging_face, bf16=False),
    "Trainer, bf16": partial(hugging_face, bf16=True),
    "ours, padded": partial(ours, packed=False, compiled=False),
    "ours, padded, compiled": partial(ours, packed=False, compiled=True),
    "ours, packed": partial(ours, packed=True, compiled=False),
    "ours, packed, compiled": partial(ours, packed=True, compiled=True),
}


def required_flops(texts: Texts, rows: np.ndarray) -> float:
    """Return the floating-point operations that training on these texts requires."""
    backbone = texts.source().load().backbone
    config: Any = backbone.config
    parameters = sum(p.numel() for p in backbone.encoder.parameters()) + (config.hidden_size + 1) * CLASSES
    lengths = texts.store.lengths[rows].astype(float)
    return float((lengths * (6 * parameters + 12 * config.num_hidden_layers * lengths * config.hidden_size)).sum())


def compare(texts: Texts, repeats: int, peak: float | None) -> list[dict[str, Any]]:
    """Return one row per candidate, at one maximum length."""
    trained: dict[str, np.ndarray] = {}

    def tokens_per_second(name: str) -> float:
        seconds, trained[name] = CANDIDATES[name](texts)
        return int(texts.store.lengths[trained[name]].sum()) / seconds

    rates = interleaved({name: partial(tokens_per_second, name) for name in CANDIDATES}, repeats)
    rows = []
    for name, rate in rates.items():
        typical = statistics.median(rate)
        achieved = required_flops(texts, trained[name]) / texts.store.lengths[trained[name]].sum() * typical
        times, least, most = ratio(rate, rates["Trainer, defaults"])
        rows.append(
            {
                "": name,
                "max length": texts.max_length,
                "real tokens/s": typical,
                "TFLOP/s": achieved / 1e12,
                "MFU %": 100 * achieved / peak if peak else None,
                "this / Trainer": times,
                "spread": f"{least:.2f} to {most:.2f}",
            }
        )
    return rows


def peak_flops(device: str, given: float | None) -> float | None:
    """Return the peak FLOP/s of the device: the given TFLOP/s, else that of the table; None if it is unknown."""
    if given is not None:
        return given * 1e12
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((peak * 1e12 for part, peak in PEAKS.items() if part in name), None)


def main() -> None:
    """Read the command line, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu trains a tiny model")
    parser.add_argument("--batch-size", type=int, help="texts per step (default: 128; on a CPU 8)")
    parser.add_argument("--steps", type=int, help="measured steps per repeat (default: 50; on a CPU 4)")
    parser.add_argument("--repeats", type=int, help="repeats (default: 3; on a CPU 1)")
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        default=[128, 512],
        help="maximum tokens per text",
    )
    parser.add_argument("--peak", type=float, help="peak of the device in dense bf16, in TFLOP/s")
    parser.add_argument("--json", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU; --device cpu tries a tiny model, whose numbers are not meaningful")
    silence_libraries()
    peak, rows = peak_flops(arguments.device, arguments.peak), []
    for max_length in arguments.lengths:
        with tempfile.TemporaryDirectory() as folder:
            texts = make_texts(arguments, max_length, Path(folder))
            rows += compare(texts, arguments.repeats or (1 if arguments.device == "cpu" else 3), peak)
    report(f"Training on {arguments.device}: batches of {texts.batch_size} texts", rows, arguments.json)


if __name__ == "__main__":
    command_line(main)
