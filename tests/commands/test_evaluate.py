"""`python -m counterpoise.evaluate`: a finished run scored on a labelled file."""

import json

import pandas as pd
import pytest

from commandline import call, run, setting
from counterpoise.commands import evaluate, predict


@pytest.fixture(scope="module")
def finished(tmp_path_factory, texts, tiny_encoder):
    folder = tmp_path_factory.mktemp("run")
    outcome = run(folder, *setting(texts, tiny_encoder), "head=mlp")
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def finished_multi_label(tmp_path_factory, tagged, tiny_encoder):
    folder = tmp_path_factory.mktemp("run")
    outcome = run(folder, *setting(tagged, tiny_encoder), "data.label=labels")
    assert outcome.code == 0, outcome.err
    return folder


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def assert_same_scores(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-5, nan_ok=True), name


def test_the_run_s_own_test_file_has_the_run_s_test_scores(finished, texts, tmp_path, monkeypatch):
    output = tmp_path / "evaluation"
    assert call(evaluate.main, monkeypatch, finished, texts["test"], "--output", output) == 0
    assert_same_scores(metrics_of(output)["test"], metrics_of(finished)["test"])
    written = {path.name for path in output.iterdir()}
    assert written == {"metrics.json", "per_class.csv", "predictions.parquet", "report.html"}


def test_multi_label_scores_use_the_run_s_thresholds(finished_multi_label, tagged, tmp_path, monkeypatch):
    output = tmp_path / "evaluation"
    assert call(evaluate.main, monkeypatch, finished_multi_label, tagged["test"], "--output", output) == 0
    assert_same_scores(metrics_of(output)["test"], metrics_of(finished_multi_label)["test"])
    assert (output / "thresholds.json").read_text() == (finished_multi_label / "thresholds.json").read_text()


def test_unknown_classes_are_counted_and_named(finished, tmp_path, monkeypatch, caplog):
    file = tmp_path / "new.csv"
    file.write_text("text,label\nalpha1 word2,alpha\nword3,zeta\nbeta1,beta\n")
    assert call(evaluate.main, monkeypatch, finished, file, "--output", tmp_path / "out") == 0
    assert metrics_of(tmp_path / "out")["data"]["test"] == {"examples": 2, "dropped": {}, "unseen": 1}
    assert "'zeta' (1)" in caplog.text


def test_a_file_without_a_known_class_is_refused(finished, tmp_path, monkeypatch, capsys):
    file = tmp_path / "new.csv"
    file.write_text("text,label\nword3,zeta\n")
    assert call(evaluate.main, monkeypatch, finished, file, "--output", tmp_path / "out") == 2
    assert "no row has a label" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_an_evaluation_is_not_overwritten(finished, texts, tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("keep")
    assert call(evaluate.main, monkeypatch, finished, texts["test"], "--output", tmp_path) == 2
    assert "--output" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "keep"


def test_a_run_folder_is_not_overwritten(finished, texts, monkeypatch, capsys):
    before = sorted(finished.rglob("*"))
    assert call(evaluate.main, monkeypatch, finished, texts["test"], "--output", finished) == 2
    assert "--output" in capsys.readouterr().err
    assert sorted(finished.rglob("*")) == before


def test_a_run_that_merges_spellings_merges_those_of_other_files(texts, tiny_encoder, tmp_path, monkeypatch):
    outcome = run(tmp_path / "run", *setting(texts, tiny_encoder), "data.normalise_labels=true", report=False)
    assert outcome.code == 0, outcome.err
    file = tmp_path / "other.csv"
    file.write_text(texts["test"].read_text().replace(",alpha", ",ALPHA").replace(",beta", ",Be\u200bta"))
    assert call(evaluate.main, monkeypatch, outcome.folder, file, "--output", tmp_path / "out") == 0
    assert_same_scores(metrics_of(tmp_path / "out")["test"], outcome.metrics["test"])


def test_labels_that_only_their_spelling_hides_are_named(finished, tmp_path, monkeypatch, caplog):
    file = tmp_path / "new.csv"
    file.write_text("text,label\nalpha1 word2,Alpha\nbeta1,beta\n")
    assert call(evaluate.main, monkeypatch, finished, file, "--output", tmp_path / "out") == 0
    assert "data.normalise_labels" in caplog.text


def test_texts_of_the_training_data_and_truncated_ones_are_named(finished, texts, tmp_path, monkeypatch, caplog):
    known = texts["train"].read_text().splitlines()[1:]
    long = " ".join(["word3"] * 50)
    file = tmp_path / "new.csv"
    file.write_text("\n".join(["text,label", *known, f"{long},alpha", "an unseen alpha1,alpha"]))
    assert call(evaluate.main, monkeypatch, finished, file, "--output", tmp_path / "out") == 0
    total, trained = len(known) + 2, metrics_of(finished)["data"]["train"]["examples"]
    assert f"{trained} of {total} texts are also in the training data" in caplog.text
    assert f"1 of {total} texts are longer than encoder.max_length=32" in caplog.text
    assert len(metrics_of(tmp_path / "out")["data_warnings"]) == 2


def test_training_data_that_is_gone_is_named(finished, texts, tmp_path, monkeypatch, caplog):
    moved = texts["train"].rename(texts["train"].with_name("moved.csv"))
    try:
        assert call(evaluate.main, monkeypatch, finished, texts["test"], "--output", tmp_path / "out") == 0
    finally:
        moved.rename(texts["train"])
    assert "not compared with the training texts" in caplog.text


@pytest.mark.parametrize("command", [evaluate, predict])
@pytest.mark.parametrize("ids", [True, False])
def test_columns_that_are_not_given_are_those_of_the_run(command, ids, named, texts, tmp_path, monkeypatch, caplog):
    file, output = tmp_path / "new.csv", tmp_path / ("out" if command is evaluate else "out.csv")
    table = renamed(texts["test"])
    (table if ids else table.drop(columns="name")).to_csv(file, index=False)
    assert call(command.main, monkeypatch, named, file, "--output", output) == 0
    found = pd.read_parquet(output / "predictions.parquet") if command is evaluate else pd.read_csv(output)
    assert found.id.tolist()[0] in (("n0",) if ids else ("1", 1, "0"))
    assert ("has no column 'name'" in caplog.text) == (not ids)


def renamed(file):
    table = pd.read_csv(file).rename(columns={"text": "body", "label": "topic"})
    return table.assign(name=[f"n{row}" for row in range(len(table))])


@pytest.fixture(scope="module")
def named(tmp_path_factory, texts, tiny_encoder):
    """A run on columns body, topic and name."""
    folder = tmp_path_factory.mktemp("named")
    files = {name: folder / f"{name}.csv" for name in texts}
    for name, file in files.items():
        renamed(texts[name]).to_csv(file, index=False)
    columns = ["data.text=body", "data.label=topic", "data.id=name"]
    outcome = run(folder / "run", *setting(files, tiny_encoder), *columns, report=False)
    assert outcome.code == 0, outcome.err
    return outcome.folder


def test_a_text_column_of_numbers_is_named(named, tmp_path, monkeypatch, caplog):
    file = tmp_path / "new.csv"
    file.write_text("body,stars\nalpha1,1\nbeta1,2.5\n")
    options = ("--text", "stars", "--output", tmp_path / "out.csv")
    assert call(predict.main, monkeypatch, named, file, *options) == 0
    assert "column 'stars' (--text) holds only numbers" in caplog.text
