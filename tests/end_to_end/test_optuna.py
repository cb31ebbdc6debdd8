"""`train.py -m sweep=optuna`: trials, pruning, continuation, and the page of the search."""

import json

import pytest

pytest.importorskip("optuna")

import optuna
import pandas as pd

from commandline import run, setting
from counterpoise.analysis.search_results import read_search
from counterpoise.errors import UserError
from counterpoise.sweep.trial_storage import DATABASE
from counterpoise.training.pruning import TrialPruning

pytestmark = pytest.mark.e2e

USELESS = "1e-07"
"""A learning rate that leaves the head as it is."""


def search(texts, encoder, folder, *overrides):
    fixed = [each for each in setting(texts, encoder) if not each.startswith("optim.")]
    sweep = ["-m", "sweep=optuna", "train=probe", "hydra/launcher=basic", "trainer.max_epochs=10", "baseline=none"]
    space = [f"optim.head_lr=0.03,{USELESS}", "strategy/loss=cross_entropy"]
    space += ["strategy.sampler.alpha=0.5", "strategy.weights.beta=0.5"]
    pruner = "callbacks.pruning.pruner.n_startup_trials=1"
    return run(folder, *sweep, *fixed, *space, pruner, *overrides, f"hydra.sweep.dir={folder}")


def test_poor_trials_are_pruned_and_a_search_is_continued(texts, tiny_encoder, tmp_path):
    done = search(texts, tiny_encoder, tmp_path, "n_trials=6")
    assert done.code == 0, done.err
    states = {}
    for number in range(6):
        status = json.loads((tmp_path / str(number) / "status.json").read_text())
        states[number] = status["state"]
        assert status["state"] in ("finished", "pruned")
        if status["state"] == "pruned":
            assert f"optim.head_lr={USELESS}" in status["overrides"]
            assert "worse than other trials" in status["reason"]
    assert set(states.values()) == {"finished", "pruned"}
    assert states[0] == "finished"  # the configured values
    table = pd.read_csv(tmp_path / "leaderboard.csv")
    assert dict(enumerate(table.state)) == states
    found = read_search(tmp_path)
    assert found.first_is_configured
    assert found.finished[0].value == max(trial.value for trial in found.finished)
    assert "best of 6 trials" in done.out
    (command,) = [line for line in done.out.splitlines() if line.startswith("train ")]
    assert "trainer.val_check_interval=0.25" in command
    assert f"optim.head_lr={found.finished[0].values['optim.head_lr']}" in command
    assert "sweep=" not in command
    assert "n_trials" not in command
    assert "optim.encoder_lr" not in command
    page = (tmp_path / "comparison.html").read_text()
    assert 'id="search"' in page
    assert ".hydra.org" not in page

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/status.json")}
    done = search(texts, tiny_encoder, tmp_path, "n_trials=7")
    assert done.code == 0, done.err
    assert "best of 7 trials" in done.out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/status.json")}.items() >= before.items()

    done = search(texts, tiny_encoder, tmp_path, "n_trials=7", "dropout=0.2")
    assert done.code == 2, done.out
    assert "dropout=0.2" in done.error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("strategy.weights.bta=interval(0,1)", "strategy.weights.bta"),
        ("strategy/loss=cross_entropy,focl", "focal"),
        ("dropout=interval(0.3,0.1)", "interval is empty"),
        ("n_trials=0", "n_trials=0"),
        ("strategy.sampler.alpha=0.5,1", "strategy.sampler.alpha"),
        ("monitor=train/loss_epoch", "validation split"),
        ("seed=1,2", "luck"),
        ("+hydra.sweeper.params.monitor=val/loss", "on the command line instead"),
    ],
)
def test_other_settings_are_refused_before_the_first_trial(override, message, texts, tiny_encoder, tmp_path):
    done = search(texts, tiny_encoder, tmp_path, override)
    assert done.code == 2, done.out + done.err
    assert message in done.error
    assert not (tmp_path / "0").exists()


def test_the_callback_needs_the_database_of_its_trial(tmp_path):
    class Fit:
        is_global_zero = True

    def callback(trial):
        return TrialPruning(str(tmp_path / "0"), trial, "val/macro_f1", optuna.pruners.NopPruner())

    callback(None).on_fit_start(Fit(), None)
    callback(None).on_validation_end(Fit(), None)
    with pytest.raises(UserError, match=f"{DATABASE} is missing"):
        callback(0).on_fit_start(Fit(), None)
