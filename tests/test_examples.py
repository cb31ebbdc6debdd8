"""The examples run: the notebook on finished runs, the recipes for clusters on a cluster of one process."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import matplotlib
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import finished
from commandline import ROOT, environment
from counting import write_counting_export

EXAMPLES = ROOT / "examples"
TEXTS = ["a", "b c b", None, "c", "unheard of"] * 20
EXPECTED = ["A", "B", None, "C", None] * 20


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with an exported model and two files of texts; processes that the test starts find the package."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    write_counting_export(tmp_path / "export")
    (tmp_path / "texts").mkdir()
    for part in (0, 1):
        rows = range(part * 50, part * 50 + 50)
        table = pa.table({"number": rows, "text": TEXTS[rows.start : rows.stop]})
        pq.write_table(table, tmp_path / "texts" / f"{part}.parquet")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([f"{ROOT}/src", environment()["PYTHONPATH"]]))
    return tmp_path


def scored(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> pa.Table:
    """Run an example and return its output."""
    paths = [str(folder / each) for each in ("export", "texts", "scored")]
    monkeypatch.setattr(sys, "argv", [name, *paths, *options])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return pq.read_table(folder / "scored")


def test_ray(folder, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        found = scored("score_with_ray.py", folder, monkeypatch, "--batch", "32")
    finally:
        ray.shutdown()
    assert found["number"].to_pylist() == list(range(100))
    assert found["prediction"].to_pylist() == EXPECTED
    assert found["not_predicted"].to_pylist() == [None, None, "blank text", None, "no known token"] * 20


def test_spark(folder, monkeypatch):
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.setenv("MASTER", "local[1]")
    found = scored("score_with_spark.py", folder, monkeypatch).sort_by("number")
    assert found["number"].to_pylist() == list(range(100))
    assert found["prediction"].to_pylist() == EXPECTED
    assert found["probability"].null_count == 40


@pytest.mark.parametrize(
    "write_run", [lambda folder: finished.run(folder, wrong={0: 3, 2: 1}), finished.multi_label_run]
)
def test_the_notebook_runs_and_has_no_outputs(write_run, tmp_path, monkeypatch):
    monkeypatch.setattr(matplotlib, "rcParams", matplotlib.rcParams | {"backend": "agg"})
    run = write_run(tmp_path / "run")
    cells = json.loads((EXAMPLES / "read_a_run.ipynb").read_text("utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert "outputs/DATE/TIME" in codes[0]
    names: dict[str, object] = {}
    for code in codes:
        exec(compile(code.replace("outputs/DATE/TIME", str(run)), "cell", "exec"), names)
    assert len(names["errors"]) > 0
    assert len(names["tested"]) == 4  # the fifth class has no test texts


def test_the_picture_of_the_rule_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["effective_prior.py", "--picture", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "effective_prior.py"), run_name="__main__")
    assert (tmp_path / "effective_prior.png").stat().st_size > 10_000
