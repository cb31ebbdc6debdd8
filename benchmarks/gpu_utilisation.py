"""How much of a GPU training uses: bert-base on texts of natural lengths, at most 128 and 512 tokens.

`python benchmarks/gpu_utilisation.py` trains a randomly initialised bert-base in bf16-mixed with fused AdamW through
this project's classifier and Trainer, on padded batches of similar length and on packed ones without padding
(`encoder.packed`), each with and without `encoder.compile`; and through Hugging Face's Trainer, by its defaults (fp32,
random batches padded to their longest text) and in bf16. `--device cpu` does the same with a tiny model, to see that it
works. Nothing is downloaded: texts are random tokens, their lengths are drawn like those of Reuters R52.

Model FLOPs utilisation (MFU; Chowdhery et al., PaLM, 2022): the floating-point operations that the texts need at least,
per second, over what the GPU can do at best in dense bf16. A text of s tokens needs s * (6 N + 12 L s d): N parameters
of the layers and the head (embeddings are looked up), L layers, width d; two thirds of it go backward. Only real tokens
count: computing on padding is a waste, not a use. The peak is of a table below; `--peak` in TFLOP/s for other GPUs.
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
from training_candidates import quieten
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

# Tokens of R52's training texts (WordPiece, not cut): every fortieth of the way from the shortest to the longest.
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
"""Dense bf16 TFLOP/s by what the name of the GPU has in it, from the makers' data sheets; the first that fits.

Lightning's own table (`lightning_fabric.utilities.throughput`) has the rates of sparse matrices for some of them.
"""
CLASSES = 8
WARM_UP = 10
"""Steps before the time is taken; a compiled encoder is compiled in them."""


@dataclass(frozen=True)
class Texts:
    """Random texts, and the size of the model that is trained on them."""

    store: TokenStore
    targets: np.ndarray
    encoder: Path
    max_length: int
    batch_size: int
    steps: int
    device: torch.device

    def dataset(self, packed: bool) -> TokenDataset:
        """Returns the texts in the batches of this project."""
        return TokenDataset(self.store, np.arange(len(self.store)), self.targets, 0, packed=packed)

    def source(self, **settings: Any) -> EncoderSource:
        """Returns the encoder, without dropout in the attention."""
        return EncoderSource(str(self.encoder), self.max_length, attention_dropout=0.0, **settings)


class Clock:
    """Seconds between the end of the warm-up and the end of the last step, by the device's own progress."""

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device, self.at, self.done, self.times = device, (WARM_UP, WARM_UP + steps), 0, list[float]()

    def step(self) -> None:
        """Notes the time where it is asked for; no other step waits for the device."""
        self.done += 1
        if self.done in self.at:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """What has been measured."""
        return self.times[1] - self.times[0]


def make_texts(arguments: argparse.Namespace, max_length: int, folder: Path) -> Texts:
    """Returns texts for all steps and writes the encoder."""
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
    places = rng.random((WARM_UP + steps) * batch_size) * (len(LENGTHS) - 1)
    lengths = np.minimum(np.interp(places, np.arange(len(LENGTHS)), LENGTHS).astype(np.int64), max_length)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.integers(5, config.vocab_size, offsets[-1]).astype(np.uint16)
    store = TokenStore(folder, tokens, offsets, 0)
    targets = rng.integers(0, CLASSES, len(lengths))
    return Texts(store, targets, folder / "encoder", max_length, batch_size, steps, torch.device(arguments.device))


# Each candidate trains on all texts and returns its seconds, and the rows whose steps were timed.


