"""Texts of several columns, such as a title and a body, joined to one text that can be taken apart again."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.arrow_columns import Column

PARAGRAPH = "\u2029"
"""Paragraph separator: a white-space character that texts hardly ever contain."""
SEPARATOR = f" {PARAGRAPH} "
"""Between the texts of the columns."""


def join_columns(columns: Sequence[Column]) -> Column:
    """Return the texts of several columns, joined; a null is an empty text.

    Args:
        columns: Columns of text, [N]. A paragraph separator within a text becomes a line break.

    Returns:
        large_binary [N].
    """
    kept = [
        pc.replace_substring(pc.fill_null(column.cast(pa.large_binary()), b""), PARAGRAPH.encode(), b"\n")
        for column in columns
    ]
    return pc.binary_join_element_wise(*kept, pa.scalar(SEPARATOR.encode(), pa.large_binary()))


def join_texts(texts: Sequence[str]) -> str:
    """Return the texts of the columns of one row, joined as in `join_columns`."""
    return SEPARATOR.join(text.replace(PARAGRAPH, "\n") for text in texts)


def shown_columns(columns: Sequence[str]) -> str:
    """Return the names of columns for a message."""
    return ", ".join(map(repr, columns))


def split_columns(text: str) -> list[str]:
    """Return the texts of the columns. Inverse of `join_texts`."""
    return text.split(SEPARATOR)
