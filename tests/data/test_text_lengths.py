import numpy as np
import pytest

from counterpoise.data.text_lengths import MAX_TRUNCATED, length_percentiles, truncated_fraction, truncation_warnings
from counterpoise.data.tokenisation import Tokenisation


def lengths(truncated: float, max_length: int = 64, texts: int = 100) -> np.ndarray:
    """Lengths of which this fraction exceeds max_length, by one token."""
    return np.where(np.arange(texts) < round(truncated * texts), max_length + 1, max_length)


@pytest.mark.parametrize("fraction", [0.0, 0.01, MAX_TRUNCATED, 0.21, 0.5, 1.0])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("max_length", [3, 64, 512])
def test_a_warning_names_the_share_and_the_setting(fraction, split, max_length):
    by_split = {name: lengths(fraction * (name == split), max_length) for name in ("train", "validation", "test")}
    found = truncation_warnings(by_split, Tokenisation(max_length), max_length, 512)
    assert bool(found) == (fraction > MAX_TRUNCATED)
    for line in found:
        assert f"encoder.max_length={max_length}" in line
        assert f"{fraction:.0%} of {split}" in line
        assert ("at most 512" in line) == (max_length < 512)
        assert ("limit of the encoder" in line) == (max_length == 512)


def test_percentiles_are_those_of_whole_texts():
    tokens = np.concatenate([np.full(95, 273), np.full(5, 9000)])
    [line] = truncation_warnings({"train": tokens}, Tokenisation(64), 64, int(1e30))
    assert "273" in line
    assert "at most" not in line
    assert length_percentiles(tokens) == {"median": 273, "95%": 709, "99%": 9000, "longest": 9000}


def test_no_text_is_not_truncated():
    none = np.empty(0, np.int64)
    assert truncated_fraction(none, 64) == 0
    assert truncation_warnings({"train": none}, Tokenisation(64), 64, 512) == []
    assert length_percentiles(none)["median"] == 0
