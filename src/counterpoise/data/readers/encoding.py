"""Opening of text files: compression, and detection of the encoding."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from counterpoise.data.readers import files
from counterpoise.data.readers.binary_formats import START, reject_binary, reject_unlike_text
from counterpoise.data.readers.format import AUTO, FileFormat
from counterpoise.errors import UserError

GZIP = b"\x1f\x8b"
BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8",
}
UTF8_SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
HIGH = bytes(range(128, 256))
LEGACY = "cp1252"
"""Encoding of Western European languages. It contains the characters of Latin-1."""
OTHER_LANGUAGE = re.compile(rb"[\x80-\xff]{3,}")
"""Words of other alphabets: several bytes outside ASCII in a row."""
SYMBOL = rb"[\x82-\x84\x86-\x89\x8b\x98\x9b\xa1-\xa9\xab\xac\xae-\xb3\xb5\xb6\xb9\xbb-\xbf]"
CAPITAL = rb"[\x8a\x8c\x8e\x9f\xc0-\xde]"
OTHER_CODE_PAGE = re.compile(rb"(?<=[a-z])(?:%b(?=[a-z])|%b(?![A-Z]))" % (SYMBOL, CAPITAL))
"""Words of other code pages, which in cp1252 have a symbol or a capital after a small letter."""
SAMPLE = 2**20
"""Bytes of lines outside ASCII that decide on the encoding."""


@dataclass(frozen=True)
class TextFile:
    """A text file, compressed or not, in a known encoding.

    Args:
        path: The file. gzip is recognised by its content or by the suffix .gz.
        encoding: Encoding of the text.
        notices: What the user should know of the encoding, one line each.
    """

    path: Path
    encoding: str
    notices: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: Path, form: FileFormat) -> "TextFile":
        """Return the file with its encoding detected if that of its format is "auto".

        Raises:
            UserError: The file is not a text file, or its encoding cannot be determined.
        """
        reject_binary(path, open_bytes(path).read(START))
        if form.encoding != AUTO:
            return cls(path, form.encoding)
        return cls(path, *detect_encoding(path, form.delimiter))

    @property
    def name(self) -> str:
        """Name of the file in messages."""
        return self.path.name

    def open(self) -> pa.NativeFile:
        """Open the file as a stream of bytes in UTF-8."""
        stream = open_bytes(self.path)
        plain = self.encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")
        return stream if plain else pa.transcoding_input_stream(stream, self.encoding, "utf-8")


def open_bytes(path: Path) -> pa.NativeFile:
    """Open a file for reading. gzip is decompressed."""
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP or path.suffix.lower() == ".gz"
    return pa.input_stream(path, compression="gzip" if compressed else None)


def detect_encoding(path: Path, delimiter: str | None = None) -> tuple[str, tuple[str, ...]]:
    """Return the encoding of a text file, and a notice if it is not UTF-8.

    A byte order mark decides; without one, UTF-16 is recognised by its zero bytes. Otherwise the file is in UTF-8,
    even if some rows are damaged, or in cp1252 if most characters outside ASCII are not valid UTF-8.

    Args:
        path: The file, compressed or not.
        delimiter: Delimiter of its fields, which may be a control character; None: not given.

    Raises:
        UserError: The file holds no text, or the text is neither in UTF-8 nor in a language that cp1252 can represent.
    """
    stream = open_bytes(path)
    start = stream.read(START)
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            wide = encoding != "utf-8"
            return encoding, (f"{path.name} is in {encoding.upper()}, as its byte order mark says",) if wide else ()
    for place, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if start and start[place::2].count(0) > 0.7 * len(start[place::2]) and start[1 - place :: 2].count(0) == 0:
            return encoding, (f"{path.name} is read as {encoding.upper()}, because every second byte is 0",)
    reject_unlike_text(path, start, delimiter)
    if _is_utf8(path):
        return "utf-8", ()
    sequences = invalid = lines = outside = 0
    sample: list[bytes] = []
    for block in whole_lines(path):
        rest, valid = UTF8_SEQUENCE.subn(b"", block)
        sequences, invalid = sequences + valid, invalid + len(rest) - len(rest.translate(None, HIGH))
        high = [line for line in block.split(b"\n") if not line.isascii()]
        lines, outside = lines + block.count(b"\n") + (not block.endswith(b"\n")), outside + len(high)
        sample += high if sum(map(len, sample)) < SAMPLE else []
    if sequences >= invalid:
        return "utf-8", ()
    text = _western(b"\n".join(sample))
    if text is None:
        raise UserError(
            f"{path.name} is not in UTF-8, and its encoding is unknown ({outside:,} of {lines:,} lines are not ASCII): "
            "set data.encoding (--encoding of a command), such as cp1251, gb18030 or shift_jis"
        )
    words = list(dict.fromkeys(re.findall(r"\w*[^\W\x00-\x7f]\w*", text)))[:3]
    shown = f", such as {', '.join(map(repr, words))}" if words else ""
    return LEGACY, (
        f"{path.name} is not in UTF-8 and is read as {LEGACY}: {outside:,} of {lines:,} lines ({outside / lines:.0%}) "
        f"have characters outside ASCII{shown}. Set data.encoding (--encoding of a command) if they are "
        "wrong",
    )


def whole_lines(path: Path) -> Iterator[bytes]:
    """Yield the content of a file in blocks that end at a line break."""
    stream, rest = open_bytes(path), b""
    while block := stream.read(files.BLOCK):
        head, newline, tail = block.rpartition(b"\n")
        if newline:
            yield rest + head + newline
            rest = tail
        else:
            rest += block
    if rest:
        yield rest


def _is_utf8(path: Path) -> bool:
    try:
        for block in whole_lines(path):
            block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _western(data: bytes) -> str | None:
    """Return the data decoded as cp1252, or None if the result does not look like a Western European language."""
    try:
        text = data.decode(LEGACY)
    except UnicodeDecodeError:
        return None
    high = len(data) - len(data.translate(None, HIGH))
    foreign = sum(map(len, OTHER_LANGUAGE.findall(data)))
    misplaced = len(OTHER_CODE_PAGE.findall(data))
    return text if foreign <= 0.2 * high and misplaced <= 0.1 * high else None
