"""Multi-label training from the command line to predictions."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import expit

from commandline import call, finish, load, run, setting, start, strategies
from counterpoise.commands import predict

pytestmark = pytest.mark.e2e

BY_HAND = "strategy.weights.by_label={alpha: 1, beta: 2, gamma: 4, delta: 8}"
LABELS = ["alpha", "beta", "delta", "gamma"]


@pytest.fixture
def tiny(tagged: dict[str, Path], tiny_encoder: Path) -> list[str]:
    learning = ["optim.encoder_lr=1e-2", "dropout=0", "encoder.hidden_dropout=0", "loader.batch_size=8"]
    return [*setting(tagged, tiny_encoder), "data.label=labels", *learning]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tagged: dict[str, Path], tiny_encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    done = run(folder, *setting(tagged, tiny_encoder), "data.label=labels", "strategy=weighted", report=False)
    assert done.code == 0, done.err
    return folder


OTHERS = ["combined", "crt", "deferred_resampling", "manual", "plain", "repeat_factor"]
"""Strategies for both tasks, of other samplers, schedules and second stages; single-label runs train all of them."""
ONLY = [name for name in strategies("multi_label") if name not in strategies("single_label")]


@pytest.mark.parametrize("strategy", [*ONLY, *OTHERS])
def test_a_strategy_learns_multi_label_data_and_writes_a_complete_run_folder(strategy, tiny, tmp_path):
    given = [BY_HAND] if strategy == "manual" else []
    done = run(tmp_path / "run", *tiny, f"strategy={strategy}", "trainer.max_epochs=8", *given, report=False)
    assert done.code == 0, done.err
    test = done.metrics["test"]
    assert all(math.isfinite(value) for value in [*test.values(), *done.metrics["test_at_half"].values()])
    assert test["micro_f1"] > 0.8
    assert test["labels"] == 4
    assert list(pd.read_csv(done.folder / "per_class.csv")["class"]) == LABELS
    assert len(pd.read_csv(done.folder / "balance.csv")) == 4


def test_thresholds_are_tuned_for_the_head_of_the_second_stage(tiny, tagged, tmp_path, monkeypatch):
    done = run(tmp_path / "run", *tiny, "strategy=crt", report=False)
    assert done.code == 0, done.err
    states = [load(done.folder / "checkpoints" / name)["state_dict"] for name in ("first_stage.ckpt", "best.ckpt")]
    for name in ("head.weight", "head.bias", "scoring.thresholds"):
        assert not torch.equal(*(state[name] for state in states))
    saved = states[1]["scoring.thresholds"].numpy()
    np.testing.assert_allclose(list(json.loads((done.folder / "thresholds.json").read_text()).values()), saved)
    decided = expit(np.load(done.folder / "logits.npz")["test"]) > saved
    theirs = pq.read_table(done.folder / "predictions.parquet")["predictions"].to_pylist()
    assert [[LABELS[c] for c in np.flatnonzero(row)] for row in decided] == [sorted(row) for row in theirs]
    output = tmp_path / "out.parquet"
    assert call(predict.main, monkeypatch, done.folder, tagged["test"], "--output", output) == 0
    assert pq.read_table(output)["predictions"].to_pylist() == theirs


def test_tuned_thresholds_are_saved_and_reported(finished):
    written = json.loads((finished / "thresholds.json").read_text())
    saved = load(finished / "checkpoints" / "best.ckpt")["state_dict"]["scoring.thresholds"]
    assert list(written) == LABELS
    np.testing.assert_allclose(list(written.values()), saved)
    assert len(set(written.values())) > 1
    np.testing.assert_allclose(pd.read_csv(finished / "per_class.csv")["threshold"], saved)


def test_a_fixed_threshold_of_one_half_equals_the_baseline_at_one_half(tiny, tmp_path):
    done = run(tmp_path, *tiny, "decision.thresholds=0.5", report=False)
    assert done.metrics["test"] == done.metrics["test_at_half"]


def test_predict_repeats_the_predictions_of_the_test_split(finished, tagged, tmp_path, monkeypatch):
    output = tmp_path / "out.parquet"
    assert call(predict.main, monkeypatch, finished, tagged["test"], "--output", output) == 0
    ours, theirs = pq.read_table(output), pq.read_table(finished / "predictions.parquet")
    assert ours["predictions"].to_pylist() == theirs["predictions"].to_pylist()
    assert ours["id"].to_pylist() == theirs["id"].to_pylist()


def test_predict_uses_thresholds_from_a_file(finished, tagged, tmp_path, monkeypatch):
    by_hand, output = tmp_path / "thresholds.json", tmp_path / "out.parquet"
    by_hand.write_text(json.dumps(dict.fromkeys(LABELS, 0.999999) | {"beta": 1e-9}))
    assert call(predict.main, monkeypatch, finished, tagged["test"], "--thresholds", by_hand, "--output", output) == 0
    assert set(map(tuple, pq.read_table(output)["predictions"].to_pylist())) == {("beta",)}


def test_with_bias_init_the_initial_loss_is_near_the_entropy_of_the_labels(tiny, tmp_path):
    quiet = ["optim.encoder_lr=0", "optim.head_lr=0", "strategy=plain"]
    done = run(tmp_path / "on", *tiny, *quiet, report=False)
    correction = pd.read_csv(done.folder / "balance.csv")
    p = correction["draw_rate"]
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()
    assert done.metrics["train_sample"]["loss"] == pytest.approx(entropy, abs=0.03)
    without = run(tmp_path / "off", *tiny, *quiet, "bias_init=false", report=False)
    assert without.metrics["train_sample"]["loss"] == pytest.approx(math.log(2), abs=0.03)


USER_ERRORS: dict[str, tuple[list[str], list[str]]] = {
    "loss of the other task": (
        ["strategy.loss._target_=counterpoise.balance.CrossEntropy"],
        ["CrossEntropy", "single_label", "multi_label"],
    ),
    "second stage of the other task": (["strategy=post_hoc"], ["strategy.second_stage", "single-label"]),
    "task of other data": (["data.task=single_label"], ["data.task", "single_label"]),
    "not a list": (["data.label=text", "data.text=source", "data.task=multi_label"], ["data.label", "data.separator"]),
    "thresholds": (["decision.thresholds=labels"], ["decision.thresholds", "global"]),
    "objective": (["decision.objective=f2"], ["decision.objective", "precision"]),
    "no thresholds file": (["decision.file={tmp}/nothing.json"], ["nothing.json"]),
    "thresholds of other labels": (["decision.file={tmp}/others.json"], ["others.json", "omega", "alpha"]),
    "bias_init": (["bias_init=maybe"], ["bias_init=maybe", "auto"]),
}


@pytest.mark.parametrize("name", USER_ERRORS)
def test_a_user_error_is_reported_in_one_line(name, tiny, tmp_path):
    (tmp_path / "others.json").write_text(json.dumps({"omega": 0.5}))
    overrides, words = USER_ERRORS[name]
    done = run(tmp_path / "run", *tiny, *(override.format(tmp=tmp_path) for override in overrides))
    assert done.code == 2, done.err
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_a_multi_label_loss_is_refused_for_single_label_data(texts, tiny_encoder, tmp_path):
    done = run(tmp_path, *setting(texts, tiny_encoder), "strategy=distribution_balanced")
    assert done.code == 2
    assert "single_label" in done.err


def test_predict_refuses_thresholds_for_single_label_data(texts, tiny_encoder, tmp_path, monkeypatch, capsys):
    done = run(tmp_path, *setting(texts, tiny_encoder), report=False)
    assert done.code == 0
    (tmp_path / "thresholds.json").write_text("{}")
    assert call(predict.main, monkeypatch, tmp_path, texts["test"], "--thresholds", tmp_path / "thresholds.json") == 2
    assert "single-label" in capsys.readouterr().err


def test_two_processes_give_the_same_scores_and_thresholds_as_one(tiny, tmp_path):
    alone = run(tmp_path / "one", *tiny, "trainer.max_epochs=2", report=False)
    folder = tmp_path / "two"
    done = finish(start(*tiny, "trainer.max_epochs=2", "trainer=ddp_cpu", f"hydra.run.dir={folder}"), folder)
    assert done.code == 0, done.err
    for split in ("validation", "test"):
        assert done.metrics[split] == pytest.approx(alone.metrics[split], abs=1e-4)
    ours, theirs = (json.loads((each.folder / "thresholds.json").read_text()) for each in (done, alone))
    assert ours == pytest.approx(theirs, abs=1e-4)
