"""Console output and the error boundary of the command line: user errors become one line and exit code 2."""

import codecs
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.progress import Progress, ProgressColumn, TaskID
from rich.status import Status
from rich.text import Text

from counterpoise.config_errors import config_error_line, reject_options
from counterpoise.errors import UserError, disk_error, out_of_memory
from counterpoise.names import ELLIPSIS, shorten_all

console = Console()
"""The console that all commands print to."""

USER_ERROR = 2
"""Exit code after a user error."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""
NO_UTF8 = (
    f"the locale's encoding ({sys.getfilesystemencoding()}) lacks these characters; set PYTHONUTF8=1 or LC_ALL=C.UTF-8"
)
SIMILAR = {"•": "*", "…": "~", "±": "+/-", "–": "-", "−": "-", "·": "*"}
"""Substitutes for printed characters that an encoding lacks."""
LINE_SECONDS = 20.0
"""Seconds between two lines of progress outside a terminal."""
MIN_NAME = 12
"""Columns that a name needs at least."""


def command_line(main: Callable[[], Any], overrides: bool = False) -> None:
    """Run `main` and turn user errors into one line on standard error.

    The traceback of a user error is shown only with `traceback=true`. Other exceptions are raised unchanged.

    Args:
        main: The command without arguments; it reads `sys.argv` itself.
        overrides: Whether it is a Hydra application, whose settings are written KEY=VALUE.

    Raises:
        SystemExit: With code 2 after a user error and 130 after Ctrl-C.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them and exiting.
    make_output_safe()
    try:
        _reject_undecodable(sys.argv)
        if overrides:
            reject_options(sys.argv[1:])
        main()
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        line = user_error_line(error)
        if line is None or "traceback=true" in sys.argv:
            raise
        exit_with_error(line)


def exit_with_error(line: str) -> NoReturn:
    """Print the line to standard error and exit with code 2."""
    print(f"error: {line}", file=sys.stderr)
    sys.exit(USER_ERROR)


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: similar ASCII characters, or backslash escapes, for what an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = (SIMILAR.get(character) or character.encode("ascii", "backslashreplace").decode() for character in lacking)
    return "".join(plain), error.end


codecs.register_error("counterpoise.similar", _substitute)


def make_output_safe() -> None:
    """Print substitutes for characters that the terminal's encoding lacks, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="counterpoise.similar")


def encodable(text: str) -> str:
    """Return the text with substitutes for control characters and for what the terminal's encoding lacks."""
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return visible.encode(console.encoding, "counterpoise.similar").decode(console.encoding)


def name_cells(names: Sequence[str]) -> list["NameCell"]:
    """Return the cells of a table's column of names; see `NameCell`."""
    shared = tuple(map(encodable, names))
    return [NameCell(shared, number) for number in range(len(names))]


class NameCell:
    """A name in a table, shortened to the width of its column so that it differs from the column's other names.

    Args:
        names: All names of the column.
        number: Index of this one.
    """

    def __init__(self, names: tuple[str, ...], number: int) -> None:
        self.names, self.number = names, number

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the range of widths."""
        width = cell_len(self.names[self.number])
        return Measurement(min(width, MIN_NAME), width).clamp(max_width=options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the name; one that cannot be shortened fills several lines."""
        name = shorten_all(self.names, options.max_width)[self.number]
        yield Text(name.replace(ELLIPSIS, encodable(ELLIPSIS)), overflow="fold")


class LineProgress(Progress):
    """Progress for pipes and files, in which a bar cannot move: a line every `LINE_SECONDS` seconds."""

    _printed = 0.0

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task, and print a line when it is time."""
        super().advance(task_id, advance)
        task, now = self._tasks[task_id], time.monotonic()
        self._printed = self._printed or now
        if now - self._printed >= LINE_SECONDS and not task.finished:
            self._printed = now
            total = f" of {task.total:,.0f}" if task.total else ""
            left = "" if task.time_remaining is None else f", about {duration(task.time_remaining)} left"
            print(f"{task.description}: {task.completed:,.0f}{total}{left}", file=sys.stderr, flush=True)


class LogConsole(logging.StreamHandler[TextIO]):
    """Log messages on standard error: in a terminal above an open progress bar, not behind it.

    While a bar is open, rich replaces `sys.stderr` by a stream that prints above the bar, to standard output. Standard
    error that is redirected to a file keeps its messages.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message to the present `sys.stderr`."""
        written = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        self.setStream(sys.stderr if written.isatty() else written)
        super().emit(record)


class LogFile(logging.FileHandler):
    """A log file that does not report a full disk for every line: the run does so once, when it fails to write."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore errors of the disk."""
        if disk_error(sys.exc_info()[1]) is None:
            super().handleError(record)


def progress(*columns: ProgressColumn | str) -> Progress:
    """Return a progress display on standard error: a bar that disappears at its end, or lines outside a terminal.

    It has its own console, because another display may still be open.

    Args:
        columns: Columns beside the default ones.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        return LineProgress(console=console, disable=True)
    return Progress(*Progress.get_default_columns(), *columns, transient=True, console=console)


def duration(seconds: float) -> str:
    """Return a duration with its unit, such as "40 s", "4 min" or "1.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def status(text: str) -> Status:
    """Return a spinner with a text, on the console."""
    return console.status(text, spinner="dots" if console.encoding.startswith("utf") else "line")


def _reject_undecodable(arguments: Sequence[str]) -> None:
    """Raise UserError for arguments that the locale's encoding cannot represent, such as UTF-8 with LC_ALL=C."""
    for argument in arguments:
        shown = argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise UserError(f"{shown}: {NO_UTF8}")


def user_error_line(error: BaseException, folder: Path | None = None) -> str | None:
    """Return the one-line message of a user error, or None for any other exception.

    User errors are `UserError` anywhere in the chain of causes, a full or read-only disk, missing permissions, errors
    in the configuration, and running out of memory.

    Args:
        error: The exception.
        folder: Folder to name for a full disk if the exception names no file, as when a file is closed.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    denied = error if isinstance(error, PermissionError) else disk_error(error)
    if denied is not None:
        return f"{denied.filename or folder or 'disk'}: {denied.strerror}"
    if isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding() != "utf-8":
        return f"{error.object}: {NO_UTF8}"
    if "hydra" in sys.modules and (line := config_error_line(error)):
        return line
    if isinstance(error, RuntimeError) and out_of_memory(error):
        return (
            "out of memory: lower micro_batch_size (texts per forward and backward pass), loader.eval_batch_size "
            "(texts per evaluation batch), encoder.max_length or encoder.max_chunks"
        )
    return None
