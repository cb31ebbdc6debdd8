import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from counterpoise import compare
from counterpoise.errors import UserError
from counterpoise.evaluate import pictures


def run(folder: Path, recall=(1.0, 0.5, None), classes=("a", "NA", "c"), **columns) -> Path:
    folder.mkdir()
    table = {"class": classes, "train_count": [9, 3, 1], "test_count": [4, 2, 0], "recall": recall, **columns}
    pd.DataFrame(table).to_csv(folder / "per_class.csv", index=False)
    return folder


def log(folder: Path) -> Path:
    (folder / "csv").mkdir()
    history = {"step": [0, 1, 2], "train/loss_step": [3.0, 2.0, 1.0], "train/grad_norm": [1.0, 0.5, 0.2]}
    pd.DataFrame(history).to_csv(folder / "csv" / "metrics.csv", index=False)
    return folder


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Calls the command line in an empty folder."""

    def calling(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
        compare.main()

    monkeypatch.chdir(tmp_path)
    return calling


def test_runs_under_one_name_are_averaged_class_by_class(tmp_path):
    counts, recall = compare.recall_by_class([run(tmp_path / "0"), run(tmp_path / "1", recall=(0.5, 0, None))])
    assert counts.tolist() == [9, 3, 1]
    np.testing.assert_array_equal(recall, [0.75, 0.25, np.nan])


def test_runs_under_one_name_have_the_same_classes(tmp_path):
    with pytest.raises(UserError, match="has other classes than"):
        compare.recall_by_class([run(tmp_path / "0"), run(tmp_path / "1", classes=("a", "b", "c"))])


def test_recall_is_drawn_unless_losses_are_asked_for(call, tmp_path, capsys):
    call(f"plain={run(tmp_path / '0')}", f"combined={run(tmp_path / '1')}")
    assert capsys.readouterr().out == "recall_vs_count.png\n"
    assert Path("recall_vs_count.png").is_file()
    call(f"plain={log(tmp_path / '0')}", f"combined={log(tmp_path / '1')}", "--losses")
    assert capsys.readouterr().out == "losses.png\n"
    assert Path("losses.png").is_file()


@pytest.mark.parametrize(("columns", "unit"), [({}, "class"), ({"average_precision": [1, 0.5, None]}, "label")])
def test_the_picture_speaks_of_labels_where_the_runs_have_several_a_text(call, tmp_path, monkeypatch, columns, unit):
    drawn = []
    monkeypatch.setattr(pictures, "recall_vs_count", lambda path, runs, unit: drawn.append(unit))
    call(f"plain={run(tmp_path / '0', **columns)}")
    assert drawn == [unit]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0"], "give each run a name, as in plain=0"),
        (["plain=absent"], "absent is no finished run: it has no per_class.csv"),
        (["plain=absent", "--losses"], "absent has no csv/metrics.csv"),
        (["a=0", "a=1", "--losses"], "one run under each name: 0 and 1"),
    ],
)
def test_a_mistake_is_one_line(call, arguments, message):
    with pytest.raises(UserError, match=message):
        call(*arguments)
