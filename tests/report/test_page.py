import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from browser import Opened
from counterpoise.report.html_page import Panel, data, figure, table, write
from report.runs import HOSTILE


class Parsed(HTMLParser):
    """What a browser would make of a page: its scripts, tags and text outside of them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._inside = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        else:
            self.text += data


def plot(name: str = "points") -> go.Figure:
    chart = go.Figure(go.Scatter(x=HOSTILE, y=[1, 2, 3, 4], name=name, marker={"color": "var(--c2)"}))
    chart.add_scatter(x=HOSTILE, y=[4, 3, 2, 1], name="others", mode="markers+text", text=HOSTILE)
    return chart.update_layout(xaxis_title=HOSTILE[2], height=300)


def page(tmp_path: Path, script: str = "") -> Path:
    frame = pd.DataFrame({"class": [*HOSTILE, "z"], "count": [5, 40, 300, 2, 1], "f1": [0.5, np.nan, 0.25, 1, 0]})
    body = figure("plot", plot(HOSTILE[0]), HOSTILE[1]) + table(frame, {"count": ",d", "f1": ".1%"}, HOSTILE[0])
    path = tmp_path / "page.html"
    panels = [Panel("one", HOSTILE[0], HOSTILE[1], body), Panel("two", "Second", "Note", data("block", {"x": HOSTILE}))]
    write(path, HOSTILE[0], HOSTILE[1], panels, script)
    return path


def test_names_become_neither_tags_nor_scripts(tmp_path: Path) -> None:
    parsed = Parsed(page(tmp_path).read_text())
    assert not [tag for tag, _ in parsed.tags if tag in ("img", "b", "i")]
    assert len(parsed.scripts) == 5  # theme, figure, data, plotly, page
    assert not any("window.hacked=1</script" in text for _, text in parsed.scripts)
    for name in HOSTILE[:2]:
        assert name in parsed.text


def test_json_of_a_figure_holds_the_names_and_no_angle_bracket() -> None:
    written = figure("plot", plot("</script>"), "what it shows")
    parsed = Parsed(written)
    [(attributes, text)] = parsed.scripts
    assert attributes == {"type": "application/json"}
    assert "<" not in text
    content = json.loads(text)
    assert content["data"][0]["name"] == "</script>"
    assert content["data"][1]["text"] == HOSTILE


def test_the_policy_allows_exactly_the_scripts_of_the_page(tmp_path: Path) -> None:
    parsed = Parsed(page(tmp_path, "window.own = 1;").read_text())
    [policy] = [each["content"] for tag, each in parsed.tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in re.search(r"script-src ([^;]*)", policy)[1]  # type: ignore[index]
    allowed = set(re.findall(r"'sha256-([^']*)'", policy))
    run = [text for attributes, text in parsed.scripts if "type" not in attributes]
    run += [gzip.decompress(base64.b64decode(t)).decode() for a, t in parsed.scripts if a.get("id") == "plotly"]
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run} == allowed
    assert len(run) == 4


def test_a_page_names_no_address(tmp_path: Path) -> None:
    parsed = Parsed(page(tmp_path).read_text())
    links = [value for _, each in parsed.tags for key, value in each.items() if key in ("src", "href")]
    assert links
    assert all(link and link.startswith(("#", "data:")) for link in links)


def test_a_page_is_about_two_megabytes(tmp_path: Path) -> None:
    assert page(tmp_path).stat().st_size < 2.2e6


def test_data_comes_back_as_it_was() -> None:
    value = {"a": np.array([1.5, np.nan, np.inf]), "b": np.arange(3), 3: HOSTILE, "t": (True, None, np.float32(0.5))}
    [(_, text)] = Parsed(data("block", value)).scripts
    read = json.loads(gzip.decompress(base64.b64decode(text)))
    assert read == {"a": [1.5, None, None], "b": [0, 1, 2], "3": HOSTILE, "t": [True, None, 0.5]}


def test_half_a_character_spoils_no_page(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write(path, "broken \ud800", "", [Panel("one", "\udc00", "", data("block", ["\ud800"]))])
    assert "broken ?" in path.read_text(encoding="utf-8")


def test_cells_are_formatted_and_keep_the_number_they_sort_by() -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "count": [1234.0, np.nan], "share": [-0.5, 0.123]})
    written = str(table(frame, {"count": ",d", "share": ".1%"}, "caption"))
    assert 'data-value="1234.0">1,234<' in written
    assert ">–<" in written
    assert ">−50.0%<" in written


def test_only_a_long_table_scrolls_in_a_box_that_the_keyboard_reaches() -> None:
    frame = pd.DataFrame({"n": range(20)})
    assert 'tabindex="0"' in table(frame, {}, "long")
    assert 'tabindex="0"' not in table(frame[:5], {}, "short")


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory) -> Iterator[Opened]:
    """The page of tests that leave it as it is."""
    script = "report.add(async () => { window.found = (await report.data('block')).x; });"
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Opened(context.new_page(), page(tmp_path_factory.mktemp("page"), script))
    context.close()


def test_a_reader_sees_the_names_and_nothing_runs(opened: Opened) -> None:
    assert opened.complaints == []
    assert opened.page.evaluate("window.hacked") is None
    drawn = opened.page.eval_on_selector_all("#plot svg text", "nodes => nodes.map(node => node.textContent)")
    for name in HOSTILE:
        assert any(name in text for text in drawn)
    assert opened.page.locator("#plot svg a").count() == 0
    assert opened.page.locator("h1").inner_text() == HOSTILE[0]


def test_a_script_that_is_not_the_pages_own_is_refused(tmp_path: Path, open_page) -> None:
    opened = open_page(page(tmp_path))
    opened.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'hacked = 1'}))")
    opened.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=hacked=1>')")
    assert opened.page.evaluate("fetch('https://example.org/').then(() => 1, () => 0)") == 0
    assert opened.page.evaluate("window.hacked") is None


def test_a_script_of_the_page_finds_its_data(opened: Opened) -> None:
    assert opened.page.evaluate("window.found") == HOSTILE


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_follow_the_theme_of_the_system_and_the_button(tmp_path: Path, open_page, scheme: str) -> None:
    path = page(tmp_path)
    opened = open_page(path, color_scheme=scheme)

    def colours() -> tuple[str, str]:
        return opened.page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor,
                document.querySelector('#plot .point path, #plot path.point').style.fill]"""
        )

    first = colours()
    button = opened.page.get_by_role("button", name="Dark")
    assert button.get_attribute("aria-pressed") == str(scheme == "dark").lower()
    button.focus()
    opened.page.keyboard.press("Enter")
    second = colours()
    assert first[0] != second[0]
    assert first[1] != second[1]
    opened.load(path)
    assert colours() == second  # the choice is remembered
    assert opened.complaints == []


