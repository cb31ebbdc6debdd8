"""Trackers receive configuration, metrics, files and a model that can be loaded, and never end a run."""

from pathlib import Path
from unittest.mock import MagicMock

import pytest
from pytorch_lightning.callbacks import Callback

from commandline import run, setting
from counterpoise.training import trackers
from counterpoise.training.pruning import TrialPruned

pytestmark = pytest.mark.e2e


@pytest.fixture
def fit(texts, tiny_encoder, tmp_path):
    """Trains for one epoch with a logger."""

    def fit(*overrides):
        return run(tmp_path / "run", *setting(texts, tiny_encoder), *overrides, "baseline=none")

    return fit


def mlflow_settings(folder):
    return ["logger=mlflow", f"logger.mlflow.tracking_uri=sqlite:///{folder}/new/mlflow.db"]


def test_mlflow_has_settings_metrics_files_and_a_loadable_model(fit, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from counterpoise.commands.predictor import load

    done = fit(*mlflow_settings(tmp_path))
    assert done.code == 0, done.err
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/new/mlflow.db")
    experiment = client.get_experiment_by_name("counterpoise")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["strategy"] == "combined"
    assert found.data.params["optim.encoder_lr"] == "0.003"
    assert found.data.metrics["test/macro_f1"] == pytest.approx(done.metrics["test"]["macro_f1"], abs=1e-5)
    assert found.data.metrics.keys() >= {"val/macro_f1", "val/loss"}
    files = {each.path for each in client.list_artifacts(found.info.run_id, "run")}
    assert files >= {"run/config.yaml", "run/balance.csv", "run/metrics.json", "run/report.html"}
    stored = Path(client.download_artifacts(found.info.run_id, "run", str(tmp_path)))
    words = ["alpha1 word2", "beta3"]
    assert (load(stored)(words) == load(done.folder)(words)).all()


class Pruned(Callback):
    """Stops the run at its first validation, as a pruner does."""

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            trackers.mark_pruned(trainer.loggers, "worse than other trials")
            raise TrialPruned("worse than other trials")


def test_a_pruned_trial_is_no_failure_in_mlflow(fit, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    done = fit(*mlflow_settings(tmp_path), f"+callbacks.pruned._target_={__name__}.Pruned")
    assert done.status["state"] == "pruned"
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/new/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("counterpoise").experiment_id])
    assert found.info.status == "KILLED"
    assert found.data.tags["pruned"] == "worse than other trials"


@pytest.mark.parametrize("kind", [trackers.MLflowTracker, trackers.WandbTracker])
def test_a_pruned_trial_has_a_tag_and_does_not_fail(kind, monkeypatch):
    client, logger = MagicMock(), kind.__new__(kind)
    client.tags = ("mine",)
    monkeypatch.setattr(kind, "experiment", client)
    logger._initialized, logger._run_id, logger._checkpoint_callback = True, "7", None
    trackers.mark_pruned([logger], "worse")
    logger.finalize("failed")
    assert not logger.failed
    if kind is trackers.MLflowTracker:
        client.set_tag.assert_called_once_with("7", "pruned", "worse")
        client.set_terminated.assert_called_once_with("7", "KILLED")
    else:
        assert client.tags == ("mine", "pruned")
        client.finish.assert_called_once_with()


def test_the_model_may_be_left_out(fit, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    assert fit(*mlflow_settings(tmp_path), "logger.mlflow.store_model=false").code == 0
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/new/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("counterpoise").experiment_id])
    assert not [each for each in client.list_artifacts(found.info.run_id, "run") if "checkpoints" in each.path]


def test_wandb_has_settings_metrics_and_files_offline(fit, tmp_path):
    pytest.importorskip("wandb")
    done = fit("logger=wandb", "logger.wandb.offline=true")
    assert done.code == 0, done.err
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (stored,) = offline.glob("run-*.wandb")
    content = stored.read_bytes()
    for expected in (b"strategy.weights.beta", b"test/macro_f1", b"best.ckpt", b"balance.csv"):
        assert expected in content


def test_tensorboard_has_the_configuration_and_the_effective_prior_as_text(fit, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert fit("logger=default").code == 0
    events = accumulator.EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    texts = {tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert "encoder_lr: 0.003" in texts["config/text_summary"]
    assert "| alpha |" in texts["effective prior/text_summary"]


class Failing(trackers._Tolerant, trackers.Logger):
    """A tracker that is reached before training and fails later."""

    title, name, version, store_model = "Tracker", "failing", "0", True

    def __init__(self, file):
        self.file, self.failed = file, False

    def _send(self, *values):
        with Path(self.file).open("a") as file:
            file.write("tried\n")
        raise ConnectionError("no route")

    def log_hyperparams(self, *values):
        pass

    def log_metrics(self, metrics, step=None):
        self.attempt(self._send, metrics)


def test_a_tracker_that_fails_during_the_run_is_named_once_and_the_run_finishes(fit, tmp_path):
    file = tmp_path / "tried"
    own = f"+logger.own={{_target_: {__name__}.Failing, file: {file}}}"
    done = fit(own)
    assert done.code == 0, done.err
    assert done.status["state"] == "finished"
    assert (done.out + done.err).count("Tracker is not available and receives nothing more of this run: no route") == 1
    assert file.read_text() == "tried\n"


def test_a_tracker_that_cannot_be_reached_before_training_is_refused():
    def send():
        raise ConnectionError("no route")

    with pytest.raises(trackers.UserError, match="Tracker is not available: no route"):
        Failing("").reach(send)


def test_a_missing_library_is_one_line(fit, monkeypatch):
    for name, module, flag in (("mlflow", "mlflow", "_MLFLOW_AVAILABLE"), ("wandb", "wandb", "_WANDB_AVAILABLE")):
        monkeypatch.setattr(f"pytorch_lightning.loggers.{module}.{flag}", False)
        done = fit(f"logger={name}")
        assert done.code == 2
        assert f"pip install 'counterpoise[{name}]'" in done.error
