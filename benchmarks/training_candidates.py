"""The ways of training that `training.py` compares: this project, a plain loop over its batches, and peers."""

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytorch_lightning as pl
import torch
import transformers
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    DataCollatorWithPadding,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)

from counterpoise.balance import FittedStrategy
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.token_store import load_tokenizer
from counterpoise.model.encoder import Encoder, EncoderSource
from counterpoise.model.module import Classifier
from counterpoise.training.monitors import set_modes
from counterpoise.training.precision import choose_precision

ROOT = Path(__file__).resolve().parent.parent

Batches = list[np.ndarray]
"""Row numbers of the training split, one array per step."""
ChooseBatches = Callable[[Batches, np.ndarray], Batches]
"""Selects batches of an epoch, given the length of each row."""


class SampledDataModule(TextDataModule):
    """The project's data module. With `choose`, it trains on the batches of an epoch that `choose` selects."""

    choose: ChooseBatches | None = None
    batches: Batches

    def train_dataloader(self) -> DataLoader:
        """Return the project's loader, restricted to the selected batches."""
        loader = super().train_dataloader()
        if self.choose is not None:
            order: Any = loader.sampler
            chosen = self.batches = self.choose(list(order.epoch_steps()), self.splits["train"].dataset.lengths)
            order.epoch_steps, order.steps = lambda: chosen, len(chosen)
        return loader


@dataclass(frozen=True)
class Setting:
    """Data, encoder and strategy that all candidates share.

    Args:
        config: The composed configuration.
        source: The encoder.
        data: The data module after `setup`.
        fitted: The fitted strategy.
        precision: Precision of this project, as Lightning names it.
        folder: Run folder, deleted with this object.
    """

    config: DictConfig
    source: EncoderSource
    data: SampledDataModule
    fitted: FittedStrategy
    precision: str
    folder: tempfile.TemporaryDirectory

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.data.splits["train"]) // self.data.batch_size)

    @property
    def weight(self) -> Tensor:
        """Class weights, float32 [C]."""
        return torch.as_tensor(self.fitted.at_epoch(0).correction.class_weights, dtype=torch.float32)

    def texts(self, split: str) -> tuple[list[str], list[int]]:
        """Return the texts and classes of a split."""
        part = self.data.splits[split]
        return part.texts(np.arange(len(part))), part.dataset.targets.tolist()


@dataclass
class Training:
    """Measurements of a candidate.

    Args:
        ends: Time at the end of each step.
        batches: Rows of each step.
        processed: Returns the number of tokens, with padding, of a batch of rows.
        evaluate: Returns logits [N, C] and classes [N] of the test split.
    """

    ends: list[float]
    batches: Batches
    processed: Callable[[np.ndarray], int]
    evaluate: Callable[[], tuple[Tensor, Tensor]]


def prepare(data: str, max_length: int, precision: str, *overrides: str) -> Setting:
    """Return data, encoder and strategy as `train.py` builds them from these settings."""
    silence_libraries()
    folder = tempfile.TemporaryDirectory(prefix="counterpoise-")
    settings = [f"data={data}", "trainer=cpu", f"trainer.precision={precision}", f"encoder.max_length={max_length}"]
    settings += ["strategy=weighted", f"hydra.runtime.output_dir={folder.name}", *overrides]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", settings, return_hydra_config=True)
    # Callbacks and loggers ask Hydra for the run folder.
    HydraConfig.instance().set_config(config)
    source = instantiate(config.encoder)
    tokenizer = load_tokenizer(source.locate())
    module = SampledDataModule(
        instantiate(config.data), tokenizer, source.tokenisation, seed=config.seed, **config.loader
    )
    module.prepare_data()
    module.setup()
    fitted = instantiate(config.strategy).fit(module.labels, module.index, config.trainer.max_epochs)
    module.sampler = lambda epoch: fitted.at_epoch(epoch).sampler
    chosen = choose_precision(config, source.load()) if precision == "auto" else precision
    return Setting(config, source, module, fitted, chosen, folder)


# This project, with and without Lightning.


