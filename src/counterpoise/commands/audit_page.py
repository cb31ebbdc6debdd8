"""Print the findings of an audit as a page of at most 80 columns."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from counterpoise.data import near_duplicates, quality
from counterpoise.data.text_lengths import PERCENTILES
from counterpoise.terminal import console

WIDTH = 80
"""Maximum width of the page in columns."""


def show(findings: dict[str, Any]) -> None:
    """Print the findings that `data_quality.measure` returns."""
    noun = "classes" if findings["task"] == "single_label" else "labels"
    page: list[RenderableType] = [
        *_class_counts(findings, noun),
        *_split_table(findings, noun),
        *_leak_table(findings),
    ]
    conflicts, test = findings["conflicts"], findings["splits"]["test"]
    if conflicts["texts"]:
        title = f"{conflicts['texts']:,} texts have different {noun} in {conflicts['rows']:,} rows"
        lines = [
            ", ".join(f"{row['split']} {row['id']}: {row['labels']}" for row in rows) for rows in conflicts["examples"]
        ]
        page.append(_bullets(f"{title}, for example", lines))
    for key, title in (
        ("absent", "without a test text"),
        ("rare", f"with 1 to {quality.MIN_TEST_EXAMPLES - 1} test texts"),
    ):
        if test[key]:
            page.append(_bullets(f"{noun} {title}: {len(test[key]):,}", [_first(test[key], 8)]))
    if findings["data_warnings"]:
        page.append(_bullets("data warnings", findings["data_warnings"]))
    recommended = findings["recommended"]
    advice = [recommended["reason"]]
    if removed := recommended["min_count"]:
        counted = {"classes": "class", "labels": "label"}[noun] if removed["classes"] == 1 else noun
        what = f"{removed['classes']:,} {counted} with fewer than {removed['least']} texts"
        texts = "; no text" if not removed["texts"] else f" and their {removed['texts']:,} of {removed['of']:,} texts"
        advice.append(f"data.min_count={removed['least']} would remove {what}{texts}")
    page.append(_bullets(f"recommended: strategy={recommended['strategy']}", advice))
    for block in page:
        console.print(block, width=min(console.width, WIDTH))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", overflow="fold")
    return table


def _note(text: str) -> Padding:
    return Padding(Text(text, "dim"), (0, 0, 1, 0))


def _bullets(title: str, lines: Sequence[str]) -> Group:
    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row("-", Text(line))
    return Group(Text(title, "bold"), Padding(grid, (0, 0, 1, 0)))


def _class_counts(findings: dict[str, Any], noun: str) -> Iterator[RenderableType]:
    imbalance, bounds, counts = findings["imbalance"], findings["bounds"], findings["counts"]
    table = _table(f"{len(counts):,} {noun} by training count", "", noun, "examples", "share")
    ranges = {
        "head": f"{bounds['head_min']} or more",
        "medium": f"{bounds['tail_max']} to {bounds['head_min'] - 1}",
        "tail": f"under {bounds['tail_max']}",
    }
    total = sum(counts.values())
    for name, bucket in findings["buckets"].items():
        share = f"{bucket['examples'] / total:.1%}"
        table.add_row(f"{name}: {ranges[name]}", f"{bucket['number']:,}", f"{bucket['examples']:,}", share)
    yield table
    ratio = f"{imbalance['ratio']:,.{0 if imbalance['ratio'] >= 10 else 1}f}"
    named = [f"{name} {count:,}" for name, count in counts.items()]
    extremes = (
        f"largest: {_first(named, 4, False)}; smallest: {_first(named[:-5:-1], 4, False)}" if len(named) > 8 else ""
    )
    yield _note(
        f"imbalance {ratio} : 1; normalised entropy {imbalance['entropy']:.2f} (balanced: 1), Gini "
        f"{imbalance['gini']:.2f} (balanced: 0); half of the examples are in the largest {imbalance['half']:,}\n"
        + (extremes or ", ".join(named))
    )


def _split_table(findings: dict[str, Any], noun: str) -> Iterator[RenderableType]:
    splits = findings["splits"]
    table = _table("splits", "", *splits)

    def row(title: str, values: Sequence[Any], always: bool = False) -> None:
        if always or any(values):
            shown = [f"{value:,}" if isinstance(value, int) else f"{value:.2g}" for value in values]
            table.add_row(title, *(value if value != "0" else "-" for value in shown))

    def by_split(key: str) -> list[Any]:
        return [split[key] for split in splits.values()]

    row("texts", by_split("rows"), True)
    for reason in dict.fromkeys(reason for dropped in by_split("dropped") for reason in dropped):
        row(f"dropped: {reason}", [dropped.get(reason, 0) for dropped in by_split("dropped")])
    row(f"with {noun} not in training", by_split("unseen"))
    row("without a label", by_split("unlabelled"))
    if findings["task"] == "multi_label":
        row("labels per text", by_split("labels_per_text"))
    row(f"{noun} without a text", [len(names) for names in by_split("absent")])
    row(f"{noun} with 1 to {quality.MIN_TEST_EXAMPLES - 1} texts", [len(names) for names in by_split("rare")])
    row("equal to an earlier text", by_split("repeats"), True)
    row("with a near duplicate", by_split("with_near_duplicate"), True)
    for key in PERCENTILES:
        row(f"tokens, {key}", [tokens[key] for tokens in by_split("tokens")], True)
    table.add_row(f"truncated to {findings['max_length']} tokens", *(f"{share:.1%}" for share in by_split("truncated")))
    for reason in splits["train"]["unusual"]:
        row(reason, [unusual[reason] for unusual in by_split("unusual")])
    yield table
    yield _note(
        "equal: the same text, ignoring case and spaces; near duplicate: not equal, with a Jaccard similarity of "
        f"{near_duplicates.MIN_SIMILARITY} or more over sequences of {near_duplicates.SHINGLE} letters; all numbers "
        "are equal, unless digits make up much of the texts"
    )


def _leak_table(findings: dict[str, Any]) -> Iterator[RenderableType]:
    table = _table("leaks between splits", "", "equal", "near", "share")
    for leak in findings["leaks"]:
        cells = (f"{leak[kind]:,}" if leak[kind] else "-" for kind in ("equal", "near"))
        share = f"{(leak['equal'] + leak['near']) / leak['of']:.1%}"
        table.add_row(f"{leak['split']} in {leak['in']}", *cells, share)
    yield table
    for leak in findings["leaks"]:
        if leak["examples"]:
            title = f"{leak['split']} in {leak['in']}, for example (row, other row, similarity, text)"
            lines = (f"{e['id']}, {e['of_id']}, {e['similarity']:.2f}: {e['text']}" for e in leak["examples"])
            yield _bullets(title, [_one_line(line) for line in lines])


def _one_line(text: str, max_length: int = 78) -> str:
    """Return the text without control characters and line breaks, shortened to `max_length` characters."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= max_length else f"{plain[: max_length - 3]}..."


def _first(names: Sequence[str], limit: int, count_rest: bool = True) -> str:
    rest = f" and {len(names) - limit:,} more" if count_rest and len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
