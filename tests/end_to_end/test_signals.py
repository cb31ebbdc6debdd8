"""A signal stops a run in every phase: a checkpoint if training has begun, the reason, the command that resumes it."""

import os
import shlex
import signal
from pathlib import Path

import pytest
import torch
import yaml

from commandline import ROOT, Outcome, run, run_application, setting
from counterpoise.config_errors import quoted_override

pytestmark = pytest.mark.e2e

OTHER_PHASES = {
    "tokenising": ("counterpoise.data.datamodule.tokenise", signal.SIGTERM, False),
    "baseline": ("counterpoise.training.baseline.fit_baseline", signal.SIGHUP, False),
    "second stage": ("counterpoise.training.evaluation.run_second_stage", signal.SIGINT, True),
    "writing results": ("counterpoise.training.artifacts.write_results", signal.SIGUSR1, True),
}
"""Function of the phase, a signal, and whether there is a checkpoint then."""
HOOKS = {
    "step": ("on_before_backward", 4, signal.SIGUSR1, 4),
    "validation": ("on_validation_batch_end", 2, signal.SIGHUP, 6),
    "last validation": ("on_validation_end", 1, signal.SIGTERM, 6),
    "test": ("on_test_batch_end", 1, signal.SIGINT, 6),
}
"""Hook, its call, a signal, and the steps of the checkpoint."""
NAMES = {signal.SIGINT: "Ctrl-C"}


def send(hook: str, n: int, number: signal.Signals) -> str:
    return f"+callbacks.stop={{_target_: stopping.SignalAt, hook: {hook}, n: {n}, number: {number.value}}}"


@pytest.fixture
def tiny(texts: dict[str, Path], tiny_encoder: Path) -> list[str]:
    return [*setting(texts, tiny_encoder), "baseline=none", "loader.eval_batch_size=4"]