class StepTimes(pl.Callback):
    """Records the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *arguments: Any) -> None:  # noqa: D102
        self.ends.append(time.perf_counter())


def ours(setting: Setting, choose: ChooseBatches) -> Training:
    """Train as `train.py` does, with one validation batch after the last step."""
    model, ends, data, config = classifier(setting), StepTimes(), setting.data, setting.config
    data.choose = choose
    set_modes(config.callbacks)
    callbacks = [instantiate(callback) for callback in config.callbacks.values() if callback]
    loggers = [instantiate(logger) for logger in config.logger.values() if logger]
    trainer = instantiate(config.trainer, precision=setting.precision, callbacks=[*callbacks, ends], logger=loggers)
    trainer.limit_val_batches = 1
    trainer.fit(model, datamodule=data)
    return Training(ends.ends, data.batches, partial(padded_tokens, data), partial(evaluate_test, model, data))


def bare(setting: Setting, choose: ChooseBatches) -> Training:
    """Train on the project's batches in a plain loop."""
    model, data = classifier(setting), setting.data
    data.choose, data.trainer = choose, None
    optimizer, schedule = model.optim.build(model.encoder, model.head, setting.steps)
    autocast = torch.autocast("cpu", torch.bfloat16) if setting.precision == "bf16-mixed" else nullcontext()
    model.train()
    ends = []
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        with autocast:
            loss = model.loss(model(batch), batch["targets"], denominator=data.batch_size)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), setting.config.trainer.gradient_clip_val)
        optimizer.step()
        schedule.step()
        ends.append(time.perf_counter())
    return Training(ends, data.batches, partial(padded_tokens, data), partial(evaluate_test, model, data))


def classifier(setting: Setting) -> Classifier:
    """Return the model of `train.py`."""
    torch.manual_seed(setting.config.seed)
    data, fitted, config = setting.data, setting.fitted, setting.config
    optim, bounds = instantiate(config.optim), instantiate(config.buckets)
    return Classifier(
        setting.source.load(),
        fitted.at_epoch(0).loss,
        optim,
        data.labels,
        data.counts,
        data.batch_size,
        losses=lambda epoch: fitted.at_epoch(epoch).loss,
        dropout=config.dropout,
        bounds=bounds,
    )


def padded_tokens(data: TextDataModule, rows: np.ndarray) -> int:
    """Return the number of tokens, with padding, of the project's batch of these rows."""
    return data.splits["train"].dataset[rows]["input_ids"].numel()


@torch.inference_mode()
def evaluate_test(model: Classifier, data: TextDataModule) -> tuple[Tensor, Tensor]:
    """Return logits [N, C] and classes [N] of the test split."""
    model.eval()
    results = [(model(batch), batch["targets"]) for batch in data.evaluation_dataloader("test")]
    return torch.cat([logits for logits, _ in results]), torch.cat([targets for _, targets in results])


# Peers: transformers and plain PyTorch.


class Peer(nn.Module):
    """The encoder as loaded by transformers, mean pooling, dropout and a linear head."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        torch.manual_seed(setting.config.seed)
        source = setting.source
        config = AutoConfig.from_pretrained(source.locate())
        if source.hidden_dropout is not None:
            config.hidden_dropout_prob = source.hidden_dropout
        if source.attention_dropout is not None:
            config.attention_probs_dropout_prob = source.attention_dropout
        self.backbone = AutoModel.from_pretrained(source.locate(), config=config, add_pooling_layer=False)
        self.dropout = nn.Dropout(setting.config.dropout)
        self.head = nn.Linear(config.hidden_size, len(setting.data.labels))
        self.train()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return logits [B, C] of token ids [B, T]; `labels` is an argument that the Trainer expects."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return {"logits": self.head(self.dropout((hidden * mask).sum(1) / mask.sum(1)))}

    def optimizer(self, setting: Setting, fused: bool) -> tuple[torch.optim.Optimizer, Any]:
        """Return the AdamW and the schedule of conf/optim."""
        return instantiate(setting.config.optim).build(Encoder(self.backbone), self.head, setting.steps, fused)


class Padded(Dataset):
    """Texts tokenised in advance and padded to the maximum length, as in many tutorials."""

    def __init__(self, texts: list[str], labels: list[int], tokenizer: Any, max_length: int) -> None:
        self.labels = torch.tensor(labels)
        self.encodings = tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
            return_token_type_ids=False,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {**{name: values[row] for name, values in self.encodings.items()}, "labels": self.labels[row]}


def forum(setting: Setting, choose: ChooseBatches) -> Training:
    """Train in the loop of many tutorials."""
    data, max_length = setting.data, setting.data.tokenisation.max_length
    dataset = Padded(*setting.texts("train"), data.tokenizer, max_length)
    model = Peer(setting)
    order = torch.randperm(len(dataset)).numpy()  # the order of `shuffle=True`
    batches = choose(split(order, data.batch_size), data.splits["train"].dataset.lengths)
    criterion = nn.CrossEntropyLoss(weight=setting.weight)
    optimizer, schedule = model.optimizer(setting, fused=False)
    ends, running = [], 0.0
    for batch in DataLoader(dataset, batch_sampler=batches):  # type: ignore[arg-type]
        optimizer.zero_grad()
        labels = batch.pop("labels")
        loss = criterion(model(**batch)["logits"], labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        ends.append(time.perf_counter())
    return Training(ends, batches, lambda rows: len(rows) * max_length, partial(evaluate_peer_test, model, setting))


class WeightedTrainer(transformers.Trainer):
    """The Trainer with class weights, on selected batches of its epoch."""

    def __init__(self, setting: Setting, choose: ChooseBatches, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.setting, self.choose, self.weight, self.batches = setting, choose, setting.weight, list[np.ndarray]()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the weighted cross-entropy."""
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs["logits"], labels, weight=self.weight)
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        data = self.setting.data
        order = np.array(list(super()._get_train_sampler(train_dataset)))  # type: ignore[arg-type]
        self.batches = self.choose(split(order, data.batch_size), data.splits["train"].dataset.lengths)
        return np.concatenate(self.batches).tolist()


