"""Shortened names fit their width and stay different."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from counterpoise.names import shorten, shorten_all

text = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=40)


@given(text, st.integers(1, 30))
def test_a_shortened_name_fits_and_keeps_start_and_end(name, width):
    shown = shorten(name, width)
    assert cell_len(shown) <= width or shown == name
    start, _, end = shown.partition("…")
    assert shown == name or (name.startswith(start) and name.endswith(end))


@given(st.lists(text, unique=True, max_size=12), st.integers(1, 30))
def test_different_names_stay_different(names, width):
    assert len(set(shorten_all(tuple(names), width))) == len(names)


@pytest.mark.parametrize("width", range(8, 24))
@pytest.mark.parametrize(
    "pattern",
    [
        "devel::lang:{}",
        "{}::implemented-in:python",
        "devel::library:{}-development-files",
        "很长的共同前缀{}很长的共同后缀",
    ],
)
def test_names_that_differ_in_one_place_are_cut_elsewhere(pattern, width):
    names = tuple(pattern.format(part) for part in ("c", "r", "go"))
    shown = shorten_all(names, width)
    assert len(set(shown)) == 3
    assert all(cell_len(name) <= width for name in shown)
