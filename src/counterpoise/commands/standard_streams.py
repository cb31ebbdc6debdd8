"""Standard input and standard output in place of files: "-" on the command line."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from counterpoise.data.table_writers import Stream, format_of
from counterpoise.errors import UserError

STANDARD = Path("-")
INPUT_FORMATS = ("csv", "tsv", "jsonl", "parquet")
DEFAULT_FORMAT = "csv"


@contextlib.contextmanager
def input_file(file: Path, form: str | None) -> Iterator[Path]:
    """Yield the input file. Standard input is copied to a temporary file first.

    Args:
        file: The file, or "-" for standard input.
        form: Format of standard input; None: CSV.

    Raises:
        UserError: A format is given for a file, whose suffix selects it.
    """
    if file != STANDARD:
        if form is not None:
            raise UserError(f"--input-format {form}: the suffix of {file.name} selects its format; use it with - only")
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="counterpoise-") as folder:
        copy = Path(folder) / f"stdin.{form or DEFAULT_FORMAT}"
        with copy.open("wb") as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
        yield copy


@contextlib.contextmanager
def output_target(path: Path, form: str | None) -> Iterator[Path | Stream]:
    """Yield what the results are written to. While they go to standard output, all messages go to standard error.

    Args:
        path: The file, or "-" for standard output.
        form: Format on standard output; None: CSV.

    Raises:
        UserError: The suffix selects no format, the path is a folder, or a format is given for a file.
    """
    if path != STANDARD:
        if path.is_dir():
            raise UserError(f"--output {path} is a folder: name a file")
        if form is not None:
            raise UserError(f"--output-format {form}: the suffix of {path.name} selects its format; use it with - only")
        format_of(path, "--output")
        yield path
        return
    data = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield Stream(data.buffer, form or DEFAULT_FORMAT)
            data.buffer.flush()
        except BrokenPipeError:
            # The reader, such as `head`, has what it wants. Python would fail again when it closes the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), data.fileno())
