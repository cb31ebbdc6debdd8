"""Console output and the error boundary of the command line: user errors become one line and exit code 2."""

import errno
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from counterpoise.errors import UserError, nearest, out_of_memory

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
    if "hydra" in sys.modules and (line := _config_error_line(error)):
        return line
    if isinstance(error, RuntimeError) and out_of_memory(error):
        return (
            "out of memory: lower micro_batch_size (texts per forward and backward pass), loader.eval_batch_size "
            "(texts per evaluation batch) or encoder.max_length"
        )
    return None


def _config_error_line(error: BaseException) -> str | None:
    """Return the message for an error of Hydra or OmegaConf, or None for any other exception."""
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, OverrideParseException):
        return f"cannot parse '{error.override}': {_config_message(str(error))}"
    if isinstance(error, ValueError) and "Config group override must be a string" in str(error):
        return (
            "null is not an option of a configuration group; to remove a group write '~GROUP', as '~strategy/schedule'"
        )
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _config_message(str(error))
    return None


def _config_message(message: str) -> str:
    """Return Hydra's multi-line message as one line that names the key and the closest valid name."""
    if found := re.search(r"Could not find '(?P<group>[^']+)/(?P<name>[^'/]+)'", message):
        listed = message.partition("Available options")[2].partition(":\n")[2].partition("\nConfig")[0]
        options = listed.split()
        group, name = found["group"], found["name"]
        return f"{group}={name}: no such {group}.{nearest(name, options)} Available: {', '.join(options)}"
    if found := re.search(r"Missing mandatory value: (?P<key>\S+)", message):
        return f"{found['key']} has no value; set {found['key']}=..."
    unknown = (
        r"(?P<what>\w+)(\.__\w+__)?\(\) got an unexpected keyword argument '(?P<name>\w+)'.*full_key: (?P<key>\S+)"
    )
    if found := re.search(unknown, message, re.DOTALL):
        key = f"{found['key']}.{found['name']}"
        return f"{key}: {found['what']} has no such setting; ~{key} removes it"
    call = r"Error in call to target '[^']+':\s+\w+\((?P<text>.*)\)\s+full_key: (?P<key>\S+)"
    if found := re.search(call, message, re.DOTALL):
        return f"{found['key']}: {' '.join(found['text'].strip(chr(34) + chr(39)).split())}"
    if found := re.search(r"Could not override '(?P<key>[^']+)'", message):
        return _unknown_key(found["key"])
    return " ".join(message.replace(", set env var HYDRA_FULL_ERROR=1 to see chained exception.", ":").split())


def _unknown_key(key: str) -> str:
    """Return the message for an override of a key that the configuration does not have."""
    conf = Path(sys.argv[0]).resolve().parent / "conf"
    if (conf / key.replace(".", "/")).is_dir():
        return f"{key}: to choose an option write {key.replace('.', '/')}=NAME, with a slash"
    texts = [file.read_text(encoding="utf-8") for file in conf.rglob("*.yaml")]
    keys = {name for text in texts for name in re.findall(r"^\s*(\w+):", text, re.MULTILINE)}
    name = key.rpartition(".")[2]
    line = f"the configuration has no key '{key}'.{nearest(name, keys - {name})}"
    # Lightning's own arguments are not all listed in conf/.
    passed_on = key.startswith(("trainer.", "callbacks.", "logger."))
    return f"{line} To add it anyway: +{key}=..." if passed_on else line
