"""A command line whose user's mistakes are one line and exit code 2."""

import errno
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from counterpoise.errors import UserError, nearest


def command_line(main: Callable[[], Any]) -> None:
    """Runs `main`; a user's mistake becomes one line and exit code 2, with a traceback only if `traceback=true`."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets errors through instead of printing and exiting itself
    try:
        main()
    except Exception as error:
        line = user_line(error)
        if line is None or "traceback=true" in sys.argv:
            raise
        stop(line)


def stop(line: str) -> NoReturn:
    """Prints the line and exits with code 2."""
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def user_line(error: BaseException | None) -> str | None:
    """Returns the one line for a user's mistake, or None for anything else."""
    first = error
    while error is not None:
        if isinstance(error, UserError):
            return str(error)
        error = error.__cause__ or error.__context__
    if isinstance(first, PermissionError) or getattr(first, "errno", None) in (errno.ENOSPC, errno.EROFS):
        return f"{getattr(first, 'filename', None) or 'disk'}: {getattr(first, 'strerror', first)}"
    if isinstance(first, OverrideParseException):
        return f"cannot read '{first.override}': {_config_line(str(first))}"
    if isinstance(first, HydraException | OmegaConfBaseException):
        return _config_line(str(first))
    return None


def _config_line(message: str) -> str:
    """Returns Hydra's message about a configuration as one line, with the nearest name that would be right."""
    if found := re.search(r"Could not find '(?P<group>[^']+)/(?P<name>[^'/]+)'", message):
        listed = message.partition("Available options")[2].partition(":\n")[2].partition("\nConfig")[0]
        options = listed.split()
        group, name = found["group"], found["name"]
        return f"{group}={name}: there is no such {group}.{nearest(name, options)} There are {', '.join(options)}"
    line = " ".join(message.replace(", set env var HYDRA_FULL_ERROR=1 to see chained exception.", ":").split())
    if found := re.search(r"Could not override '(?P<key>[^']+)'", message):
        key = found["key"].split(".")[-1]
        conf = Path(sys.argv[0]).resolve().parent / "conf"
        keys = {k for file in conf.rglob("*.yaml") for k in re.findall(r"^\s*(\w+):", file.read_text(), re.M)}
        return (
            f"the configuration has no key '{found['key']}'.{nearest(key, keys - {key})} "
            f"To add it all the same: +{found['key']}=..."
        )
    return line
