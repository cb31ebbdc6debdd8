"""Names of labels and groups, shortened so that they stay distinct in tables and figures."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile

from rich.cells import cell_len

ELLIPSIS = "…"


def shorten(name: str, width: int, head: float = 0.5) -> str:
    """Return the name, shortened in the middle.

    Args:
        name: Any text.
        width: Columns of a terminal that the result may take. East Asian characters take two.
        head: Fraction of the kept characters that comes from the start of the name. Defaults to one half.
    """
    if cell_len(name) <= width:
        return name
    kept = max(width - 1, 0)
    start, end = name[: int(kept * head)], name[len(name) - (kept - int(kept * head)) :]
    while cell_len(start) > int(kept * head):
        start = start[:-1]
    while cell_len(end) > kept - int(kept * head):
        end = end[1:]
    return start + ELLIPSIS + end


@lru_cache(maxsize=64)
def shorten_all(names: Sequence[str], width: int) -> list[str]:
    """Return the names, shortened so that different names remain different.

    The part that is kept is the first of these for which all names differ: start and end, mostly the end, the end, the
    start, what follows the common start. If there is none, the names are returned in full.

    Args:
        names: Names of one table or figure, a tuple.
        width: See `shorten`.
    """
    prefix = sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))
    different = len(set(names))
    ways = [[shorten(name, width, head) for name in names] for head in (0.5, 0.25, 0.0, 1.0)]
    ways.append([shorten(ELLIPSIS + name[prefix:], width, 1.0) for name in names])
    return next((way for way in ways if len(set(way)) == different), list(names))
