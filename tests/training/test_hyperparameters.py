"""Every logger receives the settings of a run and its test metrics."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from pytorch_lightning.loggers.logger import Logger

from commandline import run, setting

pytestmark = pytest.mark.e2e


class Recorder(Logger):
    """A logger that appends everything it receives to a file."""

    name = version = "recorder"

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)

    def log_hyperparams(self, params):
        with self.file.open("a") as file:
            file.write(json.dumps({"params": params}) + "\n")

    def log_metrics(self, metrics, step=None):
        with self.file.open("a") as file:
            file.write(json.dumps({"metrics": metrics}) + "\n")


EXPECTED = {
    "strategy": "square_root",
    "data": "files",
    "strategy.weights.beta": 0.5,
    "optim.encoder_lr": 0.003,
    "seed": 3,
    "costs": None,
    "optim.betas": [0.9, 0.999],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texts: dict[str, Path], tiny_encoder: Path) -> Path:
    """A finished run with CSV, TensorBoard and a logger of its own."""
    folder = tmp_path_factory.mktemp("logged")
    own = f"+logger.own={{_target_: {__name__}.Recorder, file: {folder}/own.jsonl}}"
    overrides = [*setting(texts, tiny_encoder), "logger=default", "strategy=square_root", "seed=3", own]
    done = run(folder / "run", *overrides, report=False)
    assert done.code == 0, done.err
    return folder


def test_a_logger_of_ones_own_gets_every_setting_once(folder):
    lines = [json.loads(line) for line in (folder / "own.jsonl").read_text().splitlines()]
    (params,) = [line["params"] for line in lines if "params" in line]
    assert params.items() >= EXPECTED.items()
    assert params["strategy.weights"] == "square_root"
    assert not any("/" in key for key in params)
    assert not any(isinstance(value, dict) and value for value in params.values())
    logged = {name for line in lines for name in line.get("metrics", ())}
    assert {"test/macro_f1", "test/accuracy"} <= logged


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_hparams_yaml_has_every_setting(folder, logger):
    params = yaml.safe_load((folder / "run" / logger / "hparams.yaml").read_text())
    assert params.items() >= EXPECTED.items()


def test_the_csv_has_the_test_metrics(folder):
    with (folder / "run/csv/metrics.csv").open() as file:
        assert any(row["test/macro_f1"] for row in csv.DictReader(file))


def test_tensorboard_shows_settings_beside_test_metrics(folder):
    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "run/tensorboard"))
    events.Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = plugin.HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["strategy"].string_value == "square_root"
    assert settings["optim.encoder_lr"].number_value == 0.003
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    shown = {info.name.tag for info in plugin.HParamsPluginData.FromString(content).experiment.metric_infos}
    measured = json.loads((folder / "run/metrics.json").read_text())["test"]
    assert {"test/macro_f1", "test/accuracy"} <= shown
    for tag in shown:
        assert events.Scalars(tag)[-1].value == pytest.approx(measured[tag.removeprefix("test/")], abs=1e-5)


def test_a_run_of_one_batch_needs_no_logger(texts, tiny_encoder, tmp_path):
    assert run(tmp_path / "run", *setting(texts, tiny_encoder), "debug=fast", report=False).code == 0
