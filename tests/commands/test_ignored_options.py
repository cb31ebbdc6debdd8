"""Options of the commands that have no effect in a combination are refused."""

from pathlib import Path

import pandas as pd
import pytest

from commandline import call, run, setting
from counterpoise.commands import compare, evaluate, predict

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def runs(tmp_path_factory, texts: dict[str, Path], tagged: dict[str, Path], tiny_encoder: Path) -> dict[str, Path]:
    """A single-label run, and a multi-label run that predicts two labels per text."""
    settings = {
        "single": setting(texts, tiny_encoder),
        "top_k": [*setting(tagged, tiny_encoder), "data.label=labels", "decision.top_k=2"],
    }
    folders = {}
    for name, overrides in settings.items():
        folders[name] = tmp_path_factory.mktemp(name) / "run"
        done = run(folders[name], *overrides, "strategy=plain", report=False)
        assert done.code == 0, done.err
    return folders


@pytest.fixture(scope="module")
def files(tmp_path_factory, texts: dict[str, Path], tagged: dict[str, Path]) -> dict[str, Path]:
    """The test texts in several formats."""
    folder = tmp_path_factory.mktemp("files")
    table = pd.read_csv(texts["test"])
    table.to_parquet(folder / "test.parquet")
    table.to_json(folder / "test.jsonl", orient="records", lines=True)
    (folder / "thresholds.json").write_text('{"alpha": 0.5, "beta": 0.5, "gamma": 0.5, "delta": 0.5}')
    names = {path.name: path for path in folder.iterdir()}
    return names | {"test.csv": texts["test"], "tagged": tagged["test"]}


@pytest.mark.parametrize("command", [predict, evaluate], ids=["predict", "evaluate"])
@pytest.mark.parametrize("option", ["--delimiter=;", "--quote='", "--skip-rows=1", "--columns=text,label"])
@pytest.mark.parametrize("file", ["test.parquet", "test.jsonl"])
def test_csv_options_are_for_csv_files(command, option, file, runs, files, monkeypatch, capsys):
    assert call(command.main, monkeypatch, runs["single"], files[file], option) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert option.partition("=")[0] in line
    assert "is not a CSV file" in line


def test_an_encoding_is_for_text_files(runs, files, tmp_path, monkeypatch, capsys):
    given = ("--encoding", "utf-8", "--output", tmp_path / "out.csv")
    assert call(predict.main, monkeypatch, runs["single"], files["test.jsonl"], *given) == 0
    assert call(predict.main, monkeypatch, runs["single"], files["test.parquet"], *given) == 2
    assert "--encoding has no effect" in capsys.readouterr().err


def test_a_separator_is_for_several_labels(runs, files, monkeypatch, capsys):
    assert call(evaluate.main, monkeypatch, runs["single"], files["test.csv"], "--separator", "|") == 2
    assert "--separator '|' has no effect" in capsys.readouterr().err


def test_thresholds_are_not_for_the_most_probable_labels(runs, files, monkeypatch, capsys):
    given = ("--thresholds", files["thresholds.json"])
    assert call(predict.main, monkeypatch, runs["top_k"], files["tagged"], *given) == 2
    assert "the 2 most probable labels" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--metric=accuracy", "--reference=plain", "--picture=a,b", "--output=losses.csv"])
def test_a_plot_of_losses_takes_no_other_options(option, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(compare.main, monkeypatch, f"a={runs['single']}", "--losses", option) == 2
    assert option.partition("=")[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