class LightningClock(pl.Callback):
    """Tells a clock of Lightning's steps."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *arguments: Any) -> None:  # noqa: D102
        self.clock.step()


def ours(texts: Texts, packed: bool, compiled: bool) -> tuple[float, np.ndarray]:
    """Trains through this project's classifier and Trainer."""
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
    """The encoder, the mean over tokens and a linear head."""

    def __init__(self, texts: Texts) -> None:
        super().__init__()
        self.backbone = BertModel.from_pretrained(
            texts.encoder, attention_probs_dropout_prob=0.0, add_pooling_layer=False
        )
        self.dropout, self.head = nn.Dropout(0.1), nn.Linear(self.backbone.config.hidden_size, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Returns the loss and logits [B, C] of token ids [B, T]."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        logits = self.head(self.dropout((hidden * mask).sum(1) / mask.sum(1)))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class TrainerClock(TrainerCallback):
    """Tells a clock of the Trainer's steps."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *arguments: Any, **more: Any) -> None:  # noqa: D102
        self.clock.step()


class InOrder(Trainer):
    """The Trainer on random rows that are known beforehand."""

    rows: np.ndarray

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.rows.tolist()


def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Returns a batch padded to its longest text, as `DataCollatorWithPadding` makes it of a tokenizer's output."""
    ids = [torch.as_tensor(item["input_ids"]) for item in items]
    return {
        "input_ids": nn.utils.rnn.pad_sequence(ids, batch_first=True),
        "attention_mask": nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in ids], batch_first=True),
        "labels": torch.tensor([item["labels"] for item in items]),
    }


def hugging_face(texts: Texts, bf16: bool) -> tuple[float, np.ndarray]:
    """Trains through Hugging Face's Trainer, by its defaults but for the precision."""
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


def needed(texts: Texts, rows: np.ndarray) -> float:
    """Returns the floating-point operations that training on these texts needs, see above."""
    backbone = texts.source().load().backbone
    config: Any = backbone.config
    parameters = sum(p.numel() for p in backbone.encoder.parameters()) + (config.hidden_size + 1) * CLASSES
    lengths = texts.store.lengths[rows].astype(float)
    return float((lengths * (6 * parameters + 12 * config.num_hidden_layers * lengths * config.hidden_size)).sum())


def measured(texts: Texts, repeats: int, peak: float | None) -> list[dict[str, Any]]:
    """Returns a row for each candidate, at one maximum length."""
    trained: dict[str, np.ndarray] = {}

    def tokens_per_second(name: str) -> float:
        seconds, trained[name] = CANDIDATES[name](texts)
        return int(texts.store.lengths[trained[name]].sum()) / seconds

    rates = interleaved({name: partial(tokens_per_second, name) for name in CANDIDATES}, repeats)
    rows = []
    for name, rate in rates.items():
        typical = statistics.median(rate)
        achieved = needed(texts, trained[name]) / texts.store.lengths[trained[name]].sum() * typical
        times, least, most = ratio(rate, rates["Trainer, defaults"])
        rows.append(
            {
                "": name,
                "at most": texts.max_length,
                "real tokens/s": typical,
                "TFLOP/s": achieved / 1e12,
                "MFU %": 100 * achieved / peak if peak else None,
                "this / Trainer": times,
                "spread": f"{least:.2f} to {most:.2f}",
            }
        )
    return rows


def peak_of(device: str, told: float | None) -> float | None:
    """Returns the FLOP/s that the device can do at best, or None where nobody knows."""
    if told is not None:
        return told * 1e12
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((peak * 1e12 for part, peak in PEAKS.items() if part in name), None)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--batch-size", type=int, help="texts of a step: 128, on a CPU 8")
    parser.add_argument("--steps", type=int, help="measured in each turn: 50, on a CPU 4")
    parser.add_argument("--repeats", type=int, help="turns: 3, on a CPU 1")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512], help="tokens of a text at most")
    parser.add_argument("--peak", type=float, help="of the device in dense bf16, TFLOP/s")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU here: --device cpu tries a tiny model, whose numbers mean nothing")
    quieten()
    peak, rows = peak_of(arguments.device, arguments.peak), []
    for max_length in arguments.lengths:
        with tempfile.TemporaryDirectory() as folder:
            texts = make_texts(arguments, max_length, Path(folder))
            rows += measured(texts, arguments.repeats or (1 if arguments.device == "cpu" else 3), peak)
    report(f"Training on {arguments.device}: batches of {texts.batch_size} texts", rows, arguments.json)


if __name__ == "__main__":
    command_line(main)
