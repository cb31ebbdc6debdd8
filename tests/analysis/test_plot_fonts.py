"""Names outside the default font are drawn with another font or escaped, without warnings."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontManager, findfont
from matplotlib.text import Text

from counterpoise.analysis import plot_fonts, plots
from counterpoise.analysis.plot_fonts import choose_fonts

NAMES = ["产品", "価格", "가격", "ราคา", "कीमत", "\u200bzero", "tab\there", "élève", "ж", "\U0001f980", "a产b"]


@pytest.fixture
def fonts(monkeypatch: pytest.MonkeyPatch) -> FontManager:
    """Only the fonts that matplotlib brings."""
    manager = FontManager()
    own = str(Path(font_manager.__file__).parent)
    manager.ttflist = [entry for entry in manager.ttflist if entry.fname.startswith(own)]
    monkeypatch.setattr(plot_fonts, "fontManager", manager)
    plot_fonts._families_with.cache_clear()
    yield manager
    plot_fonts._families_with.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_drawn_without_warnings_whatever_the_name(name, fonts, tmp_path):
    values = np.array([3, 50]), np.array([0.2, 0.9])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.recall_vs_count(tmp_path / "recall.png", {name: values, "plain": values})
    assert (tmp_path / "recall.png").stat().st_size


def drawn(name: str) -> Text:
    figure = Figure()
    text = figure.text(0, 0, name)
    choose_fonts(figure)
    return text


def test_without_a_font_names_are_escaped_and_stay_distinct(fonts):
    shown = [drawn(name).get_text() for name in NAMES]
    assert shown[0] == r"\u4ea7\u54c1"
    assert shown[NAMES.index("élève")] == "élève"
    assert len(set(shown)) == len(NAMES)


def test_an_installed_font_with_the_characters_is_used(fonts, tmp_path):
    font = TTFont(findfont("DejaVu Sans"))
    for table in font["cmap"].tables:
        table.cmap[ord("产")] = "A"
    for record in font["name"].names:
        if record.nameID in (1, 16):
            record.string = "Own Font"
    font.save(tmp_path / "own.ttf")
    fonts.addfont(tmp_path / "own.ttf")
    text = drawn("产品")
    assert text.get_fontfamily()[-1] == "Own Font"
    assert text.get_text() == r"产\u54c1"
