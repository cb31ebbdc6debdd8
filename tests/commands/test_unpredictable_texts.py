"""Texts without a visible character or a known token have a reason instead of a prediction, in every format."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models

from commandline import call, run, setting
from counterpoise.commands import evaluate, export, predict, predictor
from counterpoise.data.arrow_columns import BLANK, find_text_faults

pytestmark = pytest.mark.e2e

BLANKS = [
    None,
    "",
    " ",
    "\t\r\n",
    "\u00a0\u2003",
    "\u3000",
    "\u200b\u200d\ufeff",
    "\x00\x07\x1b",
    "\u2800",
    "\u3164\ufe0f",
    "\u00ad",
]
UNKNOWN = ["zzz", "产品", "🙂", "[UNK]", "[CLS] [SEP]", "zzz \u200b qqq"]
KNOWN = ["alpha1", "\u200balpha1", "zzz alpha1", " beta0 "]
TEXTS = [*BLANKS, *UNKNOWN, *KNOWN]
REASONS = ["blank text"] * len(BLANKS) + ["no known token"] * len(UNKNOWN) + [None] * len(KNOWN)


@pytest.fixture(scope="module", params=["single-label", "multi-label"])
def finished(request, tmp_path_factory, texts, tagged, tiny_encoder) -> Path:
    folder = tmp_path_factory.mktemp("run")
    files, extra = (texts, []) if request.param == "single-label" else (tagged, ["data.label=labels"])
    outcome = run(folder, *setting(files, tiny_encoder), *extra, "trainer.max_epochs=1", report=False)
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pq.write_table(pa.table({"text": pa.array(TEXTS, pa.string())}), tmp_path / "new.parquet")
    return tmp_path / "new.parquet"


def check(table: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that exactly the texts without content have a reason, and no value besides their id."""
    empty = table.map(lambda value: None if isinstance(value, str) and not value else value)
    assert empty.not_predicted.fillna("").tolist() == [reason or "" for reason in REASONS]
    written = empty.drop(columns=["id", "not_predicted", *(name for name in ("label", "labels") if name in empty)])
    has_reason = empty.not_predicted.notna()
    assert written[has_reason].isna().all(axis=None)
    assert written[~has_reason].notna().all(axis=None)
    assert f"{len(BLANKS)} of {len(TEXTS)} rows are not predicted: blank text" in caplog.text
    assert f"{len(UNKNOWN)} of {len(TEXTS)} rows are not predicted: no known token" in caplog.text


READERS = {
    "parquet": pd.read_parquet,
    "csv": pd.read_csv,
    "tsv.gz": lambda path: pd.read_csv(path, sep="\t"),
    "jsonl": lambda path: pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()]),
}


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("block", [65_536, 3])
def test_texts_without_content_have_a_reason_in_every_format(
    finished, file, tmp_path, monkeypatch, caplog, capsys, suffix, block
):
    monkeypatch.setattr(predictor, "MAX_TEXTS", block)
    output = tmp_path / f"out.{suffix}"
    assert call(predict.main, monkeypatch, finished, file, "--output", output) == 0
    check(READERS[suffix](output), caplog)
    assert f"{len(KNOWN)} predictions" in capsys.readouterr().out


def test_an_exported_model_gives_the_same_reasons(finished, file, tmp_path, monkeypatch, caplog):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert call(export.main, monkeypatch, finished, "--output", tmp_path / "onnx") == 0
    output = tmp_path / "out.parquet"
    assert call(predict.main, monkeypatch, tmp_path / "onnx", file, "--output", output) == 0
    check(pd.read_parquet(output), caplog)


def test_an_evaluation_drops_blank_texts_as_training_does_and_names_unknown_ones(
    finished, tmp_path, monkeypatch, caplog
):
    multi_label = (finished / "thresholds.json").exists()
    rows = [{"text": text, "label": ["alpha"] if multi_label else "alpha"} for text in TEXTS]
    file, output = tmp_path / "labelled.jsonl", tmp_path / "out"
    file.write_text("\n".join(map(json.dumps, rows)))
    options = ("--label", "label", "--max-dropped", 1, "--output", output)
    assert call(evaluate.main, monkeypatch, finished, file, *options) == 0
    counted = json.loads((output / "metrics.json").read_text())["data"]["test"]
    assert counted["examples"] == len(UNKNOWN) + len(KNOWN)
    assert sum(counted["dropped"].values()) == len(BLANKS)
    assert f"{len(UNKNOWN)} texts have no known token" in caplog.text


@pytest.mark.parametrize("text", [text for text in BLANKS if text is not None])
def test_the_reader_of_training_files_takes_the_same_texts_for_blank(text):
    texts = pa.array([text, f"{text}a{text}"]).cast(pa.large_binary())
    assert find_text_faults(texts).tolist() == [BLANK, 0]


def test_a_tokenizer_without_special_tokens_gives_reasons_too():
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "known": 1}, unk_token="<unk>"))
    own = predictor.Predictor(
        labels=["a", "b"],
        tokenizer=tokenizer,
        pad=0,
        model=lambda ids, mask: np.ones((len(ids), 2), np.float32),
        max_tokens=40,
    )
    (block,) = own.predict_blocks(pa.chunked_array([["", "other", "known"]]))
    assert block.reasons.to_pylist() == ["blank text", "no known token", None]
    assert len(block.logits) == 3