class TrainerStepTimes(TrainerCallback):
    """Records the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *arguments: Any, **more: Any) -> None:  # noqa: D102
        self.ends.append(time.perf_counter())


def trainer(setting: Setting, choose: ChooseBatches, grouped: bool = False) -> Training:
    """Train with Hugging Face's Trainer; `grouped` selects its fastest configuration."""
    data, ends = setting.data, TrainerStepTimes()
    texts, labels = setting.texts("train")
    encodings = data.tokenizer(
        texts, truncation=True, max_length=data.tokenisation.max_length, return_token_type_ids=False
    )
    lengths = data.splits["train"].dataset.lengths
    model = Peer(setting)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=data.batch_size,
            num_train_epochs=1,
            max_grad_norm=setting.config.trainer.gradient_clip_val,
            train_sampling_strategy="group_by_length" if grouped else "random",
            bf16=grouped and setting.precision == "bf16-mixed",
            seed=setting.config.seed,
            use_cpu=True,
            dataloader_pin_memory=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        hf = WeightedTrainer(
            setting,
            choose,
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_dict({**encodings, "labels": labels}),
            data_collator=DataCollatorWithPadding(data.tokenizer),
            optimizers=model.optimizer(setting, fused=True),
            callbacks=[ends],
        )
        hf.remove_callback(PrinterCallback)
        hf.train()
    padded = partial(tokens_padded_to_longest, lengths)
    return Training(ends.ends, hf.batches, padded, partial(evaluate_peer_test, model, setting))


def tokens_padded_to_longest(lengths: np.ndarray, rows: np.ndarray) -> int:
    """Return the number of tokens of a batch of these rows, padded to its longest text."""
    return len(rows) * int(lengths[rows].max())


def split(order: np.ndarray, batch_size: int) -> Batches:
    """Return batches of the rows. The last one may be smaller."""
    return np.split(order, range(batch_size, len(order), batch_size))


@torch.inference_mode()
def evaluate_peer_test(model: Peer, setting: Setting) -> tuple[Tensor, Tensor]:
    """Return logits [N, C] and classes [N] of the test split."""
    model.eval()
    texts, labels = setting.texts("test")
    settings = {
        "padding": True,
        "truncation": True,
        "max_length": setting.data.tokenisation.max_length,
        "return_tensors": "pt",
    }
    parts = [texts[start : start + 64] for start in range(0, len(texts), 64)]
    encoded = [setting.data.tokenizer(part, return_token_type_ids=False, **settings) for part in parts]
    return torch.cat([model(**part)["logits"] for part in encoded]), torch.tensor(labels)


CANDIDATES: dict[str, Callable[[Setting, ChooseBatches], Training]] = {
    "forum": forum,
    "trainer": trainer,
    "trainer, grouped": partial(trainer, grouped=True),
    "bare loop": bare,
    "ours": ours,
}


def silence_libraries() -> None:
    """Silence warnings and log messages of the libraries."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("pytorch_lightning", "lightning_fabric", "counterpoise"):
        logging.getLogger(name).setLevel(logging.ERROR)