@pytest.fixture(autouse=True)
def ctrl_c_is_not_ignored():
    """Shells start background jobs with Ctrl-C ignored, and an ignored signal stays ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def logged(done: Outcome) -> str:
    return (done.folder / "csv/metrics.csv").read_text()


def assert_stopped_by(number: signal.Signals, done) -> None:
    assert done.code == 128 + number, done.err
    assert "Traceback" not in done.err
    assert done.status["state"] == "failed"
    assert done.status["reason"] == f"stopped by {NAMES.get(number, number.name)}"
    assert f"stopped by {NAMES.get(number, number.name)}" in done.err


@pytest.mark.parametrize("phase", OTHER_PHASES)
def test_a_signal_stops_a_run_before_and_after_its_training(phase, tiny, tmp_path, monkeypatch):
    name, number, trained = OTHER_PHASES[phase]
    monkeypatch.setattr(name, lambda *_, **__: os.kill(os.getpid(), number))
    done = run(tmp_path / "run", *tiny, "strategy=post_hoc", report=False)
    assert_stopped_by(number, done)
    assert trained == (done.folder / "checkpoints/last.ckpt").exists() == ("to resume" in done.err)


@pytest.mark.parametrize("phase", HOOKS)
def test_a_signal_during_training_leaves_a_checkpoint(phase, tiny, tmp_path):
    hook, n, number, steps = HOOKS[phase]
    stopped = run(tmp_path / "stopped", *tiny, send(hook, n, number), report=False)
    assert_stopped_by(number, stopped)
    assert "to resume" in stopped.err
    assert stopped.last["global_step"] == steps


def test_a_run_stopped_after_its_training_is_resumed_with_its_test(tiny, tmp_path):
    whole = run(tmp_path / "whole", *tiny, report=False)
    stopped = run(tmp_path / "stopped", *tiny, send("on_validation_end", 1, signal.SIGTERM), report=False)
    assert_stopped_by(signal.SIGTERM, stopped)
    resumed = run(tmp_path / "resumed", *tiny, f"ckpt={stopped.folder}/checkpoints/last.ckpt", report=False)
    assert resumed.code == 0, resumed.err
    assert resumed.metrics["test"] == whole.metrics["test"]
    assert logged(resumed) == logged(whole)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("plain", []),
        ("a b=c's (1)", ["hydra.job.chdir=true"]),
        ("options", ["--config-dir", "own", "experiment=mine", "hydra.job.name=other", "hydra.output_subdir=settings"]),
    ],
)
def test_the_printed_command_resumes_the_run_in_its_folder(name, arguments, tiny, tmp_path, monkeypatch, recwarn):
    (tmp_path / "own/experiment").mkdir(parents=True)
    (tmp_path / "own/experiment/mine.yaml").write_text("# @package _global_\ndropout: 0.0\n")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name
    override = shlex.split(quoted_override(f"hydra.run.dir={folder}"))
    stop = send("on_before_backward", 4, signal.SIGTERM)
    stopped = run_application(ROOT / "train.py", folder, *arguments, *tiny, *override, stop)
    assert stopped.code == 143, stopped.err
    command = shlex.split(stopped.err.partition("to resume: ")[2].splitlines()[0])
    assert tmp_path / command[1] == ROOT / "train.py"
    resumed = run_application(ROOT / "train.py", folder, *(text for text in command[2:] if text != stop))
    assert resumed.code == 0, resumed.err
    assert "after 4 steps" in " ".join(resumed.out.split())
    assert resumed.status["state"] == "finished"
    assert yaml.safe_load((folder / "config.yaml").read_text())["dropout"] == (0.0 if name == "options" else 0.1)
    assert (folder / ("other.log" if name == "options" else "train.log")).is_file()
    assert not (tmp_path / "outputs").exists()
    assert not [each for each in recwarn if "deleted" in str(each.message)]  # the log is continued


def test_handlers_are_restored_after_a_run_and_ignored_signals_stay_ignored(tiny, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        others = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        hang_up = send("on_train_start", 1, signal.SIGHUP)
        done = run(tmp_path / "run", *tiny, "debug=fast", hang_up, report=False)
        assert done.code == 0, done.err
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == others
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_while_a_checkpoint_is_written_stops_the_run_after_it(tiny, tmp_path, monkeypatch):
    save = torch.save

    def interrupted_save(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        save(*arguments)

    monkeypatch.setattr("counterpoise.training.checkpoints.torch.save", interrupted_save)
    done = run(tmp_path / "run", *tiny, report=False)
    assert_stopped_by(signal.SIGINT, done)
    assert done.last["global_step"] == 6


def test_the_same_command_with_ckpt_last_starts_a_run_continues_it_and_repeats_its_test(tiny, tmp_path):
    settings = [*tiny, "ckpt=last", "trainer.max_epochs=2"]
    folder = tmp_path / "run"
    whole = run(tmp_path / "whole", *settings, report=False)
    stopped = run(folder, *settings, send("on_before_backward", 9, signal.SIGTERM), report=False)
    assert stopped.code == 143
    assert "starts from the beginning" in " ".join(stopped.out.split())
    assert f"hydra.run.dir={folder}" in stopped.err.partition("to resume: ")[2]
    (folder / "checkpoints/.last.0123abcd.ckpt").touch()
    done = run(folder, *settings, report=False)
    assert done.code == 0, done.err
    assert "after 9 steps" in " ".join(done.out.split())
    assert logged(done) == logged(whole)
    assert not (folder / "checkpoints/.last.0123abcd.ckpt").exists()
    again = run(folder, *settings, report=False)
    assert "after 12 steps" in " ".join(again.out.split())
    assert again.metrics["test"] == done.metrics["test"]
    assert logged(again) == logged(whole)


def test_a_run_that_stopped_early_and_was_killed_in_its_test_is_only_tested(tiny, tmp_path):
    settings = [*tiny, "trainer.val_check_interval=0.4", "trainer.max_epochs=30", "ckpt=last"]
    settings += ["callbacks.early_stopping.patience=1"]
    whole = run(tmp_path / "whole", *settings, report=False)
    assert whole.code == 0, whole.err
    assert whole.last["global_step"] % 6
    killed = os.fork()
    if not killed:
        run(tmp_path / "killed", *settings, send("on_test_batch_end", 1, signal.SIGKILL), report=False)
        os._exit(0)
    assert os.waitpid(killed, 0)[1] == signal.SIGKILL
    resumed = run(tmp_path / "killed", *settings, report=False)
    assert resumed.code == 0, resumed.err
    assert resumed.metrics["steps"] == whole.metrics["steps"] == resumed.last["global_step"]
    assert resumed.metrics["test"] == whole.metrics["test"]


def test_a_run_that_was_killed_while_its_second_stage_was_saved_is_completed(tiny, tmp_path, monkeypatch):
    settings = [*tiny, "strategy=crt", "ckpt=last"]
    whole = run(tmp_path / "whole", *settings, report=False)
    assert whole.code == 0, whole.err
    killed = os.fork()
    if not killed:
        name = "counterpoise.training.second_stage_run.AtomicCheckpointIO"
        monkeypatch.setattr(name, lambda: os.kill(os.getpid(), signal.SIGKILL))
        run(tmp_path / "killed", *settings, report=False)
        os._exit(0)
    assert os.waitpid(killed, 0)[1] == signal.SIGKILL
    resumed = run(tmp_path / "killed", *settings, report=False)
    assert resumed.code == 0, resumed.err
    assert resumed.metrics["test"] == whole.metrics["test"]