def test_print_is_light_and_without_controls(tmp_path: Path, open_page) -> None:
    opened = open_page(page(tmp_path), color_scheme="dark")
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not opened.page.locator("#theme").is_visible()
    assert not opened.page.locator("nav").is_visible()
    opened.wait_for("document.querySelector('#plot .xtick text').style.fill", "rgb(95, 107, 120)")


def test_a_table_sorts_by_mouse_and_keyboard_with_missing_numbers_last(opened: Opened) -> None:
    rows = "rows => rows.map(row => row.cells[%d].textContent)"
    opened.page.get_by_role("button", name="count").click()
    assert opened.page.eval_on_selector_all("tbody tr", rows % 1) == ["300", "40", "5", "2", "1"]
    opened.page.keyboard.press("Enter")
    assert opened.page.eval_on_selector_all("tbody tr", rows % 1) == ["1", "2", "5", "40", "300"]
    assert opened.page.locator("th", has_text="count").get_attribute("aria-sort") == "ascending"
    opened.page.keyboard.press("Tab")
    opened.page.keyboard.press("Space")
    assert opened.page.eval_on_selector_all("tbody tr", rows % 2) == ["100.0%", "50.0%", "25.0%", "0.0%", "–"]


def test_the_first_stop_of_the_keyboard_leads_to_the_report(tmp_path: Path, open_page) -> None:
    opened = open_page(page(tmp_path))
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.textContent") == "Skip to the report"
    opened.page.keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.id") == "main"
    assert opened.page.get_by_role("navigation", name="Contents").get_by_role("link").count() == 2


def test_a_figure_says_what_it_shows(opened: Opened) -> None:
    assert opened.page.get_by_role("img", name=HOSTILE[1]).count() == 1


def test_a_phone_scrolls_down_only(tmp_path: Path, open_page) -> None:
    opened = open_page(page(tmp_path), viewport={"width": 360, "height": 700})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360


def toolbar(opened: Opened) -> list[str]:
    """Return the titles of the visible buttons of all figures."""
    buttons = opened.page.locator(".modebar-btn")
    return [button.get_attribute("data-title") or "" for button in buttons.all() if button.is_visible()]


@pytest.mark.parametrize("fixed", [{"xaxis_fixedrange": True}, {"xaxis_fixedrange": True, "yaxis_fixedrange": True}])
def test_the_toolbar_of_a_figure_offers_no_upload(tmp_path: Path, open_page, fixed: dict[str, bool]) -> None:
    chart = plot().update_layout(**fixed)
    write(tmp_path / "page.html", "title", "", [Panel("one", "One", "", figure("plot", chart, "points"))])
    opened = open_page(tmp_path / "page.html")
    opened.page.locator("#plot .canvas").hover()
    found = [title.lower() for title in toolbar(opened)]
    assert len(found) == (1 if len(fixed) == 2 else 4)
    assert any("png" in title for title in found)
    assert not any(word in title for title in found for word in ("share", "cloud", "upload", "edit", "studio"))


def test_a_narrow_screen_has_no_toolbar_over_the_legend(tmp_path: Path, open_page) -> None:
    opened = open_page(page(tmp_path), viewport={"width": 320, "height": 800}, has_touch=True)
    for width in (320, 600):
        opened.page.set_viewport_size({"width": width, "height": 800})
        opened.page.locator("#plot .canvas").hover()
        assert toolbar(opened) == []
