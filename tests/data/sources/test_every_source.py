"""Behaviour that every source of conf/data shares. Sources that use the network read local files of the same format."""

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from commandline import ROOT
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.sources import Source
from counterpoise.data.token_store import load_tokenizer
from counterpoise.data.tokenisation import Tokenisation

NAMES = sorted(path.stem for path in (ROOT / "conf" / "data").glob("*.yaml"))
ROWS = [(f"word{i} alpha{i % 3}", f"class{i % 2}") for i in range(40)]


def write_csv(folder: Path) -> dict:
    (folder / "train.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    return {"train": str(folder / "train.csv")}


def write_tab(folder: Path) -> dict:
    header = "Category\tText\nd\tstring\nclass\t\n"
    for name in ("train", "test"):
        (folder / f"{name}.tab").write_text(header + "".join(f"{label}\t{text}\n" for text, label in ROWS))
    return {"download": None, "train": str(folder / "train.tab"), "test": str(folder / "test.tab")}


def save_dataset(folder: Path) -> dict:
    texts, labels = zip(*ROWS, strict=True)
    split = datasets.Dataset.from_dict({"text": list(texts), "label": list(labels)})
    datasets.DatasetDict(train=split, test=split).save_to_disk(folder / "saved")
    return {"path": str(folder / "saved")}


def write_packages(folder: Path) -> dict:
    paragraphs = [
        f"Package: p{i}\nVersion: 1\nDescription: {text}\nTag: a::{label}, b::all\n"
        for i, (text, label) in enumerate(ROWS)
    ]
    (folder / "Packages").write_text("\n".join(paragraphs))
    return {"path": str(folder / "Packages")}


LOCAL_FILES = {
    "debtags": write_packages,
    "files": write_csv,
    "hub": save_dataset,
    "newsgroups": write_tab,
    "reuters_r8": write_tab,
    "reuters_r52": write_tab,
}
"""Writes the files of a source into a folder and returns the settings that select them."""


@pytest.fixture(params=NAMES)
def source(request, tmp_path, cache) -> Source:
    config = OmegaConf.load(ROOT / "conf" / "data" / f"{request.param}.yaml")
    write = LOCAL_FILES.get(request.param)
    return instantiate(OmegaConf.merge(config, write(tmp_path) if write else {}), _convert_="all")


def test_a_source_has_the_attributes_of_the_protocol(source):
    assert isinstance(source, Source)
    assert source.on_bad_row == "drop"


def test_a_source_returns_train_and_at_most_validation_and_test(source):
    source.prepare()
    splits = source.load()
    assert {"train"} <= set(splits) <= {"train", "validation", "test"}
    assert all(split.name == name for name, split in splits.items())
    assert len({split.task for split in splits.values()}) == 1


def test_all_columns_of_a_split_have_the_same_rows_and_the_documented_types(source):
    source.prepare()
    for split in source.load().values():
        assert len(split) == len(ROWS)
        assert split.rows.dtype == np.int64
        assert (np.diff(split.rows) > 0).all()
        assert split.rows[0] >= 1
        assert split.texts.type == pa.large_string()
        assert len(split.texts) == len(split.labels) == len(split)
        assert split.texts.null_count == split.labels.null_count == 0
        assert split.labels.type == (pa.string() if split.task == "single_label" else pa.list_(pa.string()))
        assert split.ids is None or len(split.ids.unique()) == len(split)
        assert split.dropped == {}


def test_loading_twice_gives_the_same_rows(source):
    source.prepare()
    first, second = source.load(), source.load()
    for name, split in first.items():
        assert split.texts.equals(second[name].texts)
        assert split.labels.equals(second[name].labels)
        np.testing.assert_array_equal(split.rows, second[name].rows)


def test_a_data_module_trains_on_a_source(source, tiny_encoder):
    data = TextDataModule(source, load_tokenizer(str(tiny_encoder)), Tokenisation(16))
    data.prepare_data()
    data.setup()
    assert set(data.splits) == {"train", "validation", "test"}
    assert (data.counts > 0).all()
    batch = next(iter(data.val_dataloader()))
    assert len(batch["input_ids"]) == len(batch["rows"])
