"""Console output and the error boundary of the command line: user errors become one line and exit code 2."""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from rich.console import Console

from counterpoise.config_errors import config_error_line
from counterpoise.errors import UserError, out_of_memory

console = Console()
"""The console that all commands print to."""

USER_ERROR = 2
"""Exit code after a user error."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""


def command_line(main: Callable[[], Any]) -> None:
    """Run `main` and turn user errors into one line on standard error.

    The traceback of a user error is shown only with `traceback=true`. Other exceptions are raised unchanged.

    Args:
        main: The command without arguments; it reads `sys.argv` itself.

    Raises:
        SystemExit: With code 2 after a user error and 130 after Ctrl-C.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them and exiting.
    replace_unencodable_characters()
    try:
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


def replace_unencodable_characters() -> None:
    """Print "?" for characters that the terminal's encoding lacks, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def user_error_line(error: BaseException) -> str | None:
    """Return the one-line message of a user error, or None for any other exception.

    User errors are `UserError` anywhere in the chain of causes, a full or read-only disk, missing permissions, errors
    in the configuration, and running out of memory.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, PermissionError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EROFS):
        return f"{getattr(error, 'filename', None) or 'disk'}: {getattr(error, 'strerror', error)}"
    if "hydra" in sys.modules and (line := config_error_line(error)):
        return line
    if isinstance(error, RuntimeError) and out_of_memory(error):
        return (
            "out of memory: lower micro_batch_size (texts per forward and backward pass), loader.eval_batch_size "
            "(texts per evaluation batch) or encoder.max_length"
        )
    return None
