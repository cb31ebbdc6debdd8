"""Single-label training from the command line to the run folder; in this process unless a test needs its own."""

import math
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from commandline import Outcome, call, finish, load, run, same_weights, setting, start, strategies
from conftest import COUNTS, write_texts
from counterpoise.commands import predict

pytestmark = pytest.mark.e2e

BY_HAND = "strategy.weights.by_label={alpha: 1, beta: 2, gamma: 4, delta: 8}"
NO_DROPOUT = ["dropout=0", "encoder.hidden_dropout=0"]
SNAPSHOTS = (
    "+callbacks.each={_target_: pytorch_lightning.callbacks.ModelCheckpoint, dirpath: '%s', filename: '{step}', "
    "auto_insert_metric_name: false, save_top_k: -1, every_n_train_steps: 6}"
)


def stop_at(hook: str, n: int) -> str:
    return f"+callbacks.stop={{_target_: stopping.StopAt, hook: {hook}, n: {n}}}"


@pytest.fixture
def tiny(texts: dict[str, Path], tiny_encoder: Path) -> list[str]:
    """Overrides for the tiny encoder on the smallest data: six steps per epoch."""
    return setting(texts, tiny_encoder)


@pytest.fixture
def learnable(tmp_path: Path, tiny_encoder: Path) -> list[str]:
    """Overrides for the tiny encoder on enough data to learn from in five epochs."""
    counts = {"alpha": 120, "beta": 60, "gamma": 30, "delta": 12}
    files = {
        "train": write_texts(tmp_path / "train.csv", counts),
        "test": write_texts(tmp_path / "test.csv", {label: n // 2 for label, n in counts.items()}, seed=1),
    }
    overrides = setting(files, tiny_encoder)
    return [*overrides, *NO_DROPOUT, "optim.encoder_lr=1e-2", "trainer.max_epochs=5"]


def test_instance_weights_are_part_of_the_law_from_the_column_to_the_files_of_the_run(learnable, tmp_path):
    path = tmp_path / "train.csv"
    table = pd.read_csv(path)
    table["importance"] = 1 / table.groupby("label").label.transform("size")
    table.to_csv(path, index=False)
    weighted = [*learnable, "data.weight=importance", "trainer.max_epochs=1"]
    refused = run(tmp_path / "refused", *weighted, "strategy=combined")
    assert refused.code == 2
    assert "over-correction" in refused.error
    assert "data.weight (" in refused.error
    done = run(tmp_path / "run", *weighted, "strategy=plain", report=False)
    assert done.code == 0, done.err
    assert "instance" in done.out
    correction = pd.read_csv(done.folder / "balance.csv")
    np.testing.assert_allclose(correction.effective_prior, 1 / 4, rtol=0.1)
    np.testing.assert_allclose(
        correction.draw_rate * correction.instance_weight * correction.weight, correction.effective_prior
    )
    assert done.metrics["strategy"]["effective_sample_size"] < 0.6
    assert done.metrics["calibration"]["prior_correction"] == "exact"
    assert "prior_corrected" in done.metrics["calibration"]["test"]


@pytest.mark.parametrize("strategy", ["deferred_reweighting", "weighted", "progressive"])
def test_the_weighted_test_loss_and_the_prior_correction_are_those_of_the_best_checkpoints_epoch(
    strategy, learnable, tmp_path
):
    # Without learning, the first epoch stays the best one.
    frozen = ["optim.encoder_lr=1e-12", "optim.head_lr=1e-12", "trainer.max_epochs=3", "callbacks.early_stopping=null"]
    options = ["strategy/schedule=deferred"] if strategy == "weighted" else []
    done = run(tmp_path / "run", *learnable, *frozen, *options, f"strategy={strategy}", report=False)
    assert done.code == 0, done.err
    assert "best checkpoint is from epoch 0" in done.err + done.out
    logged = pd.read_csv(done.folder / "csv" / "metrics.csv")
    first, last = logged["val/loss_weighted"].dropna().iloc[[0, -1]]
    tested = logged[["test/loss", "test/loss_weighted"]].dropna().iloc[0]
    assert tested["test/loss_weighted"] == pytest.approx(tested["test/loss"], rel=1e-6)
    assert (abs(first - last) > 0.01) == (strategy != "progressive")
    # The first epoch follows the data: there is no shift to correct.
    assert "prior_corrected" not in done.metrics["calibration"]["test"]


@pytest.mark.parametrize("strategy", strategies("single_label"))
def test_every_strategy_learns_and_writes_a_complete_run_folder(strategy, learnable, tmp_path):
    given = [BY_HAND] if strategy == "manual" else []
    done = run(tmp_path / "run", *learnable, f"strategy={strategy}", *given, report=False)
    assert done.code == 0, done.err
    test = done.metrics["test"]
    assert all(math.isfinite(value) for value in test.values())
    assert test["macro_f1"] > test["majority_macro_f1"] + 0.3
    assert done.metrics["strategy"]["name"] == strategy
    assert done.metrics["probe"] is False
    for name in ("best.ckpt", "last.ckpt"):
        assert load(done.folder / "checkpoints" / name)["labels"] == ["alpha", "beta", "delta", "gamma"]
    assert done.status["state"] == "finished"
    assert f"strategy={strategy}" in done.status["overrides"]
    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert config["encoder"]["max_length"] == 32

    per_class = pd.read_csv(done.folder / "per_class.csv")
    assert per_class.recall.mean() == pytest.approx(test["macro_recall"])
    correction = pd.read_csv(done.folder / "balance.csv")
    assert correction.effective_prior.sum() == pytest.approx(1)
    assert correction["count"].tolist() == per_class.train_count.tolist()
    splits = np.load(done.folder / "splits.npz")
    assert {name: len(rows) for name, rows in splits.items()} == {
        name: part["examples"] for name, part in done.metrics["data"].items()
    }
    assert not set(splits["train"]) & set(splits["validation"])
    predictions = pd.read_parquet(done.folder / "predictions.parquet")
    probabilities = predictions.filter(like="p:")
    assert predictions.id.tolist() == [str(row) for row in splits["test"]]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert (probabilities.idxmax(axis=1).str.removeprefix("p:") == predictions.prediction).all()
    assert (predictions.prediction == predictions.label).mean() == pytest.approx(test["accuracy"])


def test_the_terminal_shows_correction_and_results_once_and_the_folder_has_a_report(tiny, tmp_path):
    done = run(tmp_path / "run", *tiny, "strategy=combined")
    assert (done.folder / "report.html").is_file()
    assert done.out.count("strategy: combined") == done.out.count("results with the best checkpoint") == 1
    assert "effective sample" in " ".join(done.out.split())
    assert "error" not in done.err
    assert "Traceback" not in done.err


def test_the_same_seed_repeats_a_run_and_another_seed_changes_the_order_only(tiny, tmp_path):
    runs = [run(tmp_path / str(i), *tiny, f"seed={seed}", report=False) for i, seed in enumerate((5, 5, 6))]
    assert runs[0].metrics["test"] == runs[1].metrics["test"]
    assert same_weights(runs[0].last, runs[1].last)
    assert not same_weights(runs[0].last, runs[2].last)
    splits = [np.load(done.folder / "splits.npz") for done in runs]
    assert all((splits[0][name] == splits[2][name]).all() for name in splits[0])


@pytest.mark.parametrize(
    "overrides",
    [
        ["encoder.pooling=cls", "loader.eval_order=stratified"],
        ["encoder.pooling=pooler", "loader.group_by_length=false", "strategy.loss.label_smoothing=0.1"],
        ["data.test=null", "data.id=text", "logger=default", "optim.layer_decay=0.9", "optim.schedule=cosine"],
        ["loader.num_workers=1", "loader.train_limit=40", "monitor=val/loss"],
        ["loader.validation_limit=6", "+trainer.limit_val_batches=1.0"],
        ["encoder.packed=true", "micro_batch_size=3", "strategy.sampler.epoch_size=30"],
        ["encoder.freeze=1", "callbacks.early_stopping=null", "callbacks.progress=null", "strategy.max_ratio=2"],
        ["trainer.precision=bf16-mixed", "trainer.val_check_interval=0.5", "trainer.gradient_clip_val=null"],
        ["trainer.deterministic=true", "trainer.profiler=simple"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_non_default_settings_run(overrides, tiny, tmp_path):
    done = run(tmp_path / "run", *tiny, *overrides, report=False)
    assert done.code == 0, done.err
    assert done.status["state"] == "finished"
    assert math.isfinite(done.metrics["test"]["macro_f1"])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["trainer.max_epochs=0"], "trainer.max_epochs=0 trains nothing"),
        (["trainer.max_steps=0"], "trainer.max_steps=0 trains nothing"),
        (["trainer.max_time=soon"], "is not a valid duration"),
        (["trainer.max_time=00:00:00:00"], "max_time=00:00:00:00 trains nothing"),
        (["trainer.val_check_interval=1000"], "trainer.val_check_interval=1000 exceeds the 6 batches"),
        (
            ["trainer.limit_train_batches=2", "trainer.val_check_interval=3"],
            "val_check_interval=3 exceeds the 2 batches",
        ),
        (["trainer.max_epochs=-1"], "set trainer.max_steps"),
        (["+trainer.limit_val_batches=2"], "loader.validation_limit"),
        (["+trainer.limit_val_batches=0.5"], "loader.validation_limit"),
        (["+trainer.limit_val_batches=0"], "trainer.limit_val_batches=0"),
        (["strategy=crt", "callbacks.best=null"], "callbacks.best"),
        (["monitor=val/loss_weighted"], "no such metric"),
        (["monitor=val/tail_recall", "buckets.tail_max=2"], "no such metric of this validation split"),
        (["logger.csv=null"], "callbacks.learning_rate"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_settings_that_fail_after_training_are_refused_before_training(overrides, says, tiny, tmp_path):
    done = run(tmp_path / "run", *tiny, *overrides, report=False)
    assert done.code == 2, done.err
    assert says in done.error
    assert not (done.folder / "checkpoints").exists()


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["trainer.max_steps=4"], [4]),
        (["trainer.max_steps=9", "trainer.max_epochs=3"], [6, 9]),
        (["trainer.max_steps=5", "trainer.val_check_interval=2"], [2, 4, 5]),
        (["trainer.max_steps=6", "trainer.max_epochs=3"], [6]),
        (["trainer.max_steps=2", "trainer.accumulate_grad_batches=2"], [2]),
        (["trainer.max_epochs=3", "+trainer.check_val_every_n_epoch=2"], [12, 18]),
        (["trainer.max_steps=3", "trainer.max_epochs=3", "+trainer.check_val_every_n_epoch=2"], [3]),
        (["trainer.max_steps=7", "trainer.max_epochs=3", "trainer.limit_train_batches=3"], [3, 6, 7]),
        (["train=probe", "trainer.max_epochs=3", "loader.batch_size=16"], [18]),
    ],
    ids=lambda value: ",".join(value[:3]) if isinstance(value[0], str) else "",
)
def test_a_training_that_ends_anywhere_is_validated_at_its_end(overrides, steps, tiny, tmp_path):
    probe = "train=probe" in overrides
    done = run(tmp_path / "run", *(each for each in tiny if not (probe and "logger" in each)), *overrides, report=False)
    assert done.code == 0, done.err
    logged = pd.read_csv(done.folder / "csv" / "metrics.csv")
    assert (logged.step[logged["val/macro_f1"].notna()] + 1).tolist() == steps
    assert done.metrics["steps"] == steps[-1]
    assert (done.folder / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize("every", [1, 1000])
def test_a_training_that_max_time_ends_is_validated_at_its_end(every, tiny, tmp_path):
    limits = ["trainer.max_time=00:00:00:01", "trainer.max_epochs=100000", "callbacks.early_stopping=null"]
    done = run(tmp_path / "run", *tiny, *limits, f"+trainer.check_val_every_n_epoch={every}", report=False)
    assert done.code == 0, done.err
    logged = pd.read_csv(done.folder / "csv" / "metrics.csv")
    validated = logged.step[logged["val/macro_f1"].notna()] + 1
    assert validated.iloc[-1] == done.metrics["steps"]
    assert every == 1 or len(validated) == 1


def test_a_run_that_max_steps_ended_within_an_epoch_resumes_there(tiny, tmp_path):
    settings = [*tiny, *NO_DROPOUT, "trainer.max_epochs=2", "optim.schedule=constant", "optim.warmup=0"]
    whole = run(tmp_path / "whole", *settings, report=False)
    part = run(tmp_path / "part", *settings, "trainer.max_steps=4", report=False)
    resumed = run(tmp_path / "resumed", *settings, f"ckpt={part.folder}/checkpoints/last.ckpt", report=False)
    assert resumed.code == 0, resumed.err
    assert resumed.last["global_step"] == whole.last["global_step"] == 12
    assert same_weights(resumed.last, whole.last)


def test_a_checkpoint_of_weights_only_cannot_be_resumed(tiny, tmp_path):
    first = run(tmp_path / "first", *tiny, report=False)
    done = run(tmp_path / "run", *tiny, f"ckpt={first.folder}/checkpoints/best.ckpt", report=False)
    assert done.code == 2
    assert "checkpoints/last.ckpt" in done.error


def test_a_sweep_continues_after_a_failed_job_and_writes_its_leaderboard(tiny, tmp_path):
    sweep = tmp_path / "sweep"
    # In this process; tests/sweep has the launcher that is the default.
    command = ["-m", *tiny, "hydra/launcher=basic", f"hydra.sweep.dir={sweep}"]
    done = run(sweep, *command, "strategy=plain,manual,weighted", report=False)
    assert done.code == 1, done.err
    table = pd.read_csv(sweep / "leaderboard.csv")
    assert table.job.tolist() == ["0", "1", "2", "baseline"]
    assert table.state.tolist() == ["finished", "failed", "finished", "finished"]
    assert table.macro_f1.notna().tolist() == [True, False, True, True]
    assert "by_label" in table.reason[1]
    assert "by_label" in (sweep / "leaderboard.csv").read_text()
    assert "Traceback" not in done.err
    results = {job: (sweep / job / "metrics.json").stat().st_mtime_ns for job in ("0", "2")}

    again = run(sweep, *command, "strategy=plain,manual,weighted", report=False)
    assert again.code == 1, again.err
    assert "2 of 3 jobs had finished earlier and were skipped" in again.out
    assert {job: (sweep / job / "metrics.json").stat().st_mtime_ns for job in results} == results
    other = run(sweep, *command, "strategy=focal", report=False)
    assert other.code == 2
    assert "0 holds the results of another job" in other.error
    assert {job: (sweep / job / "metrics.json").stat().st_mtime_ns for job in results} == results


def test_subprocess_launchers_are_refused_in_a_sweep(tiny, tmp_path):
    sweep = tmp_path / "sweep"
    settings = ["hydra/launcher=basic", f"hydra.sweep.dir={sweep}", "trainer=ddp_cpu", "seed=0"]
    done = run(sweep, "-m", *tiny, *settings)
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if "failed" in line]
    assert "trainer.strategy=ddp_spawn" in line


STOPS = {
    "after an epoch": ("on_train_epoch_start", 3),
    "within a step": ("on_before_backward", 10),
    "after a micro-batch": ("on_train_batch_end", 9),
    "within a validation": ("on_validation_batch_end", 5),
}


@pytest.mark.parametrize(
    ("schedule", "accumulate", "workers", "stops"),
    [
        ([], 1, 0, ["within a step"]),
        (["strategy/schedule=progressive"], 1, 1, ["after an epoch"]),
        (["strategy/schedule=progressive"], 2, 0, ["after a micro-batch", "within a validation"]),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_run_bit_for_bit(schedule, accumulate, workers, stops, tiny, tmp_path):
    settings = [
        *tiny,
        "strategy=combined",
        *schedule,
        "trainer.max_epochs=3",
        "loader.eval_batch_size=4",
        f"trainer.accumulate_grad_batches={accumulate}",
        f"loader.num_workers={workers}",
    ]
    whole = run(tmp_path / "whole", *settings, report=False)
    assert whole.code == 0, whole.err
    for when in stops:
        stopped = run(tmp_path / f"stopped {when}", *settings, stop_at(*STOPS[when]), report=False)
        assert stopped.code == 3, stopped.err
        assert stopped.last["global_step"] < whole.last["global_step"]
        resumed = run(
            tmp_path / f"resumed {when}", *settings, f"ckpt={stopped.folder}/checkpoints/last.ckpt", report=False
        )
        assert resumed.code == 0, resumed.err
        assert resumed.last["global_step"] == whole.last["global_step"]
        assert same_weights(resumed.last, whole.last), when
        assert resumed.metrics["test"] == whole.metrics["test"], when


def test_a_run_resumed_in_another_folder_keeps_the_best_checkpoint_so_far(tiny, tmp_path):
    # The monitored value is constant, so the first epoch is the best.
    settings = [*tiny, "trainer.max_epochs=3", "monitor=val/classes"]
    whole = run(tmp_path / "whole", *settings, report=False)
    stopped = run(tmp_path / "stopped", *settings, stop_at("on_before_backward", 9), report=False)
    resumed = run(tmp_path / "resumed", *settings, f"ckpt={stopped.folder}/checkpoints/last.ckpt", report=False)
    best = [load(done.folder / "checkpoints/best.ckpt") for done in (whole, stopped, resumed)]
    assert same_weights(best[0], best[1])
    assert same_weights(best[0], best[2])
    assert resumed.metrics["test"] == whole.metrics["test"]


def test_a_resumed_run_stays_in_the_precision_of_its_checkpoint(tiny, tmp_path):
    settings = [*tiny, "trainer.max_epochs=2"]
    whole = run(tmp_path / "whole", *settings, "trainer.precision=bf16-mixed", report=False)
    stop = stop_at("on_train_batch_end", 8)
    stopped = run(tmp_path / "stopped", *settings, "trainer.precision=bf16-mixed", stop, report=False)
    ckpt = f"ckpt={stopped.folder}/checkpoints/last.ckpt"
    resumed = run(tmp_path / "resumed", *settings, ckpt, report=False)
    assert "precision: bf16-mixed, as in the checkpoint" in resumed.out
    assert (whole.metrics["precision"], resumed.metrics["precision"]) == ("bf16-mixed", "bf16-mixed")
    assert same_weights(resumed.last, whole.last)
    changed = run(tmp_path / "changed", *settings, ckpt, "trainer.precision=32-true", report=False)
    assert "was trained in bf16-mixed; training continues in 32-true" in " ".join((changed.out + changed.err).split())
    assert changed.metrics["precision"] == "32-true"


def test_a_frozen_encoder_is_unfrozen_at_its_epoch_also_after_resuming(tiny, tiny_encoder, tmp_path):
    settings = [*tiny, "encoder.freeze=encoder", "encoder.unfreeze_at_epoch=1", "trainer.max_epochs=2"]
    whole = run(tmp_path / "whole", *settings, SNAPSHOTS % (tmp_path / "each"), report=False)
    first, second = (load(tmp_path / f"each/{step}.ckpt")["state_dict"] for step in (6, 12))
    original = load_file(tiny_encoder / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(first[f"encoder.backbone.{name}"], original[name])
    assert not torch.equal(second[f"encoder.backbone.{name}"], original[name])
    assert not torch.equal(first["head.weight"], second["head.weight"])

    stopped = run(tmp_path / "stopped", *settings, stop_at("on_train_batch_end", 8), report=False)
    resumed = run(tmp_path / "resumed", *settings, f"ckpt={stopped.folder}/checkpoints/last.ckpt", report=False)
    assert same_weights(resumed.last, whole.last)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, Path], tiny_encoder: Path):
    """Return a finished run with a given second stage or none; the training is the same and runs once each."""
    runs: dict[str, Outcome] = {}

    def of(strategy: str) -> Outcome:
        if strategy not in runs:
            tau = ["strategy.second_stage.tau=0.7"] if strategy == "tau_normalised" else []
            settings = [*setting(texts, tiny_encoder), f"strategy={strategy}", *tau]
            runs[strategy] = run(tmp_path_factory.mktemp(strategy), *settings, report=False)
            assert runs[strategy].code == 0, runs[strategy].err
        return runs[strategy]

    return of


STAGES = ["crt", "post_hoc", "tau_normalised"]


def head(checkpoint: dict[str, Any]) -> list[np.ndarray]:
    """Return weight and bias of the head in a checkpoint."""
    return [checkpoint["state_dict"][f"head.{name}"].double().numpy() for name in ("weight", "bias")]


@pytest.mark.parametrize("stage", STAGES)
def test_a_second_stage_changes_only_the_head_and_keeps_the_first_checkpoint(stage, staged):
    done, plain = staged(stage), staged("plain")
    first, best = (load(done.folder / "checkpoints" / name) for name in ("first_stage.ckpt", "best.ckpt"))
    assert same_weights(first, load(plain.folder / "checkpoints/best.ckpt"))
    assert not (plain.folder / "checkpoints/first_stage.ckpt").exists()
    assert first["labels"] == best["labels"]
    changed = {name for name, value in best["state_dict"].items() if not torch.equal(value, first["state_dict"][name])}
    assert changed == {"post_hoc": {"head.bias"}}.get(stage, {"head.weight", "head.bias"})
    results = done.metrics["second_stage"]
    (weight, bias), (made, made_bias) = head(first), head(best)
    if stage == "post_hoc":
        counts = pd.read_csv(done.folder / "balance.csv")["count"]
        np.testing.assert_allclose(made_bias, bias - np.log(counts / counts.sum()), atol=1e-5)
        assert results == {"tau": 1.0}
    elif stage == "tau_normalised":
        norms = np.linalg.norm(weight, axis=1, keepdims=True)
        np.testing.assert_allclose(made, weight / norms**0.7, rtol=1e-5)
        assert not made_bias.any()
        assert results == {"tau": 0.7}
    else:
        assert results == {"epochs": 10, "steps": 10}  # 81 texts, one step per epoch


@pytest.mark.parametrize("stage", STAGES)
def test_the_head_of_a_second_stage_is_tested_and_used_for_predictions(stage, staged, texts, tmp_path, monkeypatch):
    done = staged(stage)
    output = tmp_path / "out.parquet"
    assert call(predict.main, monkeypatch, done.folder, texts["test"], "--output", output) == 0
    ours, theirs = pd.read_parquet(output), pd.read_parquet(done.folder / "predictions.parquet")
    assert ours.prediction.tolist() == theirs.prediction.tolist()
    np.testing.assert_allclose(ours.filter(like="p:"), theirs.filter(like="p:"), atol=1e-5)
    assert (theirs.prediction == theirs.label).mean() == pytest.approx(done.metrics["test"]["accuracy"])
    before = pd.read_parquet(staged("plain").folder / "predictions.parquet")
    assert abs(theirs.filter(like="p:") - before.filter(like="p:")).to_numpy().max() > 0.01


def test_a_run_resumed_after_its_second_stage_continues_from_the_first_stage(staged, tiny, tmp_path):
    # The monitored value is constant, so the best checkpoint is that of the first epoch, before the second stage.
    settings = [*tiny, "strategy=post_hoc", "monitor=val/classes"]
    first = run(tmp_path / "first", *settings, "trainer.max_epochs=1", report=False)
    for name in ("second", "first"):
        again = [f"ckpt={first.folder}/checkpoints/last.ckpt", "trainer.max_epochs=2"]
        done = run(tmp_path / name, *settings, *again, report=False)
        assert done.code == 0, done.err
        heads = [head(load(done.folder / "checkpoints" / each)) for each in ("first_stage.ckpt", "best.ckpt")]
        counts = pd.read_csv(done.folder / "balance.csv")["count"]
        np.testing.assert_allclose(heads[1][1], heads[0][1] - np.log(counts / counts.sum()), atol=1e-5)
        assert abs(heads[0][1]).max() < 0.5


@pytest.mark.parametrize(
    ("sent", "code", "by"),
    [(signal.SIGTERM, 143, "SIGTERM"), pytest.param(signal.SIGINT, 130, "Ctrl-C", marks=pytest.mark.soak)],
)
def test_a_stopped_run_records_the_signal_and_leaves_a_checkpoint(sent, code, by, tiny, tmp_path):
    folder = tmp_path / "run"
    process = start(*tiny, f"hydra.run.dir={folder}", "trainer.max_epochs=10000", "callbacks.early_stopping=null")
    deadline = time.monotonic() + 300
    while not (folder / "checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(sent)
    done = finish(process, folder)
    assert done.code == code, done.err
    assert done.status["state"] == "failed"
    assert done.status["reason"] == f"stopped by {by}"
    assert done.last["global_step"] > 0
    assert "Traceback" not in done.err
    command = done.err.partition("to resume: ")[2].splitlines()[0]
    overrides = shlex.split(command)[2:]
    assert overrides[-2:] == ["ckpt=last", f"hydra.run.dir={folder}"]
    assert overrides[:-2] == done.status["overrides"]


def test_the_report_of_a_file_has_its_name_as_title(tiny, tmp_path):
    done = run(tmp_path / "run", *tiny, "trainer.max_epochs=1")
    (train,) = (text.rpartition("/")[2] for text in tiny if text.startswith("data.train="))
    assert f"<h1>{train}</h1>" in (done.folder / "report.html").read_text(encoding="utf-8")


def test_two_processes_continue_a_run_of_one_with_the_same_weights_and_test_each_example_once(tiny, tmp_path):
    # One row is left over, so that one process has no example in that step.
    settings = [*tiny, *NO_DROPOUT, "strategy=combined", "strategy.sampler.epoch_size=33", "trainer.max_epochs=2"]
    stopped = run(tmp_path / "stopped", *settings, stop_at("on_before_backward", 2), report=False)
    assert stopped.last["global_step"] == 1
    folder, resume = tmp_path / "two", f"ckpt={stopped.folder}/checkpoints/last.ckpt"
    # With micro-batches, gradients must be exchanged only after the last one.
    process = start(*settings, "trainer=ddp_cpu", "micro_batch_size=1", resume, f"hydra.run.dir={folder}")
    one = run(tmp_path / "one", *settings, report=False)
    two = finish(process, folder)
    assert two.code == 0, two.err
    assert two.out.count("results with the best checkpoint") == 1
    assert_near(one, two)
    assert two.metrics["steps"] == one.metrics["steps"]
    assert len(pd.read_parquet(folder / "predictions.parquet")) == sum(max(2, n // 4) for n in COUNTS.values())


def test_a_checkpoint_of_other_training_data_is_refused_before_training(tiny, tmp_path):
    stopped = run(tmp_path / "stopped", *tiny, stop_at("on_before_backward", 4), report=False)
    resume = [*tiny, f"ckpt={stopped.folder}/checkpoints/last.ckpt"]
    before = stopped.last["global_step"]
    done = run(tmp_path / "stopped", *resume, "loader.batch_size=8", report=False)
    assert done.code == 2
    assert "loader.batch_size=8 (was 16)" in done.error
    assert done.last["global_step"] == before


@pytest.mark.soak
def test_spawned_processes_give_the_same_weights_as_one(tiny, tmp_path):
    settings = [*tiny, *NO_DROPOUT]
    folder = tmp_path / "two"
    process = start(*settings, "trainer=ddp_cpu", "trainer.strategy=ddp_spawn", f"hydra.run.dir={folder}")
    one = run(tmp_path / "one", *settings, report=False)
    two = finish(process, folder)
    assert two.code == 0, two.err
    assert_near(one, two)
    assert "val/macro_f1" in pd.read_csv(folder / "csv/metrics.csv")
    assert [two.metrics[name] for name in ("epochs", "steps")] == [one.metrics[name] for name in ("epochs", "steps")]


def assert_near(one: Outcome, two: Outcome) -> None:
    weights, others = one.last["state_dict"], two.last["state_dict"]
    assert weights.keys() == others.keys()
    for name in weights:
        torch.testing.assert_close(weights[name], others[name], rtol=0, atol=1e-5)
    for key, value in one.metrics["test"].items():
        assert two.metrics["test"][key] == pytest.approx(value, abs=1e-5), key


def test_debug_fast_runs_one_batch_of_each_split_and_measures_nothing(tiny, tmp_path):
    done = run(tmp_path / "run", *tiny, "debug=fast")
    assert done.code == 0, done.err
    assert "nothing is measured" in done.out
    assert not (done.folder / "metrics.json").exists()
    assert done.status["state"] == "finished"


def test_debug_overfit_reaches_a_loss_near_zero(tiny, tmp_path):
    done = run(
        tmp_path / "run", *tiny, "debug=overfit", "encoder.hidden_dropout=0", "optim.encoder_lr=1e-2", report=False
    )
    assert done.code == 0, done.err
    history = pd.read_csv(done.folder / "csv/metrics.csv")
    assert history["train/loss_epoch"].dropna().iloc[-1] < 0.1


def test_debug_profile_writes_its_table(tiny, tmp_path):
    done = run(tmp_path / "run", *tiny, "debug=profile", report=False)
    assert done.code == 0, done.err
    assert "run_training_batch" in (done.folder / "fit-profile.txt").read_text()
