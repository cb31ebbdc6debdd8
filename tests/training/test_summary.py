"""What a run prints: the table of the correction, and lines about calibration."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console
from scipy.sparse import csr_matrix

from counterpoise.balance import ClassIndex, InverseFrequency, PowerSampler, Strategy
from counterpoise.training import summary
from counterpoise.training.next_steps import worst_class
from counterpoise.training.summary import show_calibration, show_correction


def metrics(variant: str, folds: int = 5) -> dict:
    names = ("raw", "temperature", "prior_corrected", "prior_corrected_temperature")
    return {
        "calibration": {
            "variant": variant,
            "temperatures": {"temperature": 1.5, "prior_corrected_temperature": 1.25},
            "test": {name: {"ece": 0.01 * (i + 1), "nll": 0.6 - 0.1 * i} for i, name in enumerate(names)},
            "cross_validation": {"folds": folds, "nll": {name: 0.5 - 0.1 * i for i, name in enumerate(names)}},
        }
    }


@pytest.mark.parametrize(
    ("variant", "shown"),
    [
        ("raw", ["ECE 0.0100 uncalibrated", "NLL 0.6000", "No adjustment", "NLL of 0.5000", "5-fold"]),
        (
            "temperature",
            ["ECE 0.0100 uncalibrated", "temperature 1.50: NLL 0.5000, ECE 0.0200", "from 0.5000 to 0.4000", "5-fold"],
        ),
        ("prior_corrected", ["prior correction: NLL 0.4000, ECE 0.0300", "from 0.5000 to 0.3000"]),
        ("prior_corrected_temperature", ["prior correction and temperature 1.25: NLL 0.3000, ECE 0.0400", "to 0.2000"]),
    ],
)
def test_the_criterion_and_both_calibration_errors_are_printed(variant, shown, capsys):
    show_calibration(metrics(variant))
    out = " ".join(capsys.readouterr().out.split())
    for part in shown:
        assert part in out


def test_a_likelihood_that_rounding_does_not_change_is_not_lowered(capsys):
    measured = metrics("temperature")
    measured["calibration"]["cross_validation"]["nll"] |= {"raw": 0.10321, "temperature": 0.10319}
    show_calibration(measured)
    out = " ".join(capsys.readouterr().out.split())
    assert "lowers" not in out
    assert "The NLL stays 0.1032 in 5-fold" in out


@pytest.mark.parametrize("f1", [(1.0, 1.0, 0.0), (1.0, 0.9996, 0.0), (0.5, 0.5, 0.0)])
def test_the_worst_class_is_named_if_one_has_mistakes(f1):
    table = pd.DataFrame({"f1": f1, "recall": f1, "test_count": [5, 5, 0]})
    names = {"labels": ["a", "b", "c"], "counts": [9, 8, 7], "noun": "class", "nouns": "classes"}
    line = worst_class(SimpleNamespace(table=table, **names))
    assert ("worst class" in line) == (f1[1] < 1)
    assert ("1 more class with the same F1" in line) == (f1[0] == 0.5)


@pytest.mark.parametrize("ece", [(0.048, 0.082), (0.082, 0.048), (0.05, 0.05)])
@pytest.mark.parametrize("nll", [(0.4, 0.5), (0.5, 0.4)])
@pytest.mark.parametrize("variant", ["temperature", "prior_corrected"])
def test_scores_that_the_chosen_calibration_raises_are_named(variant, ece, nll, capsys):
    measured = metrics(variant)
    scores = measured["calibration"]["test"]
    scores["raw"], scores[variant] = ({"ece": ece[i], "nll": nll[i]} for i in (0, 1))
    show_calibration(measured)
    out = " ".join(capsys.readouterr().out.split())
    named = out.partition("on the test split the")[2]
    assert ("ECE" in named) == (ece[1] > ece[0])
    assert ("NLL" in named) == (nll[1] > nll[0])
    assert all(f"{value:.4f}" in out for value in (*ece, *nll))


def test_without_folds_no_cross_validation_is_claimed(capsys):
    show_calibration(metrics("raw", folds=0))
    assert "fold" not in capsys.readouterr().out


NAMES = {
    "same start": [f"devel::implementation-language:{name}" for name in ("c", "c++", "python", "perl")],
    "same end": [f"{name}::a-rather-long-description-of-labels" for name in ("c", "c++", "python", "perl")],
    "both": [f"role::program-{name}-in-a-terminal-emulator" for name in ("c", "c++", "python", "perl")],
    "East Asian": [f"非常に長いラベルの名前の最後の{name}" for name in ("一", "二", "三", "四")],
}


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("names", NAMES)
def test_the_table_of_the_correction_fits_80_columns_and_tells_labels_apart(names, task, weighted, monkeypatch):
    console = Console(width=80, record=True, file=io.StringIO())
    monkeypatch.setattr(summary, "console", console)
    classes = np.repeat(np.arange(4), [123_456, 12_345, 678, 3])
    targets = classes if task == "single-label" else csr_matrix(np.eye(4, dtype=bool)[classes])
    index = ClassIndex.from_targets(targets, 4, np.full(len(classes), 1.5) if weighted else None)
    fitted = Strategy(PowerSampler(0.5), InverseFrequency(0.5), max_ratio=2.0).fit(NAMES[names], index, 1)
    show_correction(fitted.final.correction, "combined")
    lines = console.export_text().splitlines()
    assert all(cell_len(line) <= 80 for line in lines)
    shown = [line.rpartition("…") for line in lines if "…" in line]
    assert len({start.strip() + end.split()[0] for start, _, end in shown}) == 4
    # Numbers and headings are complete.
    assert all(len(end.split()) >= 6 for _, _, end in shown)
    assert "123,456" in "".join(lines)
