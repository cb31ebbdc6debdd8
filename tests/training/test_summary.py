"""The lines that a run prints about calibration."""

import pytest

from counterpoise.training.summary import show_calibration


def metrics(variant: str, folds: int = 5) -> dict:
    names = ("raw", "temperature", "prior_corrected", "prior_corrected_temperature")
    return {
        "calibration": {
            "variant": variant,
            "temperatures": {"temperature": 1.5, "prior_corrected_temperature": 1.25},
            "test": {name: {"ece": 0.01 * (i + 1)} for i, name in enumerate(names)},
            "cross_validation": {"folds": folds, "nll": {name: 0.5 - 0.1 * i for i, name in enumerate(names)}},
        }
    }


@pytest.mark.parametrize(
    ("variant", "shown"),
    [
        ("raw", ["0.0100 as trained", "No adjustment", "NLL of 0.5000", "5-fold"]),
        ("temperature", ["0.0100 as trained", "temperature 1.50: 0.0200", "from 0.5000 to 0.4000", "5-fold"]),
        ("prior_corrected", ["prior correction: 0.0300", "from 0.5000 to 0.3000"]),
        ("prior_corrected_temperature", ["prior correction and temperature 1.25: 0.0400", "to 0.2000"]),
    ],
)
def test_the_criterion_and_both_calibration_errors_are_printed(variant, shown, capsys):
    show_calibration(metrics(variant))
    out = " ".join(capsys.readouterr().out.split())
    for part in shown:
        assert part in out


def test_without_folds_no_cross_validation_is_claimed(capsys):
    show_calibration(metrics("raw", folds=0))
    assert "fold" not in capsys.readouterr().out
