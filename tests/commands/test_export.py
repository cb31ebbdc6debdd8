"""Export of finished runs to ONNX."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

import counterpoise
from commandline import call, imported_by, run, setting
from counterpoise.commands import export, onnx_export, predict, predictor
from counterpoise.errors import UserError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.e2e

TEXTS = ["alpha1", "beta2 word3 word7 beta1", " ".join(f"word{i % 40}" for i in range(200)), "", "unheard of"]
KINDS = ["one class", "any labels", "probe"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, texts, tagged, tiny_encoder) -> dict[str, Path]:
    """One finished run per kind."""
    given = {
        "one class": (setting(texts, tiny_encoder), "strategy=combined"),
        "any labels": (setting(tagged, tiny_encoder), "data.label=labels", "strategy=weighted"),
        "probe": (setting(texts, tiny_encoder), "strategy=plain", "train=probe"),
    }
    folders = {}
    for kind, (shared, *overrides) in given.items():
        folders[kind] = tmp_path_factory.mktemp("run") / "run"
        outcome = run(folders[kind], *shared, *overrides, report=False)
        assert outcome.code == 0, outcome.err
    return folders


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory) -> dict[str, Path]:
    """One exported model per kind."""
    folder = tmp_path_factory.mktemp("exported")
    for kind, finished in runs.items():
        onnx_export.export(finished, folder / kind)
    return {kind: folder / kind for kind in runs}


@pytest.fixture
def quick(exported, monkeypatch):
    """Copies an existing ONNX file instead of converting the model, which takes seconds."""

    def copy(kind: str) -> None:
        model = exported[kind] / "model.onnx"
        monkeypatch.setattr(onnx_export, "_write_model", lambda path, _: shutil.copy(model, path))

    copy("one class")
    return copy


@pytest.mark.parametrize("kind", KINDS)
def test_exported_folder_alone_gives_the_logits_of_the_run(runs, exported, kind, tmp_path):
    folder = shutil.copytree(exported[kind], tmp_path / "elsewhere")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    reference = predictor.load(runs[kind])
    for texts in (TEXTS, TEXTS[:1], TEXTS[2:3]):
        encodings = tokenizer.encode_batch(texts)
        inputs = {
            "input_ids": np.array([each.ids for each in encodings]),
            "attention_mask": np.array([each.attention_mask for each in encodings]),
        }
        np.testing.assert_allclose(session.run(None, inputs)[0], reference(texts), atol=1e-5)
    assert json.loads((folder / "export.json").read_text())["labels"] == reference.labels


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_of_the_exported_model_equal_those_of_the_run(
    runs, exported, kind, texts, tagged, tmp_path, monkeypatch
):
    file = tagged["test"] if kind == "any labels" else texts["test"]
    tables = []
    for name, folder in (("run", runs[kind]), ("exported", exported[kind])):
        output = tmp_path / f"{name}.parquet"
        assert call(predict.main, monkeypatch, folder, file, "--calibrated", "--output", output) == 0
        tables.append(pq.read_table(output))
    ours, theirs = tables
    assert ours.schema == theirs.schema
    for name in ours.schema.names:
        columns = [table[name].combine_chunks() for table in tables]
        if pa.types.is_list(columns[0].type):
            assert columns[0].offsets.equals(columns[1].offsets)
            columns = [column.flatten() for column in columns]
        one, other = (column.to_pylist() for column in columns)
        assert one == (pytest.approx(other, abs=1e-5) if pa.types.is_floating(columns[0].type) else other), name


def test_predicting_with_an_exported_model_imports_no_training_library(exported, tagged, tmp_path):
    given = (exported["any labels"], tagged["test"], "--calibrated", "--output", tmp_path / "out.parquet")
    imported = imported_by("from counterpoise.commands.predict import main; main()", *given)
    assert "onnxruntime" in imported
    assert not imported & {"torch", "pytorch_lightning", "transformers", "hydra", "sklearn"}


@pytest.mark.parametrize("kind", ["one class", "any labels"])
def test_python_api_predicts_what_the_command_writes(runs, exported, kind, texts, tagged, tmp_path, monkeypatch):
    file, output = (tagged if kind == "any labels" else texts)["test"], tmp_path / "out.parquet"
    assert call(predict.main, monkeypatch, runs[kind], file, "--output", output) == 0
    written = pq.read_table(output).to_pydict()
    given = pd.read_json(file, lines=True).text if kind == "any labels" else pd.read_csv(file).text
    for folder in (runs[kind], str(exported[kind])):
        found = counterpoise.load(folder).predict(list(given))
        assert found.labels == written["predictions" if kind == "any labels" else "prediction"]
        highest = [row[0] for row in written["top_probabilities"]] if kind == "any labels" else written["probability"]
        np.testing.assert_allclose(found.probabilities.max(axis=1), highest, atol=1e-5)


def test_recorded_scores_equal_the_test_scores_of_the_run(runs, exported):
    for kind, folder in exported.items():
        content = json.loads((folder / "export.json").read_text())
        tested = json.loads((runs[kind] / "metrics.json").read_text())["test"]
        scores = content["test"]["fp32"]
        names = {"macro_f1", "micro_f1" if kind == "any labels" else "accuracy", "texts"}
        assert names <= scores.keys()
        for name in scores.keys() - {"texts"}:
            assert scores[name] == pytest.approx(tested[name], abs=1e-6), (kind, name)
        assert content["largest_difference"]["fp32"] < 1e-4


def test_int8_export_shows_the_change_of_the_scores(runs, exported, quick, tmp_path, monkeypatch, capsys):
    quick("any labels")
    folder = shutil.copytree(runs["any labels"], tmp_path / "run")
    assert call(export.main, monkeypatch, folder, "--int8") == 0
    out, small = capsys.readouterr().out, folder / "onnx-int8"
    assert str(small) in out.replace("\n", "")
    assert "change with int8" in out
    assert "macro f1" in out
    content = json.loads((small / "export.json").read_text())
    assert content["precision"] == "int8"
    assert content["test"]["int8"].keys() == content["test"]["fp32"].keys()
    assert 0 < content["largest_difference"]["int8"] < 0.5
    rounded, exact = predictor.load(small), predictor.load(folder)
    assert 0 < np.abs(rounded(TEXTS) - exact(TEXTS)).max() < 0.5
    weights = {each.data_type for each in onnx.load(small / "model.onnx").graph.initializer if len(each.dims) == 2}
    assert onnx.TensorProto.INT8 in weights
    assert onnx.TensorProto.FLOAT not in weights
    of_fp32 = sorted(path.name for path in exported["any labels"].iterdir())
    assert sorted(path.name for path in small.iterdir()) == of_fp32


def test_thresholds_option_applies_to_an_exported_model(exported, tagged, tmp_path, monkeypatch):
    own = tmp_path / "thresholds.json"
    own.write_text(json.dumps(dict.fromkeys(predictor.load(exported["any labels"]).labels, 1e-6)))
    output = tmp_path / "out.parquet"
    given = (exported["any labels"], tagged["test"], "--thresholds", own, "--output", output)
    assert call(predict.main, monkeypatch, *given) == 0
    assert {len(each) for each in pd.read_parquet(output).predictions} == {4}


def test_files_are_read_in_the_format_of_the_training_file(exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported["one class"], tmp_path / "model")
    content = json.loads((folder / "export.json").read_text())
    usual = {"delimiter": None, "quote": '"', "escape": None, "skip_rows_after_header": 0, "columns": None}
    assert content.pop("reading") == {"suffix": ".csv", **usual, "text": "text", "id": None}
    file, output = tmp_path / "new.tsv", tmp_path / "out.parquet"
    file.write_text('text\n"alpha1\nbeta1"\n')
    for added, rows in (({}, 1), ({"reading": {"suffix": ".tsv", "quote": None}}, 2)):
        (folder / "export.json").write_text(json.dumps(content | added))
        assert call(predict.main, monkeypatch, folder, file, "--output", output) == 0
        assert pq.read_table(output).num_rows == rows


@pytest.mark.parametrize("content", ["", "{}", None])
def test_another_tokenizer_in_the_folder_is_refused(exported, tmp_path, content):
    folder = shutil.copytree(exported["one class"], tmp_path / "model")
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"word3"', '"other3"') if content is None else content)
    with pytest.raises(UserError, match="is not the tokenizer that was exported"):
        predictor.load(folder)


def test_only_an_earlier_export_is_replaced(runs, exported, quick, tmp_path):
    folder = shutil.copytree(exported["any labels"], tmp_path / "model")
    onnx_export.export(runs["one class"], folder)
    assert not (folder / "thresholds.json").exists()
    assert predictor.load(folder).decision is None
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(UserError, match="is not an earlier export"):
        onnx_export.export(runs["one class"], other)
    assert (other / "thesis.txt").exists()


def test_model_with_other_logits_is_not_written(runs, quick, tmp_path):
    with pytest.raises(UserError, match=r"differs from the run's by .*: nothing was written"):
        onnx_export.export(runs["probe"], tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("gone", [True, False])
def test_scores_are_omitted_when_the_test_split_is_unavailable(runs, quick, texts, tmp_path, caplog, gone):
    folder = shutil.copytree(runs["one class"], tmp_path / "run")
    header, *rows = texts["test"].read_text().splitlines()
    file = tmp_path / "test.csv"
    if not gone:
        file.write_text("\n".join([header, *rows[::-1]]) + "\n")
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace(str(texts["test"]), str(file)))
    written = onnx_export.export(folder, tmp_path / "model")
    assert written["test"] == {}
    assert written["largest_difference"]["fp32"] < 1e-4
    assert "scores are not measured" in caplog.text
    assert ("test.csv" if gone else "has changed since") in caplog.text


def test_missing_library_is_one_line(runs, exported, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for command, arguments in ((export.main, (runs["probe"],)), (predict.main, (exported["probe"], texts["test"]))):
        assert call(command, monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert "pip install onnx onnxruntime onnxscript" in error
        assert error.count("\n") == 1


def test_precision_of_an_exported_model_is_fixed(exported, texts, monkeypatch, capsys):
    assert call(predict.main, monkeypatch, exported["probe"], texts["test"], "--precision", "bf16") == 2
    assert "--precision bf16" in capsys.readouterr().err


def test_folder_without_a_run_is_refused(tmp_path, monkeypatch, capsys):
    assert call(export.main, monkeypatch, tmp_path) == 2
    assert "config.yaml" in capsys.readouterr().err


def test_model_that_onnx_cannot_express_is_refused(runs, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise onnx_export.torch.onnx.OnnxExporterError("no such operator\ndetails")

    monkeypatch.setattr(onnx_export.torch.onnx, "export", fail)
    assert call(export.main, monkeypatch, runs["probe"], "--output", tmp_path / "model") == 2
    assert "cannot be exported: no such operator\n" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
