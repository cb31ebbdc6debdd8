"""Errors that the user can fix."""

import errno
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral


class UserError(Exception):
    """A user error: one line that states what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


def check_whole_number(key: str, value: object, least: int = 1, null: bool = False) -> None:
    """Raise UserError unless a setting is a whole number of at least `least`; with `null`, it can also be None."""
    whole = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
    if not whole and not (null and value is None):
        raise UserError(f"{key}={value}: use a whole number of at least {least}{', or null' if null else ''}")


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `" Did you mean 'label'?"` for the candidate closest to `name`, or an empty string."""
    matches = get_close_matches(str(name), [str(candidate) for candidate in candidates], n=1, cutoff=0.5)
    if not matches:
        return ""
    return f" Did you mean '{matches[0]}'?" if matches[0].isprintable() else f" Did you mean {matches[0]!r}?"


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the message of an error as one line of at most `limit` characters."""
    line = " ".join(str(error).split())
    if isinstance(error, LookupError | ArithmeticError | RecursionError) or not line:
        line = f"{type(error).__name__} {line}".rstrip()  # the message alone is a bare key
    return line if len(line) <= limit else line[: limit - 3] + "..."


def disk_error(error: BaseException | None) -> OSError | None:
    """Return the error of a full or read-only disk, or of a quota, that caused `error`; None if there is none.

    Libraries that fail to close a file after it often raise another error in its place.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            return error
        error = error.__cause__ or error.__context__
    return None


def out_of_memory(error: BaseException) -> bool:
    """Return whether `error` reports that a device ran out of memory."""
    if "torch" not in sys.modules:
        return False
    # These imports take seconds and most commands do not need them.
    import torch
    from pytorch_lightning.utilities.memory import is_oom_error

    return isinstance(error, torch.OutOfMemoryError) or is_oom_error(error)
