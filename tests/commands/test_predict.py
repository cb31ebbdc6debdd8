"""What is done with finished runs: predictions for new texts."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tokenizers import Tokenizer

from commandline import call, run, setting
from counterpoise.commands import predict, predictor
from counterpoise.errors import UserError
from counterpoise.metrics.costs import least_cost

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


def test_predictions_of_the_test_file_equal_those_of_the_run(finished, texts, tmp_path, monkeypatch):
    output = tmp_path / "out.parquet"
    assert call(predict.main, monkeypatch, finished, texts["test"], "--output", output) == 0
    ours, theirs = pq.read_table(output), pq.read_table(finished / "predictions.parquet")
    assert ours["id"].to_pylist() == theirs["id"].to_pylist()
    assert ours["prediction"].to_pylist() == theirs["prediction"].to_pylist()
    np.testing.assert_allclose(ours["probability"].to_numpy(), theirs["probability"].to_numpy(), atol=1e-5)
    assert ours["label"].null_count == len(ours)


def test_a_missing_text_gets_a_prediction(finished, tmp_path, monkeypatch):
    file = tmp_path / "new.csv"
    file.write_text("name,review\na,alpha1 alpha2\nb,\n")
    output = tmp_path / "out.parquet"
    arguments = (finished, file, "--text", "review", "--id", "name", "--output", output)
    assert call(predict.main, monkeypatch, *arguments) == 0
    assert pq.read_table(output)["id"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("ids", [["a", None, " "], [7.0, None, float("nan")]], ids=["text", "numbers"])
def test_a_row_without_an_id_gets_its_row_number(finished, tmp_path, monkeypatch, ids):
    pq.write_table(pa.table({"text": ["alpha1"] * 3, "name": ids}), tmp_path / "new.parquet")
    output = tmp_path / "out.parquet"
    arguments = (finished, tmp_path / "new.parquet", "--id", "name", "--output", output)
    assert call(predict.main, monkeypatch, *arguments) == 0
    assert pq.read_table(output)["id"].to_pylist() == [str(ids[0]).removesuffix(".0"), "2", "3"]


class TestReading:
    TEXT = 'text\tname\nkind\tkind\n"alpha1\ta\nbeta1"\tb\n'
    """A row of column types and two texts, the first of which is quoted and contains a line break."""

    @pytest.fixture
    def trained(self, finished, tmp_path) -> Path:
        """A run whose configuration names a training file in this format."""
        folder = tmp_path / "run"
        shutil.copytree(finished, folder)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["data"] |= {"train": "train.tab.gz", "quote": None, "skip_rows_after_header": 1}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    def predicted(self, monkeypatch, *arguments: object) -> int:
        """Return the number of predicted texts."""
        output = Path(arguments[0]) / "out.parquet"
        assert call(predict.main, monkeypatch, *arguments, "--output", output) == 0
        return pq.read_table(output).num_rows

    def test_a_file_with_the_training_suffix_is_read_in_its_format(self, trained, tmp_path, monkeypatch, caplog):
        (tmp_path / "new.tab").write_text(self.TEXT)
        with caplog.at_level("INFO"):
            assert self.predicted(monkeypatch, trained, tmp_path / "new.tab") == 2
        assert "quote=None, skip_rows_after_header=1" in caplog.text
        assert self.predicted(monkeypatch, trained, tmp_path / "new.tab", "--skip-rows", 0) == 3
        assert self.predicted(monkeypatch, trained, tmp_path / "new.tab", "--quote", '"', "--skip-rows", 0) == 2

    def test_files_with_another_suffix_are_read_in_its_default_format(self, trained, tmp_path, monkeypatch):
        (tmp_path / "new.tsv").write_text(self.TEXT)
        assert self.predicted(monkeypatch, trained, tmp_path / "new.tsv") == 2
        assert self.predicted(monkeypatch, trained, tmp_path / "new.tsv", "--quote", "") == 3
        (tmp_path / "new.csv").write_text(self.TEXT)
        options = ("--delimiter", "\\t", "--quote", "", "--skip-rows", 1)
        assert self.predicted(monkeypatch, trained, tmp_path / "new.csv", *options) == 2

    def test_an_invalid_delimiter_is_refused_in_one_line(self, trained, tmp_path, monkeypatch, capsys):
        assert call(predict.main, monkeypatch, trained, tmp_path / "new.csv", "--delimiter", "||") == 2
        error = capsys.readouterr().err
        assert "'||' is not a delimiter, quote or escape" in error
        assert error.count("\n") == 1


class TestCalibrated:
    def test_calibration_changes_probabilities_but_not_predictions(self, finished, texts, tmp_path, monkeypatch):
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

    @pytest.mark.parametrize("scale", [0, 0.3, 1, 10])
    @pytest.mark.parametrize("suffix", ["parquet", "csv"])
    def test_predictions_that_are_not_the_most_probable_class_are_counted(
        self, finished, texts, tmp_path, monkeypatch, caplog, scale, suffix
    ):
        folder, output = with_calibration(finished, tmp_path / "run"), tmp_path / f"out.{suffix}"
        content = json.loads((folder / "calibration.json").read_text())
        content["shift"] = {name: scale * shift for name, shift in content["shift"].items()}
        (folder / "calibration.json").write_text(json.dumps(content))
        assert call(predict.main, monkeypatch, folder, texts["test"], "--calibrated", "--output", output) == 0
        table = pd.read_parquet(output) if suffix == "parquet" else pd.read_csv(output)
        columns = [f"p:{name}" for name in CLASSES]
        largest = table[columns].idxmax(axis=1).str.removeprefix("p:")
        assert table.most_probable.tolist() == largest.tolist()
        differing = int((table.prediction != largest).sum())
        assert (differing > 0) == (scale == 10) or 0 < scale < 10
        found = re.search(r"([\d,]+) of ([\d,]+) predictions .* are not the most probable", caplog.text)
        assert (found is not None) == (differing > 0)
        if found:
            assert found.groups() == (str(differing), str(len(table)))

    def test_without_calibration_there_is_no_second_class(self, finished, texts, tmp_path, monkeypatch, caplog):
        output = tmp_path / "out.parquet"
        assert call(predict.main, monkeypatch, finished, texts["test"], "--output", output) == 0
        assert "most_probable" not in pd.read_parquet(output)
        assert "most probable" not in caplog.text

    def test_thresholds_apply_to_raw_probabilities(self, tagging, tagged, tmp_path, monkeypatch):
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

    def test_a_run_without_calibration_is_refused_in_one_line(self, finished, texts, tmp_path, monkeypatch, capsys):
        folder = with_calibration(finished, tmp_path / "run", calibrated=False)
        assert call(predict.main, monkeypatch, folder, texts["test"], "--calibrated") == 2
        error = capsys.readouterr().err
        assert "has no calibration.json" in error
        assert error.count("\n") == 1


class TestCosts:
    # Predicting delta is cheap for every class; missing alpha is expensive.
    COSTS = np.array([[0.0, 30, 2, 30], [9, 0, 2, 9], [9, 9, 0, 9], [9, 9, 2, 0]])

    def file(self, folder: Path) -> Path:
        path = folder / "costs.csv"
        pd.DataFrame(self.COSTS, CLASSES, CLASSES).to_csv(path)
        return path

    @pytest.mark.parametrize("has_calibration", [True, False])
    def test_the_least_cost_decision_is_a_column(self, finished, texts, tmp_path, monkeypatch, caplog, has_calibration):
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

    def test_costs_for_multi_label_runs_or_other_classes_are_refused_in_one_line(
        self, finished, tagging, texts, tagged, tmp_path, monkeypatch, capsys
    ):
        costs = self.file(tmp_path)
        assert call(predict.main, monkeypatch, tagging, tagged["test"], "--costs", costs) == 2
        assert "--costs" in capsys.readouterr().err
        costs.write_text(costs.read_text().replace("delta", "delte"))
        assert call(predict.main, monkeypatch, finished, texts["test"], "--costs", costs) == 2
        error = capsys.readouterr().err
        assert "no row for 'delta'" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{tmp}", "{test}"], "is not a run folder"),
        (["{run}", "{tmp}/nothing.csv"], "nothing.csv"),
        (["{run}", "{test}", "--text", "txt"], "Did you mean 'text'?"),
        (["{run}", "{test}", "--output", "{tmp}"], "is a folder"),
        (
            ["{run}", "{test}", "--output", "{test.parent}/../{test.parent.name}/{test.name}"],
            "is the input file",
        ),
    ],
)
def test_a_user_error_is_one_line(finished, texts, tmp_path, monkeypatch, capsys, arguments, line):
    names = {"tmp": tmp_path, "test": texts["test"], "run": finished}
    assert call(predict.main, monkeypatch, *(argument.format(**names) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert line in error
    assert error.count("\n") == 1


class TestParts:
    def test_prediction_in_blocks_gives_the_same_result(self, tagging, tagged, tmp_path, monkeypatch):
        whole, parts = tmp_path / "whole.parquet", tmp_path / "parts.parquet"
        assert call(predict.main, monkeypatch, tagging, tagged["test"], "--id", "source", "--output", whole) == 0
        monkeypatch.setattr(predictor, "MAX_TEXTS", 7)
        assert call(predict.main, monkeypatch, tagging, tagged["test"], "--id", "source", "--output", parts) == 0
        whole, parts = pd.read_parquet(whole), pd.read_parquet(parts)
        assert parts.id.tolist() == whole.id.tolist()
        assert list(map(list, parts.predictions)) == list(map(list, whole.predictions))
        for ours, theirs in zip(parts.top_probabilities, whole.top_probabilities, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)

    def test_blocks_are_smaller_with_more_labels(self, recorded, monkeypatch):
        monkeypatch.setattr(predictor, "MAX_LOGITS", 5)
        texts = pa.chunked_array([["word0"] * 3, ["word1", None]])
        assert [len(part.logits) for part in recorded[0].predict_blocks(texts)] == [2, 2, 1]

    def test_an_error_during_prediction_keeps_the_old_file(self, finished, texts, tmp_path, monkeypatch):
        output = tmp_path / "out.parquet"
        output.write_text("old")
        monkeypatch.setattr(predictor, "MAX_TEXTS", 7)
        parts = predictor.Predictor.predict_blocks

        def fail_at_the_second_block(self, texts):
            yield next(parts(self, texts))
            raise UserError("disk full")

        monkeypatch.setattr(predictor.Predictor, "predict_blocks", fail_at_the_second_block)
        assert call(predict.main, monkeypatch, finished, texts["test"], "--output", output) == 2
        assert output.read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]

    def test_a_file_without_rows_gives_no_predictions(self, finished, tmp_path, monkeypatch):
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "none.parquet")
        output = tmp_path / "out.parquet"
        assert call(predict.main, monkeypatch, finished, tmp_path / "none.parquet", "--output", output) == 0
        assert pq.read_table(output).num_rows == 0


@pytest.fixture
def recorded(tiny_encoder) -> tuple[predictor.Predictor, list[tuple[int, int]]]:
    """A predictor whose logits are sum and number of the token ids, and the shapes of its batches."""
    batches = []

    def model(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        batches.append(ids.shape)
        return np.stack([(ids * mask).sum(1), mask.sum(1)], axis=1, dtype=np.float32)

    tokenizer = Tokenizer.from_file(str(tiny_encoder / "tokenizer.json"))
    return predictor.Predictor(
        labels=["sum", "number"], tokenizer=tokenizer, pad=1, model=model, max_tokens=40
    ), batches


class TestBatches:
    TEXTS = tuple(" ".join(["word0"] * (1 + i * 7 % 12)) for i in range(30))

    def test_logits_are_in_the_order_of_the_texts(self, recorded):
        predictor, _ = recorded
        logits = predictor(self.TEXTS)
        tokens = predictor.tokenise(self.TEXTS)
        assert logits.tolist() == [[ids.sum(), len(ids)] for ids in tokens]
        assert logits.dtype == np.float32

    def test_batches_respect_max_tokens_and_have_little_padding(self, recorded):
        predictor, batches = recorded
        logits = predictor(self.TEXTS)
        assert sum(rows for rows, _ in batches) == len(self.TEXTS)
        assert all(rows * length <= predictor.max_tokens for rows, length in batches)
        assert sum(rows * length for rows, length in batches) < 1.2 * logits[:, 1].sum()

    def test_a_text_longer_than_max_tokens_has_its_own_batch(self, recorded):
        predictor, batches = recorded
        predictor.max_tokens = 5
        predictor(["word0 " * 20, "word1"])
        assert batches == [(1, 22), (1, 3)]

    def test_no_texts_give_no_logits(self, recorded):
        assert recorded[0]([]).shape == (0, 2)


def foreign(finished: Path, folder: Path, encoder: dict) -> Path:
    """A copy of a run folder whose configuration names another encoder."""
    shutil.copytree(finished, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"encoder": encoder}))
    return folder


@pytest.fixture
def encoder(finished) -> dict:
    """The encoder in the configuration of a finished run."""
    return yaml.safe_load((finished / "config.yaml").read_text())["encoder"]


@pytest.mark.parametrize(
    "target",
    [
        "os.mkdir",
        "counterpoise.saved_files.json.loads",
        "counterpoise.commands.predictor.Path",
        "counterpoise.training.predictions.write_predictions",
        "counterpoise.model.gone.Gone",
    ],
)
@pytest.mark.parametrize("nested", [False, True], ids=["itself", "within"])
def test_targets_outside_the_allowed_packages_are_not_called(finished, encoder, tmp_path, target, nested):
    call = {"_target_": target, "_args_": [str(tmp_path / "made")]}
    folder = foreign(finished, tmp_path / "foreign", encoder | {"download": [call]} if nested else call)
    with pytest.raises(UserError, match=f"config.yaml: {target} (is not|does not exist)"):
        predictor.load(folder)
    assert not (tmp_path / "made").exists()


def test_classes_of_an_allowed_package_are_built(finished, encoder, tmp_path, monkeypatch):
    package = tmp_path / "ownpackage"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from counterpoise.model.encoder import EncoderSource\n\n\nclass OwnSource(EncoderSource):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = foreign(finished, tmp_path / "foreign", encoder | {"_target_": "ownpackage.OwnSource"})
    with pytest.raises(UserError, match="--allow ownpackage"):
        predictor.load(folder)
    own = predictor.load(folder, packages=("counterpoise", "ownpackage"))
    np.testing.assert_array_equal(own(["alpha1 word2"]), predictor.load(finished)(["alpha1 word2"]))


def test_interpolations_in_a_run_folder_are_not_resolved(finished, encoder, tmp_path):
    call = f"${{oc.create:{{_target_: os.mkdir, _args_: ['{tmp_path / 'made'}']}}}}"
    folder = foreign(finished, tmp_path / "foreign", encoder | {"name": call})
    with pytest.raises(UserError, match="no such folder"):
        predictor.load(folder)
    assert not (tmp_path / "made").exists()


def test_a_run_with_unknown_arguments_is_refused_in_one_line(finished, encoder, tmp_path):
    folder = foreign(finished, tmp_path / "other", encoder | {"colour": "blue"})
    with pytest.raises(UserError, match=r"EncoderSource does not accept .* 'colour'"):
        predictor.load(folder)


def test_bf16_rounds_and_fp32_does_not(finished):
    texts = ["alpha1 alpha2 word3", "beta1 word2", "word1"]
    exact, rounded = (predictor.load(finished, precision=precision)(texts) for precision in ("fp32", "bf16"))
    assert exact.dtype == rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.1
    # Without a GPU bf16 is not chosen.
    assert np.array_equal(predictor.load(finished, precision="auto")(texts), exact)


def test_a_single_label_model_has_no_decision_rule(finished):
    with pytest.raises(ValueError, match="single-label"):
        predictor.load(finished).decide(np.zeros((1, 4)))


def test_a_column_that_is_not_text_is_refused_in_one_line(finished, tmp_path, monkeypatch, capsys):
    file = tmp_path / "new.csv"
    file.write_bytes(b"text\n" + b"alpha1\n" * 10 + b"\xff\xfe\n")
    assert (
        call(predict.main, monkeypatch, finished, file, "--encoding", "utf-8", "--output", tmp_path / "out.parquet")
        == 2
    )
    assert "is not text in UTF-8" in capsys.readouterr().err
    for values, kind in (([["a"], ["b"]], "list<"), ([0.5, 2.0], "double"), ([True, False], "bool")):
        pq.write_table(pa.table({"text": values}), tmp_path / "new.parquet")
        assert call(predict.main, monkeypatch, finished, tmp_path / "new.parquet") == 2
        assert f"column 'text' (--text) holds {kind}" in capsys.readouterr().err
    file.write_bytes(b"text,name\nalpha1,a\nalpha1,\xff\n")
    assert call(predict.main, monkeypatch, finished, file, "--encoding", "utf-8", "--id", "name") == 2
    assert "column 'name' (--id) is not in UTF-8 in row 2" in capsys.readouterr().err
