"""`python -m counterpoise.ensemble`: runs and a linear model combined into one model."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from commandline import call, run, setting
from counterpoise.commands import compare, ensemble, evaluate, predict
from counterpoise.commands.predictor import load

TASKS = ("single_label", "multi_label")


@pytest.fixture(scope="module", params=TASKS)
def runs(request, tmp_path_factory, texts, tagged, tiny_encoder):
    """Two runs of a task, and the file that they were tested on."""
    files, own = (texts, []) if request.param == "single_label" else (tagged, ["data.label=labels"])
    folders = []
    for seed in (0, 1):
        folders.append(tmp_path_factory.mktemp("run"))
        outcome = run(folders[-1], *setting(files, tiny_encoder), *own, f"seed={seed}", "baseline=tfidf")
        assert outcome.code == 0, outcome.err
    return folders, files["test"]


@pytest.fixture(scope="module")
def combined(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "ensemble"
    with pytest.MonkeyPatch.context() as patch:
        assert call(ensemble.main, patch, *runs[0], "--output", folder) == 0
    return folder


def logits_of(folder):
    with np.load(folder / "logits.npz") as saved:
        return saved["test"]


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_equal_weights_without_a_linear_model_give_the_mean_of_standardised_logits(runs, tmp_path, monkeypatch):
    output = tmp_path / "ensemble"
    assert call(ensemble.main, monkeypatch, *runs[0], "--output", output, "--baseline-weight", 0) == 0
    content = json.loads((output / "ensemble.json").read_text())
    assert content["baseline"] is None
    assert not (output / "baseline").exists()
    expected = sum(f * logits_of(each) for f, each in zip(content["factors"], runs[0], strict=True))
    np.testing.assert_allclose(logits_of(output), expected, rtol=1e-4, atol=1e-5)


def test_predictions_of_the_folder_are_those_of_its_test(combined, runs, tmp_path, monkeypatch):
    output = tmp_path / "predictions.parquet"
    assert call(predict.main, monkeypatch, combined, runs[1], "--output", output) == 0
    column = "predictions" if (combined / "thresholds.json").exists() else "prediction"
    tested = pq.read_table(combined / "predictions.parquet")[column]
    assert pq.read_table(output)[column].to_pylist() == tested.to_pylist()


def test_the_folder_is_evaluated_and_compared_like_a_run(combined, runs, tmp_path, monkeypatch):
    output = tmp_path / "evaluation"
    assert call(evaluate.main, monkeypatch, combined, runs[1], "--output", output) == 0
    ours, theirs = metrics_of(output)["test"], metrics_of(combined)["test"]
    assert ours == {name: pytest.approx(value, abs=1e-4, nan_ok=True) for name, value in theirs.items()}
    assert call(compare.main, monkeypatch, *runs[0], f"both={combined}", "--output", tmp_path / "comparison") == 0


def test_the_weight_was_chosen_on_validation(combined):
    section = metrics_of(combined)["ensemble"]
    tried = section["validation_by_weight"]
    assert tried[f"{section['baseline_weight']:.1f}"] == max(tried.values())
    assert [each["name"] for each in section["members"]][-1] == "linear model"


def test_an_exported_ensemble_has_the_same_logits(combined, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from counterpoise.commands.onnx_export import export

    content = export(combined, tmp_path / "onnx")
    texts = ["alpha1 word2", "beta1 word3 word4", ""]
    np.testing.assert_allclose(load(tmp_path / "onnx")(texts), load(combined)(texts), atol=1e-3)
    assert content["test"]["fp32"]["macro_f1"] == pytest.approx(metrics_of(combined)["test"]["macro_f1"], abs=1e-4)


def test_the_folder_does_not_need_the_runs(runs, tmp_path, monkeypatch):
    copies = [shutil.copytree(each, tmp_path / each.name) for each in runs[0]]
    output = tmp_path / "ensemble"
    assert call(ensemble.main, monkeypatch, *copies, "--output", output) == 0
    before = load(output)(["alpha1 word2"])
    for each in copies:
        shutil.rmtree(each)
    np.testing.assert_array_equal(load(output)(["alpha1 word2"]), before)


def damaged_splits(run):
    with np.load(run / "splits.npz") as saved:
        parts = dict(saved)
    parts["validation"] = parts["validation"][:-1]
    np.savez(run / "splits.npz", **parts)


def damaged_logits(run):
    with np.load(run / "logits.npz") as saved:
        parts = dict(saved)
    parts["test"][0, 0] = np.nan
    np.savez(run / "logits.npz", **parts)


DAMAGE = {
    "another validation split": damaged_splits,
    "not finite": damaged_logits,
    "no logits.npz": lambda run: (run / "logits.npz").unlink(),
    "no checkpoints/best.ckpt": lambda run: (run / "checkpoints" / "best.ckpt").unlink(),
    "not a finished run": lambda run: (run / "status.json").write_text('{"state": "failed", "overrides": []}'),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_runs_that_do_not_fit_are_refused(runs, tmp_path, monkeypatch, capsys, message):
    copy = shutil.copytree(runs[0][1], tmp_path / "copy")
    DAMAGE[message](copy)
    assert call(ensemble.main, monkeypatch, runs[0][0], copy, "--output", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weight", ["1", "-0.1", "nan", "half"])
def test_a_weight_outside_its_range_is_refused(weight, tmp_path, monkeypatch, capsys):
    assert call(ensemble.main, monkeypatch, tmp_path, f"--baseline-weight={weight}") == 2
    assert "--baseline-weight" in capsys.readouterr().err


def test_a_folder_that_is_no_ensemble_is_not_replaced(runs, monkeypatch, capsys):
    assert call(ensemble.main, monkeypatch, runs[0][0], "--output", runs[0][1]) == 2
    assert "not an earlier ensemble" in capsys.readouterr().err
    assert (runs[0][1] / "metrics.json").exists()
