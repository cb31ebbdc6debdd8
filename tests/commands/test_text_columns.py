"""A run on texts of several columns is predicted, evaluated, exported and served with as many columns."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import counterpoise
from commandline import call, run, setting
from counterpoise.commands import evaluate, export, predict
from counterpoise.data.text_columns import join_texts

pytestmark = pytest.mark.e2e

ROWS = [["alpha1 word2", "word3 word4"], ["", "beta2 beta3"], ["gamma1", ""], ["", ""]]


@pytest.fixture(scope="module")
def tables(tmp_path_factory, texts) -> dict[str, Path]:
    """The texts with their first word in a column of its own."""
    folder, files = tmp_path_factory.mktemp("columns"), {}
    for name, file in texts.items():
        rows = pd.read_csv(file)
        parts = rows.text.str.split(n=1, expand=True).fillna("")
        files[name] = folder / f"{name}.csv"
        pd.DataFrame({"title": parts[0], "body": parts[1], "label": rows.label}).to_csv(files[name], index=False)
    return files


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tables, tiny_encoder) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    shared = [*setting(tables, tiny_encoder), "data.text=[title,body]", "encoder.max_length=8", "trainer.max_epochs=2"]
    outcome = run(folder, *shared, report=False)
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory) -> Path:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    from counterpoise.commands.onnx_export import export

    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export(finished, folder)
    return folder


def test_predictions_of_the_test_split_are_those_of_the_run(finished, tables, tmp_path, monkeypatch):
    assert call(predict.main, monkeypatch, finished, tables["test"], "--output", tmp_path / "found.csv") == 0
    own = pd.read_parquet(finished / "predictions.parquet").sort_values("id", key=lambda ids: ids.astype(int))
    assert pd.read_csv(tmp_path / "found.csv").prediction.tolist() == own.prediction.tolist()


def test_in_python_a_text_is_a_list_of_its_columns(finished, exported):
    ours, theirs = (counterpoise.load(folder, device="cpu").predict(ROWS) for folder in (finished, exported))
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
    assert ours.not_predicted == theirs.not_predicted == [None, None, None, "blank text"]
    for texts in (["alpha1"], [["alpha1"]], [["alpha1", 3]], [["alpha1", "b", "c"]]):
        with pytest.raises(TypeError, match=r"texts\[0\] is of type .* a list of 2 str"):
            counterpoise.load(exported).predict(texts)


def test_columns_are_not_one_text(exported):
    model = counterpoise.load(exported)
    one, other = model._predictor.tokenise([join_texts(["word1", "word2"]), join_texts(["word1 word2", ""])])
    assert one.tolist() != other.tolist()


@pytest.mark.parametrize("command", [predict, evaluate])
def test_another_number_of_columns_is_refused_in_one_line(finished, tables, tmp_path, monkeypatch, capsys, command):
    options = ("--text", "title", "--output", tmp_path / "out.csv")
    assert call(command.main, monkeypatch, finished, tables["test"], *options) == 2
    assert "texts of 2 columns, not of 1 ('title')" in " ".join(capsys.readouterr().err.split())


def test_columns_of_other_names_are_given_with_commas(finished, tables, tmp_path, monkeypatch):
    pd.read_csv(tables["test"]).rename(columns={"title": "a", "body": "b"}).to_csv(tmp_path / "other.csv", index=False)
    assert call(evaluate.main, monkeypatch, finished, tmp_path / "other.csv", "--text", "a,b") == 0


def named(file: Path, folder: Path, name: str) -> Path:
    """Write a table with the texts in a column of this name."""
    rows = pd.read_csv(file).assign(text=lambda table: table.title + " " + table.body.fillna(""))
    rows.rename(columns={"text": name})[[name, "label"]].to_csv(folder / file.name, index=False)
    return folder / file.name


@pytest.mark.parametrize("name", ["7", "title, long"])
def test_odd_names_of_one_column_are_used_alike(name, tables, tiny_encoder, tmp_path, monkeypatch):
    files = {split: named(file, tmp_path, name) for split, file in tables.items()}
    shared = [*setting(files, tiny_encoder), f"data.text='{name}'" if "," in name else f"data.text={name}"]
    outcome = run(tmp_path / "run", *shared, "trainer.max_epochs=1", report=False)
    assert outcome.code == 0, outcome.err
    for command in (predict, evaluate):
        for options in ([], ["--text", name]):
            out = ["--output", tmp_path / "out.csv"] if command is predict else []
            assert call(command.main, monkeypatch, outcome.folder, files["test"], *options, *out) == 0
    assert counterpoise.load(outcome.folder).predict(["alpha1"]).labels


def test_the_hugging_face_format_is_refused_by_name(finished, tmp_path, monkeypatch, capsys):
    assert call(export.main, monkeypatch, finished, "--format", "hf", "--output", tmp_path / "hf") == 2
    assert "data.text" in capsys.readouterr().err


def test_a_service_takes_lists_of_columns(exported):
    for name in ("fastapi", "uvicorn"):
        pytest.importorskip(name)
    from starlette.testclient import TestClient

    from counterpoise.commands.web_application import Limits, create_application

    model = counterpoise.load(exported)
    with TestClient(create_application(model, "model", Limits(4, 30))) as client:
        found = client.post("/predict", json={"texts": ROWS[:2]}).json()["predictions"]
        assert [each["label"] for each in found] == model.predict(ROWS[:2]).labels
        [alone] = client.post("/predict", json={"text": ROWS[0]}).json()["predictions"]
        assert alone["label"] == found[0]["label"]
        refused = {413: ["a" * 20, "b" * 20], 422: ["one"]}
        for code, text in refused.items():
            assert client.post("/predict", json={"text": text}).status_code == code
        error = client.post("/predict", json={"text": "one text"})
        assert (error.status_code, error.json()["error"]) == (
            422,
            "texts[0] is not a list of 2 texts, one for each column",
        )
        assert "columns = 2;" in client.get("/").text
