"""predict writes the format that is asked for, and reads and writes standard streams."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from commandline import ROOT, call, run, setting
from counterpoise.commands import predict

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def finished(tmp_path_factory, texts: dict[str, Path], tiny_encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    done = run(folder, *setting(texts, tiny_encoder), "strategy=plain", report=False)
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def expected(finished, texts, tmp_path_factory) -> pd.DataFrame:
    """Predictions for the test texts, from a Parquet file."""
    output = tmp_path_factory.mktemp("expected") / "out.parquet"
    with pytest.MonkeyPatch.context() as patch:
        assert call(predict.main, patch, finished, texts["test"], "--output", output) == 0
    return pd.read_parquet(output)


def same(found: pd.DataFrame, expected: pd.DataFrame) -> bool:
    assert list(found.columns) == list(expected.columns)
    assert found["id"].astype(str).tolist() == expected["id"].tolist()
    assert found["prediction"].tolist() == expected["prediction"].tolist()
    numbers = [name for name in expected.columns if name == "probability" or name.startswith("p:")]
    np.testing.assert_allclose(found[numbers].to_numpy(np.float32), expected[numbers].to_numpy(), atol=1e-6)
    return True


READERS = {
    "csv": pd.read_csv,
    "tsv": lambda file: pd.read_csv(file, sep="\t"),
    "jsonl": lambda file: pd.read_json(file, lines=True),
}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "csv.gz", "tsv.gz", "jsonl.gz"])
def test_the_suffix_selects_the_format(suffix, finished, texts, expected, tmp_path, monkeypatch):
    output = tmp_path / f"out.{suffix}"
    assert call(predict.main, monkeypatch, finished, texts["test"], "--output", output) == 0
    assert same(READERS[suffix.removesuffix(".gz")](output), expected)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["{tmp}/gone", "{tmp}/gone.csv", "--output", "{tmp}/out.xlsx"], "the suffix '.xlsx' is not supported"),
        (["{tmp}/gone", "{tmp}/gone.csv", "--output", "{tmp}/out.parquet.gz"], "'.parquet.gz' is not supported"),
        (["{tmp}/gone", "{tmp}/gone.csv", "--output", "{tmp}/out"], "a suffix is missing"),
        (["{tmp}/gone", "{tmp}/gone.csv", "--output", "{tmp}"], "is a folder"),
        (["{tmp}/gone", "{tmp}/gone.csv", "--output-format", "csv"], "use it with - only"),
        (["{tmp}/gone", "{tmp}/gone.csv", "--input-format", "csv"], "use it with - only"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(arguments, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(predict.main, monkeypatch, *(each.format(tmp=tmp_path) for each in arguments)) == 2
    assert part in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", [None, *READERS])
def test_standard_output_holds_the_predictions_alone(form, finished, texts, expected, monkeypatch, capsysbinary):
    chosen = [] if form is None else ["--output-format", form]
    assert call(predict.main, monkeypatch, finished, texts["test"], "--output", "-", *chosen) == 0
    out, err = capsysbinary.readouterr()
    assert same(READERS[form or "csv"](io.BytesIO(out)), expected)
    assert b"predictions in standard output" in err


@pytest.mark.parametrize("form", [None, "csv", "tsv", "jsonl", "parquet"])
def test_standard_input_is_read_like_a_file(form, finished, texts, expected, tmp_path, monkeypatch):
    table = pd.read_csv(texts["test"])
    content = {
        "csv": lambda: table.to_csv(index=False).encode(),
        "tsv": lambda: table.to_csv(index=False, sep="\t").encode(),
        "jsonl": lambda: table.to_json(orient="records", lines=True).encode(),
        "parquet": table.to_parquet,
    }[form or "csv"]()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    output = tmp_path / "out.parquet"
    chosen = [] if form is None else ["--input-format", form]
    assert call(predict.main, monkeypatch, finished, "-", *chosen, "--output", output) == 0
    assert same(pq.read_table(output).to_pandas(), expected)


def test_a_mistake_in_standard_input_is_one_line(finished, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"txt\na\n")))
    assert call(predict.main, monkeypatch, finished, "-", "--output", "-") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "stdin.csv" in err


def test_predict_works_between_pipes_that_are_closed_early(finished, texts, expected):
    command = f"{sys.executable} -m counterpoise.predict {finished} - --output - --output-format jsonl --device cpu"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}/src"}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; cat {texts['test']} | {command} | head -n 2; exit ${{PIPESTATUS[1]}}"],
        capture_output=True,
        text=True,
        env=env,
        cwd=ROOT,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert [row["prediction"] for row in rows] == expected["prediction"].tolist()[:2]
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr
