"""Experiments whose data or encoder come from the Hub train on local data of the same format with a tiny encoder."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from commandline import run

pytestmark = pytest.mark.e2e

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS = {
    "bert": lambda size: transformers.BertConfig(vocab_size=size, **TINY),
    "roberta": lambda size: transformers.RobertaConfig(vocab_size=size, pad_token_id=0, **TINY),
    "modernbert": lambda size: transformers.ModernBertConfig(
        vocab_size=size, pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3, **TINY
    ),
}
"""Configuration of a tiny model of each family, given the size of its vocabulary."""


def encoder(family: str, folder: Path, words: list[str]) -> Path:
    """Save a tiny model of a family with a tokenizer of these words, and characters as in `bert-base-chinese`."""
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    transformers.BertTokenizerFast(vocab=vocabulary, model_max_length=512).save_pretrained(folder)
    torch.manual_seed(0)
    transformers.AutoModel.from_config(CONFIGS[family](len(vocabulary))).save_pretrained(folder)
    return folder


def test_imdb_trains_on_a_dataset_of_the_same_format(hub, tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    texts = [
        " ".join(rng.permutation([("bad", "good")[label], *rng.choice(["a", "film", "is"], 9)])) for label in labels
    ]
    features = hub.Features({"text": hub.Value("string"), "label": hub.ClassLabel(names=["neg", "pos"])})
    split = hub.Dataset.from_dict({"text": texts, "label": labels.tolist()}, features=features)
    hub.DatasetDict(train=split, test=split.select(range(100)), unsupervised=split).save_to_disk(tmp_path / "imdb")
    model = encoder("bert", tmp_path / "bert", ["bad", "good", "a", "film", "is"])
    done = run(
        tmp_path / "run",
        "experiment=imdb",
        f"data.path={tmp_path / 'imdb'}",
        f"encoder.name={model}",
        "loader.train_limit=200",
        "loader.validation_limit=50",
        "loader.batch_size=4",
        "encoder.hidden_dropout=0",
        "optim.encoder_lr=1e-2",
        "optim.head_lr=1e-2",
        "callbacks.early_stopping.patience=6",
        "trainer=cpu",
        report=False,
    )
    assert done.code == 0, done.err
    table = pd.read_csv(done.folder / "per_class.csv")
    assert sorted(table["class"]) == ["neg", "pos"]
    assert abs(table.train_count.sum() - 200) <= 1
    assert table.test_count.sum() == 100
    assert done.metrics["test"]["accuracy"] > 0.8


def test_chinese_trains_on_texts_with_several_labels(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(300):
        labels = [label for label, rate in (("体育", 0.6), ("经济", 0.3), ("天气", 0.1)) if rng.random() < rate]
        text = "".join(rng.permutation([*"".join(labels), *rng.choice(list("今日新闻报道说"), 8)]))
        rows.append({"text": text, "label": labels})
    file = tmp_path / "posts.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    model = encoder("bert", tmp_path / "bert", list("体育经济天气今日新闻报道说"))
    done = run(
        tmp_path / "run",
        "experiment=chinese",
        f"data.train={file}",
        f"encoder.name={model}",
        "optim.encoder_lr=1e-2",
        "loader.batch_size=8",
        "trainer=cpu",
        "trainer.max_epochs=8",
        report=False,
    )
    assert done.code == 0, done.err
    assert done.metrics["test"]["map"] > 0.6


@pytest.mark.parametrize("name", ["roberta", "modernbert"])
def test_encoders_of_the_hub_train(name, texts, tmp_path):
    words = sorted({word for file in texts.values() for word in file.read_text().replace(",", " ").split()})
    done = run(
        tmp_path / "run",
        f"experiment={name}",
        "data=files",
        f"data.train={texts['train']}",
        f"data.test={texts['test']}",
        f"encoder.name={encoder(name, tmp_path / name, words)}",
        "encoder.max_length=32",
        "encoder.hidden_dropout=0",
        "optim.encoder_lr=1e-2",
        "loader.batch_size=8",
        "trainer=cpu",
        "trainer.max_epochs=6",
        report=False,
    )
    assert done.code == 0, done.err
    counts = pd.read_csv(done.folder / "per_class.csv").test_count
    assert done.metrics["test"]["accuracy"] > counts.max() / counts.sum() + 0.1
    assert json.loads((done.folder / "encoder.json").read_text())["name"].endswith(name)
