"""Monitored metrics exist, and the best value is kept, whatever callback monitors them."""

from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint

from commandline import run, setting
from counterpoise.errors import UserError
from counterpoise.metrics import registry
from counterpoise.training.monitors import better_mode, check_monitors, set_modes
from counterpoise.training.resume import BestCheckpoint
from refusals import user_error

NAMES = sorted({f"val/{metric.name}" for task in registry.TASKS for metric in registry.select(task)})
KINDS = [EarlyStopping, ModelCheckpoint, BestCheckpoint]
CONTRARY = {"min": "max", "max": "min"}


def refused(callbacks, names=NAMES) -> str:
    return user_error(check_monitors, callbacks, names)


def test_losses_are_minimised_and_scores_maximised():
    assert better_mode("val/loss") == better_mode("val/loss_weighted") == better_mode("train/loss_epoch") == "min"
    assert better_mode("val/macro_f1") == better_mode("val/map") == "max"
    assert better_mode("val/none_such") is None


@pytest.mark.parametrize("name", [*NAMES, "val/loss_weighted"])
def test_auto_is_the_better_mode_of_the_callbacks_own_monitor(name):
    config = OmegaConf.create(
        {
            "monitor_mode": "auto",
            "callbacks": {
                "best": {"monitor": "val/macro_f1", "mode": "${monitor_mode}"},
                "own": {"monitor": name, "mode": "auto"},
                "explicit": {"monitor": "mine", "mode": "max"},
                "other": {"patience": 3},
                "removed": None,
            },
        }
    )
    set_modes(config.callbacks)
    assert config.callbacks.best.mode == "max"
    assert config.callbacks.own.mode == better_mode(name)
    assert config.callbacks.explicit.mode == "max"
    assert "mode" not in config.callbacks.other


def test_a_metric_of_unknown_direction_needs_a_mode():
    config = OmegaConf.create({"early": {"monitor": "val/los", "mode": "auto"}})
    with pytest.raises(UserError, match=r"callbacks\.early\.monitor=val/los.*Did you mean 'val/loss'"):
        set_modes(config)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_contrary_mode_is_refused(kind, name):
    better = better_mode(name)
    check_monitors([kind(monitor=name, mode=better)], NAMES)
    line = refused([kind(monitor=name, mode=CONTRARY[better])])
    assert kind.__name__ in line
    assert name in line
    assert f" to {better}" in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_mode_that_is_left_to_lightning_is_checked_alike(kind):
    check_monitors([kind(monitor="val/loss")], NAMES)
    assert "mode=min" in refused([kind(monitor="val/macro_f1")])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["val/macrof1", "macro_f1", "val_loss", "test/macro_f1", "train/loss"])
def test_a_metric_that_does_not_exist_is_refused(kind, name):
    line = refused([kind(monitor=name, mode="max")])
    assert f"monitors {name}" in line
    assert "Did you mean" in line


def test_the_training_loss_exists_after_an_epoch_only():
    for kind, option in ((EarlyStopping, "check_on_train_epoch_end"), (ModelCheckpoint, "save_on_train_epoch_end")):
        check_monitors([kind(monitor="train/loss_epoch", **{option: True})], NAMES)
        assert f"{option}=true" in refused([kind(monitor="train/loss_epoch")])


def test_callbacks_without_a_metric_are_left_alone():
    check_monitors([LearningRateMonitor(), ModelCheckpoint(), ModelCheckpoint(monitor="step", mode="max")], NAMES)


@pytest.mark.e2e
@pytest.mark.parametrize("monitor", ["loss", "macro_f1"])
def test_the_best_epoch_of_a_run_is_kept(monitor, texts: dict[str, Path], tiny_encoder, tmp_path):
    settings = setting(texts, tiny_encoder)
    # The learning rate is so high that the loss rises again.
    done = run(
        tmp_path / "run",
        *settings,
        f"monitor=val/{monitor}",
        "trainer.max_epochs=4",
        "optim.encoder_lr=0.03",
        "callbacks.early_stopping=null",
        report=False,
    )
    assert done.code == 0, done.err
    values = pd.read_csv(done.folder / "csv/metrics.csv")[f"val/{monitor}"].dropna().reset_index(drop=True)
    assert values.nunique() > 1
    best = values.idxmin() if monitor == "loss" else values.idxmax()
    assert done.metrics["validation"][monitor] == pytest.approx(values[best], rel=1e-4)
