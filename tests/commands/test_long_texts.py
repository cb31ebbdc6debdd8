"""A run that reads long texts in chunks or by their ends is predicted, evaluated and exported as it was trained."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import counterpoise
from commandline import call, run, setting
from counterpoise.commands import evaluate, export

pytestmark = pytest.mark.e2e

WORDS = [f"word{i}" for i in range(40)]
TEXTS = ["alpha1", "beta2 word3 word7 beta1", " ".join(WORDS[:20]), " ".join(WORDS), "", " ".join(WORDS * 3)]
SETTINGS = {
    "head_tail": ["encoder.long_texts=head_tail"],
    "chunk": ["encoder.long_texts=chunk", "encoder.max_chunks=3", "encoder.chunk_pooling=max"],
    "probe": ["encoder.long_texts=chunk", "train=probe"],
}


@pytest.fixture(scope="module", params=SETTINGS)
def finished(request, tmp_path_factory, texts, tiny_encoder) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    shared = [*setting(texts, tiny_encoder), "encoder.max_length=8", "trainer.max_epochs=2", "baseline=none"]
    outcome = run(folder, *shared, *SETTINGS[request.param], report=False)
    assert outcome.code == 0, outcome.err
    return folder


def test_predictions_of_the_test_split_are_those_of_the_run(finished, texts):
    own = pd.read_parquet(finished / "predictions.parquet").sort_values("id", key=lambda ids: ids.astype(int))
    rows = pd.read_csv(texts["test"])
    found = counterpoise.load(finished, device="cpu").predict(rows.text.tolist())
    assert found.labels == own.prediction.tolist()


@pytest.mark.parametrize("finished", ["head_tail", "chunk"], indirect=True)
def test_the_exported_model_has_the_logits_of_the_run(finished, tmp_path, monkeypatch):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    assert call(export.main, monkeypatch, finished, "--output", tmp_path / "onnx") == 0
    ours, theirs = (counterpoise.load(folder, device="cpu").predict(TEXTS) for folder in (finished, tmp_path / "onnx"))
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
    assert json.loads((tmp_path / "onnx" / "export.json").read_text())["tokenisation"]["max_length"] == 8


def test_the_hugging_face_format_is_refused_by_name(finished, tmp_path, monkeypatch, capsys):
    assert call(export.main, monkeypatch, finished, "--format", "hf", "--output", tmp_path / "hf") == 2
    assert "encoder.long_texts=" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()


def test_evaluation_counts_the_texts_that_are_not_read_whole(finished, tmp_path, monkeypatch, caplog):
    file = tmp_path / "labelled.csv"
    labels = counterpoise.load(finished, device="cpu").classes
    pd.DataFrame({"text": [text for text in TEXTS if text], "label": (labels * 2)[:5]}).to_csv(file, index=False)
    assert call(evaluate.main, monkeypatch, finished, file) == 0
    chunked = "chunk" in (finished / "config.yaml").read_text().split("long_texts: ")[1].split()[0]
    counted = [line for line in caplog.messages if "not read" in line]
    assert len(counted) == 1
    assert ("encoder.max_chunks" if chunked else "encoder.max_length=8") in counted[0]
