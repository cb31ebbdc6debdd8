"""Arguments of Lightning's Trainer that would fail with a traceback, or change a run without a word."""

import math

import pytest

from counterpoise.training.trainer import build
from refusals import user_error

INVALID = {
    "accumulate_grad_batches": [0, -1, True, 1.5, "2"],
    "check_val_every_n_epoch": [0, -1, True, 0.5],
    "val_check_interval": [0, 0.0, -1, True, math.nan, 1.5, "1"],
    "limit_train_batches": [0, 0.0, -1, True, math.nan, 1.5, "1"],
    "gradient_clip_val": [-1, True, math.nan, "1"],
    "strategy": ["fsdp", "deepspeed", "dpp"],
}
VALID = {
    "accumulate_grad_batches": [1, 4, None],
    "check_val_every_n_epoch": [1, 2, None],
    "val_check_interval": [1, 5, 0.25, 1.0],
    "limit_train_batches": [1, 5, 0.25, 1.0, None],
    "gradient_clip_val": [0, 1, 0.5, math.inf, None],
}
QUIET = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}


@pytest.mark.parametrize(("flag", "value"), [(flag, value) for flag, values in INVALID.items() for value in values])
def test_invalid_values_are_refused_by_name(flag, value):
    error = user_error(build, **QUIET, **{flag: value})
    assert flag in error


@pytest.mark.parametrize(("flag", "value"), [(flag, value) for flag, values in VALID.items() for value in values])
def test_valid_values_reach_the_trainer(flag, value):
    trainer = build(**QUIET, **{flag: value})
    if value is not None:
        assert getattr(trainer, flag) == value
