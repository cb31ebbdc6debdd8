"""What is done with finished runs: predictions for new texts, and one picture of several runs."""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from commandline import run, setting
from counterpoise import compare, predict
from counterpoise.cli import command_line

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, Path], tiny_encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    outcome = run(folder, *setting(texts, tiny_encoder), "strategy=combined")
    assert outcome.code == 0, outcome.err
    return folder


def call(main, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["counterpoise", *map(str, arguments)])
    try:
        command_line(main)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_new_texts_are_predicted_as_the_run_predicted_its_test_split(finished, texts, tmp_path, monkeypatch):
    output = tmp_path / "out.parquet"
    assert call(predict.main, monkeypatch, finished, texts["test"], "--output", output) == 0
    ours, theirs = pq.read_table(output), pq.read_table(finished / "predictions.parquet")
    assert ours["id"].to_pylist() == theirs["id"].to_pylist()
    assert ours["prediction"].to_pylist() == theirs["prediction"].to_pylist()
    np.testing.assert_allclose(ours["probability"].to_numpy(), theirs["probability"].to_numpy(), atol=1e-5)
    assert ours["label"].null_count == len(ours)


def test_a_missing_text_gets_a_prediction_all_the_same(finished, tmp_path, monkeypatch):
    file = tmp_path / "new.csv"
    file.write_text("name,review\na,alpha1 alpha2\nb,\n")
    output = tmp_path / "out.parquet"
    arguments = (finished, file, "--text", "review", "--id", "name", "--output", output)
    assert call(predict.main, monkeypatch, *arguments) == 0
    assert pq.read_table(output)["id"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{tmp}", "{test}"], "is no run folder"),
        (["{run}", "{tmp}/nothing.csv"], "nothing.csv"),
        (["{run}", "{test}", "--text", "txt"], "Did you mean 'text'?"),
    ],
)
def test_a_mistake_is_one_line(finished, texts, tmp_path, monkeypatch, capsys, arguments, line):
    names = {"tmp": tmp_path, "test": texts["test"], "run": finished}
    assert call(predict.main, monkeypatch, *(argument.format(**names) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert line in error
    assert error.count("\n") == 1


def test_runs_of_one_name_are_averaged_class_by_class(finished):
    counts, recalls = compare.recall_by_class([finished, finished])
    assert counts.tolist() == [54, 22, 1, 7]  # a tenth of each class went to validation
    np.testing.assert_equal(recalls, compare.recall_by_class([finished])[1])


def test_several_runs_are_drawn_in_one_picture(finished, tmp_path, monkeypatch):
    output = tmp_path / "picture.png"
    assert call(compare.main, monkeypatch, f"one={finished}", f"two={finished}", "--output", output) == 0
    assert output.stat().st_size > 10_000


def test_a_run_without_a_name_is_one_line(finished, monkeypatch, capsys):
    assert call(compare.main, monkeypatch, finished) == 2
    assert "give each run a name" in capsys.readouterr().err
