"""Export of finished runs to Hugging Face folders with a model card."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import pipeline

import counterpoise
from commandline import call, run, setting
from counterpoise.commands import export, hugging_face_export, model_card

pytestmark = pytest.mark.e2e

TEXTS = ["alpha1", "beta2 word3 word7 beta1", " ".join(f"word{i % 40}" for i in range(200))]
QUICK = ("train=probe", "trainer.max_epochs=2", "baseline=none")


@pytest.fixture(scope="module")
def pooler(tmp_path_factory, texts, tiny_encoder) -> Path:
    """A single-label run with the encoder's pooler."""
    folder = tmp_path_factory.mktemp("run") / "run"
    outcome = run(folder, *setting(texts, tiny_encoder), *QUICK, "encoder.pooling=pooler", report=False)
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def mean(tmp_path_factory, tagged, tiny_encoder) -> Path:
    """A multi-label run with mean pooling."""
    folder = tmp_path_factory.mktemp("run") / "run"
    outcome = run(folder, *setting(tagged, tiny_encoder), "data.label=labels", *QUICK, report=False)
    assert outcome.code == 0, outcome.err
    return folder


def test_bert_with_its_pooler_is_a_model_of_transformers(pooler, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "hf"
    assert call(export.main, monkeypatch, pooler, "--format", "hf", "--output", folder) == 0
    assert "for transformers, 4 labels" in capsys.readouterr().out
    classify = pipeline("text-classification", model=str(folder), top_k=None, device="cpu")
    expected = counterpoise.load(pooler, device="cpu").predict(TEXTS)
    for found, row in zip(classify(TEXTS, truncation=True), expected.probabilities, strict=True):
        scores = {each["label"]: each["score"] for each in found}
        np.testing.assert_allclose([scores[name] for name in expected.classes], row, atol=1e-5)
    assert type(classify.model).__name__ == "BertForSequenceClassification"


def test_model_card_states_data_correction_and_quality(pooler, tmp_path):
    hugging_face_export.export_hugging_face(pooler, tmp_path / "hf")
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    metrics = json.loads((pooler / "metrics.json").read_text())
    assert card.data.library_name == "transformers"
    assert card.data.eval_results[0].metric_value == metrics["test"]["macro_f1"]
    assert f"| macro F1 | {metrics['test']['macro_f1']:.3f} |" in card.text
    assert "Strategy `combined`" in card.text
    assert all(f"| {label} |" in card.text for label in ("alpha", "beta", "gamma", "delta"))
    assert str(pooler.parent) not in card.content


@pytest.mark.parametrize("shown", [10, 1])
def test_classes_without_test_texts_have_no_scores_in_the_card(shown, texts, tiny_encoder, tmp_path, monkeypatch):
    test = pd.read_csv(texts["test"])
    test[test.label.isin(["alpha", "beta"])].to_csv(tmp_path / "test.csv", index=False)
    files = {"train": texts["train"], "test": tmp_path / "test.csv"}
    done = run(tmp_path / "run", *setting(files, tiny_encoder), *QUICK, "encoder.pooling=pooler", report=False)
    assert done.code == 0, done.err
    monkeypatch.setattr(model_card, "SHOWN_CLASSES", shown)
    hugging_face_export.export_hugging_face(done.folder, tmp_path / "hf")
    card = ModelCard.load(tmp_path / "hf" / "README.md").text
    rows = [line for line in card.splitlines() if line.startswith(("| alpha |", "| beta |", "| gamma |", "| delta |"))]
    assert "nan" not in card
    assert "2 classes have no test text" in card
    if shown == 10:
        assert sum(row.endswith("| 0 |  |  |  |") for row in rows) == 2
    else:
        assert sorted(row.split()[1] for row in rows) == ["alpha", "beta"]


def test_other_poolings_are_modules_of_a_sentence_transformer(mean, tmp_path):
    exported = hugging_face_export.export_hugging_face(mean, tmp_path / "hf")
    assert exported.layout == "sentence-transformers"
    assert exported.largest_difference < 1e-5
    assert (tmp_path / "hf" / "thresholds.json").read_text() == (mean / "thresholds.json").read_text()
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert list(config["id2label"].values()) == exported.labels
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "hf"), device="cpu")
    expected = counterpoise.load(mean, device="cpu").predict(TEXTS).probabilities
    np.testing.assert_allclose(model.encode(TEXTS, convert_to_tensor=True).sigmoid(), expected, atol=1e-5)


def test_a_head_that_is_not_linear_is_refused_by_name(pooler, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(pooler, tmp_path / "run")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["head"] = {"_target_": "counterpoise.model.heads.NormalisedHead", "_partial_": True}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    path = folder / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint["state_dict"]
    state |= {"head.1.weight": state.pop("head.weight"), "head.1.bias": state.pop("head.bias")}
    state |= {"head.0.weight": torch.ones(16), "head.0.bias": torch.zeros(16)}
    torch.save(checkpoint, path)
    assert call(export.main, monkeypatch, folder, "--format", "hf") == 2
    assert "Encoder with NormalisedHead" in capsys.readouterr().err


def test_other_logits_are_not_written(mean, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hugging_face_export, "_logits", lambda folder, layout, pooling, texts: np.ones((len(texts), 4)))
    assert call(export.main, monkeypatch, mean, "--format", "hf", "--output", tmp_path / "hf") == 2
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_int8_and_other_folders_are_refused(mean, tmp_path, monkeypatch, capsys):
    assert call(export.main, monkeypatch, mean, "--format", "hf", "--int8") == 2
    assert "--int8 applies to --format onnx" in capsys.readouterr().err
    (tmp_path / "thesis.txt").touch()
    assert call(export.main, monkeypatch, mean, "--format", "hf", "--output", tmp_path) == 2
    assert "is not an earlier export" in capsys.readouterr().err
