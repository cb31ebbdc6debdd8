"""Mistakes that the person at the terminal can mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake of the user's: one line that says what is wrong, where, and what would be right.

    `train.py` prints the line without a traceback and exits with code 2.
    """


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Returns `" Did you mean 'label'?"` for the candidate closest to `name`, or an empty string."""
    matches = get_close_matches(str(name), [str(c) for c in candidates], n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that the memory of a device ran out."""
    # Imported here: both take seconds, and most commands never run out of memory.
    import torch
    from pytorch_lightning.utilities.memory import is_oom_error

    return isinstance(error, torch.OutOfMemoryError) or is_oom_error(error)
