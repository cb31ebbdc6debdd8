"""The progress of training: epochs as people count them, lines outside a terminal, and the estimate of the time."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from rich.text import Text

from counterpoise import terminal
from counterpoise.data.datamodule import TextDataModule
from counterpoise.model.module import Classifier
from counterpoise.terminal import duration
from counterpoise.terminal import progress as bar
from counterpoise.training import progress
from counterpoise.training.progress import Progress, seconds_left


def trainer(**changes) -> SimpleNamespace:
    """A trainer after 10 of 100 steps in 2 epochs, with 320 validation and 640 test texts, 16 a batch."""
    data = TextDataModule.__new__(TextDataModule)
    data.batch_size, data.splits = 16, {"validation": np.empty(320), "test": np.empty(640)}
    values = {
        "estimated_stepping_batches": 100,
        "global_step": 10,
        "current_epoch": 0,
        "max_epochs": 2,
        "num_training_batches": 50,
        "val_check_batch": 50,
        "check_val_every_n_epoch": 1,
        "accumulate_grad_batches": 1,
        "log_every_n_steps": 10,
        "is_global_zero": True,
        "early_stopping_callbacks": [],
        "callback_metrics": {},
        "datamodule": data,
        "loggers": [],
        "progress_bar_metrics": {},
    }
    return SimpleNamespace(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "validations", "steps"),
    [
        ({}, 2, 90),
        ({"val_check_batch": 25}, 4, 90),
        ({"check_val_every_n_epoch": 2}, 1, 90),
        ({"accumulate_grad_batches": 4, "val_check_batch": 200}, 2, 90),
        ({"global_step": 100}, 0, 0),
        ({"val_check_batch": float("inf")}, 0, 90),
    ],
)
def test_the_time_left_covers_the_remaining_steps_and_every_text_that_is_evaluated(changes, validations, steps):
    texts = 320 * (validations + 1) + 640 + 500
    assert seconds_left(trainer(**changes), 2.0) == pytest.approx(2.0 * (steps + texts / 16 / 3))


@pytest.mark.parametrize(
    ("epochs", "shown"), [(1, "Epoch 1 of 1"), (3, "Epoch 1 of 3"), (None, "Epoch 1"), (-1, "Epoch 1")]
)
def test_epochs_are_counted_from_one(epochs, shown):
    callback = Progress()
    callback.setup(trainer(max_epochs=epochs), None, "fit")
    assert callback._get_train_description(0).strip() == shown


def test_outside_a_terminal_the_estimate_and_then_lines_are_printed(monkeypatch, capsys):
    clock = iter(np.arange(0.0, 1000.0, 2.0).tolist())
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    callback, fit = Progress(), trainer(global_step=0)
    model = Classifier.__new__(Classifier)
    callback.setup(fit, model, "fit")
    callback.on_train_start(fit, model)
    for step in range(40):
        fit.global_step = step + 1
        monkeypatch.setattr(Classifier, "mean_loss", lambda model, step=step: (step + 1) / 100)
        callback.on_train_batch_end(fit, model, None, None, step)
    first, *others = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    # Steps of 2 seconds: 94 more steps, and 2100 evaluated texts of which 48 cost as much as a step.
    assert first.startswith("about 5 min until the results, evaluation included (2 s a step")
    assert 2 <= len(others) <= 4  # 68 seconds, a line every 20
    assert others[0].startswith("Epoch 1 of 2, batch 1")
    for line in others:
        batch = int(line.partition("batch ")[2].partition(" ")[0])
        assert f"batch {batch} of 50: mean loss {batch / 100:.3f}, about" in line


def test_in_a_terminal_the_estimate_is_printed_above_the_bar(monkeypatch, capsys):
    clock = iter(np.arange(0.0, 1000.0, 2.0).tolist())
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    callback, fit = Progress(), trainer(state=SimpleNamespace(fn="test"))
    fit.progress_bar_callback = callback
    callback.setup(fit, None, "fit")
    callback.on_train_start(fit, None)
    callback.train_progress_bar_id = callback._add_task(10, "Epoch 1 of 2")
    for step in range(10):
        fit.global_step = 10 + step
        callback.on_train_batch_end(fit, None, None, None, step)
    callback.teardown(fit, None, "fit")
    lines = Text.from_ansi(capsys.readouterr().out.replace("\r", "\n")).plain.splitlines()
    assert any(line.startswith("Epoch 1 of 2") for line in lines)
    assert next(line for line in lines if "until the results" in line).startswith("about ")


def test_bars_become_lines_outside_a_terminal(monkeypatch, capsys):
    clock = iter(np.arange(0.0, 10_000.0, 3.0).tolist())
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with bar() as display:
        display.get_time = terminal.time.monotonic
        task = display.add_task("tokenising train", total=50_000)
        for _ in range(20):
            display.advance(task, 2_500)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 10
    assert all(line.startswith("tokenising train: ") and " of 50,000" in line for line in lines)
    assert "left" in lines[-1]


@pytest.mark.parametrize(("seconds", "shown"), [(7.4, "7 s"), (119, "2 min"), (3000, "50 min"), (9000, "2.5 h")])
def test_durations_have_a_readable_unit(seconds, shown):
    assert duration(seconds) == shown


def test_a_bar_is_drawn_in_a_terminal(monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert not isinstance(bar(), terminal.LineProgress)
    assert Progress().is_enabled
    assert sys.stderr is not None
