"""Fonts for text that the default font of figures lacks, such as class names in East Asian scripts."""

from functools import cache

from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.text import Text


def choose_fonts(figure: Figure) -> None:
    """Give each text of the figure fonts that have its characters; escape characters that no installed font has.

    Without this, matplotlib draws boxes and warns about each missing character.
    """
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        content = text.get_text()
        own = _characters(findfont(text.get_fontproperties()))
        lacking = {ord(character) for character in content if character != "\n"} - own
        if not lacking:
            continue
        families = _families_with(frozenset(lacking))
        text.set_fontfamily([*text.get_fontfamily(), *families])
        found = frozenset().union(*families.values())
        text.set_text("".join(_escape(c) if ord(c) in lacking - found else c for c in content))


def _escape(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if character.isprintable() else repr(character)[1:-1]


@cache
def _families_with(characters: frozenset[int]) -> dict[str, frozenset[int]]:
    """Return font families that have some of the characters, and which; the font with most of them first."""
    families: dict[str, frozenset[int]] = {}
    fonts = {entry.name: entry.fname for entry in fontManager.ttflist if entry.style == "normal"}
    # A font of last resort has a box for each character.
    fonts = {name: path for name, path in fonts.items() if "lastresort" not in name.replace(" ", "").lower()}
    missing = characters
    while missing:
        covered = {name: missing & _characters(path) for name, path in fonts.items()}
        best = max(sorted(covered), key=lambda name: len(covered[name]), default=None)
        if best is None or not covered[best]:
            break
        families[best] = covered[best]
        missing -= covered[best]
    return families


@cache
def _characters(path: str) -> frozenset[int]:
    """Return the code points that a font can draw; none if it cannot be read or holds only bitmaps."""
    try:
        font = get_font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
