from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.sparse import csr_matrix

from counterpoise.metrics.calibration import Calibration, measure
from counterpoise.training import calibration_picture

COUNTS = np.array([4000, 50, 3])


def calibrated(shift: float, multi_label: bool = False, rows: int = 300, counts: np.ndarray = COUNTS) -> Calibration:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(rows, 3)) - np.arange(3)
    targets = csr_matrix(rng.random((rows, 3)) < 0.3) if multi_label else rng.integers(0, 2, rows)
    given = logits + shift * np.arange(3), targets
    return measure(["a", "b$", "c$"], counts, given, given, ("exact", shift * np.arange(3.0)))


def drawn(path: Path, calibration: Calibration) -> np.ndarray:
    calibration_picture.draw(path, calibration)
    return imread(path)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_calibration_is_a_picture(tmp_path, multi_label):
    corrected = drawn(tmp_path / "deep" / "a.png", calibrated(1.0, multi_label))
    assert corrected.shape[1] > 2 * corrected.shape[0] > 1000
    plain = drawn(tmp_path / "b.png", calibrated(0.0, multi_label))
    assert plain.shape != corrected.shape or (plain != corrected).any()


def test_a_single_text_and_a_bucket_without_any_are_drawn(tmp_path):
    for counts in (COUNTS, np.array([500, 500, 500])):
        assert drawn(tmp_path / "a.png", calibrated(1.0, rows=1, counts=counts)).size
