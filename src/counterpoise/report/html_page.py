"""What all reports share: a page in one HTML file that opens from disk, with figures, tables and data for its scripts.

Everything that is shown is escaped, and the page's Content-Security-Policy runs none but its own scripts (known by
their hashes) and reaches no network. Light or dark is chosen by the reader's system, or by a button that remembers.

Colours are named, so that a figure follows light and dark: wherever plotly takes a colour write "var(--c1)" to
"var(--c6)" (`evaluate.style.COLOURS`: blue, orange, green, purple, gold, red), "var(--c1-faint)" and so on (the same
at about a quarter), "var(--ink)", "var(--muted)", "var(--faint)", "var(--grid)" or "var(--card)" (what is behind it).
Traces without a colour take c1 to c6 in turn. Fonts, grids and margins come from the page; leave them alone.
"""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from counterpoise.io import atomic_path

HEIGHT = 380
"""Of a figure that says nothing of its own, in pixels."""


class Panel(NamedTuple):
    """A section of the page. note: one line that says what to see; a string is escaped, a Markup is not."""

    id: str
    title: str
    note: str
    body: Markup


def figure(id: str, plot: go.Figure, description: str) -> Markup:  # noqa: A002
    """Returns a figure that the page draws, `plot.layout.height` high; `description` is what a screen reader reads.

    Strings in the plot (names, ticks, texts, customdata) are shown as they are, whatever they hold: a line break in
    them is a line break, "<b>" is not bold. Only hover and text templates are plotly's own little HTML: they must be
    constants, with names of classes in customdata.
    """
    height = plot.layout.height or HEIGHT
    return render("shared/figure.html", id=id, height=height, description=description, json=_json(plain(plot)))


def plain(plot: go.Figure) -> dict[str, Any]:
    """Returns what a page's script needs of a figure: its data and layout, without plotly's own template."""
    content = plot.to_plotly_json()
    content["layout"].pop("template", None)
    return content


def table(
    frame: pd.DataFrame,
    formats: Mapping[str, str],
    caption: str,
    id: str | None = None,  # noqa: A002
    rows: int = 14,
) -> Markup:
    """Returns a table with a caption whose columns sort at a click or with the keyboard.

    formats: by column, as `format` takes them (".1%", ",d"); without one a value is shown as str. Numbers that are
    missing or NaN are a dash and sort last. A table of more than `rows` rows scrolls in a box of its own.
    """
    numeric = {name: pd.api.types.is_numeric_dtype(frame[name].dtype) for name in frame}
    columns = [(str(name), numeric[name]) for name in frame]
    body = []
    for values in zip(*(frame[name].tolist() for name in frame), strict=True):
        body.append([_cell(value, formats.get(str(name), "")) for name, value in zip(frame, values, strict=True)])
    return render("shared/table.html", id=id, caption=caption, columns=columns, body=body, scrolls=len(body) > rows)


def data(id: str, value: Any) -> Markup:  # noqa: A002
    """Returns a block of data for the page's scripts: `await report.data(id)` is `value`.

    value: what JSON holds, and numpy arrays, which become lists (int64 and float64 alike); NaN becomes null.
    """
    packed = base64.b64encode(gzip.compress(_json(value).encode(), 6, mtime=0)).decode()
    return render("shared/data_block.html", id=id, packed=packed)


def render(template: str, **values: Any) -> Markup:
    """Returns a template of `report/templates`, filled and escaped."""
    return Markup(_environment().get_template(template).render(**values))


def write(path: Path, title: str, subtitle: str, panels: Sequence[Panel], script: str = "") -> None:
    """Writes the page, one file that needs no other; replaces it as a whole.

    script: JavaScript of the page, run when all is parsed; it finds in `report`: `await report.data(id)`,
    `report.plots[id]` ({data, layout}: change it, then `report.draw(id)`), `report.sort(table)`.
    """
    scripts = {
        "theme": template_text("shared/theme.js"),
        "page": template_text("shared/page.js"),
        "own": "\n".join(line.rstrip() for line in script.splitlines()),
    }
    plotly = get_plotlyjs()
    allowed = " ".join(f"'sha256-{_sha256(each)}'" for each in [*scripts.values(), plotly] if each)
    page = render(
        "shared/page.html",
        title=title,
        subtitle=subtitle,
        panels=panels,
        css=Markup(template_text("shared/page.css")),
        scripts={name: Markup(text) for name, text in scripts.items()},
        allowed=allowed,
        plotly=_packed_plotly(),
    )
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(page.encode("utf-8", "replace"))


def template_text(name: str) -> str:
    """Returns a file of `report/templates` as it is."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("counterpoise.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["round"] = lambda value, spec: _cell(value, spec)[0]
    return environment


@cache
def _packed_plotly() -> str:
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def factor(value: float) -> str:
    """Returns a factor as one reads it: three digits, or all before the point, and never a power of ten."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _cell(value: Any, spec: str) -> tuple[str, float | None]:
    """Returns what is shown, and the number to sort by."""
    if isinstance(value, bool | str):
        return str(value), None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–", None
    if isinstance(value, int | float):
        return format(int(value) if spec.endswith("d") else value, spec).replace("-", "−"), float(value)
    return str(value), None


def _json(value: Any) -> Markup:
    """Returns JSON that no HTML parser finds a tag in."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _plain(value: Any) -> Any:
    """Returns the value with arrays as lists and None for numbers that JSON has no word for."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f":
            return [_plain(each) for each in value] if value.ndim > 1 else [_plain(each) for each in value.tolist()]
        return value.tolist()
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate has no place in a file
    return value
