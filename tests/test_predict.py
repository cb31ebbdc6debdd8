"""What is done with finished runs: predictions for new texts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from commandline import call, run, setting
from counterpoise import predict
from counterpoise.balance.costs import least_cost

CLASSES = ["alpha", "beta", "delta", "gamma"]
SHIFT, TEMPERATURE = np.array([-1.0, 0.5, 2.0, 1.0]), 1.5

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, Path], tiny_encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    outcome = run(folder, *setting(texts, tiny_encoder), "strategy=combined")
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def tagging(tmp_path_factory: pytest.TempPathFactory, tagged: dict[str, Path], tiny_encoder: Path) -> Path:
    """A run with several labels a text."""
    folder = tmp_path_factory.mktemp("tagging")
    outcome = run(folder, *setting(tagged, tiny_encoder), "data.label=labels", "strategy=weighted")
    assert outcome.code == 0, outcome.err
    return folder


def with_calibration(run: Path, folder: Path, calibrated: bool = True) -> Path:
    """A copy of the run, with a calibration of its own or none."""
    shutil.copytree(run, folder)
    (folder / "calibration.json").unlink(missing_ok=True)
    if calibrated:
        shift = dict(zip(CLASSES, SHIFT.tolist(), strict=True))
        content = {"variant": "prior_corrected_temperature", "temperature": TEMPERATURE, "shift": shift}
        (folder / "calibration.json").write_text(json.dumps(content))
    return folder


def calibrated(probabilities: pd.DataFrame) -> np.ndarray:
    """What the calibration of `with_calibration` makes of the probabilities of classes."""
    powers = np.exp((np.log(probabilities.to_numpy(np.float64)) - SHIFT) / TEMPERATURE)
    return powers / powers.sum(1, keepdims=True)


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


class TestCalibrated:
    def test_probabilities_are_calibrated_and_predictions_stay(self, finished, texts, tmp_path, monkeypatch):
        folder = with_calibration(finished, tmp_path / "run")
        raw, ours = tmp_path / "raw.parquet", tmp_path / "ours.parquet"
        assert call(predict.main, monkeypatch, folder, texts["test"], "--output", raw) == 0
        assert call(predict.main, monkeypatch, folder, texts["test"], "--calibrated", "--output", ours) == 0
        raw, ours = pd.read_parquet(raw), pd.read_parquet(ours)
        columns = [f"p:{name}" for name in CLASSES]
        np.testing.assert_allclose(ours[columns], calibrated(raw[columns]), rtol=1e-4)
        assert ours.prediction.tolist() == raw.prediction.tolist()
        assert [row[f"p:{row.prediction}"] for _, row in ours.iterrows()] == ours.probability.tolist()
        assert np.abs(ours[columns].to_numpy() - raw[columns].to_numpy()).max() > 0.05

    def test_thresholds_are_of_the_raw_probabilities(self, tagging, tagged, tmp_path, monkeypatch):
        folder = with_calibration(tagging, tmp_path / "run")
        raw, ours = tmp_path / "raw.parquet", tmp_path / "ours.parquet"
        assert call(predict.main, monkeypatch, folder, tagged["test"], "--output", raw) == 0
        assert call(predict.main, monkeypatch, folder, tagged["test"], "--calibrated", "--output", ours) == 0
        raw, ours = pd.read_parquet(raw), pd.read_parquet(ours)
        changed = False
        for before, after in zip(raw.itertuples(), ours.itertuples(), strict=True):
            assert set(before.predictions) == set(after.predictions)
            p = dict(zip(before.predictions, before.probabilities.astype(float), strict=True))
            for name, probability in zip(after.predictions, after.probabilities, strict=True):
                logit = (np.log(p[name] / (1 - p[name])) - SHIFT[CLASSES.index(name)]) / TEMPERATURE
                assert probability == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-3)
                changed |= abs(probability - p[name]) > 0.05
        assert changed

    def test_a_run_that_was_not_calibrated_is_one_line(self, finished, texts, tmp_path, monkeypatch, capsys):
        folder = with_calibration(finished, tmp_path / "run", calibrated=False)
        assert call(predict.main, monkeypatch, folder, texts["test"], "--calibrated") == 2
        error = capsys.readouterr().err
        assert "has no calibration.json" in error
        assert error.count("\n") == 1


class TestCosts:
    # Whatever it is, to call it delta is cheap; a missed alpha is dear.
    COSTS = np.array([[0.0, 30, 2, 30], [9, 0, 2, 9], [9, 9, 0, 9], [9, 9, 2, 0]])

    def file(self, folder: Path) -> Path:
        path = folder / "costs.csv"
        pd.DataFrame(self.COSTS, CLASSES, CLASSES).to_csv(path)
        return path

    @pytest.mark.parametrize("has_calibration", [True, False])
    def test_the_decision_of_the_least_cost_is_a_column(
        self, finished, texts, tmp_path, monkeypatch, caplog, has_calibration
    ):
        folder = with_calibration(finished, tmp_path / "run", has_calibration)
        output, given = tmp_path / "out.parquet", (folder, texts["test"], "--costs", self.file(tmp_path))
        assert call(predict.main, monkeypatch, *given, "--output", output) == 0
        table = pd.read_parquet(output)
        probabilities = table[[f"p:{name}" for name in CLASSES]]
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
        weighed = calibrated(probabilities) if has_calibration else probabilities.to_numpy()
        assert table.least_cost.tolist() == [CLASSES[i] for i in least_cost(weighed, self.COSTS)]
        assert (table.least_cost != table.prediction).any()
        theirs = pd.read_parquet(finished / "predictions.parquet")
        assert table.prediction.tolist() == theirs.prediction.tolist()
        np.testing.assert_allclose(table.probability, theirs.probability, atol=1e-5)
        assert ("raw probabilities" in caplog.text) != has_calibration

    def test_costs_of_several_labels_and_of_other_classes_are_one_line(
        self, finished, tagging, texts, tagged, tmp_path, monkeypatch, capsys
    ):
        costs = self.file(tmp_path)
        assert call(predict.main, monkeypatch, tagging, tagged["test"], "--costs", costs) == 2
        assert "costs are of one class" in capsys.readouterr().err
        costs.write_text(costs.read_text().replace("delta", "delte"))
        assert call(predict.main, monkeypatch, finished, texts["test"], "--costs", costs) == 2
        error = capsys.readouterr().err
        assert "no row for 'delta'" in error
        assert error.count("\n") == 1


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
