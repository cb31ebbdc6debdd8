"""Reports as single HTML files: panels, figures, tables and data for scripts.

A page opens from disk and needs no network. All shown text is escaped. The Content-Security-Policy allows only the
page's own scripts, identified by their hashes. The theme follows the reader's system; a button overrides it and the
browser remembers the choice.

Figures use named colours so that they follow the theme. Wherever plotly accepts a colour, write "var(--c1)" to
"var(--c6)" (blue, orange, green, purple, gold, red), "var(--c1-faint)" to "var(--c6-faint)" (about a quarter of the
strength), "var(--ink)", "var(--muted)", "var(--faint)", "var(--grid)" or "var(--card)" (the background). Traces
without a colour use c1 to c6 in turn. The page sets fonts, grids and margins.
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

DEFAULT_HEIGHT = 380
"""Height of a figure without a height of its own, in pixels."""


class Panel(NamedTuple):
    """A section of the page.

    Args:
        id: Anchor of the section.
        title: Heading.
        note: One line that explains the section. A str is escaped, a Markup is not.
        body: Content.
    """

    id: str
    title: str
    note: str
    body: Markup


def figure(id: str, plot: go.Figure, description: str) -> Markup:  # noqa: A002
    """Return a figure that the page's script draws.

    Strings in the plot (names, ticks, texts, customdata) are shown literally: line breaks are kept and "<b>" is not
    bold. Only hover and text templates may contain plotly's HTML. They must be constants; pass class names in
    customdata.

    Args:
        id: Id of the element.
        plot: The figure. Its height is `layout.height` or `DEFAULT_HEIGHT`.
        description: Text for screen readers.
    """
    height = plot.layout.height or DEFAULT_HEIGHT
    return render(
        "shared/figure.html", id=id, height=height, description=description, json=_json(data_and_layout(plot))
    )


def data_and_layout(plot: go.Figure) -> dict[str, Any]:
    """Return the data and layout of a figure without plotly's default template."""
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
    """Return a table that can be sorted by mouse and keyboard.

    Missing numbers and NaN are shown as a dash and sort last.

    Args:
        frame: Content of the table.
        formats: Format specification by column, such as ".1%" or ",d". Other columns are shown as str.
        caption: Caption of the table.
        id: Id of the table element.
        rows: A longer table scrolls in a box of its own.
    """
    numeric = {name: pd.api.types.is_numeric_dtype(frame[name].dtype) for name in frame}
    columns = [(str(name), numeric[name]) for name in frame]
    body = []
    for values in zip(*(frame[name].tolist() for name in frame), strict=True):
        body.append([_cell(value, formats.get(str(name), "")) for name, value in zip(frame, values, strict=True)])
    return render("shared/table.html", id=id, caption=caption, columns=columns, body=body, scrolls=len(body) > rows)


def data(id: str, value: Any) -> Markup:  # noqa: A002
    """Return a block of compressed data. Scripts read it with `await report.data(id)`.

    Args:
        id: Id of the block.
        value: Anything that JSON can hold, and numpy arrays, which become lists. NaN and infinity become null.
    """
    packed = base64.b64encode(gzip.compress(_json(value).encode(), 6, mtime=0)).decode()
    return render("shared/data_block.html", id=id, packed=packed)


def render(template: str, **values: Any) -> Markup:
    """Return a rendered template of `report/templates`. Values are escaped unless they are Markup."""
    return Markup(_environment().get_template(template).render(**values))


def write(path: Path, title: str, subtitle: str, panels: Sequence[Panel], script: str = "") -> None:
    """Write a page as one self-contained file. The file is replaced atomically.

    Args:
        path: File to write.
        title: Title and main heading.
        subtitle: Line below the heading.
        panels: Sections in order.
        script: JavaScript that runs after the page is parsed. It uses `await report.data(id)`, `report.plots[id]`
            ({data, layout}; call `report.draw(id)` after a change) and `report.sort(table)`.
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
    """Return the source of a file of `report/templates`."""
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
    environment.filters["format_number"] = lambda value, spec: _cell(value, spec)[0]
    return environment


@cache
def _packed_plotly() -> str:
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def format_factor(value: float) -> str:
    """Return a factor with three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _cell(value: Any, spec: str) -> tuple[str, float | None]:
    """Return the shown text and the number to sort by."""
    if isinstance(value, bool | str):
        return str(value), None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–", None
    if isinstance(value, int | float):
        return format(int(value) if spec.endswith("d") else value, spec).replace("-", "−"), float(value)
    return str(value), None


def _json(value: Any) -> Markup:
    """Return JSON that is safe inside a script element."""
    text = json.dumps(_json_types(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _json_types(value: Any) -> Any:
    """Return the value with arrays as lists and None for NaN and infinity."""
    if isinstance(value, np.ndarray):
        return _json_types(value.tolist()) if value.dtype.kind == "f" else value.tolist()
    if isinstance(value, np.generic):
        return _json_types(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _json_types(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json_types(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate cannot be encoded
    return value
