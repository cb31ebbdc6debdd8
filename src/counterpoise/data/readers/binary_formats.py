"""Recognition of files that are not of the format which their suffix names, by their first bytes."""

import re
from pathlib import Path

from counterpoise.errors import UserError

START = 4096
"""Bytes that are looked at."""
WORKBOOK = "save the sheet as CSV, or write it to Parquet with pandas"
DECOMPRESS = "decompress it, or compress it with gzip"
CONVERT = "write its rows to a Parquet file"
TABLES = "name a file with a table of texts"
FORMATS = {
    b"PK\x03\x04": ("a ZIP archive", "unpack it and name the file in it"),
    b"PK\x05\x06": ("an empty ZIP archive", TABLES),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", WORKBOOK),
    b"PAR1\x15": ("a Parquet file", "give it the suffix .parquet"),
    b"\x1f\x8b": ("compressed by gzip", "decompress it"),
    b"\xfd7zXZ\x00": ("compressed by xz", DECOMPRESS),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", DECOMPRESS),
    b"\x04\x22\x4d\x18": ("compressed by lz4", DECOMPRESS),
    b"BZh": ("compressed by bzip2", DECOMPRESS),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it and name the file in it"),
    b"Rar!\x1a\x07": ("a RAR archive", "unpack it and name the file in it"),
    **{bytes([0x80, n]): ("a pickle", "load it in Python, and " + CONVERT) for n in range(2, 6)},
    b"ARROW1\0\0": ("an Arrow file", CONVERT),
    b"\xff\xff\xff\xff": ("an Arrow stream", CONVERT),
    b"FEA1": ("a Feather file", CONVERT),
    b"ORC": ("an ORC file", CONVERT),
    b"Obj\x01": ("an Avro file", CONVERT),
    b"SQLite format 3\0": ("a SQLite database", "export the table as CSV"),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", CONVERT),
    b"\x93NUMPY": ("a NumPy array", CONVERT),
    b"\x89PNG\r\n": ("a PNG image", TABLES),
    b"\xff\xd8\xff": ("a JPEG image", TABLES),
    b"GIF8": ("a GIF image", TABLES),
    b"%PDF-": ("a PDF document", "extract its texts to a CSV"),
    b"{\\rtf": ("an RTF document", "extract its texts to a CSV"),
}
"""First bytes of a format, what it is, and what to do."""
PRINTABLE_START = (b"BZh", b"ORC", b"GIF8", b"FEA1")
"""First bytes with which a text may begin, too: a file of the format also holds control characters."""
CONTROL = bytes([*range(0x00, 0x09), *range(0x0E, 0x1B), *range(0x1C, 0x20)])
"""Control characters other than white space and escape, which encodings of Japanese use."""
MAX_CONTROL = 0.05
"""Largest fraction of control characters of a text file."""
TAR = (b"ustar\x0000", b"ustar  \0")
"""Bytes at 257 of a tar archive. A text can have the word "custard" there."""
FOLDER_IN_ZIP = re.compile(rb"PK\x03\x04.{26}(xl|word)/", re.DOTALL)
"""A folder in a ZIP archive that says what it is."""
DOCUMENTS = {
    b"xl": ("an Excel workbook", WORKBOOK),
    b"word": ("a Word document", "extract its texts to a CSV"),
}
"""What a ZIP archive with the folder is, and what to do."""


def reject_binary(path: Path, start: bytes) -> None:
    """Raise UserError for a file that is not text.

    Args:
        path: The file.
        start: First bytes of its content, decompressed.
    """
    found = _format_of(start)
    if found is not None:
        raise UserError(f"{path.name} is {found[0]}, not a text file: {found[1]}")


def reject_unlike_text(path: Path, start: bytes, delimiter: str | None = None) -> None:
    """Raise UserError for content with too many control characters for a text of 8-bit characters.

    Args:
        path: The file.
        start: First bytes of its content, decompressed.
        delimiter: Delimiter of its fields, which may be a control character; None: not given.
    """
    text = start.replace(delimiter.encode(), b"") if delimiter else start
    if _control(text) > MAX_CONTROL:
        raise UserError(
            f"{path.name} is not a text file: {_control(text):.0%} of its first {len(text):,} bytes are control "
            "characters. Convert it to CSV, JSON lines or Parquet, or correct its suffix; if it is text, set "
            "data.encoding, such as utf-16-le, or data.delimiter"
        )


def require_parquet(path: Path) -> None:
    """Raise UserError for a file that does not begin as a Parquet file does. An empty one is left to the reader."""
    with path.open("rb") as file:
        start = file.read(START)
    if not start or start.startswith((b"PAR1", b"PARE")):
        return
    what, action = _format_of(start) or ("another file", "convert it, or correct its suffix")
    if what == "another file" and _control(start) == 0:
        what, action = "a text file", "give it the suffix .csv, .tsv or .jsonl"
    raise UserError(f"{path.name} is {what}, not a Parquet file: {action}")


def _format_of(start: bytes) -> tuple[str, str] | None:
    """Return what a file is and what to do, if its first bytes are those of a known format."""
    if start[257:265] in TAR:
        return "a tar archive", "unpack it and name the file in it"
    magic = next((magic for magic in FORMATS if start.startswith(magic)), None)
    if magic is None or (magic in PRINTABLE_START and _control(start) == 0):
        return None
    if magic == b"PK\x03\x04" and (found := FOLDER_IN_ZIP.search(start)):
        return DOCUMENTS[found[1]]
    return FORMATS[magic]


def _control(start: bytes) -> float:
    """Return the fraction of control characters."""
    return 1 - len(start.translate(None, CONTROL)) / len(start) if start else 0.0
