"""Grids without combinations that over-correct."""

import pytest

from counterpoise.errors import UserError
from counterpoise.sweep.grid import without_encoder_lr, without_over_correction

KEYS = ["a", "b"]


def test_combinations_above_1_are_left_out_and_named(capsys):
    jobs = [[f"a={a}", f"b={b}", "seed=0"] for a in (0, 0.3, 1) for b in (0, 0.7, 1)]
    kept = without_over_correction(jobs, KEYS)
    assert [job[:2] for job in kept] == [["a=0", "b=0"], ["a=0", "b=0.7"], ["a=0", "b=1"], ["a=0.3", "b=0"],
                                         ["a=0.3", "b=0.7"], ["a=1", "b=0"]]  # fmt: skip
    assert "3 of 9 combinations are left out: a + b exceeds 1" in capsys.readouterr().out


def test_jobs_that_do_not_set_both_numbers_are_kept(capsys):
    jobs = [["a=1"], ["a=1", "b=auto"], ["b=2", "strategy=plain"], ["~a", "b=1"]]
    assert without_over_correction(jobs, KEYS) == jobs
    assert capsys.readouterr().out == ""


def test_a_grid_without_allowed_combinations_is_refused():
    with pytest.raises(UserError, match="every combination over-corrects"):
        without_over_correction([["a=1", "b=1"]], KEYS)


def test_the_learning_rate_of_a_frozen_encoder_is_not_varied(capsys):
    params = {"optim.encoder_lr": "1e-4,1e-3", "seed": "0,1"}
    assert without_encoder_lr(params, probe=False) == params
    assert capsys.readouterr().out == ""
    assert without_encoder_lr(params, probe=True) == {"seed": "0,1"}
    assert "optim.encoder_lr is not varied" in capsys.readouterr().out
