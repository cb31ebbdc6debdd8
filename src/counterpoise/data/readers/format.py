"""Settings of file formats: how the bytes of a file become rows and columns."""

from collections.abc import Sequence
from dataclasses import dataclass

from counterpoise.errors import UserError

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """How files are read. All settings but `encoding` concern CSV files only.

    Args:
        delimiter: Delimiter. None: that of a first line such as `sep=;`, else that of the suffix.
        quote: Quote character. None: fields are not quoted.
        escape: Character before a quotation mark that is part of a text, such as a backslash. None: such quotation
            marks are doubled.
        skip_rows_after_header: Rows to skip after the header. Empty lines do not count as rows.
        columns: Names of the columns of a file without a header. None: the first row holds the names.
        encoding: Name of an encoding, or "auto". See `detect_encoding`.
    """

    delimiter: str | None = None
    quote: str | None = '"'
    escape: str | None = None
    skip_rows_after_header: int = 0
    columns: Sequence[str] | None = None
    encoding: str = AUTO

    def __post_init__(self) -> None:
        if self.delimiter == "\\t":  # as a shell passes data.delimiter="\t"
            object.__setattr__(self, "delimiter", "\t")

    def check(self) -> None:
        """Raise UserError for invalid settings."""
        for key, character in (("delimiter", self.delimiter), ("quote", self.quote), ("escape", self.escape)):
            valid = isinstance(character, str) and len(character) == 1 and character.isascii()
            if character is not None and not valid:
                raise UserError(f"data.{key} is {character!r}; it must be one ASCII character")
        if isinstance(self.columns, str) or (self.columns is not None and not self.columns):
            raise UserError(f"data.columns is {self.columns!r}; it must be a list of names, such as [label,text]")
        try:
            if self.encoding != AUTO:
                "".encode(self.encoding)
        except (LookupError, TypeError, UnicodeError) as error:
            raise UserError(
                f"data.encoding is {self.encoding!r}; use auto or an encoding that Python knows, such as utf-8, cp1252"
            ) from error
