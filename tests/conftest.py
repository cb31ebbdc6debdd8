"""Fixtures: a tiny randomly initialised BERT, generated imbalanced texts, and an empty cache."""

import csv
import gc
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from browser import chromium
from refusals import user_error

torch.set_num_threads(1)
# The duration of an example and of its generation depends on the load of the machine.
settings.register_profile("patient", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Exempt what lives until the end, such as thousands of test items, from collections of garbage."""
    gc.collect()
    gc.freeze()


COUNTS = {"alpha": 60, "beta": 24, "gamma": 8, "delta": 1}
"""Number of generated training texts of each class."""

WORDS = [f"{label}{i}" for label in COUNTS for i in range(8)] + [f"word{i}" for i in range(40)]


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders for caches. `tmp_path_factory` would list all earlier ones for each of the thousands of tests."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for each test."""
    folder = next(caches)
    folder.mkdir()
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of 2 layers and width 16, and its word tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: i for i, token in enumerate(specials + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_texts(path: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write a CSV (columns text, label) in which each class has its own words besides common ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for label, count in counts.items():
        for _ in range(count):
            own = [f"{label}{i}" for i in rng.integers(0, 8, 3)]
            common = [f"word{i}" for i in rng.integers(0, 40, rng.integers(1, 20))]
            rows.append([" ".join(rng.permutation(own + common)), label])
    order = rng.permutation(len(rows))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows[i] for i in order)
    return path


def write_tagged_texts(path: Path, rows: int, seed: int = 0) -> Path:
    """Write JSON lines (text, labels, source) with 0 to 3 labels each, alpha often and delta rarely."""
    rng = np.random.default_rng(seed)
    rates = {"alpha": 0.6, "beta": 0.3, "gamma": 0.1, "delta": 0.04}
    with path.open("w") as file:
        for row in range(rows):
            # The first rows have each label twice, so that no label is absent.
            always = list(rates)[row] if row < 4 else list(rates)[row - 4] if row < 8 else ""
            labels = [label for label, rate in rates.items() if label == always or rng.random() < rate]
            own = [f"{label}{i}" for label in labels for i in rng.integers(0, 8, 3)]
            common = [f"word{i}" for i in rng.integers(0, 40, rng.integers(1, 12))]
            text = " ".join(rng.permutation(own + common))
            file.write(json.dumps({"text": text, "labels": labels, "source": f"s{row // 2}"}) + "\n")
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; a process can run one only."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files "train" and "test" of generated multi-label texts."""
    folder = tmp_path_factory.mktemp("tagged")
    return {
        "train": write_tagged_texts(folder / "train.jsonl", 240),
        "test": write_tagged_texts(folder / "test.jsonl", 80, seed=1),
    }


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files "train" (`COUNTS`) and "test" of generated single-label texts."""
    folder = tmp_path_factory.mktemp("texts")
    test = {label: max(2, count // 4) for label, count in COUNTS.items()}
    return {
        "train": write_texts(folder / "train.csv", COUNTS),
        "test": write_texts(folder / "test.csv", test, seed=1),
    }


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The `datasets` library, offline and with an empty cache."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return datasets


def refused(source) -> str:
    """Return the message of the UserError that a data source raises."""
    return user_error(source.load)
